"""File systems: who freezes them, and when."""
