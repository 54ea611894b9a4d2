"""PostgreSQL's copies under load: raw, frozen, and held; on one volume, and on three that are copied one by one."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from appvss import Freeze
from appvss.adapters.postgresql import Adapter, Recipe, Settings
from appvss.model.grade import Grade
from appvss.verify import postgresql
from appvss.verify.base import Report
from tests.databases.support import commits
from tests.databases.support.ledger import Ledger, holes, writing
from tests.databases.support.pool import MountedCopy, Pool, Volume, VolumesCopy
from tests.databases.support.results import Result, record
from tests.databases.support.servers import SERVER_USER, PostgresqlServer, server_folder
from tests.databases.support.triple import Taken, Way, take
from tests.support.running_broker import short_directory

COMMIT = "tests.databases.support.commits:postgresql"
_BUDGET = timedelta(seconds=30)
LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
"""A commit stays in memory for seconds, so that what a copy without the recipe loses is no matter of luck."""


@pytest.fixture(autouse=True, scope="module")
def requires_server() -> None:
    if reason := PostgresqlServer.why_not():
        pytest.skip(reason)


@pytest.fixture
def work() -> Iterator[Path]:
    """A verifier's own folder."""
    folder = short_directory()
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Seen:
    """A copy that was verified and read."""

    report: Report
    rows: set[int]


def look(mounted: MountedCopy, data: Path, work: Path, evidence: Mapping[str, str]) -> Seen:
    """Verify a copy, then start it once more and read its ledger."""
    report = postgresql.verify(mounted.for_verify(work), {"data_directory": str(data), **evidence})
    if report.grade is Grade.RAW:
        return Seen(report, set())
    with PostgresqlServer(mounted.locate(data), settings={"fsync": "off"}) as copy, copy.connect() as connection:
        return Seen(report, commits.postgresql_rows(connection))


def note(ledger: Ledger, taken: Taken, seen: Seen, setting: str, **rest: str) -> int:
    """Keep a result for docs/databases.md; how many acknowledged rows are missing."""
    lost = len(ledger.lost(seen.rows, taken.instant))
    record(
        Result(
            engine="postgresql",
            version=seen.report.version,
            setting=setting,
            way=taken.way,
            acknowledged=len(ledger.acknowledged_before(taken.instant)),
            lost=None if seen.report.grade is Grade.RAW else lost,
            recipe=taken.evidence.get("recipe", ""),
            grade=seen.report.grade,
            **rest,
        )
    )
    return lost


class Timed:
    """An adapter's hold, and when it was begun."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.began = 0.0

    @asynccontextmanager
    async def quiesce(self, freeze: Freeze) -> AsyncIterator[Mapping[str, str]]:
        self.began = time.monotonic()
        async with self.adapter.quiesce(freeze) as evidence:
            yield evidence


@pytest.mark.timeout(
    400
)  # twelve starts of a server and six checks of all its tables, which a busy machine spreads out
@pytest.mark.parametrize("setting", ["synchronous_commit=on", "synchronous_commit=off"])
async def test_the_triple(pool: Pool, work: Path, setting: str) -> None:
    lazy = setting.endswith("off")
    volume = pool.volume(f"triple-{'off' if lazy else 'on'}", owner=SERVER_USER)
    with PostgresqlServer(volume.path / "data", settings=LAZY if lazy else {}) as server:
        with server.connect() as connection:
            commits.postgresql_table(connection)
            connection.execute("CHECKPOINT")  # the table itself is not what is to be lost
        timed = Timed(Adapter(Settings(server.dsn)))
        with writing(COMMIT, {"dsn": server.dsn, "asynchronous": lazy}, pause=0.002) as ledger:
            copies: list[Taken] = []
            # The last page of the log may be full by chance, and then a freeze loses nothing: three have no such luck.
            for way in (Way.RAW, Way.FS, Way.FS, Way.FS, Way.APP, Way.FS):
                ledger.wait_for(150, since=time.monotonic())
                copies.append(await take(way, pool, [volume], timed.quiesce, prepare=timed.adapter.prepare))
            ledger.wait_for(20, since=copies[-1].done)
        evidence = copies[-2].evidence  # the last copy is frozen as well, right after that cycle, and not in its hold
        lost: dict[Way, list[int]] = {way: [] for way in Way}
        for number, taken in enumerate(copies):
            seen = look(pool.mount_copy(taken.copy), server.data, _folder(work, number), evidence)
            lost[taken.way].append(note(ledger, taken, seen, setting))
            assert not holes(seen.rows)
            assert seen.report.grade is (Grade.APP_VERIFIED if taken.way is Way.APP else Grade.FS), seen.report.findings
            if taken.way is Way.APP:
                assert not ledger.lost(seen.rows, timed.began)
    if lazy:
        assert lost[Way.RAW][0] > 0
        assert max(lost[Way.FS]) > 0
        # Nobody keeps those out that come in the few milliseconds between marker and freeze: up to 5 were seen.
        assert lost[Way.APP][0] < lost[Way.RAW][0]
    else:
        assert (lost[Way.RAW], lost[Way.FS], lost[Way.APP]) == ([0], [0] * len(lost[Way.FS]), [0])
    assert evidence["async_commit"] == str(lazy).lower()


# Data, log and a tablespace on a volume each.


@dataclass(frozen=True)
class Ground:
    """A server on three volumes, and its writers."""

    pool: Pool
    server: PostgresqlServer
    data: Volume
    wal: Volume
    space: Volume
    ledger: Ledger

    @property
    def volumes(self) -> list[Volume]:
        return [self.data, self.wal, self.space]

    def checkpoint(self) -> None:
        with self.server.connect() as connection:
            connection.execute("CHECKPOINT")

    def apart(self) -> VolumesCopy:
        """Copies of different instants, with checkpoints in between: each is frozen, copied, thawed before the next.
        The log is first: the control file then knows of a checkpoint that the log's copy does not have.
        """
        images: dict[Volume, Path] = {}
        for volume in (self.wal, self.space, self.data):
            self.pool.freeze(volume)
            try:
                images |= self.pool.copy(volume).images
            finally:
                self.pool.thaw(volume)
            self.ledger.wait_for(30, since=time.monotonic())
            self.checkpoint()
        return VolumesCopy(images)


@pytest.fixture(scope="module")
def ground(pool: Pool) -> Iterator[Ground]:
    data, wal, space = (pool.volume(f"three-{name}", owner=SERVER_USER) for name in ("data", "wal", "space"))
    server = PostgresqlServer(data.path / "data")
    server.initialize()
    owner = server.data.stat()
    shutil.move(server.data / "pg_wal", wal.path / "pg_wal")
    for path in (wal.path / "pg_wal", *(wal.path / "pg_wal").rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    (server.data / "pg_wal").symlink_to(wal.path / "pg_wal")
    folder = server_folder(space.path / "slow")
    with server:
        with server.connect() as connection:
            connection.execute(f"CREATE TABLESPACE slow LOCATION '{folder}'")
            connection.execute("SET default_tablespace = slow")
            commits.postgresql_table(connection)
        with writing(COMMIT, {"dsn": server.dsn}, pause=0.002) as ledger:
            yield Ground(pool, server, data, wal, space, ledger)


@pytest.fixture
def outside() -> Iterator[Path]:
    """Where a backup's label and WAL are kept."""
    folder = short_directory()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("order", ["data wal space", "wal space data", "space data wal"])
async def test_volumes_that_are_frozen_one_after_another_are_one_set(ground: Ground, work: Path, order: str) -> None:
    """All before the first is copied; the order does not matter. The links lead to the copies."""
    adapter = Adapter(Settings(ground.server.dsn))
    volumes = [getattr(ground, name) for name in order.split()]
    ground.ledger.wait_for(50, since=time.monotonic())
    taken = await take(Way.APP, ground.pool, volumes, adapter.quiesce, prepare=adapter.prepare)
    ground.ledger.wait_for(10, since=taken.done)

    assert taken.evidence["recipe"] == "atomic"
    assert taken.evidence["wal_directory"] == str(ground.wal.path / "pg_wal")
    seen = look(ground.pool.mount_copy(taken.copy), ground.server.data, work, taken.evidence)
    assert seen.report.grade is Grade.APP_VERIFIED, seen.report.findings
    assert note(ground.ledger, taken, seen, "three volumes, all frozen first") == 0
    assert not holes(seen.rows)


async def test_volumes_that_are_copied_at_different_times_do_not_start_without_the_backup_recipe(
    ground: Ground, work: Path
) -> None:
    """The negative control."""
    instant = time.monotonic()
    copy = await asyncio.to_thread(ground.apart)
    taken = Taken(Way.FS, copy, instant, time.monotonic(), "none")
    seen = look(ground.pool.mount_copy(copy), ground.server.data, work, {})
    assert seen.report.grade is Grade.RAW, seen.report.findings
    assert "could not locate a valid checkpoint record" in seen.report.findings[-1].sentence
    note(ground.ledger, taken, seen, "three volumes, one after another", note="does not start")


async def test_with_the_backup_recipe_they_recover_and_lose_nothing(ground: Ground, work: Path, outside: Path) -> None:
    adapter = Adapter(Settings(ground.server.dsn, backup_directory=outside))
    began = time.monotonic()
    freeze = Freeze("apart", "the tests", budget=_BUDGET, hold_limit=_BUDGET)
    async with adapter.quiesce(freeze) as evidence:
        copy = await asyncio.to_thread(ground.apart)
    taken = Taken(Way.APP, copy, began, time.monotonic(), "apart", dict(evidence))

    assert evidence["recipe"] == Recipe.BACKUP.value  # several volumes, and a directory for it
    seen = look(ground.pool.mount_copy(copy), ground.server.data, work, evidence)
    assert seen.report.grade is Grade.APP_VERIFIED, seen.report.findings
    assert any("backup recovery was completed" in finding.sentence for finding in seen.report.findings)
    assert note(ground.ledger, taken, seen, "three volumes, one after another") == 0
    assert not holes(seen.rows)


async def test_a_label_alone_keeps_a_copy_from_starting(ground: Ground, work: Path, outside: Path) -> None:
    adapter = Adapter(Settings(ground.server.dsn, recipe=Recipe.BACKUP, backup_directory=outside))
    taken = await take(Way.APP, ground.pool, ground.volumes, adapter.quiesce, prepare=adapter.prepare)
    kept = outside / taken.cycle
    label = (kept / "backup_label").read_text()
    for segment in (kept / "pg_wal").iterdir():
        segment.unlink()

    # The verifier does not try.
    again = ground.pool.mount_copy(ground.pool.again(taken.copy))
    refused = postgresql.verify(again.for_verify(_folder(work, 1)), taken.evidence)
    assert "would not start" in refused.findings[-1].sentence
    # Somebody else does.
    mounted = ground.pool.mount_copy(taken.copy)
    label_file = mounted.locate(ground.server.data) / "backup_label"
    label_file.write_text(label)
    shutil.chown(label_file, SERVER_USER)
    alone = {name: value for name, value in taken.evidence.items() if name != "backup"}
    tried = postgresql.verify(mounted.for_verify(_folder(work, 2)), alone)
    assert tried.grade is Grade.RAW
    assert "WAL ends before end of online backup" in tried.findings[-1].sentence


def _folder(work: Path, number: int) -> Path:
    folder = work / str(number)
    folder.mkdir(mode=0o711)
    return folder
