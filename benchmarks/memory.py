"""Memory of the real broker with 0, 100 and 1,000 idle apps that use the SDK, token and side connection included."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import broker, idle_apps


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of one broker process."""

    apps: int
    mebibytes: float


def measure(counts: tuple[int, ...] = (0, 100, 1000)) -> list[Memory]:
    """A fresh broker for each number of apps."""
    results = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="mem") as name, broker(Path(name)) as (process, client):
            with idle_apps(Path(name), client, count, processes=4):
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            results.append(Memory(count, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
    return results
