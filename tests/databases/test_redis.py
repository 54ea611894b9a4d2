"""Redis's copies, by what it is set to: what is lost without a hold is shown, and that nothing is lost in one.

With dumps alone the loss is certain: nothing that was written since the last save is on any disk, whatever is frozen
(facts/database-quiesce.md section 3). The negative controls fail if they lose nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from appvss.adapters import redis
from appvss.model.grade import Grade
from appvss.sdk.freeze import Freeze
from appvss.verify import redis as verifier
from appvss.verify.base import Report
from tests.adapters.redis_stage import wait_until
from tests.databases.support import commits, results
from tests.databases.support.ledger import BOUND, Ledger, holes, writing
from tests.databases.support.pool import Pool, Volume
from tests.databases.support.servers import SERVER_USER, RedisServer
from tests.databases.support.triple import Taken, Way, take
from tests.support.running_broker import short_directory

pytestmark = [
    pytest.mark.skipif(bool(RedisServer.why_not()), reason=RedisServer.why_not() or "-"),
    pytest.mark.xdist_group("redis-triples"),
]

WRITER = "tests.databases.support.commits:redis"
SELDOM = "3600 100000000"
"""A save point that is never reached: there is one, and nothing is saved by itself."""


@dataclass(frozen=True)
class Case:
    """One setting, and what it does to a copy."""

    setting: str
    server: Mapping[str, str]
    loses: frozenset[Way] = frozenset()
    """The ways in which acknowledged writes must be missing."""
    may_lose: frozenset[Way] = frozenset()
    """The ways in which they may be, beside a power cut."""


CASES = [
    Case("RDB only", {"save": SELDOM}, frozenset({Way.RAW, Way.FS})),
    # What it takes while an fsync is under way it writes later: tests/adapters/test_redis.py shows it for certain.
    Case("AOF everysec", {"appendonly": "yes", "appendfsync": "everysec"}, may_lose=frozenset({Way.FS})),
    Case("AOF always", {"appendonly": "yes", "appendfsync": "always"}),
    Case("AOF no", {"appendonly": "yes", "appendfsync": "no"}),
]


@pytest.fixture
def volume(pool: Pool) -> Volume:
    return pool.volume(f"redis{len(pool.volumes)}", owner=SERVER_USER)


def adapter(server: RedisServer) -> redis.Adapter:
    return redis.Adapter(redis.Settings(url=f"unix://{server.socket}"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.setting)
async def test_what_each_way_is_worth(pool: Pool, volume: Volume, case: Case) -> None:
    """raw, fs and app of one server, in one run, with two clients that write all the time."""
    copies: list[Taken] = []
    with RedisServer(volume.path / "data", settings=case.server) as server:
        version = server.connect().info()["redis_version"]
        one = adapter(server)
        with writing(WRITER, {"socket": server.socket}, pause=0.0005) as ledger:
            ledger.wait_for(200)
            for way in (Way.RAW, Way.FS, Way.APP):
                copies.append(await take(way, pool, [volume], one.quiesce, prepare=one.prepare))
                ledger.wait_for(50, since=copies[-1].done)
    for taken in copies:
        judge(pool, volume, case, taken, ledger, version)


def judge(pool: Pool, volume: Volume, case: Case, taken: Taken, ledger: Ledger, version: str) -> None:
    report = verified(pool, taken)
    rows = rows_of(pool, volume, case, taken)
    lost = ledger.lost(rows, taken.instant)
    acknowledged = len(ledger.acknowledged_before(taken.instant))
    results.record(
        results.Result(
            "redis", version, case.setting, taken.way, acknowledged, len(lost), taken.evidence.get("recipe", ""),
            report.grade,
        )
    )  # fmt: skip
    assert acknowledged >= 200
    if taken.way in case.loses:
        assert lost, "nothing was lost without the hold: the test shows nothing"
    if taken.way is Way.APP:
        assert not lost, report
        assert not holes(rows)
        assert report.grade is Grade.APP_VERIFIED, report
    else:
        assert report.grade in {Grade.FS, Grade.RAW}, report
    if taken.way is Way.FS and Way.FS not in case.loses | case.may_lose:
        assert not lost, "a freeze alone loses nothing that was handed to the kernel"


def verified(pool: Pool, taken: Taken, evidence: Mapping[str, str] | None = None) -> Report:
    """What `appvss verify` finds; on a copy of the copy, which it may change."""
    again = pool.again(taken.copy)
    mounted = pool.mount_copy(again)
    work = short_directory()
    work.chmod(0o711)
    try:
        return verifier.verify(mounted.for_verify(work), taken.evidence if evidence is None else evidence)
    finally:
        pool.unmount_copy(mounted)
        pool.drop(again)
        shutil.rmtree(work)


def rows_of(pool: Pool, volume: Volume, case: Case, taken: Taken) -> set[int]:
    """The rows of a server that was started on the copy; a copy without a file gives one without rows."""
    mounted = pool.mount_copy(taken.copy)
    try:
        with (
            RedisServer(mounted.locate(volume.path / "data"), settings=case.server) as copy,
            copy.connect() as client,
        ):
            return commits.redis_rows(client)
    finally:
        pool.unmount_copy(mounted)
        pool.drop(taken.copy)


async def test_a_dump_without_a_pause_is_no_recipe(pool: Pool, volume: Volume) -> None:
    """The negative control: what others do. All that comes between the dump and the freeze is lost."""
    case = CASES[0]

    def quiesce(freeze: Freeze) -> AbstractAsyncContextManager[Mapping[str, str]]:
        return dump_alone(server, ledger)

    with RedisServer(volume.path / "data", settings=case.server) as server:
        version = server.connect().info()["redis_version"]
        with writing(WRITER, {"socket": server.socket}, pause=0.0005) as ledger:
            ledger.wait_for(200)
            taken = await take(Way.APP, pool, [volume], quiesce)
    rows = rows_of(pool, volume, case, taken)
    lost, acknowledged = ledger.lost(rows, taken.instant), ledger.acknowledged_before(taken.instant)
    results.record(
        results.Result("redis", version, "RDB only, BGSAVE without a pause", Way.FS, len(acknowledged), len(lost))
    )
    assert 0 < len(lost) < len(acknowledged)


@asynccontextmanager
async def dump_alone(server: RedisServer, ledger: Ledger) -> AsyncIterator[Mapping[str, str]]:
    with server.connect() as client:
        client.bgsave()
        await asyncio.to_thread(wait_until, lambda: not client.info("persistence")["rdb_bgsave_in_progress"])
    ledger.wait_for(1, since=time.monotonic())  # so that the loss is certain: one at least comes in between
    yield {}


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.setting)
async def test_the_evidence_of_a_cycle_does_not_help_a_copy_that_was_made_without_one(
    pool: Pool, volume: Volume, case: Case
) -> None:
    """Before it, and after it, with the marker of the cycle still in the data."""
    with (
        RedisServer(volume.path / "data", settings=case.server) as server,
        writing(WRITER, {"socket": server.socket}, pause=0.001) as ledger,
        server.connect() as client,
    ):
        ledger.wait_for(50)
        before = await take(Way.FS, pool, [volume])
        taken = await take(Way.APP, pool, [volume], adapter(server).quiesce)
        ledger.wait_for(50, since=taken.done)
        if case.setting == "RDB only":
            client.bgsave()
            await asyncio.to_thread(wait_until, lambda: not client.info("persistence")["rdb_bgsave_in_progress"])
        after = await take(Way.FS, pool, [volume])
    assert verified(pool, taken).grade is Grade.APP_VERIFIED
    for other in (before, after):
        assert verified(pool, other, taken.evidence).grade in {Grade.FS, Grade.RAW}


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: case.setting)
async def test_reads_are_answered_all_the_time_and_writes_wait_no_longer_than_the_cycle(
    pool: Pool, volume: Volume, case: Case
) -> None:

    def answer() -> object:
        with server.connect(socket_timeout=10.0) as client:
            return client.get("appvss:marker")

    with (
        RedisServer(volume.path / "data", settings=case.server) as server,
        writing(WRITER, {"socket": server.socket}, pause=0.0005) as ledger,
    ):
        ledger.wait_for(100)
        freeze = Freeze("a-cycle", "the tests", timedelta(seconds=30), timedelta(seconds=60))
        began = time.monotonic()
        async with adapter(server).quiesce(freeze):
            freeze.filesystem_freeze.set()
            pool.freeze(volume)
            try:  # an observer of its own: the adapter is silent
                assert await asyncio.to_thread(answer) == b"a-cycle"  # 2 to 4 ms on a quiet machine
            finally:
                pool.thaw(volume)
        done = time.monotonic()
        ledger.wait_for(50, since=done)
        # What waited was let go on, and not by the pause's own end, a minute later.
        assert ledger.longest_wait(began, done) <= done - began + BOUND < freeze.hold_limit.total_seconds()
