#!/usr/bin/python3
"""A program for the adapter `exec` that runs through the whole hold: it holds a lock of a SQLite database.

    appvss adapter:  command = ["/usr/local/libexec/orders-hook", "/srv/orders/orders.db"]

A lock of a database belongs to the session that has taken it, and the session to the process. So the process has to
stay, which is what this adapter is for. It shows the form; for SQLite itself there is an adapter that does more.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from typing import Any


class Hook:
    """One database, and at most one hold of it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.session: sqlite3.Connection | None = None

    def answer(self, word: str, arguments: list[str]) -> str:
        """The answer to one line."""
        known: dict[str, Any] = {
            "PREFLIGHT": self.preflight,
            "FREEZE": self.freeze,
            "THAW": self.thaw,
            "ABORT": self.thaw,
        }
        return str(known[word](*arguments)) if word in known else "UNKNOWN"

    def preflight(self) -> str:
        """What it is, and what must be in the snapshot."""
        return f"VERSION SQLite {sqlite3.sqlite_version}\nVOLUME data {self.path}\nREADY"

    def freeze(self, cycle: str, budget: str, _hold_limit: str) -> str:
        """Take the lock, and keep it."""
        half = float(budget) / 2  # an answer after the budget is none
        self.session = sqlite3.connect(self.path, timeout=half, isolation_level=None)
        try:
            self.session.execute("CREATE TABLE IF NOT EXISTS marker (cycle TEXT)")
            self.session.execute("INSERT INTO marker VALUES (?)", (cycle,))
            self.session.execute("BEGIN IMMEDIATE")  # from here on nobody else can write
        except sqlite3.OperationalError as error:
            self.thaw(cycle)
            return f"BUSY {error}"
        (rows,) = self.session.execute("SELECT count(*) FROM orders").fetchone()
        return "HELD " + json.dumps({"position": rows, "marker": cycle, "data_directory": self.path})

    def thaw(self, _cycle: str) -> str:
        """Give it up, and say whether it was held all the time."""
        session, self.session = self.session, None
        if session is None:
            return "LOST nothing was held"
        if not session.in_transaction:
            session.close()
            return "LOST the transaction that held the lock has ended"
        session.close()
        return "RELEASED {}"


def main() -> None:
    hook = Hook(sys.argv[1])
    for line in sys.stdin:  # its end says: release now. The lock ends with this process.
        word, *arguments = line.split()
        print(hook.answer(word, arguments), flush=True)


if __name__ == "__main__":
    main()
