"""The adapter for PostgreSQL in holds of a real server, and everything that can end one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import appvss
from appvss.adapters import base, postgresql
from appvss.adapters.errors import HoldRefused, ServerUnreachable, SettingInvalid
from appvss.adapters.postgresql import Adapter, Recipe, Settings
from appvss.adapters.postgresql import adapter as adapter_module
from appvss.adapters.postgresql import backup as backup_module
from appvss.adapters.postgresql.session import connect
from appvss.sdk.testing import FakeBroker
from tests.adapters.postgresql_ground import CYCLE, Ground, freeze, new_server, new_standby, prepare, wal_records
from tests.support.byte_relay import byte_relay
from tests.support.loop_disks import LoopDisks, why_not
from tests.support.running_broker import ROOT, short_directory

BOUND = 20.0
SHORT = timedelta(seconds=2)
"""A budget that runs out, and is enough to log in and to ask."""
SLOTS = "SELECT count(*)::int FROM pg_replication_slots"
SESSIONS = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'appvss'"
BEGINNING = (
    "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'appvss' AND query LIKE '%start%' "
    "AND query LIKE '%backup%' AND wait_event LIKE 'Checkpoint%'"
)
SLEEPERS = "SELECT count(*)::int FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'"
_HOLDER = """
import asyncio, sys
from pathlib import Path
from appvss.adapters.postgresql import Recipe, Settings, quiesce

async def main():
    settings = Settings(recipe=Recipe.BACKUP, backup_directory=Path(sys.argv[2]))
    async with quiesce(sys.argv[1], settings=settings):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Ground]:
    with new_server() as made:
        made.sql("CREATE TABLE kept (id int)")
        yield made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A backup directory."""
    return tmp_path


@pytest.fixture
def relayed() -> Iterator[Path]:
    """A folder for the socket of a relay."""
    folder = short_directory()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def atomic(server: Ground, host: Path | None = None) -> Adapter:
    return Adapter(Settings(server.dsn_of("postgres", host), recipe=Recipe.ATOMIC))


def backing_up(server: Ground, outside: Path, host: Path | None = None) -> Adapter:
    return Adapter(
        Settings(server.dsn_of("postgres", host), recipe=Recipe.BACKUP, backup_directory=outside, checkpoint=False)
    )


def either(recipe: Recipe, server: Ground, outside: Path, host: Path | None = None) -> Adapter:
    return atomic(server, host) if recipe is Recipe.ATOMIC else backing_up(server, outside, host)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


BOTH = pytest.mark.parametrize("recipe", [Recipe.ATOMIC, Recipe.BACKUP])


async def test_a_hold_leaves_a_restore_point_and_a_marker_and_says_where(server: Ground) -> None:
    adapter = atomic(server)
    await adapter.prepare(prepare())
    server.sql("INSERT INTO kept VALUES (1)")

    async with adapter.quiesce(freeze()) as evidence:
        server.sql("INSERT INTO kept VALUES (2)")  # nothing keeps writes out but the file-system freeze

    assert evidence["engine"] == "postgresql"
    assert evidence["version"] == server.value("SHOW server_version").partition(" ")[0]
    assert (evidence["recipe"], evidence["marker"]) == ("atomic", CYCLE)
    assert evidence["data_directory"] == str(server.data)
    assert evidence["wal_directory"] == str(server.data / "pg_wal")
    assert evidence["redo_lsn"] == server.value("SELECT redo_lsn::text FROM pg_control_checkpoint()")
    assert evidence["superuser"] == "postgres"
    assert evidence["async_commit"] == "false"
    assert len(evidence) <= 16
    records = wal_records(server, evidence["redo_lsn"], end=evidence["position"])
    assert f"RESTORE_POINT {evidence['restore_point']}" in records
    assert 'prefix "appvss"; payload' in records
    assert CYCLE.encode().hex(" ").upper() in records
    server.await_value(SESSIONS, 0)


async def test_prepare_makes_a_checkpoint_and_holds_nothing(server: Ground) -> None:
    server.sql("INSERT INTO kept SELECT generate_series(1, 1000)")
    before = server.value("SELECT redo_lsn FROM pg_control_checkpoint()")
    await atomic(server).prepare(prepare())
    assert server.value("SELECT redo_lsn FROM pg_control_checkpoint()") != before
    server.await_value(SESSIONS, 0)


async def test_without_checkpoint_prepare_asks_nobody() -> None:
    await Adapter(Settings("host=/nowhere", checkpoint=False)).prepare(prepare())


async def test_it_is_a_plain_context_manager_too(server: Ground) -> None:
    async with postgresql.quiesce(server.dsn) as position:
        records = wal_records(server, position["redo_lsn"])
    assert position["marker"].encode().hex(" ").upper() in records


async def test_a_database_without_an_encoding_can_be_held_through(server: Ground) -> None:
    """It is what initdb makes under LC_ALL=C."""
    server.sql("CREATE DATABASE plain TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    adapter = Adapter(Settings(server.dsn.replace("dbname=postgres", "dbname=plain")))
    assert {finding.name for finding in (await adapter.preflight()).findings} == {"ready"}
    await adapter.prepare(prepare())
    async with adapter.quiesce(freeze()) as evidence:
        assert evidence["data_directory"] == str(server.data)
        assert evidence["restore_point"]


async def test_it_serves_with_the_sdk(server: Ground) -> None:
    adapter = atomic(server)
    async with FakeBroker() as broker:
        serving = asyncio.create_task(
            appvss.serve("orders", adapter.quiesce, prepare=adapter.prepare, runtime_directory=broker.runtime_directory)
        )
        app = await broker.app("orders")
        await app.prepare()
        frozen = await app.freeze()
        assert frozen.frozen, frozen.reason
        assert frozen.evidence["marker"]
        thawed = await app.thaw()
        assert thawed.unbroken, thawed.reason
        assert not app.refusals
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def test_a_long_select_does_not_hold_it_up(server: Ground) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(server.dsn) as reader:
        long = asyncio.create_task(reader.execute("SELECT pg_sleep(60)"))
        await asyncio.to_thread(server.await_value, SLEEPERS, 1)
        adapter = atomic(server)
        await adapter.prepare(prepare())
        async with adapter.quiesce(freeze()) as evidence:
            assert evidence["marker"] == CYCLE
        assert not long.done()
        long.cancel()
        with suppress(asyncio.CancelledError):
            await long


# The backup recipe.


async def test_a_backup_keeps_label_and_wal_outside(server: Ground, outside: Path) -> None:
    async with backing_up(server, outside).quiesce(freeze()) as evidence:
        server.await_value(SLOTS, 1)  # the server may be dropping that of the test before
        assert not names(outside)
        server.sql("INSERT INTO kept SELECT generate_series(1, 1000)")
        server.sql("SELECT pg_switch_wal()")
        server.sql("INSERT INTO kept VALUES (1)")

    kept = outside / CYCLE
    assert evidence["backup"] == f"file://{kept}"
    assert names(outside) == [CYCLE]
    label = (kept / "backup_label").read_text()
    assert f"LABEL: appvss-{CYCLE}\n" in label
    assert "BACKUP METHOD: streamed\n" in label
    assert len(names(kept / "pg_wal")) >= 2
    facts = json.loads((kept / "backup.json").read_text())
    assert facts["start"] == label.split()[3]
    records = wal_records(server, facts["start"], kept / "pg_wal", facts["stop"])
    assert "BACKUP_END" in records
    assert CYCLE.encode().hex(" ").upper() in records
    server.await_value(SLOTS, 0)
    assert not (server.data / "backup_label").exists()


async def test_the_wal_is_asked_of_a_server_whose_files_cannot_be_read(server: Ground, outside: Path) -> None:
    adapter = backing_up(server, outside)
    held = await adapter.hold(freeze())
    place = held.server.place
    assert place is not None
    assert place.is_here
    elsewhere = dataclasses.replace(held.server, place=dataclasses.replace(place, is_here=False))
    held = dataclasses.replace(held, server=elsewhere)
    await adapter.confirm(held)
    await adapter.release(held, freeze())
    kept = outside / CYCLE / "pg_wal"
    assert names(kept)
    for name in names(kept):
        assert (kept / name).read_bytes() == (server.data / "pg_wal" / name).read_bytes()


async def test_apps_of_one_cycle_may_keep_their_backups_in_one_directory(server: Ground, outside: Path) -> None:
    adapters = [backing_up(server, outside), backing_up(server, outside)]
    for adapter, app in zip(adapters, ("orders", "shop/carts"), strict=True):
        adapter.app = app
    held = [await adapter.hold(freeze()) for adapter in adapters]
    async with asyncio.TaskGroup() as tasks:
        for adapter, each in zip(adapters, held, strict=True):
            tasks.create_task(adapter.confirm(each))
    assert names(outside) == [f"{CYCLE}-orders", f"{CYCLE}-shop%2Fcarts"]
    for adapter, each in zip(adapters, held, strict=True):
        await adapter.release(each, freeze())
        kept = Path(adapter.evidence(each)["backup"].removeprefix("file://"))
        facts = json.loads((kept / "backup.json").read_text())
        assert (kept / "backup_label").read_text().split()[3] == facts["start"] == each.backup.start
        assert names(kept / "pg_wal") == facts["wal"]


async def test_a_backup_is_not_mixed_with_another_of_the_same_name(server: Ground, outside: Path) -> None:
    adapters = [backing_up(server, outside), backing_up(server, outside)]
    held = [await adapter.hold(freeze()) for adapter in adapters]
    tasks = [asyncio.create_task(adapter.confirm(each)) for adapter, each in zip(adapters, held, strict=True)]
    await asyncio.wait(tasks)
    said = [task.exception() for task in tasks]
    for adapter, each in zip(adapters, held, strict=True):
        await adapter.release(each, freeze())
    (lost,) = [error for error in said if error is not None]
    assert isinstance(lost, appvss.HoldLost)
    assert "is there already" in str(lost)
    assert names(outside) == [CYCLE]
    backup = held[said.index(None)].backup
    assert backup is not None
    facts = json.loads((outside / CYCLE / "backup.json").read_text())
    assert (outside / CYCLE / "backup_label").read_text().split()[3] == facts["start"] == backup.start
    assert names(outside / CYCLE / "pg_wal") == facts["wal"]


async def test_what_is_given_up_is_not_finished_by_the_thread_that_is_still_at_it(
    server: Ground, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label would come without its WAL, which is being removed."""
    at_it, may_go_on, is_over = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    fsync, rmdir, finish = os.fsync, os.rmdir, backup_module._finish

    def slow_fsync(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/backup.json"):
            loop.call_soon_threadsafe(at_it.set)
            may_go_on.wait(BOUND)
        fsync(descriptor)

    def late_rmdir(path: str, **where: int) -> None:
        if path == "pg_wal":  # its files are removed: now the disk answers
            may_go_on.set()
            is_over.wait(BOUND)
        rmdir(path, **where)

    def watched_finish(*what: Any) -> None:
        try:
            finish(*what)
        finally:
            is_over.set()

    monkeypatch.setattr(os, "fsync", slow_fsync)
    monkeypatch.setattr(os, "rmdir", late_rmdir)
    monkeypatch.setattr(backup_module, "_finish", watched_finish)
    adapter = backing_up(server, outside)
    held = await adapter.hold(freeze())
    confirming = asyncio.create_task(adapter.confirm(held))
    await asyncio.wait_for(at_it.wait(), BOUND)
    confirming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await confirming
    await adapter.release(held, freeze())
    assert is_over.is_set()
    assert not names(outside)


@pytest.mark.parametrize("where", ["", "pg_wal", "base/of/mine"])
async def test_a_backup_directory_in_the_servers_own_is_refused(server: Ground, where: str) -> None:
    adapter = backing_up(server, server.data / where)
    with pytest.raises(SettingInvalid, match="own directory"):
        await adapter.hold(freeze())
    assert (await adapter.preflight()).is_refused
    server.await_value(SESSIONS, 0)
    server.await_value(SLOTS, 0)


async def test_a_label_never_comes_without_its_wal(server: Ground, tmp_path: Path) -> None:
    outside = tmp_path / "goes away"
    outside.mkdir()
    with pytest.raises(appvss.HoldLost, match="its label was not"):
        async with backing_up(server, outside).quiesce(freeze()):
            outside.rmdir()
    assert not outside.exists()
    server.await_value(SLOTS, 0)


@pytest.fixture
def small() -> Iterator[Path]:
    """A directory with room for little."""
    if reason := why_not("ext4"):
        pytest.skip(reason)
    disks = LoopDisks(short_directory())
    point = disks.home / "small"
    point.mkdir()
    disks.mount_other("-t", "tmpfs", "-o", "size=80m", "none", str(point))
    try:
        yield point
    finally:
        disks.close()


async def test_a_full_backup_directory_is_seen_before_and_in_the_hold(server: Ground, small: Path) -> None:
    adapter = backing_up(server, small)
    with pytest.raises(appvss.HoldLost, match="No space left"):
        async with adapter.quiesce(freeze()):
            (small / "filler").write_bytes(b"x" * (75 << 20))
    assert names(small) == ["filler"]

    with pytest.raises(HoldRefused, match="full") as refused:
        await adapter.hold(freeze())
    assert refused.value.retryable
    found = {finding.name: finding for finding in (await adapter.preflight()).findings}
    assert found["backup_directory_full"].severity is base.Severity.PROBLEM
    server.await_value(SLOTS, 0)


# What ends a hold before its time.


async def test_a_killed_adapter_leaves_nothing_behind(server: Ground, outside: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, server.dsn, str(outside), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        assert (await process.stdout.readline()).strip() == b"held"
        server.await_value(SLOTS, 1)
    finally:
        process.kill()
        await process.wait()
    server.await_value(SLOTS, 0)
    server.await_log("aborting backup due to backend exiting")
    server.sql("INSERT INTO kept VALUES (3)")
    assert not names(outside)


@BOTH
async def test_a_server_that_is_restarted_in_the_hold_has_lost_it(
    server: Ground, outside: Path, recipe: Recipe
) -> None:
    with pytest.raises(appvss.HoldLost, match="session"):
        async with either(recipe, server, outside).quiesce(freeze()):
            await asyncio.to_thread(server.restart)
    assert not names(outside)


async def test_a_session_that_is_ended_in_the_hold_has_lost_it(server: Ground) -> None:
    with pytest.raises(appvss.HoldLost, match="terminating connection due to administrator command"):
        async with atomic(server).quiesce(freeze()):
            server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'appvss'")


async def test_a_connection_that_is_cut_in_the_hold_has_lost_it(server: Ground, relayed: Path) -> None:
    async with byte_relay(relayed / server.socket.name, server.socket) as relay:
        with pytest.raises(appvss.HoldLost, match="session"):
            async with atomic(server, relayed).quiesce(freeze()):
                relay.cut()


@BOTH
async def test_it_is_silent_from_the_end_of_the_hold_to_the_thaw(
    server: Ground, outside: Path, relayed: Path, recipe: Recipe
) -> None:
    async with byte_relay(relayed / server.socket.name, server.socket) as relay:
        adapter = either(recipe, server, outside, relayed)
        asked = freeze()
        held = await adapter.hold(asked)
        before = len(relay.from_client)
        asked.filesystem_freeze.set()
        adapter.evidence(held)
        await asyncio.sleep(1.0)  # what would be sent by itself, a keep-alive, needs some time to be
        assert len(relay.from_client) == before > 0
        await adapter.confirm(held)
        assert len(relay.from_client) > before
        await adapter.release(held, asked)


@BOTH
async def test_a_hold_that_ends_early_asks_nobody(server: Ground, outside: Path, relayed: Path, recipe: Recipe) -> None:
    """The file systems may be frozen, and the server then answers nothing that needs a write."""
    async with byte_relay(relayed / server.socket.name, server.socket) as relay:
        adapter = either(recipe, server, outside, relayed)
        entered = asyncio.Event()

        async def hold() -> None:
            asked = freeze()
            async with adapter.quiesce(asked):
                asked.filesystem_freeze.set()
                entered.set()
                await asyncio.sleep(BOUND)

        holding = asyncio.create_task(hold())
        await entered.wait()
        before = len(relay.from_client)
        holding.cancel()
        with suppress(asyncio.CancelledError):
            await holding
        await asyncio.to_thread(server.await_value, SESSIONS, 0)
        assert bytes(relay.from_client[before:]) in (b"", b"X\x00\x00\x00\x04")  # the protocol's goodbye
    server.await_value(SLOTS, 0)


async def test_the_server_ends_a_hold_that_nobody_ends(
    server: Ground, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.value("SHOW server_version_num") < "140000":
        pytest.skip("PostgreSQL 13 has no idle_session_timeout")
    # Long enough for what passes between two statements of the hold itself, and that is no sync.
    monkeypatch.setattr(adapter_module, "DEAD_MAN_MARGIN", timedelta(seconds=2))
    monkeypatch.setattr(adapter_module, "SYNC_SHARE", 0.0)
    adapter = backing_up(server, outside)
    held = await adapter.hold(freeze(hold_limit=timedelta(milliseconds=100)))
    server.await_log("terminating connection due to idle-session timeout")
    server.await_value(SLOTS, 0)
    with pytest.raises(appvss.HoldLost, match="session"):
        await adapter.confirm(held)
    await adapter.release(held, freeze())
    assert not names(outside)


# What keeps a hold from being taken.


async def test_a_checkpoint_that_does_not_end_is_given_up_at_the_budget(server: Ground) -> None:
    with server.stopped("checkpointer"):
        # The server's own limit may be heard first, on a machine that is busy.
        with pytest.raises(HoldRefused, match=r"checkpoint was not done within|was not done in time") as refused:
            await atomic(server).prepare(prepare(SHORT))
        assert refused.value.retryable
        server.await_value(SESSIONS, 0)  # the server has ended the statement, too


async def test_a_backup_that_cannot_begin_is_given_up_at_the_budget(server: Ground, outside: Path) -> None:
    with server.stopped("checkpointer"):
        with pytest.raises(HoldRefused):
            await backing_up(server, outside).hold(freeze(budget=SHORT))
        server.await_value(SESSIONS, 0)
        server.await_value(SLOTS, 0)


async def test_a_freeze_that_is_cancelled_leaves_nothing(server: Ground, outside: Path, relayed: Path) -> None:
    async with byte_relay(relayed / server.socket.name, server.socket) as relay:
        with server.stopped("checkpointer"):
            holding = asyncio.create_task(backing_up(server, outside, relayed).hold(freeze()))
            await asyncio.to_thread(server.await_value, BEGINNING, 1)
            before, answered = len(relay.from_client), len(relay.from_server)
            holding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holding
            assert len(relay.from_client) == before  # psycopg alone would ask the server to cancel,
            assert len(relay.from_server) == answered  # and wait for what it says
    server.await_value(SLOTS, 0)
    server.await_value(SESSIONS, 0)


async def test_a_question_that_is_cancelled_as_the_server_ends_the_session_is_cancelled(server: Ground) -> None:
    session = await connect(Settings(server.dsn))
    server.sql(f"SELECT pg_terminate_backend({session.login_pid})")
    others = asyncio.all_tasks()
    asking = asyncio.create_task(session.rows("SELECT 1"))
    await asyncio.sleep(0)
    (answer,) = asyncio.all_tasks() - others - {asking}
    answer.add_done_callback(lambda _: asking.cancel())  # the answer is there, and nobody has taken it yet
    with pytest.raises(asyncio.CancelledError):
        await asking
    await session.end()


async def test_a_server_that_is_down_is_unreachable_and_worth_another_try(server: Ground) -> None:
    server.stop()
    try:
        with pytest.raises(ServerUnreachable, match="does not answer") as refused:
            await atomic(server).hold(freeze())
        assert refused.value.retryable
        findings = (await atomic(server).preflight()).findings
        assert [finding.name for finding in findings] == ["server_unreachable"]
    finally:
        server.start()


# Standbys.


@pytest.fixture
def standby(server: Ground) -> Iterator[Ground]:
    with new_standby(server) as made:
        yield made


async def test_a_standby_has_a_position_and_no_marker(server: Ground, standby: Ground, outside: Path) -> None:
    server.sql("INSERT INTO kept VALUES (4)")
    flushed = server.value("SELECT pg_current_wal_flush_lsn()::text")
    standby.await_value(f"SELECT pg_last_wal_replay_lsn() >= '{flushed}'", True)

    adapter = atomic(standby)
    await adapter.prepare(prepare())
    async with adapter.quiesce(freeze()) as evidence:
        pass

    assert (evidence["marker"], evidence["restore_point"]) == ("", "")
    assert evidence["position"]
    assert evidence["received_lsn"]
    looked = await adapter.preflight()
    assert "standby" in {finding.name for finding in looked.findings}
    assert not looked.is_refused
    assert "after 60000 ms" in await _about_replicas(server)
    with server.altered(wal_sender_timeout="0"):
        assert "dropped" not in await _about_replicas(server)

    async with backing_up(standby, outside).quiesce(freeze()):
        pass
    assert "BACKUP FROM: standby" in (outside / CYCLE / "backup_label").read_text()


async def _about_replicas(server: Ground) -> str:
    found = {finding.name: finding for finding in (await atomic(server).preflight()).findings}
    return found["replicas"].sentence


@BOTH
async def test_a_standby_that_is_promoted_in_the_hold_has_lost_it(
    server: Ground, standby: Ground, outside: Path, recipe: Recipe
) -> None:
    with pytest.raises(appvss.HoldLost, match="promoted"):
        async with either(recipe, standby, outside).quiesce(freeze()):
            await asyncio.to_thread(standby.sql, "SELECT pg_promote()")
    assert not names(outside)
