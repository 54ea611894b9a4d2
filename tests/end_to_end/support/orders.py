"""The SQLite sample under write load, and copies of its database."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from tests.end_to_end.support.stage import Stage
from tests.support.running_broker import BOUND, ROOT

Row = tuple[int, int]
"""Its id, and the wall clock's nanoseconds when it was about to be written."""
APP = "sqlite-orders"


async def start_orders(stage: Stage, database: Path) -> None:
    """The sample as an app of the stage's broker, until it is registered."""
    await stage.start_program("sqlite", sys.executable, str(ROOT / "samples" / "sqlite_database.py"), str(database))
    await stage.events.sees("app_registered", app=APP)


async def has_more_rows(stage: Stage, live: sqlite3.Connection, seen: int) -> int:
    """Wait until more rows than `seen` are committed; how many."""
    async with asyncio.timeout(BOUND):
        while (count := len(rows(live))) <= seen:
            await stage.broker.status()  # one round trip; the writer needs a moment for its first row
    return count


def rows(database: sqlite3.Connection) -> list[Row]:
    return list(database.execute("SELECT id, written_at FROM orders ORDER BY id"))


def rows_of_copy(file: Path) -> list[Row]:
    """The rows of a copy that lies alone in its folder, read in a way that can recover nothing."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return rows(copy)


def log_of(database: Path) -> Path:
    """Where SQLite writes first. What is in it when a database is opened must be recovered."""
    return database.with_name(f"{database.name}-wal")


def recovered(database: Path, folder: Path) -> list[Row]:
    """The rows of a copy after SQLite has recovered it, in a folder of its own."""
    folder.mkdir()
    for file in (database, log_of(database)):
        shutil.copy(file, folder)
    with closing(sqlite3.connect(folder / database.name)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return rows(copy)


def without_log(database: Path, folder: Path) -> list[Row]:
    """The rows of its main file alone, copied into a folder of its own."""
    folder.mkdir()
    return rows_of_copy(Path(shutil.copy(database, folder)))
