"""`appvss.serve` against the fake broker, over a real socket."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

import appvss
from appvss.model.errors import SocketPathTooLong, UsageError
from appvss.sdk.driver import OUTBOX_LIMIT
from appvss.sdk.testing import FakeApp, FakeBroker
from appvss.v1 import app_pb2

SECOND = timedelta(seconds=1)
MOMENT = timedelta(milliseconds=50)
BOUND = 10.0

Quiesce = Callable[[appvss.Freeze], AbstractAsyncContextManager[object]]


class Database:
    """An app's own state, with an event for everything that happens to it."""

    def __init__(self) -> None:
        self.held = False
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.cancelled = False
        self.go_on = asyncio.Event()
        self.freezes: list[appvss.Freeze] = []

    def holds(self) -> bool:
        return self.held

    @asynccontextmanager
    async def quiesce(self, freeze: appvss.Freeze) -> AsyncIterator[dict[str, object]]:
        self.freezes.append(freeze)
        self.left.clear()
        self.held = True
        self.entered.set()
        try:
            yield {"lsn": 17, 3: Path("/x")}  # type: ignore[dict-item]  # whatever an author yields becomes text
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.held = False
            self.left.set()

    @asynccontextmanager
    async def slow(self, freeze: appvss.Freeze) -> AsyncIterator[None]:
        """Gets quiet only when told to."""
        self.freezes.append(freeze)
        self.left.clear()
        self.entered.set()
        try:
            await self.go_on.wait()
            yield
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.left.set()


class Refusing:
    """A context that cannot be entered."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def __aenter__(self) -> None:
        raise self.error

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("what was not entered is not left")


@asynccontextmanager
async def serving(
    broker: FakeBroker, quiesce: Quiesce, name: str = "orders-db", **options: Any
) -> AsyncIterator[FakeApp]:
    task = asyncio.create_task(appvss.serve(name, quiesce, runtime_directory=broker.runtime_directory, **options))
    try:
        yield await broker.app(name)
    finally:
        task.cancel()
        async with asyncio.timeout(BOUND):
            with pytest.raises(asyncio.CancelledError):
                await task


async def happens(event: asyncio.Event) -> None:
    async with asyncio.timeout(BOUND):
        await event.wait()


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    async with FakeBroker() as started:
        yield started


async def test_a_whole_cycle(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        assert not database.holds()
        frozen = await app.freeze("cycle-9", requester="the host", budget=2 * SECOND, hold_limit=5 * SECOND)
        assert frozen.frozen
        assert frozen.evidence == {"lsn": "17", "3": "/x"}
        assert database.holds()
        assert app.held == "cycle-9"
        thawed = await app.thaw()
        assert thawed.unbroken, thawed.reason
        assert not database.holds()
        assert not database.cancelled
        (freeze,) = database.freezes
        assert (freeze.cycle, freeze.requester, freeze.budget) == ("cycle-9", "the host", 2 * SECOND)
        assert freeze.hold_limit == 5 * SECOND
        assert not freeze.ended.is_set()
        again = await app.thaw()
        assert again.unbroken
        assert app.refusals == ()


async def test_what_is_declared_arrives(broker: FakeBroker, tmp_path: Path) -> None:
    database = Database()

    async def prepare(asked: appvss.Prepare) -> None:
        pass

    options: dict[str, Any] = {
        "prepare": prepare,
        "order": 0,
        "after": ["other"],
        "requirement": "tolerated",
        "freeze_timeout": 3 * SECOND,
        "hold_limit": 7 * SECOND,
        "paths": [tmp_path, "/var/lib"],
        "watch_paths": True,
        "grade": "fs",
    }
    async with serving(broker, database.quiesce, **options) as app:
        declared = app.registration
        assert (declared.order, declared.after, declared.requirement) == (0, ("other",), "tolerated")
        assert (declared.prepares, declared.freeze_timeout, declared.hold_limit) == (True, 3 * SECOND, 7 * SECOND)
        assert app.paths == (str(tmp_path), "/var/lib")
        assert declared.watch_paths
        assert declared.grade == "fs"
        assert app.library.startswith("appvss-python/")


# Prepare.


# The word before the file systems are frozen.


class Listening:
    """An app that notes at its thaw whether it has heard that the file systems were about to be frozen."""

    def __init__(self) -> None:
        self.freezes: list[appvss.Freeze] = []
        self.heard: list[bool] = []

    @asynccontextmanager
    async def quiesce(self, freeze: appvss.Freeze) -> AsyncIterator[None]:
        self.freezes.append(freeze)
        try:
            yield
        finally:
            self.heard.append(freeze.filesystem_freeze.is_set())


async def test_an_app_hears_that_the_file_systems_are_about_to_be_frozen(broker: FakeBroker) -> None:
    app_code = Listening()
    async with serving(broker, app_code.quiesce) as app:
        assert (await app.freeze("first")).frozen
        assert not app_code.freezes[0].filesystem_freeze.is_set()
        await app.tell_filesystem_freeze()
        assert await asyncio.to_thread(app_code.freezes[0].filesystem_freeze.wait, BOUND)
        assert (await app.thaw()).unbroken
        # Neither the word of another cycle nor that of the last hold is about the next one.
        assert (await app.freeze("second")).frozen
        await app.tell_filesystem_freeze("first")
        assert (await app.thaw()).unbroken
        assert app_code.heard == [True, False]
        assert app.refusals == ()


async def test_an_app_that_comes_back_in_its_hold_may_be_told_again(broker: FakeBroker) -> None:
    app_code = Listening()
    async with serving(broker, app_code.quiesce) as app:
        assert (await app.freeze()).frozen
        await app.disconnect()
        assert await app.returned() is not None
        await app.tell_filesystem_freeze()
        await app.tell_filesystem_freeze()
        assert (await app.thaw()).unbroken
        assert app_code.heard == [True]


async def test_a_hold_that_ends_early_knows_whether_the_file_systems_may_be_frozen(broker: FakeBroker) -> None:
    app_code = Listening()
    async with serving(broker, app_code.quiesce) as app:
        assert (await app.freeze(hold_limit=SECOND)).frozen
        await app.tell_filesystem_freeze()
        assert "hold limit" in await app.hold_lost()
        assert not (await app.thaw()).unbroken
        assert app_code.heard == [True]


async def test_prepare_is_called_ahead_with_its_budget(broker: FakeBroker) -> None:
    asked: list[appvss.Prepare] = []

    async def prepare(question: appvss.Prepare) -> None:
        asked.append(question)

    async with serving(broker, Database().quiesce, prepare=prepare) as app:
        answer = await app.prepare("cycle-1", requester="the host", budget=3 * SECOND)
        assert answer.ready
        assert asked == [appvss.Prepare("cycle-1", "the host", 3 * SECOND)]
        assert timedelta(0) < asked[0].budget_left() <= 3 * SECOND
        assert (await app.freeze("cycle-1")).frozen
        assert (await app.thaw()).unbroken


async def test_prepare_refuses_by_raising(broker: FakeBroker) -> None:
    async def prepare(_: appvss.Prepare) -> None:
        raise appvss.Veto("a reindex runs", retryable=True)

    async with serving(broker, Database().quiesce, prepare=prepare) as app:
        answer = await app.prepare()
        assert (answer.ready, answer.reason, answer.retryable) == (False, "a reindex runs", True)


async def test_prepare_is_cancelled_when_its_budget_runs_out(broker: FakeBroker) -> None:
    cancelled = asyncio.Event()

    async def prepare(_: appvss.Prepare) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(broker, Database().quiesce, prepare=prepare) as app:
        answer = await app.prepare(budget=MOMENT)
        assert (answer.ready, answer.reason) == (False, "the time to prepare, 50.0ms, ran out")
        await happens(cancelled)
        assert (await app.freeze()).frozen


# Vetoes.


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (appvss.Veto("a vacuum runs", retryable=True), "a vacuum runs", True),
        (appvss.Veto("never here"), "never here", False),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left", False),
        (ValueError("two\nlines\x1b[31m"), "ValueError: two lines?[31m", False),
        (ValueError(), "ValueError", False),
    ],
)
async def test_an_exception_while_entering_is_a_veto(
    broker: FakeBroker, error: Exception, reason: str, retryable: bool
) -> None:
    async with serving(broker, lambda _: Refusing(error)) as app:
        frozen = await app.freeze()
        assert (frozen.frozen, frozen.reason, frozen.retryable) == (False, reason, retryable)
        assert (await app.thaw()).reason == f"the app was not frozen: {reason}"


async def test_what_is_no_context_or_too_much_evidence_is_a_veto(broker: FakeBroker) -> None:
    left = False

    @asynccontextmanager
    async def talkative(_: appvss.Freeze) -> AsyncIterator[dict[str, str]]:
        nonlocal left
        try:
            yield {str(number): "x" for number in range(17)}
        finally:
            left = True

    def wrong(_: appvss.Freeze) -> Any:
        return object()

    async with serving(broker, talkative, "talkative") as app, serving(broker, wrong, "wrong") as other:
        frozen = await app.freeze()
        assert not frozen.frozen
        assert "17 entries" in frozen.reason
        assert left
        assert "TypeError" in (await other.freeze()).reason


async def test_a_lock_that_yields_no_mapping_is_a_quiesce(broker: FakeBroker) -> None:
    lock = asyncio.Lock()
    async with serving(broker, lambda _: lock) as app:
        frozen = await app.freeze()
        assert frozen.frozen
        assert frozen.evidence == {}
        assert lock.locked()
        assert (await app.thaw()).unbroken
        assert not lock.locked()


# The two clocks.


async def test_a_budget_that_runs_out_cancels_the_entering(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.slow) as app:
        frozen = await app.freeze(budget=MOMENT)
        assert (frozen.frozen, frozen.reason) == (False, "the time to get quiet, 50.0ms, ran out")
        assert frozen.took >= MOMENT
        assert database.cancelled
        assert database.left.is_set()
        assert database.freezes[0].ended.is_set()
        with pytest.raises(appvss.FreezeEnded, match="ran out"):
            database.freezes[0].check()


async def test_the_hold_limit_cancels_the_block_and_the_thaw_says_so(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        assert (await app.freeze(hold_limit=MOMENT)).frozen
        reason = "the hold limit of 50.0ms passed before a thaw came"
        assert await app.hold_lost() == reason
        await happens(database.left)
        assert database.cancelled
        thawed = await app.thaw()
        assert (thawed.unbroken, thawed.reason) == (False, reason)
        database.cancelled = False
        assert (await app.freeze()).frozen
        assert (await app.thaw()).unbroken
        assert not database.cancelled


async def test_the_hold_limit_needs_no_broker(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        assert (await app.freeze(hold_limit=4 * MOMENT)).frozen
        await broker.stop()
        await happens(database.left)
        assert database.cancelled
        await broker.start()
        assert await app.returned() is None
        assert "hold limit" in await app.hold_lost()
        assert not (await app.thaw()).unbroken


# Leaving.


@pytest.mark.parametrize(
    ("error", "reason"),
    [(appvss.HoldLost("the session was killed"), "the session was killed"), (RuntimeError("no"), "RuntimeError: no")],
)
async def test_an_exception_while_leaving_breaks_the_hold(broker: FakeBroker, error: Exception, reason: str) -> None:
    @asynccontextmanager
    async def quiesce(_: appvss.Freeze) -> AsyncIterator[None]:
        yield
        raise error

    async with serving(broker, quiesce) as app:
        assert (await app.freeze()).frozen
        thawed = await app.thaw()
        assert (thawed.unbroken, thawed.reason) == (False, reason)


async def test_an_abort_before_frozen_ends_the_entering(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.slow) as app:
        asking = asyncio.create_task(app.freeze())
        await happens(database.entered)
        thawed = await app.abort("the host gave up")
        frozen = await asking
        reason = "the broker aborted the cycle before the app was frozen: the host gave up"
        assert (frozen.frozen, frozen.reason) == (False, reason)
        assert not thawed.unbroken
        assert database.cancelled
        assert app.refusals == ()


async def test_a_thaw_for_a_cycle_that_nobody_knows_is_answered(broker: FakeBroker) -> None:
    async with serving(broker, Database().quiesce) as app:
        thawed = await app.thaw("cycle-from-before")
        assert (thawed.unbroken, thawed.reason) == (False, "this app holds nothing for cycle cycle-from-before")


async def test_a_second_freeze_while_held_is_refused_and_the_first_holds(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        assert (await app.freeze("one")).frozen
        second = await app.freeze("two")
        assert (second.frozen, second.reason, second.retryable) == (False, "the app is frozen for cycle one", True)
        assert database.holds()
        assert (await app.thaw("one")).unbroken


# The stream.


async def test_a_broken_stream_does_not_end_a_hold(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        incarnation = app.incarnation
        frozen = await app.freeze()
        for _ in range(3):
            await app.disconnect()
            claim = await app.returned()
            assert claim is not None
            assert claim.cycle == app.held
            assert claim.held_for >= timedelta(0)
        assert frozen.frozen
        assert database.holds()
        assert (await app.thaw()).unbroken
        assert app.incarnation == incarnation
        assert len(database.freezes) == 1


@pytest.mark.parametrize("goodbye", [None, "the broker is being updated"])
async def test_a_restarted_broker_finds_the_hold(broker: FakeBroker, goodbye: str | None) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        assert (await app.freeze("cycle-5")).frozen
        await broker.stop(goodbye)
        assert not app.attached
        await broker.start()
        claim = await app.returned()
        assert claim is not None
        assert claim.cycle == "cycle-5"
        assert database.holds()
        assert (await app.thaw("cycle-5")).unbroken


async def test_a_freeze_whose_stream_breaks_before_the_ack_is_given_up(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.slow) as app:
        asking = asyncio.create_task(app.freeze())
        await happens(database.entered)
        await app.disconnect()
        with pytest.raises(ConnectionError):
            await asking
        await happens(database.left)
        assert await app.returned() is None
        database.go_on.set()
        assert (await app.freeze()).frozen


async def test_an_app_may_start_long_before_its_broker(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("b")
    broker = FakeBroker(directory)
    database = Database()
    task = asyncio.create_task(appvss.serve("early", database.quiesce, runtime_directory=directory))
    async with broker:
        app = await broker.app("early")
        assert (await app.freeze()).frozen
        task.cancel()
        async with asyncio.timeout(BOUND):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not database.holds()


async def test_a_refusal_is_told_once_and_tried_again(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    told = asyncio.Event()

    class Bell(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "ALREADY_EXISTS" in record.getMessage():
                told.set()

    bell = Bell()
    logging.getLogger("appvss.sdk").addHandler(bell)
    broker.refuse(grpc.StatusCode.ALREADY_EXISTS, "orders-db is registered")
    with caplog.at_level(logging.INFO, "appvss.sdk"):
        task = asyncio.create_task(
            appvss.serve("orders-db", Database().quiesce, runtime_directory=broker.runtime_directory)
        )
        await happens(told)
        broker.admit()
        app = await broker.app("orders-db")
        assert (await app.freeze()).frozen
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    logging.getLogger("appvss.sdk").removeHandler(bell)
    refusals = [record for record in caplog.records if "ALREADY_EXISTS" in record.getMessage()]
    assert [record.levelname for record in refusals] == ["WARNING"]
    assert refusals[0].getMessage() == "orders-db: not attached: ALREADY_EXISTS: orders-db is registered"


async def test_nothing_is_logged_while_something_is_held(broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(broker, Database().quiesce) as app:
        assert (await app.freeze()).frozen
        assert (await app.thaw()).unbroken
        with caplog.at_level(logging.INFO, "appvss.sdk"):
            assert (await app.freeze()).frozen
            await app.disconnect()
            await app.returned()
            app.send(app_pb2.AttachResponse(refusal=app_pb2.Refusal(name="ack_twice", sentence="said before")))
            await app.disconnect()
            await app.returned()
            assert caplog.messages == []
            assert (await app.thaw()).unbroken
            heard = " | ".join(caplog.messages)
            assert "the stream to the broker ended" in heard
            assert "ack_twice: said before" in heard


async def test_an_unknown_message_is_passed_over(broker: FakeBroker) -> None:
    async with serving(broker, Database().quiesce) as app:
        app.send(app_pb2.AttachResponse())
        assert (await app.freeze()).frozen
        assert (await app.thaw()).unbroken


async def test_a_broker_that_asks_without_end_loses_the_stream_and_not_the_hold(broker: FakeBroker) -> None:
    releasing, go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow_to_leave(_: appvss.Freeze) -> AsyncIterator[None]:
        yield
        releasing.set()
        await go_on.wait()

    async with serving(broker, slow_to_leave) as app:
        assert (await app.freeze("one")).frozen
        asking = asyncio.create_task(app.thaw("one"))
        await happens(releasing)
        for _ in range(OUTBOX_LIMIT):
            app.send(app_pb2.AttachResponse(thaw=app_pb2.Thaw(cycle="one")))
        # Answered in order: when this answer is here, the app has heard all of them.
        assert not (await app.thaw("another")).unbroken
        go_on.set()
        with pytest.raises(ConnectionError):
            await asking
        assert await app.returned() is None
        assert (await app.thaw("one")).unbroken


# Identity.


async def test_the_kernel_says_who_the_app_is(broker: FakeBroker) -> None:
    async with serving(broker, Database().quiesce) as app:
        assert app.peer is not None
        assert (app.peer.pid, app.peer.uid) == (os.getpid(), os.getuid())


async def test_without_a_side_socket_there_is_no_token(broker: FakeBroker) -> None:
    (broker.runtime_directory / "apps.peer.sock").unlink()
    async with serving(broker, Database().quiesce) as app:
        assert app.peer is None
        assert (await app.freeze()).frozen


async def test_a_side_socket_that_speaks_nonsense_is_no_broker(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    path = broker.runtime_directory / "apps.peer.sock"
    path.unlink()
    told = asyncio.Event()

    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n" * 20)
        writer.close()
        told.set()

    async with await asyncio.start_unix_server(nonsense, path):
        task = asyncio.create_task(appvss.serve("odd", Database().quiesce, runtime_directory=broker.runtime_directory))
        await happens(told)
        told.clear()
        await happens(told)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_one_process_serves_an_app_once(broker: FakeBroker) -> None:
    async with serving(broker, Database().quiesce) as app:
        with pytest.raises(UsageError, match="serves orders-db already"):
            await appvss.serve("orders-db", Database().quiesce, runtime_directory=broker.runtime_directory)
        assert (await app.freeze()).frozen
        assert (await app.thaw()).unbroken
    await app.gone()
    async with serving(broker, Database().quiesce) as again:
        assert (await again.freeze()).frozen
        assert again.incarnation == app.incarnation


# The end.


async def test_cancelling_in_mid_hold_lets_go_and_says_so(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.quiesce) as app:
        assert (await app.freeze()).frozen
    assert not database.holds()
    assert await app.hold_lost() == "the app is stopping"
    await app.gone()


async def test_cancelling_while_entering_vetoes(broker: FakeBroker) -> None:
    database = Database()
    async with serving(broker, database.slow) as app:
        asking = asyncio.create_task(app.freeze())
        await happens(database.entered)
    frozen = await asking
    assert (frozen.frozen, frozen.reason) == (False, "the app is stopping")
    assert database.left.is_set()


async def test_cancelling_waits_for_a_release_that_takes_its_time(broker: FakeBroker) -> None:
    releasing, go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def quiesce(_: appvss.Freeze) -> AsyncIterator[None]:
        try:
            yield
        finally:
            releasing.set()
            await go_on.wait()

    task = asyncio.create_task(appvss.serve("slow", quiesce, runtime_directory=broker.runtime_directory))
    app = await broker.app("slow")
    assert (await app.freeze()).frozen
    task.cancel()
    await happens(releasing)
    assert await app.hold_lost() == "the app is stopping"
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_without_a_broker_returns_at_once(tmp_path: Path) -> None:
    task = asyncio.create_task(appvss.serve("alone", Database().quiesce, runtime_directory=tmp_path))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancellation_from_inside_the_block_is_a_veto_and_the_app_goes_on(broker: FakeBroker) -> None:
    contexts: list[AbstractAsyncContextManager[None]] = [asyncio.Lock(), Refusing(asyncio.CancelledError())]
    async with serving(broker, lambda _: contexts.pop()) as app:
        assert (await app.freeze()).reason == "CancelledError"
        assert (await app.freeze()).frozen
        assert (await app.thaw()).unbroken


class Stop(BaseException):
    """What no app may keep for itself, and no event loop treats in a way of its own."""


async def test_what_is_no_exception_is_reported_and_comes_out(broker: FakeBroker) -> None:
    serve = appvss.serve("orders-db", lambda _: Refusing(Stop("enough")), runtime_directory=broker.runtime_directory)
    task = asyncio.create_task(serve)
    app = await broker.app("orders-db")
    frozen = await app.freeze()
    assert frozen.reason == "Stop: enough"
    async with asyncio.timeout(BOUND):
        with pytest.raises(Stop, match="enough"):
            await task
    await app.gone()


def test_an_interrupt_of_the_whole_program_lets_go() -> None:
    database: Database | None = None

    async def program() -> None:
        nonlocal database
        database = Database()
        async with FakeBroker() as broker, asyncio.TaskGroup() as tasks:
            tasks.create_task(appvss.serve("orders-db", database.quiesce, runtime_directory=broker.runtime_directory))
            app = await broker.app("orders-db")
            assert (await app.freeze()).frozen
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())
    assert database is not None
    assert not database.holds()
    assert database.left.is_set()


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"name": ""}, appvss.NameInvalid, "the app name is empty"),
        ({"name": "a b"}, appvss.NameInvalid, "'a b'"),
        ({"instance": "?"}, appvss.NameInvalid, "instance"),
        ({"after": ["ok", "not ok"]}, appvss.NameInvalid, "name in after"),
        ({"quiesce": 3}, UsageError, "cannot be called"),
        ({"prepare": 3}, UsageError, "cannot be called"),
        ({"runtime_directory": "/" + "d" * 120}, SocketPathTooLong, "bytes, over"),
    ],
)
async def test_a_wrong_argument_is_told_in_the_call_itself(
    arguments: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    given: dict[str, Any] = {"name": "orders-db", "quiesce": Database().quiesce, **arguments}
    with pytest.raises(error, match=sentence.replace("?", r"\?")):
        _ = appvss.serve(given.pop("name"), given.pop("quiesce"), **given)


async def test_a_missing_decorator_is_told_in_the_call_itself() -> None:
    async def undecorated(_: appvss.Freeze) -> AsyncIterator[None]:
        yield

    async def no_context(_: appvss.Freeze) -> None:
        pass

    for wrong in (undecorated, no_context):
        with pytest.raises(UsageError) as caught:
            _ = appvss.serve("orders-db", wrong)  # type: ignore[arg-type]  # this is the mistake
        assert "asynccontextmanager" in caught.value.hint


def test_no_socket_is_left_open_by_a_token_that_never_comes(tmp_path: Path) -> None:
    async def program() -> None:
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "apps.peer.sock"))
            silent.listen()
            task = asyncio.create_task(appvss.serve("waiting", Database().quiesce, runtime_directory=tmp_path))
            silent.setblocking(False)
            async with asyncio.timeout(BOUND):
                connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert connection.recv(1) == b""

    asyncio.run(program())
