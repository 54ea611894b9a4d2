"""The triple of MariaDB and of MySQL: three copies of one server that is written to, and what each is worth."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from appvss.adapters.mysql_hold import ServerAdapter
from appvss.model.grade import Grade
from appvss.verify.base import Copy, Report
from tests.adapters.support.mysql_world import make_account, run
from tests.databases.support import commits, results
from tests.databases.support.ledger import Ledger, holes, writing
from tests.databases.support.pool import Pool, Volume
from tests.databases.support.servers import MariadbServer
from tests.databases.support.triple import Taken, Way, take
from tests.support.running_broker import short_directory

WRITER = "tests.databases.support.commits:mariadb"


@dataclass(frozen=True)
class Product:
    """What differs between the two."""

    engine: str
    server: Callable[..., MariadbServer]
    settings: Mapping[str, str]
    """Of every server of the tests."""
    adapter: Callable[[MariadbServer], ServerAdapter]
    verify: Callable[[Copy, Mapping[str, str]], Report]


@dataclass(frozen=True)
class Case:
    """One setting, and what it does to a copy."""

    setting: str
    server: Mapping[str, str]
    grants: tuple[str, ...]
    table: str = "ENGINE=InnoDB"
    loses: frozenset[Way] = frozenset()
    """The ways in which acknowledged writes must be missing."""
    breaks: frozenset[Way] = frozenset()
    """The ways in which the first CHECK TABLE must find something."""


async def take_and_judge(pool: Pool, volume: Volume, product: Product, case: Case) -> None:
    """raw, fs and app of one server, in one run, with two clients that write all the time."""
    copies: list[Taken] = []
    with product.server(volume.path / "data", settings={**product.settings, **case.server}) as server:
        make_account(server, "appvss", *case.grants)
        with closing(server.connect()) as connection:
            commits.mariadb_table(connection, options=case.table)
        one = product.adapter(server)
        with writing(WRITER, {"socket": server.socket}, pause=0.001) as ledger:
            ledger.wait_for(100)
            for way in (Way.RAW, Way.FS, Way.APP):
                copies.append(await take(way, pool, [volume], one.quiesce, prepare=one.prepare))
                ledger.wait_for(50, since=copies[-1].done)
        version = run(server, "SELECT @@version")[0][0].partition("-")[0]
    for taken in copies:
        judge(pool, volume, product, case, taken, ledger, version)


def judge(pool: Pool, volume: Volume, product: Product, case: Case, taken: Taken, ledger: Ledger, version: str) -> None:
    report = verified(pool, product, taken)
    rows = rows_of(pool, volume, product, taken)
    lost = None if rows is None else ledger.lost(rows, taken.instant)
    acknowledged = len(ledger.acknowledged_before(taken.instant))
    note = "" if Way(taken.way) not in case.breaks else "the first CHECK TABLE is not clean"
    results.record(
        results.Result(
            product.engine, version, case.setting, taken.way, acknowledged, None if lost is None else len(lost),
            taken.evidence.get("recipe", ""), report.grade, note,
        )
    )  # fmt: skip
    assert acknowledged >= 100
    if taken.way in case.loses:
        assert lost, "nothing was lost without the hold: the test shows nothing"
    if taken.way in case.breaks:
        assert report.grade is Grade.RAW, report
    if taken.way is Way.APP:
        assert lost == set(), report
        assert report.grade is Grade.APP_VERIFIED, report
    else:
        assert report.grade in {Grade.FS, Grade.RAW}, report
    if taken.way is Way.FS and Way.FS not in case.loses | case.breaks:
        assert lost == set(), "a freeze alone loses nothing that was handed to the kernel"
    if rows is not None and taken.way is not Way.RAW:
        assert not holes(rows)


def verified(pool: Pool, product: Product, taken: Taken) -> Report:
    """What `appvss verify` finds, with the evidence if there is any; on a copy of the copy, which it changes."""
    again = pool.again(taken.copy)
    mounted = pool.mount_copy(again)
    work = short_directory()
    work.chmod(0o711)
    try:
        return product.verify(mounted.for_verify(work), taken.evidence)
    finally:
        pool.unmount_copy(mounted)
        pool.drop(again)
        shutil.rmtree(work)


def rows_of(pool: Pool, volume: Volume, product: Product, taken: Taken) -> set[int] | None:
    """The rows of the started copy, repaired if it must be; None: it cannot be read."""
    import pymysql

    mounted = pool.mount_copy(taken.copy)
    try:
        server = product.server(mounted.locate(volume.path / "data"), settings=product.settings)
        with server as copy, closing(copy.connect()) as it:
            return commits.mariadb_rows(it)
    except (AssertionError, pymysql.MySQLError):
        return None
    finally:
        pool.unmount_copy(mounted)
        pool.drop(taken.copy)
