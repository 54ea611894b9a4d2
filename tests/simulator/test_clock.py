"""Alarms by a clock that is moved by hand, and by the machine's own."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from appvss.simulator.clock import Alarms, SystemClock
from tests.simulator.conftest import VirtualClock

SECOND = timedelta(seconds=1)


async def test_alarms_ring_in_order_and_once(clock: VirtualClock) -> None:
    alarms, rung = Alarms(clock), list[str]()
    alarms.ring(clock.now() + 2 * SECOND, lambda: rung.append("late"))
    alarms.ring(clock.now() + SECOND, lambda: rung.append("early"))
    alarms.moved()
    assert rung == []
    clock.advance(2 * SECOND)
    alarms.moved()
    alarms.moved()
    assert rung == ["early", "late"]


async def test_a_cancelled_alarm_does_not_ring(clock: VirtualClock) -> None:
    alarms, rung = Alarms(clock), list[int]()
    second = alarms.ring(clock.now() + SECOND, lambda: rung.append(2))
    alarms.ring(clock.now() + SECOND / 2, lambda: alarms.cancel(second))
    clock.advance(SECOND)
    alarms.moved()
    alarms.cancel(second)
    assert rung == []


async def test_until_returns_when_the_clock_is_there(clock: VirtualClock) -> None:
    alarms = Alarms(clock)
    waiter = asyncio.create_task(alarms.until(clock.now() + SECOND), name="waiter")
    await asyncio.sleep(0)
    alarms.moved()
    await asyncio.sleep(0)
    assert not waiter.done()
    clock.advance(SECOND)
    alarms.moved()
    async with asyncio.timeout(10):
        await waiter


async def test_everything_can_be_rung_at_the_end(clock: VirtualClock) -> None:
    alarms = Alarms(clock)
    waiter = asyncio.create_task(alarms.until(clock.now() + timedelta(days=9999)), name="waiter")
    await asyncio.sleep(0)
    alarms.ring_all()
    async with asyncio.timeout(10):
        await waiter


async def test_the_machines_clock_rings_by_itself_and_not_early() -> None:
    clock = SystemClock()
    alarms, at = Alarms(clock), clock.now() + timedelta(milliseconds=5)
    async with asyncio.timeout(10):
        await alarms.until(at)
    assert clock.now() >= at


def test_the_machines_wall_clock_counts_from_1970() -> None:
    wall = SystemClock().wall()
    assert timedelta(days=365 * 50) < wall < timedelta(days=365 * 200)
