"""A copy by reflink of a SQLite database under write load, on an xfs of the test's own.

A copy that is taken in a hold of `appvss freeze` opens without recovery: the database's log is empty, and its main file
alone has every row that was committed. One that is taken while fsfreeze(8) alone holds the same file system, under the
same load, lacks rows that were committed until SQLite has recovered them from the log.

Nothing can be copied *into* a frozen file system. So it is the image of the frozen one that is copied, as a volume
manager would, on the xfs that carries it; or the files themselves, in a hold of the apps alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from appvss.model.errors import ExitCode
from tests.cli.command_line import Done, run_apart
from tests.end_to_end.support.orders import (
    APP,
    has_more_rows,
    log_of,
    recovered,
    rows,
    rows_of_copy,
    start_orders,
    without_log,
)
from tests.end_to_end.support.stage import Stage, configuration
from tests.support.contained import containing
from tests.support.loop_disks import LoopDisk, LoopDisks, loop_disks, run

__all__ = ["loop_disks"]


@dataclass(frozen=True)
class Load:
    """The database that is written to all the time, and what it lies on."""

    stage: Stage
    disks: LoopDisks
    outer: LoopDisk
    """Carries the image of `inner`, and is never frozen."""
    inner: LoopDisk
    database: Path
    live: sqlite3.Connection
    """Reads it. Not to be used while `inner` is frozen: readers write beside the database, too."""

    async def freezes(self, *arguments: str) -> Done:
        """`appvss freeze` with these."""
        environment = {"APPVSS_RUNTIME_DIRECTORY": str(self.stage.directory / "run")}
        return await run_apart("freeze", "--json", *arguments, environment=environment)

    def database_in(self, image: Path) -> Path:
        """The database in a copy of the image of `inner`, mounted with nothing recovered."""
        point = self.disks.home / image.stem
        point.mkdir()
        self.disks.mount_other("-o", "loop,ro,norecovery,nouuid", str(image), str(point))
        return point / self.database.name


@pytest.fixture
async def load(loop_disks: LoopDisks, stage: Stage) -> AsyncIterator[Load]:
    """SQLite under write load on an xfs whose image lies on another xfs."""
    outer = loop_disks.make("outer", "xfs")
    inner = loop_disks.make("inner", "xfs", on=outer)
    database = inner.path / "orders.db"
    text = configuration(mode="off", filesystems=containing(loop_disks.home))
    await stage.start_broker(text, device=False)
    await start_orders(stage, database)
    with closing(sqlite3.connect(database, isolation_level=None)) as live:
        yield Load(stage, loop_disks, outer, inner, database, live)


async def check_whole(load: Load, copy: Path, done: Done, committed: int) -> None:
    """A copy needs no recovery, and has every row from before the hold and none from after it."""
    assert done.code == ExitCode.SUCCESS, done
    (outcome,) = (await load.stage.broker.cycles(1))[0].verdict.outcomes
    assert outcome.name == APP
    assert not log_of(copy).read_bytes()
    copied = rows_of_copy(copy)
    assert [number for number, _ in copied] == list(range(1, int(outcome.evidence["last_row"]) + 1))
    assert len(copied) >= committed
    await has_more_rows(load.stage, load.live, len(copied))
    assert rows(load.live)[: len(copied)] == copied


async def test_the_image_of_a_frozen_xfs_is_copied_by_reflink_and_its_database_needs_no_recovery(load: Load) -> None:
    committed = await has_more_rows(load.stage, load.live, 0)
    image = load.outer.path / "held.img"
    done = await load.freezes("--", "cp", "--reflink=auto", str(load.inner.image), str(image))
    held = [part["path"] for part in done.document["verdict"]["filesystems"] if part["outcome"] == "held"]
    assert held == [str(load.inner.path)]  # by what the app has declared
    assert is_shared(image)
    await check_whole(load, load.database_in(image), done, committed)


async def test_the_files_are_copied_by_reflink_while_the_app_alone_is_held_and_need_no_recovery(load: Load) -> None:
    committed = await has_more_rows(load.stage, load.live, 0)
    copy = load.inner.path / "copy"
    copy.mkdir()
    files = (str(load.database), str(log_of(load.database)))
    done = await load.freezes("--no-filesystems", "--", "cp", "--reflink=auto", *files, str(copy))
    assert is_shared(copy / load.database.name)
    await check_whole(load, copy / load.database.name, done, committed)


async def test_the_same_copy_with_fsfreeze_alone_needs_recovery(load: Load) -> None:
    with closing(sqlite3.connect(load.database, isolation_level=None)) as report:
        # SQLite copies nothing out of its log that is newer than what an open transaction reads. With this one, what
        # is committed from now on is in the log and nowhere else, at whatever moment the copy is taken.
        report.execute("BEGIN")
        seen = len(rows(report))
        committed = await has_more_rows(load.stage, load.live, seen)
        image = load.outer.path / "plain.img"
        run("fsfreeze", "--freeze", str(load.inner.path))
        try:
            run("cp", "--reflink=auto", str(load.inner.image), str(image))
        finally:
            run("fsfreeze", "--unfreeze", str(load.inner.path))
    assert is_shared(image)
    copy = load.database_in(image)
    assert log_of(copy).read_bytes()
    alone = without_log(copy, load.stage.directory / "alone")
    whole = recovered(copy, load.stage.directory / "recovered")
    assert len(alone) <= seen < committed <= len(whole)


def is_shared(file: Path) -> bool:
    """Whether a file has its blocks together with another one."""
    return "shared" in run("filefrag", "-v", str(file))
