"""Devices and requesters for development and tests. They refuse what the real ones refuse."""
