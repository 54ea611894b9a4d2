"""A short directory on a tmpfs, for what an adapter must be able to write while disks are frozen."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@contextmanager
def in_memory() -> Iterator[Path]:
    """The directory, mode 0700, gone afterwards. Skips where /dev/shm is no tmpfs."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines() if Path("/proc/self/mountinfo").exists() else []
    if not any(line.split()[4] == str(MEMORY) and " - tmpfs " in line for line in lines):
        pytest.skip(f"{MEMORY} is no tmpfs on this machine")
    directory = Path(tempfile.mkdtemp(prefix="appvss-", dir=MEMORY))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as directory:
        yield directory
