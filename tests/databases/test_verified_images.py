"""`appvss verify` on images of volumes: a copy from a cycle is app-verified, one that was made without is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from appvss.adapters import mariadb, postgresql, redis, sqlite
from appvss.adapters.base import Adapter
from appvss.cli.main import run
from appvss.model.app import AppId, Requirement
from appvss.model.certificate import CertifiedApp
from appvss.model.errors import ExitCode
from tests.cli.test_certificate import certificate
from tests.databases.support import commits
from tests.databases.support.ledger import writing
from tests.databases.support.pool import Pool, Volume
from tests.databases.support.servers import SERVER_USER, MariadbServer, PostgresqlServer, RedisServer, server_folder
from tests.databases.support.triple import HOLD_LIMIT, Taken, Way, take

COMMITS = "tests.databases.support.commits"
Running = AbstractContextManager[tuple[Adapter[Any], Mapping[str, object]]]
"""An application that runs: its adapter, and what a writer needs."""


@contextmanager
def postgresql_on(data: Path) -> Iterator[tuple[Adapter[Any], Mapping[str, object]]]:
    skip_without(PostgresqlServer.why_not())
    with PostgresqlServer(data) as server:
        with server.connect() as connection:
            commits.postgresql_table(connection)
        yield postgresql.Adapter(postgresql.Settings(dsn=server.dsn)), {"dsn": server.dsn}


@contextmanager
def mariadb_on(data: Path) -> Iterator[tuple[Adapter[Any], Mapping[str, object]]]:
    skip_without(MariadbServer.why_not())
    with MariadbServer(data) as server:
        with server.connect() as connection:
            commits.mariadb_table(connection)
        settings = mariadb.Settings(socket=Path(server.socket), user="root")
        yield mariadb.Adapter(settings), {"socket": server.socket}


@contextmanager
def redis_on(data: Path) -> Iterator[tuple[Adapter[Any], Mapping[str, object]]]:
    skip_without(RedisServer.why_not())
    with RedisServer(data, settings={"save": "86400 1"}) as server:
        yield redis.Adapter(redis.Settings(url=f"unix://{server.socket}")), {"socket": server.socket}


@contextmanager
def sqlite_on(data: Path) -> Iterator[tuple[Adapter[Any], Mapping[str, object]]]:
    file = server_folder(data) / "shop.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE ledger (id INTEGER PRIMARY KEY, payload TEXT)")
    yield sqlite.Adapter(sqlite.Settings(files=(str(file),))), {"file": str(file)}


ENGINES: Mapping[str, Callable[[Path], Running]] = {
    "postgresql": postgresql_on,
    "mariadb": mariadb_on,
    "redis": redis_on,
    "sqlite": sqlite_on,
}


def skip_without(reason: str) -> None:
    if reason:
        pytest.skip(reason)


@dataclass(frozen=True)
class Copies:
    """Three copies of one volume, in this order."""

    volume: Volume
    before: Taken
    held: Taken
    after: Taken


@pytest.fixture(params=ENGINES)
async def copies(request: pytest.FixtureRequest, pool: Pool) -> Copies:
    """Of a cycle, and of plain freezes before and after it, under load."""
    engine = request.param
    volume = pool.volume(f"verified-{engine}", owner=SERVER_USER)
    with (
        ENGINES[engine](volume.path / "data") as (adapter, needed),
        writing(f"{COMMITS}:{engine}", needed, pause=0.002) as ledger,
    ):
        ledger.wait_for(50)
        before = await take(Way.FS, pool, [volume])
        ledger.wait_for(20, since=before.done)
        held = await take(Way.APP, pool, [volume], adapter.quiesce, prepare=adapter.prepare)
        ledger.wait_for(20, since=held.done)
        after = await take(Way.FS, pool, [volume])
    return Copies(volume, before, held, after)


def certificate_of(taken: Taken, folder: Path) -> Path:
    """What a broker would have written in the cycle."""
    app = CertifiedApp(AppId("shop"), Requirement.REQUIRED, 50, True, HOLD_LIMIT, evidence=taken.evidence)
    path = folder / "certificate.json"
    path.write_text(replace(certificate(), cycle=taken.cycle, apps=(app,)).text())
    return path


async def test_a_copy_from_a_cycle_is_app_verified_and_one_without_is_not(
    copies: Copies, pool: Pool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "--app",
        "shop",
        "--certificate",
        str(certificate_of(copies.held, tmp_path)),
        "--work",
        str(pool.disk.path),
    ]

    def verified(taken: Taken) -> tuple[int, str]:
        image = str(taken.copy.image(copies.volume))
        code = run(["verify", image, *common, "--runtime-directory", "/nowhere"])
        out, err = capsys.readouterr()
        return code, (out or err).splitlines()[0]

    assert verified(copies.held) == (0, "app-verified: shop")
    less = [(ExitCode.UNPROVEN, "fs: shop"), (ExitCode.UNPROVEN, "raw: shop")]  # Redis had not written anything before
    assert verified(copies.before) in less
    if copies.held.evidence["engine"] in ("postgresql", "mariadb"):  # the others' files still are what was held
        assert verified(copies.after) in less
