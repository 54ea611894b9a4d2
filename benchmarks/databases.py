"""What a hold costs a database's clients, against a plain freeze of its file system in the same run.

Each engine runs on a volume of a reflink pool (`tests/databases/support`), under load: writers that note how long each
of their commits took, and for PostgreSQL pgbench beside them. In turns the volume is frozen alone, and in the adapter's
hold; each turn begins after the same time of load, and copies the image, which takes some milliseconds. The longest
wait of a client is looked for from the beginning of the prepare to the end of the hold.

How long a copy takes to start is measured after some more load, without a checkpoint that we have caused.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from appvss.adapters import mariadb, postgresql, redis, sqlite
from appvss.adapters.base import Adapter
from tests.databases.support import commits
from tests.databases.support.ledger import Ledger, writing
from tests.databases.support.pool import Pool, Volume, VolumesCopy, reflink_pool, why_no_pool
from tests.databases.support.servers import (
    SERVER_USER,
    MariadbServer,
    PostgresqlServer,
    RedisServer,
    Server,
    find_program,
    server_folder,
)
from tests.databases.support.triple import Taken, Way, take

ROUNDS: Final = 5
LOAD: Final = 1.5
"""Seconds of load before each freeze."""
POSTGRESQL_LOAD: Final = 8.0
"""The same for PostgreSQL: enough that a checkpoint has something to do, as it has in a server's life."""
SETTLED: Final = 3
"""How many times as much load there is before the copy whose start is measured."""
SCALE: Final = 20
"""Of pgbench: 300 MB of tables."""
KEYS: Final = 200_000
"""In Redis, of 200 bytes each: what a dump has to write."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds; medians of `ROUNDS` turns each, but for the starts."""

    engine: str
    prepare: float
    """Of the adapter: clients go on."""
    hold: float
    """From the question to the ack."""
    freeze: float
    """The freeze of the file system, in the hold."""
    plain_freeze: float
    """The same, alone."""
    stall: float
    """The longest that a client waited in a cycle."""
    plain_stall: float
    """The same, when the file system alone is frozen."""
    start: float | None
    """Until a copy from a hold takes connections; None: there is no server."""
    plain_start: float | None

    @property
    def stall_ratio(self) -> float:
        """A client's wait in the cycle, to that in a plain freeze."""
        return self.stall / self.plain_stall

    @property
    def freeze_ratio(self) -> float:
        """How many times shorter the freeze of the file system is."""
        return self.plain_freeze / self.freeze


@dataclass(frozen=True, slots=True)
class _Running:
    """One application under load."""

    adapter: Adapter[Any]
    ledger: Ledger
    copy_of: Callable[[Path], Server] | None
    """A server on the data folder of a copy."""
    load: float = LOAD
    """Seconds."""


@contextmanager
def _postgresql(data: Path) -> Iterator[_Running]:
    with PostgresqlServer(data, settings={"max_wal_size": "4GB"}) as server:
        pgbench = [find_program("pgbench") or "", "-h", str(server.home), "-U", "postgres"]
        subprocess.run(
            [*pgbench, "-i", "-q", "-s", str(SCALE), "postgres"], check=True, capture_output=True, timeout=120
        )
        with server.connect() as connection:
            commits.postgresql_table(connection)
        load = subprocess.Popen(
            [*pgbench, "-c", "4", "-j", "1", "-T", "600", "-n", "postgres"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with _writers("postgresql", {"dsn": server.dsn}) as ledger:
                adapter = postgresql.Adapter(postgresql.Settings(dsn=server.dsn))
                yield _Running(adapter, ledger, _postgresql_copy, POSTGRESQL_LOAD)
        finally:
            load.kill()
            load.wait()


def _postgresql_copy(data: Path) -> Server:
    server = PostgresqlServer(data)
    server.forget_original()
    return server


@contextmanager
def _mariadb(data: Path) -> Iterator[_Running]:
    with MariadbServer(data) as server:
        with server.connect() as connection:
            commits.mariadb_table(connection)
        with _writers("mariadb", {"socket": server.socket}) as ledger:
            adapter = mariadb.Adapter(mariadb.Settings(socket=Path(server.socket), user="root"))
            yield _Running(adapter, ledger, MariadbServer)


@contextmanager
def _redis(data: Path, **settings: str) -> Iterator[_Running]:
    with RedisServer(data, settings={"save": "86400 1", **settings}) as server:
        with server.connect() as client:
            with client.pipeline(transaction=False) as pipe:
                for key in range(KEYS):
                    pipe.set(f"other:{key}", "x" * 200)
                pipe.execute()
            if "appendonly" not in settings:
                client.save()
        with _writers("redis", {"socket": server.socket}) as ledger:
            adapter = redis.Adapter(redis.Settings(url=f"unix://{server.socket}"))
            yield _Running(adapter, ledger, lambda copy: RedisServer(copy, settings=settings))


@contextmanager
def _redis_log(data: Path) -> Iterator[_Running]:
    with _redis(data, appendonly="yes") as running:
        yield running


@contextmanager
def _sqlite(data: Path) -> Iterator[_Running]:
    file = server_folder(data) / "shop.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE ledger (id INTEGER PRIMARY KEY, payload TEXT)")
    with _writers("sqlite", {"file": str(file)}, writers=1) as ledger:
        yield _Running(sqlite.Adapter(sqlite.Settings(files=(str(file),))), ledger, None)


APPLICATIONS: Final[Mapping[str, Callable[[Path], Any]]] = {
    "PostgreSQL, checkpoint and marker": _postgresql,
    "MariaDB, backup stages": _mariadb,
    "Redis, dumps alone": _redis,
    "Redis, append-only file": _redis_log,
    "SQLite, write-ahead log": _sqlite,
}


def why_not() -> str:
    """Why it cannot be measured here; empty: it can."""
    if reason := why_no_pool():
        return reason
    return PostgresqlServer.why_not() or MariadbServer.why_not() or RedisServer.why_not()


def measure(rounds: int = ROUNDS) -> list[Cost]:
    """Every engine, one after another."""
    with reflink_pool() as pool:
        return [asyncio.run(_cost(pool, number, name, rounds)) for number, name in enumerate(APPLICATIONS)]


async def _cost(pool: Pool, number: int, name: str, rounds: int) -> Cost:
    volume = pool.volume(f"volume-{number}", owner=SERVER_USER, mebibytes=4096)
    found: dict[Way, list[tuple[Taken, float]]] = {Way.FS: [], Way.APP: []}
    with APPLICATIONS[name](volume.path / "data") as running:
        for turn in range(rounds):
            for way in (Way.FS, Way.APP) if turn % 2 else (Way.APP, Way.FS):
                found[way].append(await _turn(pool, volume, running, way))
        copies = {way: await _settled(pool, volume, running, way) for way in (Way.FS, Way.APP)}
        make = running.copy_of
    starts = {way: _start(pool, volume, copy, make) for way, copy in copies.items()}
    held, plain = found[Way.APP], found[Way.FS]
    return Cost(
        name,
        prepare=_median(held, "prepare"),
        hold=_median(held, "hold"),
        freeze=_median(held, "freeze"),
        plain_freeze=_median(plain, "freeze"),
        stall=median(stall for _, stall in held) * 1000,
        plain_stall=median(stall for _, stall in plain) * 1000,
        start=starts[Way.APP],
        plain_start=starts[Way.FS],
    )


async def _turn(pool: Pool, volume: Volume, running: _Running, way: Way) -> tuple[Taken, float]:
    """One copy, and the longest wait of a client while it was made, in seconds."""
    await asyncio.sleep(running.load)
    began = time.monotonic()
    taken = await take(way, pool, [volume], running.adapter.quiesce, prepare=running.adapter.prepare)
    await asyncio.to_thread(running.ledger.wait_for, 4, since=taken.done)  # so that those who waited have been heard
    pool.drop(taken.copy)
    return taken, running.ledger.longest_wait(began, taken.done)


async def _settled(pool: Pool, volume: Volume, running: _Running, way: Way) -> VolumesCopy:
    await asyncio.sleep(running.load * SETTLED)
    taken = await take(way, pool, [volume], running.adapter.quiesce, prepare=running.adapter.prepare)
    return taken.copy


def _start(pool: Pool, volume: Volume, copy: VolumesCopy, make: Callable[[Path], Server] | None) -> float | None:
    """Milliseconds until a server on the copy takes connections."""
    if make is None:
        return None
    server = make(pool.mount_copy(copy).locate(volume.path / "data"))
    began = time.monotonic()
    with server:
        return (time.monotonic() - began) * 1000


def _median(found: list[tuple[Taken, float]], step: str) -> float:
    zero = [taken.times[step].total_seconds() if step in taken.times else 0.0 for taken, _ in found]
    return median(zero) * 1000


@contextmanager
def _writers(engine: str, needed: Mapping[str, object], writers: int = 2) -> Iterator[Ledger]:
    with writing(f"tests.databases.support.commits:{engine}", needed, writers=writers, pause=0.002) as ledger:
        ledger.wait_for(10)
        yield ledger


if __name__ == "__main__":
    with reflink_pool() as only:
        wanted = [name for name in APPLICATIONS if not sys.argv[1:] or name.startswith(sys.argv[1])]
        costs = [asyncio.run(_cost(only, number, name, ROUNDS)) for number, name in enumerate(wanted)]
    for cost in costs:
        print(cost, f"stall {cost.stall_ratio:.2f}, freeze {cost.freeze_ratio:.1f} times shorter")
