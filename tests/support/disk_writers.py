"""Writes to file systems without a pause, as processes that depend on nobody, and says when each took a write.

    python -I -S -B disk_writers.py BYTES DIRECTORY...

One process for each directory writes so many bytes to a file of its own there and has them synced, again and again, and
says on standard output, in nanoseconds of CLOCK_MONOTONIC:

    NUMBER begins AT              a write to the directory of this number begins; it hangs as long as that is frozen
    NUMBER wrote BEGAN ENDED      it has been taken

All end when standard input does, one that hangs as soon as it does not hang any more.
"""

from __future__ import annotations

import os
import select
import sys
import time

PAUSE = 0.01


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def write_on(number: int, directory: str, size: int) -> None:
    """Until the end of standard input."""
    name = f"{directory}/written-{os.getpid()}"
    block = bytes(size)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    while not select.select([0], [], [], PAUSE)[0]:
        began = time.monotonic_ns()
        say(f"{number} begins {began}")
        os.pwrite(descriptor, block, 0)
        os.fsync(descriptor)
        say(f"{number} wrote {began} {time.monotonic_ns()}")
    os.unlink(name)


def main() -> None:
    """Split into one process for each directory."""
    size, *directories = sys.argv[1:]
    for number, directory in enumerate(directories):
        if os.fork() == 0:
            try:
                write_on(number, directory, int(size))
            finally:
                os._exit(0)
    for _ in directories:
        os.wait()


if __name__ == "__main__":
    main()
