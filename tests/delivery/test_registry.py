"""One app's stream, and the registry, without gRPC: what is written goes into a list, or waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from appvss.delivery.registry import OUTBOX_LIMIT, AppStream, Cut, Registry
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
        refusal = registry.refusal(AppId("c"), "2" * 16, None)
        assert refusal is not None
        assert refusal.code == "RESOURCE_EXHAUSTED"
        assert registry.refusal(AppId("a"), "1" * 16, None) is None
        assert registry.remove(a)
        assert not registry.remove(a)
        assert registry.refusal(AppId("c"), "2" * 16, None) is None


async def test_older_stream_is_replaced_and_its_late_end_removes_nothing() -> None:
    registry = Registry(limit=1, limit_per_uid=1)
    async with stream_on(Wire().write) as (old, _), stream_on(Wire().write) as (new, _):
        registry.add(old)
        assert registry.add(new) is old
        assert not registry.remove(old)
        assert registry.get(AppId("a")) is new
        assert registry.remove(new)
        assert registry.refusal(AppId("b"), "1" * 16, None) is None


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
        refusal = registry.refusal(AppId("a"), incarnation, peer)
        assert (refusal.code if refusal else "") == code
