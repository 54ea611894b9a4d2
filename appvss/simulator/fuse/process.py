"""Which process is on the other end of a FUSE request."""

from __future__ import annotations

import contextlib


def process_of(thread: int) -> int:
    """The id of the process that a thread belongs to; 0 when it is gone or outside of our view."""
    if thread > 0:
        with contextlib.suppress(OSError), open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line.split()[1])
    return 0
