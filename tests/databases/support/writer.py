"""One writer of a ledger, as a process: commits row after row, and notes each acknowledgement on standard output.

    python -m tests.databases.support.writer MODULE:FUNCTION NUMBER PAUSE ARGUMENTS

It ends on SIGTERM at once, when nobody reads its notes any more, and with the error when a write fails.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import sys
import time

NOTE = struct.Struct("<qdd")
"""One note: the row, when its write began, when the acknowledgement was there."""
PER_WRITER = 100_000_000
"""A row is the number of its writer times this, and its own number."""


def main() -> None:
    """Write until the end."""
    commit, number, pause, arguments = sys.argv[1:]
    module, _, function = commit.partition(":")
    write = getattr(importlib.import_module(module), function)(int(number), **json.loads(arguments))
    row = int(number) * PER_WRITER
    while True:
        row += 1
        began = time.monotonic()
        write(row)
        os.write(1, NOTE.pack(row, began, time.monotonic()))
        if float(pause):
            time.sleep(float(pause))  # the pace of a client


if __name__ == "__main__":
    main()
