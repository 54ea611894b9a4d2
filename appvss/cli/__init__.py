"""The `appvss` command: one file per command; render.py turns values into text or JSON."""
