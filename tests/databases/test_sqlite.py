"""SQLite's copies, by journal mode and synchronous: the whole copy, and its main file alone.

A freeze of the file systems alone loses nothing of a whole copy: what SQLite has acknowledged it has handed to the
kernel. The main file alone lacks what is in the log, surely so with writers that never bring it in; in a hold it lacks
nothing (facts/database-quiesce.md sections 3 and 6.2).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from appvss.adapters import sqlite
from appvss.model.grade import Grade
from appvss.sdk.freeze import Freeze
from appvss.verify import sqlite as verifier
from appvss.verify.base import Report
from tests.databases.support import results
from tests.databases.support.ledger import BOUND, Ledger, holes, writing
from tests.databases.support.pool import Pool, Volume
from tests.databases.support.triple import BUDGET, HOLD_LIMIT, Taken, Way, take
from tests.support.running_broker import short_directory

pytestmark = pytest.mark.xdist_group("sqlite-triples")

WRITERS = "tests.databases.support.sqlite_writers"


@dataclass(frozen=True)
class Case:
    """One setting."""

    setting: str
    journal: str
    synchronous: str
    writer: str = "usual"
    is_alone: bool = False
    """Whether the main file alone is taken out of the copy."""


CASES = [
    Case("WAL synchronous=NORMAL", "WAL", "NORMAL"),
    Case("WAL synchronous=OFF", "WAL", "OFF"),
    Case("WAL, main file only", "WAL", "NORMAL", "without_checkpoints", is_alone=True),
    Case("rollback journal synchronous=FULL", "DELETE", "FULL"),
]


@pytest.fixture
def volume(pool: Pool) -> Volume:
    return pool.volume(f"sqlite{len(pool.volumes)}")


def make(file: Path, journal: str) -> None:
    """A database that is on the disk, with an empty ledger."""
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA journal_mode = {journal}")
        database.execute("CREATE TABLE ledger (id INTEGER PRIMARY KEY, payload TEXT)")
        database.commit()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.setting)
async def test_what_each_way_is_worth(pool: Pool, volume: Volume, case: Case) -> None:
    """raw, fs and app of one database, in one run, with two processes that write all the time."""
    file = volume.path / "shop.db"
    make(file, case.journal)
    one = sqlite.Adapter(sqlite.Settings(files=(str(file),)))
    copies: list[Taken] = []
    arguments = {"file": str(file), "synchronous": case.synchronous}
    with writing(f"{WRITERS}:{case.writer}", arguments, pause=0.001) as ledger:
        ledger.wait_for(200)
        for way in (Way.RAW, Way.FS, Way.APP):
            copies.append(await take(way, pool, [volume], one.quiesce, prepare=one.prepare))
            ledger.wait_for(50, since=copies[-1].done)
    for taken in copies:
        judge(pool, volume, case, taken, ledger)


def judge(pool: Pool, volume: Volume, case: Case, taken: Taken, ledger: Ledger) -> None:
    report = verified(pool, taken)
    rows = rows_of(pool, volume, taken, is_alone=case.is_alone)
    lost = None if rows is None else ledger.lost(rows, taken.instant)
    acknowledged = len(ledger.acknowledged_before(taken.instant))
    results.record(
        results.Result(
            "sqlite", sqlite3.sqlite_version, case.setting, taken.way, acknowledged,
            None if lost is None else len(lost), taken.evidence.get("recipe", ""), report.grade,
        )
    )  # fmt: skip
    assert acknowledged >= 200
    if taken.way is Way.APP:
        assert lost == set(), report
        assert rows is not None
        assert not holes(rows)
        assert taken.evidence["wal"] == ("folded" if case.journal == "WAL" else "none")
        assert report.grade is Grade.APP_VERIFIED, report
    else:
        assert report.grade in {Grade.FS, Grade.RAW}, report
    if taken.way is Way.FS and not case.is_alone:
        assert lost == set(), "a freeze alone loses nothing that was handed to the kernel"
        assert report.grade is Grade.FS
    if taken.way is not Way.APP and case.is_alone:
        assert lost is None or len(lost) == acknowledged, "the main file alone had it: the test shows nothing"


def verified(pool: Pool, taken: Taken, evidence: Mapping[str, str] | None = None) -> Report:
    """What `appvss verify` finds; on a copy of the copy."""
    again = pool.again(taken.copy)
    mounted = pool.mount_copy(again)
    work = short_directory()
    try:
        return verifier.verify(mounted.for_verify(work), taken.evidence if evidence is None else evidence)
    finally:
        pool.unmount_copy(mounted)
        pool.drop(again)
        shutil.rmtree(work)


def rows_of(pool: Pool, volume: Volume, taken: Taken, *, is_alone: bool) -> set[int] | None:
    """The rows of the copy, as SQLite shows them after its recovery; None: it cannot be read."""
    mounted = pool.mount_copy(taken.copy)
    work = short_directory()
    try:
        for ending in ("",) if is_alone else ("", "-wal", "-journal"):
            found = mounted.locate(volume.path / f"shop.db{ending}")
            if found.exists():
                shutil.copyfile(found, work / f"shop.db{ending}")
        with closing(sqlite3.connect(work / "shop.db")) as database:
            return {row for (row,) in database.execute("SELECT id FROM ledger")}
    except sqlite3.DatabaseError:
        return None
    finally:
        pool.unmount_copy(mounted)
        pool.drop(taken.copy)
        shutil.rmtree(work)


async def test_the_evidence_of_a_cycle_does_not_help_a_copy_that_was_made_without_one(
    pool: Pool, volume: Volume
) -> None:
    file = volume.path / "shop.db"
    make(file, "WAL")
    with writing(f"{WRITERS}:usual", {"file": str(file)}, pause=0.001) as ledger:
        ledger.wait_for(50)
        before = await take(Way.FS, pool, [volume])
        taken = await take(Way.APP, pool, [volume], sqlite.Adapter(sqlite.Settings(files=(str(file),))).quiesce)
        ledger.wait_for(50, since=taken.done)
        after = await take(Way.FS, pool, [volume])
    assert verified(pool, taken).grade is Grade.APP_VERIFIED
    (pool.mount_copy(taken.copy).locate(volume.path) / "shop.db-wal").unlink()
    for other in (before, after):
        assert verified(pool, other, taken.evidence).grade is Grade.FS


async def test_a_hold_that_ends_early_on_a_frozen_volume_waits_for_nobody(pool: Pool, volume: Volume) -> None:
    """The holder is killed, and the kernel frees its lock, though nothing can be written to the file's volume."""
    file = volume.path / "shop.db"
    make(file, "WAL")
    adapter = sqlite.Adapter(sqlite.Settings(files=(str(file),)))
    with writing(f"{WRITERS}:usual", {"file": str(file)}, writers=1, pause=0.001) as ledger:
        ledger.wait_for(20)
        freeze = Freeze("a-cycle", "the tests", BUDGET, HOLD_LIMIT)
        held = await adapter.hold(freeze)
        freeze.filesystem_freeze.set()
        pool.freeze(volume)
        try:
            await asyncio.wait_for(adapter.release(held, freeze), BOUND)
            # It was not asked, and it could be waited for: it does not hang in the volume.
            assert held.files[0].holder._process.returncode == -signal.SIGKILL
        finally:
            pool.thaw(volume)
        ledger.wait_for(20, since=time.monotonic())
