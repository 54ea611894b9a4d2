"""`appvss.serve_in_thread` against the fake broker, over a real socket."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

import appvss
from appvss.model.errors import UsageError
from appvss.sdk.testing import BlockingFakeApp, BlockingFakeBroker
from appvss.v1 import app_pb2

SECOND = timedelta(seconds=1)
MOMENT = timedelta(milliseconds=50)
BOUND = 10.0


class Database:
    """An app's own state, with an event for everything that happens to it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entered = threading.Event()
        self.left = threading.Event()
        self.go_on = threading.Event()
        self.freezes: list[appvss.Freeze] = []
        self.ended_when_left: list[bool] = []

    def holds(self) -> bool:
        return self.lock.locked()

    @contextmanager
    def quiesce(self, freeze: appvss.Freeze) -> Iterator[dict[str, int]]:
        self.freezes.append(freeze)
        self.left.clear()
        with self.lock:
            self.entered.set()
            yield {"lsn": 17}
            self.ended_when_left.append(freeze.ended.is_set())
        self.left.set()

    @contextmanager
    def slow(self, freeze: appvss.Freeze) -> Iterator[None]:
        """Gets quiet only when told to, and notices when it is too late."""
        self.freezes.append(freeze)
        self.left.clear()
        self.entered.set()
        try:
            while not self.go_on.is_set():
                assert freeze.ended.wait(BOUND)
                freeze.check()
            yield
        finally:
            self.left.set()


class Refusing:
    """A context that cannot be entered."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __enter__(self) -> None:
        raise self.error

    def __exit__(self, *_: object) -> None:
        raise AssertionError("what was not entered is not left")


@contextmanager
def serving(
    broker: BlockingFakeBroker, quiesce: Any, name: str = "orders-db", **options: Any
) -> Iterator[BlockingFakeApp]:
    with appvss.serve_in_thread(name, quiesce, runtime_directory=broker.runtime_directory, **options):
        yield broker.app(name)


@pytest.fixture
def broker() -> Iterator[BlockingFakeBroker]:
    with BlockingFakeBroker() as started:
        yield started


def test_a_whole_cycle(broker: BlockingFakeBroker) -> None:
    database = Database()
    prepared: list[appvss.Prepare] = []
    with serving(broker, database.quiesce, prepare=prepared.append) as app:
        assert app.prepare("cycle-9", requester="the host", budget=SECOND).ready
        assert prepared == [appvss.Prepare("cycle-9", "the host", SECOND)]
        frozen = app.freeze("cycle-9", requester="the host", budget=2 * SECOND, hold_limit=5 * SECOND)
        assert frozen.frozen
        assert frozen.evidence == {"lsn": "17"}
        assert database.holds()
        thawed = app.thaw()
        assert thawed.unbroken, thawed.reason
        assert not database.holds()
        assert database.ended_when_left == [False]
        (freeze,) = database.freezes
        assert (freeze.cycle, freeze.requester, freeze.budget) == ("cycle-9", "the host", 2 * SECOND)
        assert app.thaw().unbroken
        assert app.refusals == ()


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (appvss.Veto("a vacuum runs", retryable=True), "a vacuum runs", True),
        (OSError(28, "No space left"), "OSError: [Errno 28] No space left", False),
    ],
)
def test_an_exception_while_entering_or_preparing_is_a_veto(
    broker: BlockingFakeBroker, error: Exception, reason: str, retryable: bool
) -> None:
    def prepare(_: appvss.Prepare) -> None:
        raise error

    with serving(broker, lambda _: Refusing(error), prepare=prepare) as app:
        prepared = app.prepare()
        assert (prepared.ready, prepared.reason, prepared.retryable) == (False, reason, retryable)
        frozen = app.freeze()
        assert (frozen.frozen, frozen.reason, frozen.retryable) == (False, reason, retryable)


def test_a_lock_is_a_quiesce(broker: BlockingFakeBroker) -> None:
    lock = threading.Lock()
    with serving(broker, lambda _: lock) as app:
        frozen = app.freeze()
        assert frozen.frozen
        assert frozen.evidence == {}
        assert lock.locked()
        assert app.thaw().unbroken
        assert not lock.locked()


# The two clocks.


def test_a_budget_that_runs_out_is_noticed_by_check(broker: BlockingFakeBroker) -> None:
    database = Database()
    with serving(broker, database.slow) as app:
        frozen = app.freeze(budget=MOMENT)
        assert (frozen.frozen, frozen.reason) == (False, "the time to get quiet, 50.0ms, ran out")
        assert frozen.took >= MOMENT
        assert database.left.is_set()


def test_code_that_gets_quiet_too_late_is_released_and_vetoed(broker: BlockingFakeBroker) -> None:
    entered = threading.Event()
    lock = threading.Lock()

    @contextmanager
    def deaf(freeze: appvss.Freeze) -> Iterator[None]:
        assert freeze.ended.wait(BOUND)
        with lock:
            entered.set()
            yield

    with serving(broker, deaf) as app:
        frozen = app.freeze(budget=MOMENT)
        assert (frozen.frozen, frozen.reason) == (False, "the time to get quiet, 50.0ms, ran out")
        assert entered.is_set()
        assert not lock.locked()


def test_the_hold_limit_leaves_the_context_and_the_thaw_says_so(broker: BlockingFakeBroker) -> None:
    database = Database()
    with serving(broker, database.quiesce) as app:
        assert app.freeze(hold_limit=MOMENT).frozen
        reason = "the hold limit of 50.0ms passed before a thaw came"
        assert app.hold_lost() == reason
        assert database.left.wait(BOUND)
        assert database.ended_when_left == [True]
        with pytest.raises(appvss.FreezeEnded, match="hold limit"):
            database.freezes[0].check()
        thawed = app.thaw()
        assert (thawed.unbroken, thawed.reason) == (False, reason)
        assert app.freeze().frozen
        assert app.thaw().unbroken


def test_an_app_hears_that_the_file_systems_are_about_to_be_frozen(broker: BlockingFakeBroker) -> None:
    database = Database()
    with serving(broker, database.quiesce) as app:
        assert app.freeze().frozen
        (freeze,) = database.freezes
        assert not freeze.filesystem_freeze.is_set()
        app.tell_filesystem_freeze("of another cycle")
        app.tell_filesystem_freeze()
        assert freeze.filesystem_freeze.wait(BOUND)
        assert app.thaw().unbroken
        assert app.freeze().frozen
        assert not database.freezes[1].filesystem_freeze.is_set()
        assert app.thaw().unbroken
        assert app.refusals == ()


def test_the_hold_limit_needs_no_broker(broker: BlockingFakeBroker) -> None:
    database = Database()
    with serving(broker, database.quiesce) as app:
        assert app.freeze(hold_limit=4 * MOMENT).frozen
        broker.stop()
        assert database.left.wait(BOUND)
        broker.start()
        assert app.returned() is None
        assert "hold limit" in app.hold_lost()
        assert not app.thaw().unbroken


def test_a_prepare_that_takes_too_long_is_vetoed_at_once_and_keeps_the_app_busy(broker: BlockingFakeBroker) -> None:
    go_on, done = threading.Event(), threading.Event()

    def prepare(_: appvss.Prepare) -> None:
        go_on.wait(BOUND)
        done.set()

    with serving(broker, Database().quiesce, prepare=prepare) as app:
        prepared = app.prepare("one", budget=MOMENT)
        assert (prepared.ready, prepared.reason) == (False, "the time to prepare, 50.0ms, ran out")
        busy = app.freeze("two")
        assert (busy.reason, busy.retryable) == ("the app is still preparing for cycle one", True)
        go_on.set()
        assert done.wait(BOUND)


# Leaving.


@pytest.mark.parametrize(
    ("error", "reason"),
    [(appvss.HoldLost("the session was killed"), "the session was killed"), (RuntimeError("no"), "RuntimeError: no")],
)
def test_an_exception_while_leaving_breaks_the_hold(broker: BlockingFakeBroker, error: Exception, reason: str) -> None:
    @contextmanager
    def quiesce(_: appvss.Freeze) -> Iterator[None]:
        yield
        raise error

    with serving(broker, quiesce) as app:
        assert app.freeze().frozen
        thawed = app.thaw()
        assert (thawed.unbroken, thawed.reason) == (False, reason)


def test_an_abort_before_frozen_ends_the_entering(broker: BlockingFakeBroker) -> None:
    database = Database()
    with ThreadPoolExecutor(1) as pool, serving(broker, database.slow) as app:
        asking = pool.submit(app.freeze)
        assert database.entered.wait(BOUND)
        thawed = app.abort("the host gave up")
        frozen = asking.result(BOUND)
        reason = "the broker aborted the cycle before the app was frozen: the host gave up"
        assert (frozen.frozen, frozen.reason) == (False, reason)
        assert not thawed.unbroken
        assert app.refusals == ()


# The stream.


def test_a_broken_stream_does_not_end_a_hold(broker: BlockingFakeBroker) -> None:
    database = Database()
    with serving(broker, database.quiesce) as app:
        incarnation = app.incarnation
        assert app.freeze().frozen
        for _ in range(3):
            app.disconnect()
            claim = app.returned()
            assert claim is not None
            assert claim.cycle == app.held
        assert database.holds()
        assert app.thaw().unbroken
        assert app.incarnation == incarnation


@pytest.mark.parametrize("goodbye", [None, "the broker is being updated"])
def test_a_restarted_broker_finds_the_hold(broker: BlockingFakeBroker, goodbye: str | None) -> None:
    database = Database()
    with serving(broker, database.quiesce) as app:
        assert app.freeze("cycle-5").frozen
        broker.stop(goodbye)
        broker.start()
        claim = app.returned()
        assert claim is not None
        assert claim.cycle == "cycle-5"
        assert app.thaw("cycle-5").unbroken


def test_an_app_may_start_long_before_its_broker(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("b")
    with (
        appvss.serve_in_thread("early", Database().quiesce, runtime_directory=directory),
        BlockingFakeBroker(directory) as broker,
    ):
        app = broker.app("early")
        assert app.freeze().frozen
        assert app.thaw().unbroken


def test_a_refusal_is_told_once_and_tried_again(broker: BlockingFakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()

    class Bell(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "PERMISSION_DENIED" in record.getMessage():
                told.set()

    bell = Bell()
    logging.getLogger("appvss.sdk").addHandler(bell)
    broker.refuse(grpc.StatusCode.PERMISSION_DENIED, "uid 0 may not")
    with (
        caplog.at_level(logging.INFO, "appvss.sdk"),
        appvss.serve_in_thread("orders-db", Database().quiesce, runtime_directory=broker.runtime_directory),
    ):
        assert told.wait(BOUND)
        broker.admit()
        assert broker.app("orders-db").freeze().frozen
    logging.getLogger("appvss.sdk").removeHandler(bell)
    refusals = [each.getMessage() for each in caplog.records if "PERMISSION_DENIED" in each.getMessage()]
    assert refusals == ["orders-db: not attached: PERMISSION_DENIED: uid 0 may not"]


def test_nothing_is_logged_while_something_is_held(
    broker: BlockingFakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "appvss.sdk"), serving(broker, Database().quiesce) as app:
        assert app.freeze().frozen
        assert app.thaw().unbroken
        assert app.freeze().frozen
        caplog.clear()
        app.send(app_pb2.AttachResponse(refusal=app_pb2.Refusal(name="ack_twice", sentence="said before")))
        app.disconnect()
        app.returned()
        assert caplog.messages == []
        assert app.thaw().unbroken
    heard = " | ".join(caplog.messages)
    assert "the stream to the broker ended" in heard
    assert "ack_twice: said before" in heard


def test_an_unknown_message_is_passed_over(broker: BlockingFakeBroker) -> None:
    with serving(broker, Database().quiesce) as app:
        app.send(app_pb2.AttachResponse())
        assert app.freeze().frozen
        assert app.thaw().unbroken


def test_without_a_side_socket_there_is_no_token(broker: BlockingFakeBroker) -> None:
    with serving(broker, Database().quiesce) as app:
        assert app.peer is not None
    (broker.runtime_directory / "apps.peer.sock").unlink()
    with serving(broker, Database().quiesce, "other") as app:
        assert app.peer is None
        assert app.freeze().frozen


# The end.


def test_closing_in_mid_hold_lets_go_and_says_so(broker: BlockingFakeBroker) -> None:
    database = Database()
    with serving(broker, database.quiesce) as app:
        assert app.freeze().frozen
    assert not database.holds()
    assert app.hold_lost() == "the app is stopping"
    app.gone()


def test_closing_while_entering_vetoes(broker: BlockingFakeBroker) -> None:
    database = Database()
    with ThreadPoolExecutor(1) as pool:
        with serving(broker, database.slow) as app:
            asking = pool.submit(app.freeze)
            assert database.entered.wait(BOUND)
        frozen = asking.result(BOUND)
    assert (frozen.frozen, frozen.reason) == (False, "the app is stopping")


def test_closing_twice_and_from_the_app_s_own_code(broker: BlockingFakeBroker) -> None:
    kept = ExitStack()

    @contextmanager
    def quiesce(_: appvss.Freeze) -> Iterator[None]:
        kept.close()
        yield

    handle = kept.enter_context(
        appvss.serve_in_thread("orders-db", quiesce, runtime_directory=broker.runtime_directory)
    )
    app = broker.app("orders-db")
    assert app.freeze().reason == "the app is stopping"
    app.gone()
    handle.close()
    handle.close()


def test_a_closed_app_leaves_no_thread(broker: BlockingFakeBroker) -> None:
    with serving(broker, Database().quiesce, "leaving") as app:
        assert app.freeze().frozen
        ours = [thread for thread in threading.enumerate() if thread.name.startswith("appvss leaving")]
        assert len(ours) == 3
        assert all(thread.daemon for thread in ours)
    for thread in ours:
        thread.join(BOUND)
        assert not thread.is_alive(), thread.name


def test_one_process_serves_an_app_once_at_a_time(broker: BlockingFakeBroker) -> None:
    with (
        serving(broker, Database().quiesce) as app,
        pytest.raises(UsageError, match="serves orders-db already"),
        serving(broker, Database().quiesce),
    ):
        pass
    app.gone()
    with serving(broker, Database().quiesce) as again:
        assert again.freeze().frozen


@contextmanager
def ended_threads() -> Iterator[queue.SimpleQueue[BaseException | None]]:
    """What ends threads inside this block. It comes a little after the app is gone: take it before the test ends."""
    seen: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    before = threading.excepthook
    threading.excepthook = lambda ending: seen.put(ending.exc_value)
    try:
        yield seen
    finally:
        threading.excepthook = before


def test_what_is_no_exception_is_reported_and_ends_the_app_s_part(broker: BlockingFakeBroker) -> None:
    class Stop(BaseException):
        pass

    with ended_threads() as ended, serving(broker, lambda _: Refusing(Stop("enough"))) as app:
        assert app.freeze().reason == "Stop: enough"
        app.gone()
        assert isinstance(ended.get(timeout=BOUND), Stop)


def test_a_program_that_exits_in_its_own_code_reports_a_lost_hold(broker: BlockingFakeBroker) -> None:
    @contextmanager
    def quiesce(_: appvss.Freeze) -> Iterator[None]:
        yield
        raise SystemExit(3)

    with ended_threads() as ended, serving(broker, quiesce) as app:
        assert app.freeze().frozen
        thawed = app.thaw()
        assert (thawed.unbroken, thawed.reason) == (False, "SystemExit: 3")
        app.gone()
        assert isinstance(ended.get(timeout=BOUND), SystemExit)


# Arguments.


def test_wrong_arguments_are_told_in_the_call(tmp_path: Path) -> None:
    async def asynchronous(_: Any) -> None:
        pass

    def undecorated(_: appvss.Freeze) -> Iterator[None]:
        yield

    def context(_: appvss.Freeze) -> AbstractContextManager[None]:
        return ExitStack()  # type: ignore[return-value]  # any context does

    with pytest.raises(appvss.NameInvalid):
        appvss.serve_in_thread("", context, runtime_directory=tmp_path)
    with pytest.raises(UsageError) as caught:
        appvss.serve_in_thread("orders-db", undecorated, runtime_directory=tmp_path)  # type: ignore[arg-type]  # the mistake
    assert "contextlib.contextmanager" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        appvss.serve_in_thread("orders-db", context, prepare=asynchronous, runtime_directory=tmp_path)
    assert "appvss.serve" in caught.value.hint
