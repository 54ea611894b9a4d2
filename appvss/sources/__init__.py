"""Who asks: one file per kind of requester. A source turns a protocol into requests, and takes back one answer each."""
