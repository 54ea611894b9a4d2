"""The smallest app with threads. One thread writes line after line to a file, and waits while the app is frozen.

python samples/smallest_threads.py /var/tmp/lines.txt
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import appvss


def write_lines(file: TextIO, writing: threading.Lock, stopping: threading.Event) -> None:
    number = 0
    while not stopping.wait(0.002):
        with writing:
            number += 1
            file.write(f"{number}\n")
            file.flush()


def main() -> None:
    writing, stopping = threading.Lock(), threading.Event()
    with open(sys.argv[1], "w") as file:

        @contextmanager
        def quiesce(freeze: appvss.Freeze) -> Iterator[dict[str, int]]:
            with writing:  # No line is begun from here on, and none is half written.
                os.fsync(file.fileno())
                yield {"bytes": os.fstat(file.fileno()).st_size}

        writer = threading.Thread(target=write_lines, args=(file, writing, stopping))
        writer.start()
        with appvss.serve_in_thread("smallest-threads", quiesce, paths=[file.name]), suppress(KeyboardInterrupt):
            stopping.wait()
        stopping.set()
        writer.join()


if __name__ == "__main__":
    main()
