"""Watchers and their bounded queues."""

from __future__ import annotations

import asyncio

from appvss.delivery.watch import QUEUE_LIMIT, WATCHERS_LIMIT, Watchers
from appvss.v1 import types_pb2


def event(number: int) -> types_pb2.Event:
    return types_pb2.Event(kind=str(number))


async def test_everybody_gets_every_event_in_order() -> None:
    watchers = Watchers()
    first, second = watchers.add(), watchers.add()
    for number in range(3):
        watchers.publish(event(number))
    for watcher in (first, second):
        assert [await watcher.get() for _ in range(3)] == [event(number) for number in range(3)]


async def test_nothing_is_seen_from_before_and_after() -> None:
    watchers = Watchers()
    watchers.publish(event(0))
    watcher = watchers.add()
    watchers.publish(event(1))
    watchers.remove(watcher)
    watchers.remove(watcher)
    watchers.publish(event(2))
    watchers.close()
    assert await watcher.get() == event(1)
    assert len(watchers) == 0


async def test_slow_watcher_overflows_alone() -> None:
    watchers = Watchers()
    slow, quick = watchers.add(), watchers.add()
    for number in range(QUEUE_LIMIT + 1):
        assert not slow.overflowed
        watchers.publish(event(number))
        assert await quick.get() == event(number)
    assert slow.overflowed
    assert not quick.overflowed
    watchers.close()
    for number in range(QUEUE_LIMIT):
        assert await slow.get() == event(number)
    assert await slow.get() is None


async def test_end_comes_after_what_is_queued_also_for_a_full_queue_and_a_late_watcher() -> None:
    watchers = Watchers()
    full = watchers.add()
    for number in range(QUEUE_LIMIT):
        watchers.publish(event(number))
    waiting = watchers.add()
    task = asyncio.create_task(waiting.get())
    await asyncio.sleep(0)
    watchers.close()
    watchers.close()
    assert await task is None
    assert [await full.get() for _ in range(QUEUE_LIMIT)][-1] == event(QUEUE_LIMIT - 1)
    assert await full.get() is None
    assert await watchers.add().get() is None


def test_there_is_a_limit() -> None:
    watchers = Watchers()
    kept = [watchers.add() for _ in range(WATCHERS_LIMIT)]
    assert watchers.is_full
    watchers.remove(kept[0])
    assert not watchers.is_full
