"""The SQLite sample under write load, frozen by a simulated Hyper-V host: a copy that is taken in the hold is whole."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.end_to_end.support.stage import Stage
from tests.support.running_broker import BOUND, ROOT

pytestmark = pytest.mark.usefixtures("requires_fuse")

Row = tuple[int, int]
"""Its id, and the wall clock's nanoseconds when it was about to be written."""


def rows_of_copy(file: Path) -> list[Row]:
    """The rows of a copy that lies alone in its folder, read in a way that can recover nothing."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return rows(copy)


def rows(database: sqlite3.Connection) -> list[Row]:
    return list(database.execute("SELECT id, written_at FROM orders ORDER BY id"))


async def test_a_copy_taken_in_the_hold_has_every_row_from_before_it_and_none_from_after(stage: Stage) -> None:
    await stage.start_simulator()
    await stage.start_broker()
    database = stage.directory / "orders.db"
    await stage.start_program("sqlite", sys.executable, str(ROOT / "samples" / "sqlite_database.py"), str(database))
    await stage.events.sees("app_registered", app="sqlite-orders")
    seen = 0
    with closing(sqlite3.connect(database, isolation_level=None)) as live:
        for turn in range(4):
            async with asyncio.timeout(BOUND):
                while len(rows(live)) <= seen:
                    await stage.broker.status()  # one round trip; the writer needs a moment for its first row
            await stage.simulator.agrees("check")
            await stage.simulator.agrees("freeze")
            held = time.time_ns()
            folder = stage.directory / f"copy-{turn}"
            folder.mkdir()
            shutil.copy(database, folder / database.name)
            in_hold = rows(live)
            thaw_asked = time.time_ns()
            await stage.simulator.agrees("thaw")
            copied = rows_of_copy(folder / database.name)
            (outcome,) = (await stage.broker.cycles(1))[0].verdict.outcomes
            assert len(copied) == int(outcome.evidence["last_row"])
            assert [number for number, _ in copied] == list(range(1, len(copied) + 1))
            assert copied == in_hold
            assert copied[-1][1] < held
            later = rows(live)
            assert later[: len(copied)] == copied
            assert all(written_at > thaw_asked for _, written_at in later[len(copied) :])
            assert len(copied) > seen
            seen = len(copied)
