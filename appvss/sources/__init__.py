"""Who asks: one file per kind of requester. A source turns its protocol into requests, and takes back an answer each."""
