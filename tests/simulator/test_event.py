"""The record of what happened: bounded, numbered, waited for."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from appvss.simulator.clock import Moment
from appvss.simulator.event import RECORD_LIMIT, WATCHER_LIMIT, Event, EventKind, EventRecord
from tests.simulator.conftest import VirtualClock

SOON = timedelta(seconds=10)


@pytest.fixture
def event(clock: VirtualClock) -> Event:
    return Event(EventKind.OPENED, Moment(clock.now(), clock.wall()))


def test_events_are_numbered_and_the_oldest_go(event: Event) -> None:
    record = EventRecord()
    for _ in range(RECORD_LIMIT + 5):
        record.add(event)
    assert record.count == RECORD_LIMIT + 5
    assert [kept.number for kept in record.events()] == list(range(6, RECORD_LIMIT + 6))


async def test_waiting_finds_what_was_and_what_will_be(event: Event) -> None:
    record = EventRecord()
    first = record.add(event)
    assert await record.wait_for(lambda _: True, after=0, timeout=SOON) == first
    waiter = asyncio.create_task(record.wait_for(lambda _: True, after=1, timeout=SOON), name="waiter")
    await asyncio.sleep(0)
    assert not waiter.done()
    record.add(event)
    assert (await waiter).number == 2


async def test_waiting_ends(event: Event) -> None:
    record = EventRecord()
    record.add(event)
    with pytest.raises(TimeoutError):
        await record.wait_for(lambda _: False, after=0, timeout=timedelta(milliseconds=1))


async def test_a_watcher_sees_everything_from_its_beginning_in_order(event: Event) -> None:
    record = EventRecord()
    record.add(event)
    watch = record.watch()
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    record.add(event)
    record.add(event)
    assert [(await first).number, (await anext(watch)).number] == [2, 3]


async def test_a_slow_watcher_loses_the_oldest(event: Event) -> None:
    record = EventRecord()
    watch = record.watch()
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    for _ in range(WATCHER_LIMIT + 10):
        record.add(event)
    assert (await first).number == 11
