"""The gate at which a command waits until everything is held.

Run as a file of its own, `python -I -S -B gate.py GATE REPORT VARIABLE EXECUTABLE ARGUMENT...`, as
`appvss.cli.held_command` does. GATE is the number of an inherited pipe's reading end, REPORT that of another one's
writing end. It becomes the command, so that the process that waits is the process that runs:

    reads EXECUTABLE into memory, writes `+` to REPORT
    waits for a line on GATE, puts it into the environment as VARIABLE, and executes the command in its own place
    ends without a word when GATE ends without a line; a command that cannot be executed has its errno in REPORT

So no process is made when everything is held, and nothing done but what reading can do, which works on a frozen file
system (facts/linux-hv-vss.md section 5.3). Whoever has started it may die at any moment: that is the end of GATE.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

_READ_LIMIT = 256 * 1024 * 1024
"""Bytes of a program that are read ahead: no more than that is worth the wait."""
_PIECE = 1024 * 1024
_NOT_EXECUTED = 127
"""As shells do."""


def main(gate: int, report: int, variable: str, command: list[str]) -> int:
    """Wait, and become the command; the exit code when that could not be."""
    for descriptor in (gate, report):
        os.set_inheritable(descriptor, False)
    _read_ahead(command[0])
    os.write(report, b"+")
    line = _line(gate)
    if line is None:
        return 0
    # Python ignores these two, and a program that expects to be ended by them must not inherit that.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(command[0], command[1:], {**os.environ, variable: line})  # noqa: S606 - no shell is wanted
    except (OSError, ValueError) as error:
        os.write(report, str(getattr(error, "errno", None) or 0).encode())
    return _NOT_EXECUTED


def _read_ahead(path: str) -> None:
    """Have the kernel keep the program. One that may be executed and not read is left to the kernel."""
    left = _READ_LIMIT
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        while left > 0 and (piece := file.read(_PIECE)):
            left -= len(piece)


def _line(gate: int) -> str | None:
    text = b""
    while not text.endswith(b"\n"):
        piece = os.read(gate, 4096)
        if not piece:
            return None
        text += piece
    return text[:-1].decode()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
