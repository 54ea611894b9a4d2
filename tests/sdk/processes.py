"""Programs of the tests, started as processes of their own and never left behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]
BOUND = 20.0
"""Seconds for anything that a process does."""


class Program:
    """A process that talks in lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._read = b""

    def hear(self) -> str:
        """The next line, within the bound."""
        assert self.process.stdout is not None
        while b"\n" not in self._read:
            ready, _, _ = select.select([self.process.stdout], [], [], BOUND)
            assert ready, "the program says nothing"
            received = os.read(self.process.stdout.fileno(), 4096)
            assert received, "the program ended"
            self._read += received
        line, self._read = self._read.split(b"\n", 1)
        return line.decode()

    def tell(self, command: str) -> None:
        """Write a line to the program."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        """Write a line, and hear the answer."""
        self.tell(command)
        return self.hear()

    def end(self) -> tuple[int, str, str]:
        """Close the program's stdin and wait: its exit code, what it still said, and what it said on stderr."""
        out, err = self.process.communicate(timeout=BOUND)
        return self.process.returncode, (self._read + out).decode(), err.decode()


@contextmanager
def program(name: str, *arguments: str, directory: Path) -> Iterator[Program]:
    """Start `programs/<name>.py` with the broker in `directory`."""
    environment = {**os.environ, "APPVSS_RUNTIME_DIRECTORY": str(directory), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS / f"{name}.py"), *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate(timeout=BOUND)
