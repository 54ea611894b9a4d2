"""The bytes of each source as values, and back. Pure."""
