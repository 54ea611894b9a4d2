"""Writers of SQLite that a test needs beside those of `commits.py`."""

from __future__ import annotations

import sqlite3

from tests.databases.support import commits
from tests.databases.support.commits import PAYLOAD, Write


def without_checkpoints(writer: int, *, file: str, synchronous: str = "NORMAL") -> Write:
    """Everything stays in the log until somebody else brings it in: the main file alone surely lacks it."""
    connection = sqlite3.connect(file, timeout=60.0, isolation_level=None)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")

    def write(row: int) -> None:
        connection.execute("INSERT INTO ledger VALUES (?, ?)", (row, PAYLOAD))

    return write


usual = commits.sqlite
