"""One app's stream, and the registry, without gRPC: what is written goes into a list, or waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from appvss.delivery.registry import (
    KNOWN_LIMIT,
    MESSAGES_AT_ONCE,
    OUTBOX_LIMIT,
    REGISTRATIONS_AT_ONCE,
    AppStream,
    Cut,
    Registry,
)
from appvss.model.app import AppId, Peer, Registration
from appvss.model.instant import Instant

NOW = Instant(timedelta(0))
BOUND = 20


class Wire:
    """The other end of a stream."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def write(self, message: bytes) -> None:
        await self.may_write.wait()
        self.written.append(message)


def cut_of(stream: AppStream) -> Cut | None:
    return stream.cut


async def broken(message: bytes) -> None:
    raise ConnectionResetError


@asynccontextmanager
async def stream_on(
    write: Callable[[bytes], Awaitable[None]], name: str = "a", incarnation: str = "1" * 16
) -> AsyncIterator[tuple[AppStream, asyncio.Task[object]]]:
    reader: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait(), name="reader")
    stream = AppStream(Registration(AppId(name)), incarnation, write, reader, NOW, None)
    try:
        yield stream, reader
    finally:
        reader.cancel()
        await asyncio.wait({reader})
        stream.stop_reading()
        await stream.closed()


async def test_what_is_sent_is_written_in_order() -> None:
    wire = Wire()
    async with stream_on(wire.write) as (stream, _):
        for number in range(10):
            stream.send(b"%d" % number)
        await stream.flushed()
        assert wire.written == [b"%d" % number for number in range(10)]
        await stream.flushed()


async def test_sending_never_waits_and_is_bounded() -> None:
    wire = Wire()
    wire.may_write.clear()
    async with stream_on(wire.write) as (stream, reader):
        for _ in range(OUTBOX_LIMIT):
            stream.send(b"x")
        assert cut_of(stream) is None
        stream.send(b"one too many")
        assert cut_of(stream) == Cut("ABORTED", "it does not read what it is sent")
        await asyncio.wait({reader})
        assert reader.cancelled()
        wire.may_write.set()
        stream.send(b"after the cut")
        await stream.flushed()
        assert wire.written == [b"x"] * OUTBOX_LIMIT


async def test_first_reason_of_a_cut_counts() -> None:
    async with stream_on(Wire().write) as (stream, _):
        stream.end("first", "UNAVAILABLE")
        stream.end("second")
        assert stream.cut is not None
        assert (stream.cut.code, stream.cut.reason) == ("UNAVAILABLE", "first")


async def test_cut_after_the_reader_has_ended_cancels_nobody() -> None:
    async with stream_on(Wire().write) as (stream, reader):
        stream.stop_reading()
        stream.end("too late")
        await asyncio.sleep(0)
        assert not reader.cancelled()
        assert not reader.done()


async def test_broken_stream_drops_what_is_queued() -> None:
    async with stream_on(broken) as (stream, _):
        for _ in range(3):
            stream.send(b"x")
        await stream.flushed()
        for _ in range(OUTBOX_LIMIT):
            stream.send(b"x")
        await stream.flushed()
        assert stream.cut is None


async def test_whoever_waits_for_the_flush_is_not_hurt_by_the_end_of_the_stream() -> None:
    wire = Wire()
    wire.may_write.clear()
    async with stream_on(wire.write) as (stream, _):
        stream.send(b"x")
        flushing = asyncio.create_task(stream.flushed())
        await asyncio.sleep(0)
        await stream.closed()
        async with asyncio.timeout(BOUND):
            await flushing
        assert wire.written == []


async def test_registry_keeps_count() -> None:
    registry = Registry(limit=2, limit_per_uid=2)
    async with stream_on(Wire().write, "a") as (a, _), stream_on(Wire().write, "b") as (b, _):
        assert registry.add(a) is None
        assert registry.add(b) is None
        assert (len(registry), set(registry), registry.get(AppId("a"))) == (2, {a, b}, a)
        refusal = registry.refusal(AppId("c"), "2" * 16, None, NOW)
        assert refusal is not None
        assert refusal.code == "RESOURCE_EXHAUSTED"
        assert registry.refusal(AppId("a"), "1" * 16, None, NOW) is None
        assert registry.remove(a)
        assert not registry.remove(a)
        assert registry.refusal(AppId("c"), "2" * 16, None, NOW) is None


async def test_older_stream_is_replaced_and_its_late_end_removes_nothing() -> None:
    registry = Registry(limit=1, limit_per_uid=1)
    async with stream_on(Wire().write) as (old, _), stream_on(Wire().write) as (new, _):
        registry.add(old)
        assert registry.add(new) is old
        assert not registry.remove(old)
        assert registry.get(AppId("a")) is new
        assert registry.remove(new)
        assert registry.refusal(AppId("b"), "1" * 16, None, NOW) is None


@pytest.mark.parametrize(
    ("incarnation", "peer", "code"),
    [
        ("1" * 16, None, ""),
        ("2" * 16, None, "ALREADY_EXISTS"),
        ("1" * 16, Peer(0, 0, 1), "ALREADY_EXISTS"),
        ("1" * 16, Peer(1000, 0, 1), "ALREADY_EXISTS"),
    ],
)
async def test_who_may_take_a_place(incarnation: str, peer: Peer | None, code: str) -> None:
    registry = Registry(limit=5, limit_per_uid=5)
    async with stream_on(Wire().write) as (stream, _):
        registry.add(stream)
        refusal = registry.refusal(AppId("a"), incarnation, peer, NOW)
        assert (refusal.code if refusal else "") == code


# -- how often


def lone_stream(app: AppId, at: Instant) -> AppStream:
    """A stream that nobody reads or writes."""
    done = asyncio.get_running_loop().create_task(asyncio.sleep(0))
    return AppStream(Registration(app), "1" * 16, broken, done, at, None)


def come_and_go(registry: Registry, app: AppId, at: Instant) -> str:
    """An unidentified app registers and leaves; the code of a refusal, if it is refused."""
    refusal = registry.refusal(app, "1" * 16, None, at)
    if refusal is not None:
        return refusal.code
    stream = lone_stream(app, at)
    registry.add(stream)
    registry.remove(stream)
    return ""


def later(seconds: float) -> Instant:
    return NOW + timedelta(seconds=seconds)


async def test_an_app_may_register_so_often_and_then_once_a_second() -> None:
    registry = Registry(10, 100)
    said = [come_and_go(registry, AppId("a"), NOW) for _ in range(REGISTRATIONS_AT_ONCE + 5)]
    assert said == [""] * REGISTRATIONS_AT_ONCE + ["RESOURCE_EXHAUSTED"] * 5
    assert come_and_go(registry, AppId("b"), NOW) == ""
    assert come_and_go(registry, AppId("a"), later(1)) == ""
    assert come_and_go(registry, AppId("a"), later(1)) == "RESOURCE_EXHAUSTED"
    assert registry.registrations(AppId("a")) == REGISTRATIONS_AT_ONCE + 1


async def test_an_app_that_pauses_as_the_sdk_does_is_never_kept_out_for_long() -> None:
    registry, at, refused = Registry(10, 100), 0.0, 0
    for _ in range(2000):  # a stream that always breaks at once: the SDK comes again after 25 ms, refused after 1.75 s
        was_refused = bool(come_and_go(registry, AppId("a"), later(at)))
        refused += was_refused
        at += 1.75 if was_refused else 0.025
    assert refused < 2000 / 2
    assert registry.registrations(AppId("a")) > 1000


async def test_an_app_that_is_restarted_each_second_is_never_refused() -> None:
    registry = Registry(10, 100)
    assert [come_and_go(registry, AppId("a"), later(second)) for second in range(3600)] == [""] * 3600


async def test_all_apps_of_a_user_may_come_back_three_times_at_once() -> None:
    registry = Registry(1000, 1000)
    for _ in range(4):
        assert {come_and_go(registry, AppId("a", str(number)), NOW) for number in range(1000)} == {""}
    assert come_and_go(registry, AppId("b"), NOW) == "RESOURCE_EXHAUSTED"
    assert come_and_go(registry, AppId("b"), later(60)) == ""


async def test_a_user_that_registers_ever_new_names_is_refused_and_leaves_little_behind() -> None:
    registry = Registry(10, 10)
    said = [come_and_go(registry, AppId(f"a{number}"), later(number / 100)) for number in range(2 * KNOWN_LIMIT)]
    assert said.count("") <= 40 + len(said) / 100 * 40 / 60 + 1
    assert len(registry._known) <= KNOWN_LIMIT
    assert len(registry._allowances) <= KNOWN_LIMIT


async def test_a_changed_limit_of_apps_counts_for_their_registrations() -> None:
    registry = Registry(1000, 1)
    said = [come_and_go(registry, AppId(f"a{number}"), NOW) for number in range(5)]
    assert said == [""] * 4 + ["RESOURCE_EXHAUSTED"]
    registry.limit_per_uid = 2
    assert come_and_go(registry, AppId("b"), NOW) == ""


async def test_a_stream_knows_the_last_error_of_the_one_before() -> None:
    registry = Registry(10, 10)
    first = lone_stream(AppId("a"), NOW)
    registry.add(first)
    first.note_error("ack_twice: it did", later(3))
    registry.remove(first)
    second = lone_stream(AppId("a"), later(5))
    assert (second.last_error, second.last_error_at) == ("", None)
    registry.add(second)
    assert (second.last_error, second.last_error_at) == ("ack_twice: it did", later(3))


async def test_questions_allow_answers() -> None:
    stream = lone_stream(AppId("a"), NOW)
    assert sum(stream.allowance.take(NOW) for _ in range(MESSAGES_AT_ONCE + 9)) == MESSAGES_AT_ONCE
    stream.may_answer()
    assert [stream.allowance.take(NOW) for _ in range(3)] == [True, True, False]
