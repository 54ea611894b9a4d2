"""What a process uses, from /proc (proc_pid_status(5)): Linux alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process uses at one moment."""

    descriptors: int
    threads: int
    resident: int
    """Kibibytes of memory that are in RAM."""

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.threads} threads, {self.resident / 1024:.1f} MiB"


def figures_of(pid: int) -> Figures | None:
    """What the process uses; None: it cannot be known: on FreeBSD, of another user's process, of one that ended."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
        descriptors = len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:
        return None
    return Figures(descriptors, int(fields["Threads"]), int(fields["VmRSS"].split()[0]))
