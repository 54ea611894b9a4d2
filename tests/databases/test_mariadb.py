"""MariaDB's copies, by what it is set to: what is lost without a hold is shown, and that nothing is lost in one.

The losses are made certain where chance would decide: with a redo log that is flushed only every 2700 s, a copy without
the adapter's hold must lack acknowledged commits, or the test has shown nothing (facts/database-quiesce.md section 9).
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters import mariadb
from appvss.adapters.errors import HoldRefused
from appvss.model.grade import Grade
from appvss.sdk.freeze import Freeze, Prepare
from appvss.verify import mariadb as verifier
from tests.adapters.support.mysql_world import PASSWORD, Statement, a_secret, make_account
from tests.databases.support import commits
from tests.databases.support.ledger import writing
from tests.databases.support.mysql_triple import WRITER, Case, Product, take_and_judge, verified
from tests.databases.support.pool import Pool, Volume
from tests.databases.support.servers import SERVER_USER, MariadbServer
from tests.databases.support.triple import Way, take

pytestmark = [
    pytest.mark.skipif(bool(MariadbServer.why_not()), reason=MariadbServer.why_not() or "-"),
    pytest.mark.xdist_group("mariadb-triples"),
]

GRANTS = ("RELOAD, BINLOG MONITOR, PROCESS, SHOW VIEW ON *.*", "CREATE, INSERT, DELETE ON appvss.*")
SMALL = {"innodb-log-file-size": "8M", "innodb-buffer-pool-size": "32M", "performance-schema": "OFF"}
NEVER = {"innodb-flush-log-at-timeout": "2700"}
"""The redo log is flushed by commits and by the adapter, and never by itself."""


LOSES_UNFROZEN = frozenset({Way.RAW})
LOSES_UNHELD = frozenset({Way.RAW, Way.FS})
NOT_AT_COMMIT = {"innodb-flush-log-at-trx-commit": "0", "sync-binlog": "0", **NEVER}
TO_THE_KERNEL = {"innodb-flush-log-at-trx-commit": "2", "sync-binlog": "0", **NEVER}
CASES = [
    Case("innodb_flush_log_at_trx_commit=1", {}, GRANTS),
    Case("innodb_flush_log_at_trx_commit=2", TO_THE_KERNEL, GRANTS, loses=LOSES_UNFROZEN),
    Case("innodb_flush_log_at_trx_commit=0", NOT_AT_COMMIT, (*GRANTS, "SUPER ON *.*"), loses=LOSES_UNHELD),
    Case("MyISAM DELAY_KEY_WRITE=1", {}, GRANTS, "ENGINE=MyISAM DELAY_KEY_WRITE=1", breaks=LOSES_UNHELD),
    Case("Aria TRANSACTIONAL=0", {}, GRANTS, "ENGINE=Aria TRANSACTIONAL=0", breaks=LOSES_UNHELD),
]


@pytest.fixture
def volume(pool: Pool) -> Volume:
    return pool.volume(f"maria{len(pool.volumes)}", owner=SERVER_USER)


def adapter(server: MariadbServer) -> mariadb.Adapter:
    return mariadb.Adapter(mariadb.Settings(Path(server.socket), user="appvss", password=a_secret()))


MARIADB = Product("mariadb", MariadbServer, SMALL, adapter, verifier.verify)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.setting)
async def test_what_each_way_is_worth(pool: Pool, volume: Volume, case: Case) -> None:
    await take_and_judge(pool, volume, MARIADB, case)


async def test_binlog_redo_and_data_on_three_volumes_frozen_one_after_another(pool: Pool) -> None:
    """They must be one atomic set: recovery decides by the binary log what the redo log has prepared (section 5.3)."""
    volumes = [pool.volume(name, owner=SERVER_USER) for name in ("m3data", "m3redo", "m3log")]
    data, redo, log = volumes
    settings = {
        **SMALL, "innodb-log-group-home-dir": str(redo.path), "log-bin": f"{log.path}/bin",
    }  # fmt: skip
    server = MariadbServer(data.path / "data", settings=settings)
    server.initialize()
    shutil.move(data.path / "data" / "ib_logfile0", redo.path / "ib_logfile0")
    shutil.chown(redo.path / "ib_logfile0", SERVER_USER)
    with server:
        make_account(server, "appvss", *GRANTS)
        with closing(server.connect()) as connection:
            commits.mariadb_table(connection)
        found = await adapter(server).preflight()
        assert {volume.path for volume in found.volumes} == {data.path / "data", redo.path, log.path}
        with writing(WRITER, {"socket": server.socket}, pause=0.001) as ledger:
            ledger.wait_for(100)
            taken = await take(Way.APP, pool, volumes, adapter(server).quiesce)
            ledger.wait_for(10, since=taken.done)
    assert verified(pool, MARIADB, taken).grade is Grade.APP_VERIFIED
    mounted = pool.mount_copy(taken.copy)
    logs = mounted.locate(log.path)
    (logs / "bin.index").write_text(f"{logs}/bin.000001\n")  # the one that is there has the live server's path
    settings = settings | {"innodb-log-group-home-dir": str(mounted.locate(redo.path)), "log-bin": f"{logs}/bin"}
    with MariadbServer(mounted.locate(data.path / "data"), settings=settings) as copy, closing(copy.connect()) as it:
        rows = commits.mariadb_rows(it)
    assert not ledger.lost(rows, taken.instant)


async def test_nobody_is_called_while_the_servers_files_are_frozen(pool: Pool, volume: Volume) -> None:
    """The dead-lock of section 1.5: a client that asks a server which waits for the thaw waits for ever."""
    with MariadbServer(volume.path / "data", settings=SMALL) as server:
        make_account(server, "appvss", *GRANTS)
        with closing(server.connect()) as connection:
            commits.mariadb_table(connection)
        freeze = Freeze("cycle-1", "the tests", timedelta(seconds=10), timedelta(seconds=30))
        async with adapter(server).quiesce(freeze) as evidence:
            freeze.filesystem_freeze.set()
            write = Statement(server, f"INSERT INTO test.ledger VALUES (1, '{PASSWORD}')")
            pool.freeze(volume)
            try:
                async with asyncio.timeout(20):  # an adapter that asks would do it now, while the event loop is free
                    assert await asyncio.to_thread(write.is_waiting, 1.0)
            finally:
                pool.thaw(volume)
        write.finish()
        write.close()
    assert evidence["marker"] == "cycle-1"


async def test_a_full_disk_is_said_within_the_budget(pool: Pool) -> None:
    volume = pool.volume("mfull", owner=SERVER_USER, mebibytes=256)
    with MariadbServer(volume.path / "data", settings=SMALL | {"sync-binlog": "0"}) as server:
        make_account(server, "appvss", *GRANTS)
        await adapter(server).prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
        fill(volume.path / "filler")
        with pytest.raises(HoldRefused) as refused:
            await hold_until_refused(adapter(server))
        assert refused.value.retryable


async def hold_until_refused(one: mariadb.Adapter) -> None:
    """Each hold writes a row, and its place in the binary log: some fit into what is allocated already."""
    for number in range(200):
        freeze = Freeze(f"{number} {'x' * 200}", "the tests", timedelta(seconds=3), timedelta(seconds=30))
        async with asyncio.timeout(20):  # far more than the budget, and far less than for ever
            held = await one.hold(freeze)
        await one.release(held, freeze)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 65536)
        except OSError:
            return
