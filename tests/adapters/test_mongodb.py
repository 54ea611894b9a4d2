"""The adapter for MongoDB, against a stand-in that speaks its wire protocol (`fake_mongodb.py`)."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters import mongodb, undo
from appvss.adapters.base import AutoRelease, Severity, VolumeKind
from appvss.adapters.errors import (
    AdapterError,
    HoldRefused,
    LoginRefused,
    PrivilegeMissing,
    ServerUnfit,
    ServerUnreachable,
    SettingInvalid,
)
from appvss.adapters.mongodb import server as wire
from appvss.adapters.mongodb.settings import Recipe, Settings
from appvss.adapters.settings import Secret
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze, Prepare
from tests.adapters.fake_mongodb import EVERYTHING, FakeMongod, fake_mongod
from tests.support.memory_directory import memory

__all__ = ["memory"]

BOUND = 20.0
QUIET = 0.8
"""Seconds. The driver's second look at its server comes after half a second."""
PASSWORD = "open sesame:/@"


def freeze(budget: float = BOUND) -> Freeze:
    return Freeze("c-1", "test", timedelta(seconds=budget), timedelta(seconds=60))


def adapter_of(fake: FakeMongod, memory: Path, recipe: Recipe = Recipe.LOCK, **more: object) -> mongodb.Adapter:
    adapter = mongodb.Adapter(Settings(uri=fake.uri, recipe=recipe, **more))  # type: ignore[arg-type]
    adapter.app = "orders"
    adapter.undo_directory = memory
    return adapter


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"not within {BOUND} s: {what}"
        await asyncio.sleep(0.005)


async def undone(memory: Path) -> None:
    """Wait until it was undone by itself, to the last word: who did it has a connection to close."""
    await until(
        lambda: undo.pending(memory) == () and "undo" not in [each.get_name() for each in asyncio.all_tasks()],
        "it is undone by itself",
    )


async def hold_through(adapter: mongodb.Adapter, meddle: Callable[[], Awaitable[None]]) -> None:
    async with adapter.quiesce(freeze()):
        await meddle()


@pytest.fixture(autouse=True)
def _sockets() -> Iterator[None]:
    """pymongo leaves the socket of a connection attempt that is cancelled to the garbage collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_LIMIT", "ASK_LIMIT"):
        for module in (wire, sys.modules["appvss.adapters.mongodb.adapter"]):
            monkeypatch.setattr(module, name, timedelta(seconds=1))


async def test_the_journal_is_brought_to_the_disk_by_a_marked_write_and_nothing_is_locked(memory: Path) -> None:
    async with fake_mongod(set_name="rs0") as fake:
        adapter = adapter_of(fake, memory, Recipe.JOURNAL)
        assert adapter.properties.auto_release is AutoRelease.NOTHING_HELD
        assert not adapter.properties.holds_writes
        async with adapter.quiesce(freeze()) as evidence:
            assert fake.documents["appvss.cycles"] == {"orders": {"_id": "orders", "cycle": "c-1", "journaled": True}}
            await fake.write("shop.orders", 1, {})  # nobody is kept waiting
            assert undo.pending(memory) == ()
        assert evidence == {
            "engine": "mongodb",
            "version": "MongoDB 7.0.14",
            "recipe": "journal",
            "position": "1700000000:1:3",
            "marker": "c-1",
            "data_directory": "/var/lib/mongodb",
            "replica_set": "rs0",
        }
        assert "fsync" not in fake.commands
        await adapter.close()


async def test_writes_wait_from_the_lock_to_the_unlock(memory: Path) -> None:
    async with fake_mongod(set_name="rs0") as fake:
        adapter = adapter_of(fake, memory)
        assert adapter.properties.auto_release is AutoRelease.NOBODY
        async with adapter.quiesce(freeze()) as evidence:
            assert fake.lock_count == 1
            write = asyncio.create_task(fake.write("shop.orders", 1, {}))
            await until(lambda: fake.waiting, "the write waits")
            (record,) = undo.pending(memory)
            assert record.record is not None
            assert dict(record.record.what) == {"uri": fake.uri}
            assert evidence["marker"] == "c-1"
            assert evidence["position"] == "1700000000:2:3"  # after the marker
        assert fake.lock_count == 0
        async with asyncio.timeout(BOUND):
            await write
        assert undo.pending(memory) == ()
        assert fake.commands.count("fsyncUnlock") == 1
        await adapter.close()


@pytest.mark.parametrize("recipe", list(Recipe))
async def test_not_a_byte_goes_to_the_server_between_hold_and_thaw(memory: Path, recipe: Recipe) -> None:
    async with fake_mongod(set_name="rs0") as fake:
        adapter, question = adapter_of(fake, memory, recipe), freeze()
        held = await adapter.hold(question)
        question.filesystem_freeze.set()
        before = fake.bytes_heard(), len(fake.connections)
        adapter.evidence(held)
        await asyncio.sleep(QUIET)  # as long as it is to be silent
        assert (fake.bytes_heard(), len(fake.connections)) == before
        await adapter.confirm(held)
        await adapter.release(held, question)
        assert fake.lock_count == 0
        await adapter.close()


async def test_a_prepare_opens_the_connection_that_is_held_on(memory: Path) -> None:
    async with fake_mongod() as fake:
        adapter = adapter_of(fake, memory)
        await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
        assert fake.lock_count == 0
        before = len(fake.connections)
        async with adapter.quiesce(freeze()):
            assert fake.lock_count == 1
        assert len(fake.connections) == before
        await adapter.prepare(Prepare("c-2", "test", timedelta(seconds=BOUND)))
        fake.cut()  # and one that has been lost meanwhile does no harm
        async with adapter.quiesce(freeze()):
            assert fake.lock_count == 1
        await adapter.close()


async def test_the_lock_is_taken_off_on_the_connection_that_was_open_before_it(memory: Path) -> None:
    async with fake_mongod(users={"appvss": PASSWORD}, lets_nobody_in_while_locked=True) as fake:
        secret = Secret(lambda: PASSWORD, "the test")
        adapter = adapter_of(fake, memory, user="appvss", password=secret)
        async with adapter.quiesce(freeze()):
            assert fake.lock_count == 1
        assert fake.lock_count == 0
        await adapter.close()


HOLD = """
import asyncio, sys
from appvss.adapters import mongodb
async def main():
    async with mongodb.quiesce(sys.argv[1], recipe=mongodb.Recipe.LOCK):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


async def test_a_killed_adapter_leaves_the_server_locked_and_another_unlocks_it(memory: Path) -> None:
    async with fake_mongod() as fake:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOLD, fake.uri),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, undo.VARIABLE: str(memory)},
        )
        assert process.stdout is not None
        async with asyncio.timeout(BOUND):
            assert await process.stdout.readline() == b"held\n"
        process.kill()
        await process.wait()
        assert fake.lock_count == 1
        adapter = mongodb.Adapter(Settings(uri=fake.uri, recipe=Recipe.LOCK))
        (settled,) = await undo.settle(memory, {"mongodb": adapter})
        assert settled.is_undone
        assert fake.lock_count == 0
        await adapter.undo({"uri": fake.uri})  # once more does no harm
        await adapter.close()


async def test_an_undo_that_nobody_lets_in_says_what_helps(memory: Path, quick: None) -> None:
    async with fake_mongod(users={"appvss": PASSWORD}, lets_nobody_in_while_locked=True, lock_count=1) as fake:
        adapter = adapter_of(fake, memory, user="appvss", password=Secret(lambda: PASSWORD, "the test"))
        with pytest.raises(ServerUnreachable) as refused:
            await adapter.undo({"uri": fake.uri})
        assert "start the server again" in refused.value.hint
        await fake.unlock_all()
        await adapter.close()


async def test_a_lock_of_somebody_else_is_left_alone(memory: Path) -> None:
    async with fake_mongod(lock_count=1) as fake:
        adapter = adapter_of(fake, memory, marker="")
        assert "locked" in [each.name for each in (await adapter.preflight()).findings]
        with pytest.raises(HoldRefused, match="locked already"):
            await adapter.hold(freeze())
        assert fake.lock_count == 1
        assert undo.pending(memory) == ()
        undo.write(memory, undo.UndoRecord.of("orders", "mongodb", "c-0", {"uri": fake.uri})).leave()
        fake.lock_count = 2  # ours, left behind, and another one
        for _ in range(2):  # who settles comes again: an undo that was one is not repeated
            assert all(each.is_undone for each in await undo.settle(memory, {"orders": adapter}))
            assert fake.lock_count == 1
        await adapter.close()


async def test_an_unlock_by_somebody_else_makes_it_a_lost_hold(memory: Path) -> None:
    async with fake_mongod() as fake:
        adapter = adapter_of(fake, memory)
        with pytest.raises(HoldLost, match="was unlocked by somebody else"):
            await hold_through(adapter, fake.unlock_all)
        assert undo.pending(memory) == ()
        await adapter.close()


async def test_a_write_in_between_does_too_although_it_is_locked_again(memory: Path) -> None:
    async with fake_mongod(set_name="rs0") as fake:

        async def meddle() -> None:
            await fake.unlock_all()
            await fake.write("shop.orders", 1, {})
            fake.lock_count = 1

        adapter = adapter_of(fake, memory)
        with pytest.raises(HoldLost, match="has written in the hold"):
            await hold_through(adapter, meddle)
        assert fake.lock_count == 0
        await adapter.close()


@pytest.mark.parametrize("recipe", list(Recipe))
async def test_a_restart_in_the_hold_does_too(memory: Path, recipe: Recipe) -> None:
    async with fake_mongod() as fake:

        async def meddle() -> None:
            fake.cut()
            fake.process = type(fake.process)()
            fake.lock_count = 0

        adapter = adapter_of(fake, memory, recipe)
        with pytest.raises(HoldLost, match=r"was started again|no MongoDB answers"):
            await hold_through(adapter, meddle)
        await adapter.close()
        await until(lambda: undo.pending(memory) == (), "the record is gone")


async def test_a_lock_whose_answer_is_lost_is_undone(memory: Path) -> None:
    async with fake_mongod(lock_never_answers=True) as fake:
        adapter = adapter_of(fake, memory)
        await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))  # which takes its time
        with pytest.raises(ServerUnreachable, match="did not answer fsync"):
            await adapter.hold(freeze(2.0))
        assert fake.lock_count == 1
        await until(lambda: fake.lock_count == 0, "it is unlocked by itself")
        await until(lambda: undo.pending(memory) == (), "the record is gone")
        await adapter.close()


async def test_a_hold_that_is_cancelled_leaves_nothing_locked(memory: Path) -> None:
    async with fake_mongod(lock_never_answers=True) as fake:
        adapter = adapter_of(fake, memory)
        work = asyncio.create_task(adapter.hold(freeze()))
        await until(lambda: fake.lock_count, "it is locked")
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()
        await until(lambda: fake.lock_count == 0, "it is unlocked by itself")
        await adapter.close()


async def test_a_hold_that_ends_early_in_a_file_system_freeze_is_unlocked_later(memory: Path) -> None:
    async with fake_mongod() as fake:
        adapter, question = adapter_of(fake, memory), freeze()
        held = await adapter.hold(question)
        question.filesystem_freeze.set()
        before = fake.bytes_heard()
        await adapter.release(held, question)
        assert (fake.bytes_heard(), fake.lock_count) == (before, 1)
        await adapter.close()
        assert fake.lock_count == 0
        assert undo.pending(memory) == ()


# -- What is refused.


async def test_a_wrong_password_is_told_without_it(memory: Path) -> None:
    async with fake_mongod(users={"appvss": PASSWORD}) as fake:
        adapter = adapter_of(fake, memory, user="appvss", password=Secret(lambda: "wrong word", "the test"))
        with pytest.raises(LoginRefused) as refused:
            await adapter.hold(freeze())
        (problem,) = [each for each in (await adapter.preflight()).findings if each.severity is Severity.PROBLEM]
        for text in (str(refused.value), refused.value.hint, repr(problem), repr(adapter._settings)):
            assert "wrong word" not in text
        await adapter.close()
        fine = adapter_of(fake, memory, user="appvss", password=Secret(lambda: PASSWORD, "the test"))
        assert not (await fine.preflight()).is_refused
        await fine.close()


@pytest.mark.parametrize("missing", ["fsync", "update"])
async def test_a_missing_privilege_is_named_with_its_cure(memory: Path, missing: str) -> None:
    async with fake_mongod(allowed=EVERYTHING - {missing}) as fake:
        adapter = adapter_of(fake, memory)
        with pytest.raises(PrivilegeMissing, match=f"may not run {missing}") as refused:
            await adapter.hold(freeze())
        assert "grantRolesToUser" in refused.value.hint
        assert fake.lock_count == 0
        assert undo.pending(memory) == ()
        await adapter.close()


async def test_an_account_that_may_lock_and_not_unlock_is_told_and_its_record_is_left(memory: Path) -> None:
    async with fake_mongod(allowed=EVERYTHING - {"unlock"}) as fake:
        adapter = adapter_of(fake, memory)
        async with adapter.quiesce(freeze()):
            pass
        assert fake.lock_count == 1
        assert [each.state for each in undo.pending(memory)] == [undo.PendingState.DUE]
        (settled,) = await undo.settle(memory, {"orders": adapter})
        assert "may not run fsyncUnlock" in settled.failure
        fake.allowed = EVERYTHING
        await undone(memory)
        assert fake.lock_count == 0
        await adapter.close()


async def test_an_account_with_the_least_privileges_does_for_the_journal(memory: Path) -> None:
    async with fake_mongod(allowed=frozenset({"update"})) as fake:
        adapter = adapter_of(fake, memory, Recipe.JOURNAL)
        found = await adapter.preflight()
        assert not found.is_refused
        assert [each.name for each in found.findings] == ["not_run_by_us", "volumes_unknown"]
        async with adapter.quiesce(freeze()) as evidence:
            assert evidence["marker"] == "c-1"
        await adapter.close()


async def test_a_router_is_refused(memory: Path) -> None:
    async with fake_mongod(is_mongos=True) as fake:
        for recipe in Recipe:
            adapter = adapter_of(fake, memory, recipe)
            with pytest.raises(ServerUnfit, match="mongos"):
                await adapter.hold(freeze())
            assert (await adapter.preflight()).is_refused
            await adapter.close()
        assert "fsync" not in fake.commands


async def test_two_who_lock_at_the_same_moment_and_one_who_may_not_unlock(memory: Path) -> None:
    async with fake_mongod(allowed=EVERYTHING - {"unlock"}, locked_at_the_same_moment=1) as fake:
        adapter = adapter_of(fake, memory)
        with pytest.raises(HoldRefused, match="at the same moment"):
            await adapter.hold(freeze())
        assert fake.lock_count == 2
        assert [each.state for each in undo.pending(memory)] == [undo.PendingState.DUE]
        fake.allowed = EVERYTHING
        await undone(memory)
        assert fake.lock_count == 1
        await adapter.close()


async def test_a_secret_in_the_options_of_an_address_is_in_no_record(memory: Path) -> None:
    async with fake_mongod() as fake:
        uri = f"{fake.uri}/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2"
        adapter = mongodb.Adapter(Settings(uri=uri, recipe=Recipe.LOCK))
        adapter.undo_directory = memory
        async with adapter.quiesce(freeze()):
            (record,) = undo.pending(memory)
            assert "hunter2" not in record.path.read_text()
            assert record.record is not None
            assert adapter.is_of(record.record.what)
        assert not adapter.is_of({"uri": "mongodb://other/"})
        await adapter.close()


async def test_a_look_takes_nothing_of_what_was_prepared(memory: Path) -> None:
    async with fake_mongod() as fake:
        adapter = adapter_of(fake, memory)
        await adapter.prepare(Prepare("c-1", "test", timedelta(seconds=BOUND)))
        prepared = adapter._ready._thing
        await adapter.preflight()
        held = await adapter.hold(freeze())
        assert held.link is prepared
        await adapter.confirm(held)
        await adapter.release(held, freeze())
        await adapter.close()


async def test_a_lock_that_is_not_got_in_time_may_be_tried_again(memory: Path) -> None:
    async with fake_mongod(lock_refused_with=(24, "LockTimeout", "Fsync lock timed out")) as fake:
        adapter = adapter_of(fake, memory)
        with pytest.raises(HoldRefused, match="a long operation runs") as refused:
            await adapter.hold(freeze())
        assert refused.value.retryable
        assert undo.pending(memory) == ()
        await adapter.close()


async def test_nobody_at_the_address_is_told(memory: Path, quick: None) -> None:
    async with fake_mongod() as fake:
        pass
    adapter = adapter_of(fake, memory)
    with pytest.raises(ServerUnreachable, match="no MongoDB answers"):
        await adapter.hold(freeze())
    assert (await adapter.preflight()).is_refused
    await adapter.close()


@pytest.mark.parametrize(
    "settings",
    [
        Settings(uri="mongodb://appvss:hunter2@localhost"),
        Settings(uri="http://localhost"),
        Settings(uri="mongodb://"),
        Settings(uri="mongodb://appvss:hunter2@@localhost"),
        Settings(uri="mongodb://localhost:hunter2"),
    ],
)
async def test_an_address_that_cannot_be_used_is_refused_without_showing_it(settings: Settings, memory: Path) -> None:
    adapter = mongodb.Adapter(settings)
    adapter.undo_directory = memory
    with pytest.raises(SettingInvalid) as refused:
        await adapter.hold(freeze())
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"
    (problem,) = [each for each in (await adapter.preflight()).findings if each.severity is Severity.PROBLEM]
    assert "hunter2" not in repr(problem)


@pytest.mark.parametrize("marker", ["cycles", "appvss.", ".cycles", "app vss.cycles", "app$vss.cycles", "appvss..x"])
def test_a_marker_that_is_no_collection_is_refused(marker: str) -> None:
    with pytest.raises(SettingInvalid):
        mongodb.Adapter(Settings(marker=marker))
    mongodb.Adapter(Settings(marker="appvss.cycles.of-orders"))


# -- Pre-flight.


async def test_a_preflight_says_that_we_have_not_run_it_and_what_is_better(memory: Path, tmp_path: Path) -> None:
    async with fake_mongod(set_name="rs0", data_directory=str(tmp_path)) as fake:
        adapter = adapter_of(fake, memory)
        found = await adapter.preflight()
        assert [each.name for each in found.findings] == ["not_run_by_us", "primary", "lock_stays"]
        assert not found.is_refused
        assert found.version == "MongoDB 7.0.14"
        assert [(each.kind, each.path) for each in found.volumes] == [
            (VolumeKind.DATA, tmp_path),
            (VolumeKind.LOG, tmp_path / "journal"),
        ]
        assert fake.lock_count == 0
        assert fake.documents == {}
        fake.storage_engine = "inMemory"
        assert (await adapter.preflight()).is_refused
        await adapter.close()


async def test_a_journal_that_was_moved_is_found(memory: Path, tmp_path: Path) -> None:
    if os.stat(memory).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("the temporary directory of this machine is on the tmpfs, too")
    (tmp_path / "journal").symlink_to(memory)
    async with fake_mongod(data_directory=str(tmp_path)) as fake:
        adapter = adapter_of(fake, memory, Recipe.JOURNAL)
        found = await adapter.preflight()
        assert "journal_apart" in [each.name for each in found.findings]
        assert {each.path for each in found.volumes} == {tmp_path, memory}
        await adapter.close()


async def test_a_hidden_secondary_has_no_marker_and_a_position(memory: Path) -> None:
    async with fake_mongod(set_name="rs0", is_primary=False, is_hidden=True) as fake:
        adapter = adapter_of(fake, memory, Recipe.JOURNAL)
        found = await adapter.preflight()
        assert [each.name for each in found.findings] == ["not_run_by_us", "no_marker"]
        async with adapter.quiesce(freeze()) as evidence:
            assert evidence["marker"] == ""
            assert evidence["position"] == "1700000000:1:3"
        assert "fsync" in fake.commands  # without a lock
        assert fake.lock_count == 0
        await adapter.close()


async def test_the_stand_in_refuses_what_the_real_one_refuses() -> None:
    async with fake_mongod() as fake:
        link = wire.open_link(Settings(uri=fake.uri))
        with pytest.raises(AdapterError, match="when not locked"):
            await wire.ask(link, {"fsyncUnlock": 1}, timedelta(seconds=5))
        with pytest.raises(PrivilegeMissing):
            await wire.ask(link, {"fsync": 1, "lock": True}, timedelta(seconds=5), "shop")
        with pytest.raises(AdapterError, match="no such command"):
            await wire.ask(link, {"frobnicate": 1}, timedelta(seconds=5))
        for count in (1, 2):
            answer = await wire.ask(link, {"fsync": 1, "lock": True}, timedelta(seconds=5))
            assert answer["lockCount"] == count
        write = asyncio.create_task(fake.write("shop.orders", 1, {}))
        for count in (1, 0):
            await until(lambda: fake.waiting, "the write waits")
            answer = await wire.ask(link, {"fsyncUnlock": 1}, timedelta(seconds=5))
            assert answer["lockCount"] == count
        async with asyncio.timeout(BOUND):
            await write
        await link.client.close()
