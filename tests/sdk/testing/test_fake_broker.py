"""The fake broker over its socket, against apps that keep the contract and a client that does not."""

from __future__ import annotations

import inspect
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import appvss
from appvss import contract
from appvss.model.errors import NameInvalid, UsageError
from appvss.sdk.testing import BlockingFakeApp, BlockingFakeBroker, FakeApp, FakeBroker
from appvss.v1 import app_pb2, app_pb2_grpc
from appvss.v1.app_pb2 import AttachRequest, AttachResponse

BOUND = 10.0
SHORT = timedelta(milliseconds=50)
INCARNATION = "0123456789abcdef"


def hello(name: str = "raw", **fields: object) -> AttachRequest:
    given = {"protocol_versions": [1], "incarnation": INCARNATION, "name": name, **fields}
    return AttachRequest(hello=app_pb2.Hello(**given))  # type: ignore[arg-type]  # fields of the message by name


class RawApp:
    """An app without a library: it says what the test says."""

    def __init__(self, broker: BlockingFakeBroker, token: str | None = None) -> None:
        path = broker.runtime_directory / contract.APPS_SOCKET
        self._channel = grpc.insecure_channel(f"unix:{path}", options=contract.APP_CHANNEL_OPTIONS)
        self._said: queue.SimpleQueue[AttachRequest | None] = queue.SimpleQueue()
        metadata = ((contract.TOKEN_METADATA, token),) if token is not None else ()
        stub = app_pb2_grpc.AppServiceStub(self._channel)
        self._call = stub.Attach(iter(self._said.get, None), metadata=metadata, timeout=BOUND)

    def say(self, *messages: AttachRequest) -> None:
        for message in messages:
            self._said.put(message)

    def hear(self) -> AttachResponse:
        return next(self._call)

    def refused(self) -> grpc.StatusCode:
        """The code with which the call ends."""
        with pytest.raises(grpc.RpcError):
            self.hear()
        code: grpc.StatusCode = self._call.code()
        return code

    def close(self) -> None:
        self._said.put(None)
        self._call.cancel()
        self._channel.close()


@pytest.fixture
def broker() -> Iterator[BlockingFakeBroker]:
    with BlockingFakeBroker() as started:
        yield started


@contextmanager
def raw(broker: BlockingFakeBroker, *said: AttachRequest, token: str | None = None) -> Iterator[RawApp]:
    app = RawApp(broker, token)
    try:
        app.say(*said)
        yield app
    finally:
        app.close()


@contextmanager
def token_of(broker: BlockingFakeBroker) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as side:
        side.settimeout(BOUND)
        side.connect(str(broker.runtime_directory / contract.PEER_SOCKET))
        with side.makefile("r") as lines:
            yield lines.readline().removesuffix("\n")


# The table at Attach.


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (AttachRequest(ready=app_pb2.Ready(cycle="c")), grpc.StatusCode.INVALID_ARGUMENT),
        (AttachRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (hello("no name"), grpc.StatusCode.INVALID_ARGUMENT),
        (hello(instance="!"), grpc.StatusCode.INVALID_ARGUMENT),
        (hello(incarnation="short"), grpc.StatusCode.INVALID_ARGUMENT),
        (hello(after=["x"] * 33), grpc.StatusCode.INVALID_ARGUMENT),
        (hello(paths=["/x"] * 65), grpc.StatusCode.INVALID_ARGUMENT),
        (hello(protocol_versions=[2, 3]), grpc.StatusCode.FAILED_PRECONDITION),
        (hello(protocol_versions=[]), grpc.StatusCode.FAILED_PRECONDITION),
        (hello(paths=["/" + "x" * 70_000]), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_a_wrong_hello_is_refused(broker: BlockingFakeBroker, first: AttachRequest, code: grpc.StatusCode) -> None:
    with raw(broker, first) as app:
        assert app.refused() is code


def test_a_name_is_taken_by_another_incarnation_only(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as first, raw(broker) as other, raw(broker) as same:
        assert first.hear().welcome.protocol_version == 1
        other.say(hello(incarnation="f" * 16))
        assert other.refused() is grpc.StatusCode.ALREADY_EXISTS
        same.say(hello())
        assert same.hear().HasField("welcome")
        assert first.refused() is grpc.StatusCode.CANCELLED
        assert broker.app("raw").attachments == 2


def test_a_token_is_good_once(broker: BlockingFakeBroker) -> None:
    with token_of(broker) as token:
        assert len(token) == contract.TOKEN_LENGTH
        assert set(token) <= set("0123456789abcdef")
        with raw(broker, hello(), token=token) as app:
            assert app.hear().HasField("welcome")
            assert broker.app("raw").peer is not None
            with raw(broker, hello("again"), token=token) as again:
                assert again.refused() is grpc.StatusCode.UNAUTHENTICATED
    with raw(broker, hello("unknown"), token="0" * 64) as unknown:
        assert unknown.refused() is grpc.StatusCode.UNAUTHENTICATED


def test_an_app_without_a_token_may_be_turned_away() -> None:
    with BlockingFakeBroker(unidentified=False) as strict, raw(strict, hello()) as app:
        assert app.refused() is grpc.StatusCode.PERMISSION_DENIED


def test_the_end_of_the_side_connection_is_the_end_of_the_app(broker: BlockingFakeBroker) -> None:
    with token_of(broker) as token, raw(broker, hello(), token=token) as app:
        assert app.hear().HasField("welcome")
        seen = broker.app("raw")
        assert seen.attached
    seen.gone()


def test_a_hello_that_does_not_come_in_time_is_not_awaited(broker: BlockingFakeBroker) -> None:
    with raw(broker) as app:
        assert app.refused() is grpc.StatusCode.DEADLINE_EXCEEDED


# Messages.


def test_a_message_that_is_not_accepted_is_refused_and_the_stream_goes_on(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        app.say(AttachRequest(frozen=app_pb2.Frozen(cycle="c")))
        assert app.hear().refusal.name == "ack_before_asked"
        seen = broker.app("raw")
        assert [each.name for each in seen.refusals] == ["ack_before_asked"]
        assert seen.held == ""
        app.say(hello())
        assert app.refused() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_app_that_does_not_answer_is_not_awaited_for_ever(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        seen = broker.app("raw")
        for ask in (seen.prepare, seen.freeze, seen.thaw):
            with pytest.raises(TimeoutError, match="raw did not answer"):
                ask(within=SHORT)
        with pytest.raises(TimeoutError, match="say that its hold is lost"):
            seen.hold_lost(within=SHORT)
        with pytest.raises(TimeoutError, match="raw did not come back"):
            seen.returned(within=SHORT)
        with pytest.raises(TimeoutError, match="raw did not go"):
            seen.gone(within=SHORT)


def test_an_app_that_goes_does_not_answer(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        seen = broker.app("raw")

        def leave_when_asked() -> None:
            app.hear()
            app.close()

        asking = threading.Thread(target=leave_when_asked)
        asking.start()
        with pytest.raises(ConnectionError, match=r"the stream of raw ended before it answered the freeze of cycle-1"):
            seen.freeze()
        asking.join(BOUND)
        with pytest.raises(ConnectionError, match="raw is not attached"):
            seen.thaw()
        with pytest.raises(ConnectionError, match="raw is not attached"):
            seen.send(AttachResponse())


def test_a_thaw_needs_a_cycle(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        with pytest.raises(UsageError, match="no cycle has been asked"):
            broker.app("raw").thaw()


def test_no_more_is_asked_than_the_app_declares(broker: BlockingFakeBroker) -> None:
    first = hello()
    first.hello.hold_limit.FromTimedelta(timedelta(seconds=3))
    with raw(broker, first) as app:
        assert app.hear().HasField("welcome")
        with pytest.raises(TimeoutError):
            broker.app("raw").freeze(hold_limit=timedelta(hours=1), within=SHORT)
        assert app.hear().freeze.hold_limit.seconds == 3


def test_every_word_of_a_broker_can_be_said_and_none_of_them_is_answered(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        seen = broker.app("raw")
        seen.tell_filesystem_freeze("c")
        seen.goodbye("the test says so")
        seen.refuse_message("not_now", "the test says so")
        seen.send_unknown()
        assert app.hear().filesystem_freeze.cycle == "c"
        assert app.hear().goodbye.reason == "the test says so"
        assert app.hear().refusal.name == "not_now"
        for _ in range(2):
            assert app.hear().WhichOneof("message") is None
        assert seen.heard == 0


def test_what_is_asked_without_waiting_is_answered_in_a_future(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello(prepares=True)) as app:
        assert app.hear().HasField("welcome")
        seen = broker.app("raw")
        preparing, freezing = seen.ask_prepare("c"), seen.ask_freeze("c")
        assert not freezing.done()
        app.say(AttachRequest(ready=app_pb2.Ready(cycle="c")), AttachRequest(frozen=app_pb2.Frozen(cycle="c")))
        assert preparing.result(BOUND).ready
        assert freezing.result(BOUND).frozen
        thawing, aborting = seen.ask_thaw("c"), seen.ask_abort("the test says so", "c")
        app.say(*2 * [AttachRequest(thawed=app_pb2.Thawed(cycle="c", unbroken=True))])
        assert thawing.result(BOUND).unbroken
        assert aborting.result(BOUND).unbroken
        assert seen.heard == 4


def test_an_ack_after_its_budget_says_by_how_much(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        seen = broker.app("raw")
        with pytest.raises(TimeoutError):
            seen.freeze("c", budget=SHORT, within=3 * SHORT)
        app.say(AttachRequest(frozen=app_pb2.Frozen(cycle="c")))
        assert app.hear().HasField("freeze")
        assert app.hear().refusal.name == "ack_too_late"
        (refusal,) = seen.refusals
        assert refusal.late_by is not None
        assert refusal.late_by > SHORT


def test_evidence_that_would_be_cut_is_named(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        asked = broker.app("raw").ask_freeze("c")
        evidence = {"short": "x", "long": 257 * "x", "torn": "a\nb"}
        app.say(AttachRequest(frozen=app_pb2.Frozen(cycle="c", evidence=evidence)))
        assert set(asked.result(BOUND).evidence_changed) == {"long", "torn"}


def test_whoever_comes_first_is_met_and_whoever_is_turned_away_is_remembered(broker: BlockingFakeBroker) -> None:
    with pytest.raises(TimeoutError, match="no app attached"):
        broker.first_app(within=SHORT)
    with raw(broker, hello("no name")) as app:
        assert app.refused() is grpc.StatusCode.INVALID_ARGUMENT
    with raw(broker, hello("one")) as one, raw(broker, hello("two")) as two:
        assert one.hear().HasField("welcome")
        assert two.hear().HasField("welcome")
        assert broker.first_app().registration.app.name in {"one", "two"}
        assert {app.name for app in broker.attached} == {"one", "two"}
    broker.refuse(grpc.StatusCode.PERMISSION_DENIED, "the test says so")
    with raw(broker, hello("three")) as app:
        assert app.refused() is grpc.StatusCode.PERMISSION_DENIED
    assert [(each.code, each.app) for each in broker.turned_away] == [
        ("INVALID_ARGUMENT", "no name"),
        ("PERMISSION_DENIED", "three"),
    ]


# Start and stop.


def test_a_broker_starts_again_in_its_place(broker: BlockingFakeBroker) -> None:
    before = broker.runtime_directory
    with pytest.raises(UsageError, match="runs already"):
        broker.start()
    broker.stop()
    broker.stop()
    assert sorted(path.name for path in before.iterdir()) == []
    broker.start()
    assert broker.runtime_directory == before
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")


def test_a_goodbye_comes_before_the_end(broker: BlockingFakeBroker) -> None:
    with raw(broker, hello()) as app:
        assert app.hear().HasField("welcome")
        broker.stop("an update")
        assert app.hear().goodbye.reason == "an update"
        assert app.refused() is grpc.StatusCode.UNAVAILABLE


def test_a_broker_goes_without_a_trace() -> None:
    before = {thread.name for thread in threading.enumerate() if thread.name.startswith("fake broker")}
    with BlockingFakeBroker() as broker:
        directory = broker.runtime_directory
        with raw(broker, hello()) as app:
            assert app.hear().HasField("welcome")
    assert not directory.exists()
    for thread in threading.enumerate():
        if thread.name.startswith("fake broker") and thread.name not in before:
            thread.join(BOUND)
            assert not thread.is_alive()


def test_a_given_directory_is_kept(tmp_path: Path) -> None:
    with BlockingFakeBroker(tmp_path) as broker:
        assert broker.runtime_directory == tmp_path
    assert tmp_path.exists()


def test_a_broker_that_was_not_started_says_so() -> None:
    with pytest.raises(UsageError, match="has not been started"):
        _ = BlockingFakeBroker().runtime_directory


def test_an_impossible_name_is_told_at_once(broker: BlockingFakeBroker) -> None:
    with pytest.raises(NameInvalid):
        broker.app("no name")
    with pytest.raises(TimeoutError, match=r"absent\[eu\] did not attach within 50.0ms"):
        broker.app("absent", "eu", within=SHORT)


def test_both_fronts_have_the_same_methods() -> None:
    for blocking, asynchronous in ((BlockingFakeBroker, FakeBroker), (BlockingFakeApp, FakeApp)):
        first, second = (
            {
                name: [(each.name, each.default) for each in inspect.signature(value).parameters.values()]
                for name, value in inspect.getmembers(front, inspect.isfunction)
                if not name.startswith("_")
            }
            for front in (blocking, asynchronous)
        )
        assert first == second


async def test_an_app_with_threads_can_be_asked_from_an_event_loop() -> None:
    async with FakeBroker() as broker:
        handle = appvss.serve_in_thread("mixed", lambda _: threading.Lock(), runtime_directory=broker.runtime_directory)
        app = await broker.app("mixed")
        assert (await app.freeze()).frozen
        with pytest.raises(TimeoutError, match="mixed did not go"):
            await app.gone(within=SHORT)
        assert (await app.thaw()).unbroken
        handle.close()
        await app.gone()
