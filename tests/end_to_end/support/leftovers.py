"""What a stage may leave behind: processes, known by a tag in their environment, and mounts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from appvss.simulator.fuse.mount import FUSE_TYPE

TAG = "APPVSS_TEST_STAGE"
"""The variable in the environment of every process of a stage."""
LINGER_LIMIT = 10.0
"""Seconds that a process which ends by itself may take to do so."""


def end_lingering(tag: str) -> list[str]:
    """Kill what carries the tag and has not ended by itself in `LINGER_LIMIT`; the command lines."""
    deadline = time.monotonic() + LINGER_LIMIT
    lingering = []
    for pid in _tagged(tag):
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                if pid not in _tagged(tag):
                    continue  # it has ended, and its id is somebody else's by now
                if not select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    lingering.append(_words(pid))
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
    return lingering


def mounts(directory: Path) -> list[str]:
    """The simulators' mounts below a directory."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line for line in file if FUSE_TYPE in line and f" {directory}/" in line]


def _tagged(tag: str) -> list[int]:
    """The living processes with this tag in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if f"{TAG}={tag}".encode() in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
    return found


def _words(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return str(pid)
