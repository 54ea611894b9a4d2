"""A SQLite database that is written to all the time. While it is frozen, a copy of its main file alone is complete.

python samples/sqlite_database.py /var/tmp/orders.db [NAME]
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import appvss


def connect(path: str, timeout: float = 5) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=timeout, isolation_level=None)


def write_rows(path: str, writing: threading.Lock) -> None:
    with closing(connect(path)) as database:
        while True:
            with writing:  # Each INSERT is a transaction of its own, written to the log beside the database.
                database.execute("INSERT INTO orders (written_at) VALUES (?)", (time.time_ns(),))
            time.sleep(0.001)


def main() -> None:
    path, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "sqlite-orders"
    writing = threading.Lock()

    @contextmanager
    def quiesce(freeze: appvss.Freeze) -> Iterator[dict[str, int]]:
        patience = freeze.budget_left().total_seconds() / 2  # What SQLite may wait for others; the rest is for a veto.
        with writing, closing(connect(path, patience)) as database:
            busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise appvss.Veto("another connection keeps the log from being emptied", retryable=True)
            database.execute("BEGIN IMMEDIATE")  # From here on no other process can write either.
            if os.path.getsize(path + "-wal"):
                raise appvss.Veto("another process wrote right after the log was emptied", retryable=True)
            (last_row,) = database.execute("SELECT coalesce(max(id), 0) FROM orders").fetchone()
            yield {"last_row": last_row}
            if os.path.getsize(path + "-wal"):  # Every write would have gone there first.
                raise appvss.HoldLost(f"{path} was written to during the hold")

    with closing(connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, written_at INTEGER NOT NULL)")
    with appvss.serve_in_thread(name, quiesce, paths=[path]), suppress(KeyboardInterrupt):
        write_rows(path, writing)


if __name__ == "__main__":
    main()
