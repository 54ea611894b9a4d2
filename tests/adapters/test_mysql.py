"""The adapter of MySQL on a real server, where there is one: `APPVSS_MYSQLD` names its program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss import HoldLost, Prepare
from appvss.adapters import mariadb, mysql, mysql_hold
from appvss.adapters.base import Severity, VolumeKind
from appvss.adapters.errors import HoldRefused, LoginRefused, PrivilegeMissing, ServerUnfit, ServerUnreachable
from appvss.adapters.mysql import INSTANCE_LOCK, READ_LOCK, Recipe
from tests.adapters.support.mysql_server import MysqlServer, why_no_mysql
from tests.adapters.support.mysql_world import (
    BOUND,
    PASSWORD,
    Relay,
    Statement,
    a_freeze,
    a_secret,
    holder,
    make_account,
    names,
    run,
    wait_until_gone,
    wait_until_in,
)
from tests.databases.support.servers import server_folder
from tests.support.running_broker import short_directory

pytestmark = pytest.mark.skipif(bool(why_no_mysql()), reason=why_no_mysql() or "-")

MARKER = "CREATE, INSERT, DELETE, SELECT ON appvss.*"
GRANTS = (
    "BACKUP_ADMIN, RELOAD, PROCESS, SHOW VIEW ON *.*",
    "SELECT ON performance_schema.log_status",
    "SELECT ON performance_schema.metadata_locks",
    MARKER,
)
WRITE = "INSERT INTO shop.orders (note) VALUES ('another')"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = server_folder(short_directory())
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[MysqlServer]:
    with MysqlServer(home / "data") as running:
        run(running, "CREATE DATABASE shop", "CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, note TEXT)")
        run(running, "INSERT INTO shop.orders (note) VALUES ('first')")
        make_account(running, "appvss", *GRANTS)
        yield running


@pytest.fixture(autouse=True)
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the word that a hold is over, also on a busy machine."""
    monkeypatch.setattr(mysql_hold, "OVER_LIMIT", timedelta(minutes=1))


@pytest.fixture(autouse=True)
def as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the server runs with its settings, and nobody holds it."""
    yield
    if "server" in request.fixturenames:
        running: MysqlServer = request.getfixturevalue("server")
        if running.process is None:
            running.start()
        wait_until_gone(running, "appvss")
        run(running, "SET GLOBAL innodb_flush_log_at_trx_commit = 1", "DROP TABLE IF EXISTS shop.logs")
        run(running, "DROP USER IF EXISTS blind@localhost", "SET GLOBAL partial_revokes = OFF")
        run(running, "SET GLOBAL time_zone = 'SYSTEM'", "SET GLOBAL sql_mode = DEFAULT")


@pytest.fixture
def say(server: MysqlServer) -> Iterator[Callable[..., Statement]]:
    """Statements that other clients say meanwhile."""
    said: list[Statement] = []

    def begin(*statements: str) -> Statement:
        said.append(Statement(server, *statements))
        return said[-1]

    yield begin
    for statement in said:
        statement.close()


def adapter(server: MysqlServer, **settings: object) -> mysql.Adapter:
    given = {"socket": Path(server.socket), "user": "appvss", "password": a_secret(), **settings}
    return mysql.Adapter(mysql.Settings(**given))  # type: ignore[arg-type]


def strict(server: MysqlServer, **settings: object) -> mysql.Adapter:
    return adapter(server, recipe=Recipe.READ_LOCK, **settings)


def flushes(server: MysqlServer) -> int:
    return int(run(server, "SHOW GLOBAL STATUS LIKE 'Com_flush'")[0][1])


def wait_for_waiting_transactions(server: MysqlServer, number: int) -> None:
    """Until InnoDB shows that so many transactions wait for a row."""
    deadline = time.monotonic() + BOUND
    question = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    while run(server, question) != [(number,)]:
        assert time.monotonic() < deadline
        time.sleep(0.2)  # whoever asks again within 0.1 s is shown what it was shown before


# Which recipe.


async def test_with_innodb_alone_writes_go_on_and_ddl_waits(server: MysqlServer, say: Callable[..., Statement]) -> None:
    async with adapter(server).quiesce(a_freeze("cycle-42")) as evidence:
        say(WRITE).finish()
        ddl = say("CREATE TABLE shop.new (id INT)")
        assert ddl.is_waiting()
    ddl.finish()
    run(server, "DROP TABLE shop.new")
    assert run(server, "SELECT cycle FROM appvss.marker") == [("cycle-42 is over",)]
    assert evidence["recipe"] == INSTANCE_LOCK
    assert evidence["holds_writes"] == "no"
    assert evidence["marker"] == "cycle-42"
    assert evidence["version"].startswith(("8.", "9."))
    assert int(evidence["redo_lsn"]) > 0
    assert int(evidence["binlog_offset"]) > 0
    assert len(evidence) <= 16


@pytest.mark.parametrize("reason", ["MyISAM", "flush", "setting", "unseen", "partly unseen"])
async def test_the_read_lock_is_taken_where_it_is_needed(
    server: MysqlServer, say: Callable[..., Statement], reason: str
) -> None:
    one = adapter(server)
    if reason == "MyISAM":
        run(server, "CREATE TABLE shop.logs (id INT) ENGINE=MyISAM")
    elif reason == "flush":
        run(server, "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
    elif reason == "setting":
        one = strict(server)
    else:
        make_account(server, "blind", GRANTS[0].replace(", SHOW VIEW", ""), *GRANTS[1:])
        if reason == "partly unseen":
            run(server, "SET GLOBAL partial_revokes = ON", "CREATE DATABASE IF NOT EXISTS secret")
            run(
                server, "GRANT SHOW VIEW ON *.* TO blind@localhost", "REVOKE SHOW VIEW ON secret.* FROM blind@localhost"
            )
        one = adapter(server, user="blind")
    assert (await one.preflight()).recipe == READ_LOCK
    async with one.quiesce(a_freeze()) as evidence:
        write = say(WRITE)
        assert write.is_waiting()
        assert run(server, "SELECT COUNT(*) FROM shop.orders")[0][0] >= 1
        status = run(server, "SHOW BINARY LOG STATUS")[0]
        assert (evidence["binlog_file"].rpartition("/")[2], evidence["binlog_offset"]) == (status[0], str(status[1]))
        assert evidence["position"] == status[4].replace("\n", "")
    write.finish()
    assert evidence["recipe"] == READ_LOCK
    assert evidence["marker"]
    assert "holds_writes" not in evidence


async def test_the_redo_log_is_on_the_disk_as_far_as_the_evidence_says(
    server: MysqlServer, say: Callable[..., Statement]
) -> None:
    """InnoDB goes on writing to it, on its own account or, with the instance lock, for clients."""
    run(server, "SET GLOBAL innodb_flush_log_at_trx_commit = 2", "SET GLOBAL innodb_flush_log_at_timeout = 2700")
    try:
        writing = say(*[WRITE] * 1_000_000)
        for _ in range(20):
            async with adapter(server).quiesce(a_freeze()) as evidence:
                # The counters of SHOW STATUS are late.
                flushed = re.search(r"Log flushed up to +(\d+)", run(server, "SHOW ENGINE INNODB STATUS")[0][2])
            assert flushed is not None
            assert 0 < int(evidence["redo_lsn"]) <= int(flushed[1])
        assert writing.is_waiting(0.0)
    finally:
        run(server, "SET GLOBAL innodb_flush_log_at_timeout = 1")


async def test_it_works_without_broker_and_agent(server: MysqlServer) -> None:
    async with mysql.quiesce(socket=server.socket, password=PASSWORD) as evidence:
        assert evidence["marker"]


async def test_a_table_that_came_while_the_instance_lock_was_waited_for_counts(
    server: MysqlServer, say: Callable[..., Statement]
) -> None:
    run(server, "CREATE TABLE shop.logs (id INT)")
    with contextlib.closing(server.connect()) as owner, owner.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT * FROM shop.logs")
        ddl = say("ALTER TABLE shop.logs ENGINE=MyISAM")
        await asyncio.to_thread(ddl.wait_until, "Waiting for table metadata lock")
        holding = asyncio.create_task(adapter(server).hold(freeze := a_freeze(budget=60)))
        await asyncio.to_thread(wait_until_in, server, "appvss", "Waiting for backup lock")
        cursor.execute("COMMIT")
        held = await holding
    try:
        ddl.finish()
        assert held.recipe == READ_LOCK
    finally:
        await adapter(server).release(held, freeze)


# The read lock's dangers.


async def test_the_read_lock_is_refused_behind_a_long_statement_and_nobody_is_stopped_by_that(
    server: MysqlServer, say: Callable[..., Statement]
) -> None:
    """One that was tried would have stopped every reader of the table, also after it gave up (section 5.2)."""
    reading = say("SELECT SLEEP(60) FROM shop.orders LIMIT 1")
    one = strict(server, oldest_statement=timedelta(seconds=1))
    await asyncio.to_thread(wait_until_in, server, "root", "User sleep", 1)
    with pytest.raises(HoldRefused, match=f"in connection {reading.id} has been running") as refused:
        await one.hold(a_freeze())
    assert refused.value.retryable
    run(server, "SELECT COUNT(*) FROM shop.orders", WRITE)
    assert reading.is_waiting(0.0), "they have waited for the statement"
    assert "read_lock_unsafe" in names((await one.preflight()).findings, Severity.PROBLEM)


@pytest.mark.parametrize("zone", ["SYSTEM", "-11:00"])
async def test_the_read_lock_is_refused_while_an_open_transaction_is_waited_for(
    server: MysqlServer, say: Callable[..., Statement], zone: str
) -> None:
    """InnoDB tells when the wait began in the time zone of the machine, whichever everybody's sessions have."""
    run(server, f"SET GLOBAL time_zone = '{zone}'")
    patient = strict(server, oldest_statement=timedelta(minutes=10))
    with contextlib.closing(server.connect()) as owner, owner.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE shop.orders SET note = 'mine' WHERE id = 1")
        waiting = say("UPDATE shop.orders SET note = 'theirs' WHERE id = 1")
        await asyncio.to_thread(wait_for_waiting_transactions, server, 1)
        assert waiting.is_waiting(2.2)  # a wait counts from a second on, and there are no parts of seconds
        with pytest.raises(HoldRefused, match="wait for a row"):
            await patient.hold(a_freeze())
        cursor.execute("ROLLBACK")
        waiting.finish()
    await asyncio.to_thread(wait_for_waiting_transactions, server, 0)  # InnoDB goes on showing it for some time


async def test_a_replica_that_has_nothing_to_do_is_no_long_statement(server: MysqlServer) -> None:
    run(server, "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, SOURCE_USER = 'nobody'")
    run(server, "START REPLICA SQL_THREAD")
    try:
        await asyncio.to_thread(wait_until_in, server, "system user", "waiting for more updates", 2)
        one = strict(server, oldest_statement=timedelta(seconds=1))
        assert (await one.preflight()).findings[-1].name == "server"
        async with one.quiesce(a_freeze()) as evidence:
            assert evidence["recipe"] == READ_LOCK
    finally:
        run(server, "STOP REPLICA", "RESET REPLICA ALL")


async def test_the_read_lock_is_tried_three_times_within_the_budget_and_then_nothing_is_held(
    server: MysqlServer, say: Callable[..., Statement]
) -> None:
    with contextlib.closing(server.connect()) as owner, owner.cursor() as cursor:
        cursor.execute("LOCK TABLES shop.orders WRITE")
        before = flushes(server)
        with pytest.raises(HoldRefused, match="did not come to rest"):
            await strict(server).hold(a_freeze(budget=6))
        assert 1 < flushes(server) - before <= 3
        wait_until_gone(server, "appvss")
        cursor.execute("INSERT INTO shop.orders (note) VALUES ('mine')")
        cursor.execute("UNLOCK TABLES")
    async with strict(server).quiesce(a_freeze()):
        pass


# What ends a hold before its time.


async def test_no_byte_passes_between_the_end_of_hold_and_the_thaw(server: MysqlServer) -> None:
    with Relay(server.socket) as relay:
        freeze = a_freeze()
        async with strict(server, socket=relay.path).quiesce(freeze):
            freeze.filesystem_freeze.set()
            before = relay.passed
            await asyncio.sleep(1.5)  # silence can only be heard for some time
            assert relay.passed == before > 0
        assert relay.passed > before
    wait_until_gone(server, "appvss")


def test_a_kill_of_the_adapter_frees_the_server_at_once(server: MysqlServer, say: Callable[..., Statement]) -> None:
    run(server, "CREATE TABLE shop.logs (id INT) ENGINE=MyISAM")
    with holder("mysql", socket=server.socket, password=PASSWORD) as process:
        write = say(WRITE)
        assert write.is_waiting()
        process.kill()
        write.finish()  # not by the server's own limit, which is 65 s; 12 ms were measured (section 5.3)


@pytest.mark.parametrize("recipe", [Recipe.AUTO, Recipe.READ_LOCK])
async def test_a_session_that_was_killed_is_a_lost_hold(server: MysqlServer, recipe: Recipe) -> None:
    async def hold() -> None:
        async with adapter(server, recipe=recipe).quiesce(a_freeze()):
            ((connection,),) = run(server, "SELECT id FROM information_schema.processlist WHERE user = 'appvss'")
            run(server, f"KILL {connection}")

    with pytest.raises(HoldLost, match="the session that held the lock is gone"):
        await hold()


async def test_a_server_that_was_restarted_is_a_lost_hold(server: MysqlServer) -> None:
    async def hold() -> None:
        async with adapter(server).quiesce(a_freeze()):
            server.kill()
            server.start()

    with pytest.raises(HoldLost, match="the session that held the lock is gone"):
        await hold()


async def test_the_server_itself_ends_a_hold_that_is_too_long(
    server: MysqlServer, say: Callable[..., Statement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql_hold, "DEAD_MAN_MARGIN", timedelta(seconds=1))

    async def hold() -> None:
        async with strict(server).quiesce(a_freeze(hold_limit=1)):
            say(WRITE).finish()  # nobody has let go

    with pytest.raises(HoldLost, match="gone"):
        await hold()


@pytest.mark.parametrize("statement", ["UNLOCK TABLES", "UNLOCK INSTANCE"])
async def test_a_lock_that_is_not_there_any_more_is_a_lost_hold(server: MysqlServer, statement: str) -> None:
    one = strict(server)
    freeze = a_freeze()
    held = await one.hold(freeze)
    try:
        await held.session.run(held.session.query, statement)
        with pytest.raises(HoldLost, match="does not have its lock any more"):
            await one.confirm(held)
    finally:
        await one.release(held, freeze)


@pytest.mark.parametrize("recipe", [Recipe.AUTO, Recipe.READ_LOCK])
async def test_a_server_that_does_not_list_its_locks_is_held_and_the_session_is_the_proof(
    server: MysqlServer, recipe: Recipe
) -> None:
    instrument = (
        "UPDATE performance_schema.setup_instruments SET enabled = '{}' WHERE name = 'wait/lock/metadata/sql/mdl'"
    )
    run(server, instrument.format("NO"))
    try:
        assert names((await adapter(server).preflight()).findings) == ["locks_unseen", "server"]
        async with adapter(server, recipe=recipe).quiesce(a_freeze()) as evidence:
            assert evidence["marker"]
    finally:
        run(server, instrument.format("YES"))


async def test_a_server_without_performance_schema_is_held(home: Path) -> None:
    with MysqlServer(home / "lean", settings={"performance-schema": "OFF"}) as lean:
        make_account(lean, "appvss", *GRANTS)
        assert names((await adapter(lean).preflight()).findings) == ["locks_unseen", "server"]
        async with adapter(lean).quiesce(a_freeze()) as evidence:
            assert evidence["position"]


# Accounts, and other bad input.


async def test_a_wrong_password_is_said_without_it(server: MysqlServer) -> None:
    wrong = adapter(server, password=a_secret("not-the-password"))
    with pytest.raises(LoginRefused, match="does not accept 'appvss'") as refused:
        await wrong.hold(a_freeze())
    assert "not-the-password" not in f"{refused.value}{refused.value.hint}{wrong.settings!r}"


async def test_missing_privileges_are_named_with_their_grants(server: MysqlServer) -> None:
    make_account(server, "poor", MARKER)
    poor = adapter(server, user="poor")
    with pytest.raises(PrivilegeMissing, match="BACKUP_ADMIN") as refused:
        await poor.hold(a_freeze())
    assert refused.value.hint == "Run as root: GRANT BACKUP_ADMIN ON *.* TO 'poor'@'localhost';"
    found = await poor.preflight()
    assert found.is_refused
    for hint in {finding.hint.removeprefix("Run as root: ") for finding in found.findings if "GRANT" in finding.hint}:
        run(server, hint)  # each hint is a statement that the server takes
    found = await poor.preflight()
    assert "missing_privilege" not in names(found.findings), found.findings
    async with poor.quiesce(a_freeze()) as evidence:
        assert evidence["recipe"] == INSTANCE_LOCK


async def test_privileges_by_a_role_count(server: MysqlServer) -> None:
    make_account(server, "member")
    run(server, "CREATE ROLE IF NOT EXISTS keeper", *(f"GRANT {grant} TO keeper" for grant in GRANTS))
    run(server, "GRANT keeper TO member@localhost", "SET DEFAULT ROLE keeper TO member@localhost")
    found = await adapter(server, user="member").preflight()
    assert not found.is_refused, found.findings
    assert "missing_privilege" not in names(found.findings)


async def test_privileges_are_read_where_names_are_quoted_otherwise(server: MysqlServer) -> None:
    run(server, "SET GLOBAL sql_mode = 'ANSI_QUOTES'")
    assert "marker_forbidden" not in names((await adapter(server).preflight()).findings)
    async with adapter(server).quiesce(a_freeze("cycle-7")) as evidence:
        assert evidence["marker"] == "cycle-7"


async def test_without_log_status_the_position_comes_from_the_binary_log(server: MysqlServer) -> None:
    make_account(server, "other", "BACKUP_ADMIN, RELOAD, PROCESS, SHOW VIEW, REPLICATION CLIENT ON *.*", MARKER)
    found = await adapter(server, user="other").preflight()
    assert not found.is_refused
    async with adapter(server, user="other").quiesce(a_freeze()) as evidence:
        file, offset, *_ = run(server, "SHOW BINARY LOG STATUS")[0]
        assert evidence["binlog_file"].endswith(f"/{file}")
        assert evidence["binlog_offset"] == str(offset)


async def test_the_other_product_and_a_pooler_are_refused(server: MysqlServer) -> None:
    settings = mariadb.Settings(Path(server.socket), user="appvss", password=a_secret())
    with pytest.raises(ServerUnfit, match=r"is MySQL .*, not MariaDB"):
        await mariadb.Adapter(settings).hold(a_freeze())
    with Relay(server.socket, connection_id=4_000_000) as pooler, pytest.raises(ServerUnfit, match="a proxy"):
        await adapter(server, socket=pooler.path).hold(a_freeze())


# What else the pre-flight finds.


async def test_a_server_that_can_be_held_is_said_to_be(server: MysqlServer) -> None:
    await adapter(server).prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
    found = await adapter(server).preflight()
    assert not found.is_refused
    assert names(found.findings) == ["server"]
    assert found.version.startswith("MySQL ")
    assert found.recipe == INSTANCE_LOCK
    assert (VolumeKind.DATA, server.data) in {(volume.kind, volume.path) for volume in found.volumes}


async def test_a_general_tablespace_elsewhere_is_a_volume(home: Path) -> None:
    tables = server_folder(home / "tables")
    with MysqlServer(home / "spread", settings={"innodb-directories": str(tables)}) as spread:
        run(spread, "CREATE DATABASE shop", f"CREATE TABLESPACE far ADD DATAFILE '{tables}/far.ibd'")
        run(spread, "CREATE TABLE shop.there (id INT) TABLESPACE far")
        make_account(spread, "appvss", *GRANTS)
        found = await adapter(spread).preflight()
    assert (VolumeKind.TABLESPACE, tables) in {(volume.kind, volume.path) for volume in found.volumes}


async def test_a_server_is_reached_over_tcp_with_tls(home: Path) -> None:
    host, port = f"127.77.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}", 3306  # nobody else's, whichever port
    settings = {"skip-networking": "OFF", "bind-address": host, "port": str(port)}
    with MysqlServer(home / "tcp", settings=settings) as reached:
        make_account(reached, "appvss", *GRANTS)
        one = mysql.Adapter(mysql.Settings(host=host, port=port, password=a_secret()))
        async with one.quiesce(a_freeze()) as evidence:
            assert evidence["marker"]
        one = mysql.Adapter(mysql.Settings(host=host, port=port, password=a_secret(), tls_ca=Path("/etc/hostname")))
        assert names((await one.preflight()).findings) == ["setting_invalid"]
        one = mysql.Adapter(mysql.Settings(host=host, port=port, password=a_secret(), tls_ca=home / "tcp" / "ca.pem"))
        with pytest.raises(ServerUnreachable, match="certificate") as refused:  # it does not name the host
            await one.hold(a_freeze())
        assert "tls_ca" in refused.value.hint
