"""The bench itself: volumes whose copies are one instant's, a ledger that no frozen volume stops, servers that end."""

from __future__ import annotations

import os
import time

import pytest

from tests.databases.support import commits
from tests.databases.support.ledger import Ledger, holes, writing
from tests.databases.support.pool import Pool
from tests.databases.support.servers import (
    SERVER_USER,
    MariadbServer,
    PostgresqlServer,
    RedisServer,
    server_folder,
)
from tests.databases.support.triple import Way, take
from tests.databases.support.writer import PER_WRITER
from tests.support.loop_disks import is_frozen, takes_a_write, why_not
from tests.support.running_broker import short_directory


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_copy_is_mounted_beside_its_original_and_has_what_was_synced(pool: Pool, kind: str) -> None:
    if reason := why_not(kind):
        pytest.skip(reason)
    volume = pool.volume(f"kind-{kind}", kind)
    (volume.path / "one").write_text("first")
    pool.freeze(volume)
    copy = pool.copy(volume)
    pool.thaw(volume)
    (volume.path / "one").write_text("second")

    mounted = pool.mount_copy(copy)

    assert mounted.locate(volume.path / "one").read_text() == "first"
    mounted.locate(volume.path / "one").write_text("mine")
    assert (volume.path / "one").read_text() == "second"
    pool.unmount_copy(mounted)
    pool.drop(copy)


def test_a_copy_without_a_freeze_lacks_what_only_the_kernel_had(pool: Pool) -> None:
    volume = pool.volume("powercut")
    (volume.path / "old").write_bytes(b"x" * 100_000)
    os.sync()
    (volume.path / "new").write_bytes(b"x" * 100_000)

    mounted = pool.mount_copy(pool.copy(volume))

    assert mounted.locate(volume.path / "old").read_bytes() == b"x" * 100_000
    new = mounted.locate(volume.path / "new")
    assert not new.exists() or not new.read_bytes().startswith(b"x")


def test_a_frozen_volume_takes_no_write_and_its_pool_does(pool: Pool) -> None:
    volume = pool.volume("still")
    pool.freeze(volume)
    try:
        assert not takes_a_write(volume.path, 0.3)
        assert takes_a_write(pool.disk.path)
    finally:
        pool.thaw(volume)
    assert not is_frozen(volume.path)
    assert takes_a_write(volume.path)


async def test_redis_loses_what_it_never_wrote_and_the_ledger_counts_it(pool: Pool) -> None:
    """The least of all triples: a server that keeps everything in its memory."""
    if reason := RedisServer.why_not():
        pytest.skip(reason)
    volume = pool.volume("redis", owner=SERVER_USER)
    with (
        RedisServer(volume.path / "data") as server,
        writing("tests.databases.support.commits:redis", {"socket": server.socket}, pause=0.001) as ledger,
    ):
        ledger.wait_for(100)
        taken = await take(Way.FS, pool, [volume])
        ledger.wait_for(10, since=taken.done)
    with RedisServer(pool.mount_copy(taken.copy).locate(volume.path / "data")) as copy, copy.connect() as client:
        rows = commits.redis_rows(client)
    assert rows == set()
    assert len(ledger.lost(rows, taken.instant)) == len(ledger.acknowledged_before(taken.instant)) >= 100
    assert taken.times.keys() == {"freeze", "copy", "thaw"}


async def test_postgresql_with_its_defaults_loses_nothing_in_any_way(pool: Pool) -> None:
    if reason := PostgresqlServer.why_not():
        pytest.skip(reason)
    volume = pool.volume("postgresql", owner=SERVER_USER)
    with PostgresqlServer(volume.path / "data") as server:
        with server.connect() as connection:
            commits.postgresql_table(connection)
        with writing("tests.databases.support.commits:postgresql", {"dsn": server.dsn}, pause=0.001) as ledger:
            ledger.wait_for(50)
            copies = [await take(way, pool, [volume]) for way in (Way.RAW, Way.FS)]
            ledger.wait_for(10, since=time.monotonic())
    for taken in copies:
        mounted = pool.mount_copy(taken.copy)
        copy = PostgresqlServer(mounted.locate(volume.path / "data"))
        copy.forget_original()
        with copy, copy.connect() as connection:
            rows = commits.postgresql_rows(connection)
        assert not ledger.lost(rows, taken.instant)
        assert not holes(rows)
        assert len(rows) >= 50


async def test_mariadb_with_its_defaults_loses_nothing(pool: Pool) -> None:
    if reason := MariadbServer.why_not():
        pytest.skip(reason)
    volume = pool.volume("mariadb", owner=SERVER_USER)
    with MariadbServer(volume.path / "data") as server:
        with server.connect() as connection:
            commits.mariadb_table(connection)
        with writing("tests.databases.support.commits:mariadb", {"socket": server.socket}, pause=0.001) as ledger:
            ledger.wait_for(50)
            taken = await take(Way.FS, pool, [volume])
    with (
        MariadbServer(pool.mount_copy(taken.copy).locate(volume.path / "data")) as copy,
        copy.connect() as connection,
    ):
        rows = commits.mariadb_rows(connection)
    assert not ledger.lost(rows, taken.instant)
    assert len(rows) >= 50


def test_a_server_that_does_not_start_says_why() -> None:
    if reason := PostgresqlServer.why_not():
        pytest.skip(reason)
    data = server_folder(short_directory())
    try:
        with pytest.raises(AssertionError, match="it ended with"), PostgresqlServer(data):
            pass
    finally:
        data.rmdir()


def test_writers_that_fail_are_heard() -> None:
    with (
        writing("tests.databases.support.commits:redis", {"socket": "/nowhere/redis"}, writers=1) as ledger,
        pytest.raises(AssertionError, match="nowhere"),
    ):
        ledger.wait_for(1)


def test_holes_are_what_is_missing_before_a_writers_last_row() -> None:
    assert holes([PER_WRITER + 1, PER_WRITER + 3, 2 * PER_WRITER + 1]) == {PER_WRITER + 2}
    assert Ledger().lost([1], 0.0) == set()
