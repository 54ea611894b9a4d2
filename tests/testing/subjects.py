"""Programs for the kit to check. Short is what a test waits for; what it does not wait for has time, on any machine."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from appvss.testing.conformance import Subject

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
LENGTHS: dict[str, Any] = {
    "budget": timedelta(seconds=10),
    "answer_within": timedelta(seconds=20),
    "hold_limit": timedelta(milliseconds=500),
    "margin": timedelta(seconds=2),
    "attach_within": timedelta(seconds=60),
    "end_within": timedelta(seconds=20),
    "released_within": timedelta(seconds=10),
    "silence": timedelta(milliseconds=100),
}


def python(script: Path, *arguments: object, **fields: Any) -> Subject:
    """A program in Python, with this checkout's packages."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (sys.executable, str(script), *map(str, arguments))
    return Subject(command, **{"environment": environment, **LENGTHS, **fields})


def raw_lock(directory: Path, wrong: str = "", **fields: Any) -> Subject:
    """The raw app, with a command that writes where it locks."""
    file = directory / "file"
    file.touch()
    probe = f"test ! -e {file.with_suffix('.held')} && flock -n {file} true"
    return python(
        PROGRAMS / "raw_lock.py",
        file,
        wrong,
        **{"app": "raw-lock", "writable": ("sh", "-c", probe), "holds_writes": True, **fields},
    )
