"""How a program may wait for the device, through real system calls: vectors 53 to 56, and trap 3 of section 0."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import selectors
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appvss.simulator.freebsd import EventKind, FreebsdSimulator, HostOperation
from appvss.sources.wire.freebsd import LINUX
from tests.simulator.children import POLL_FOR_EVER, child

pytestmark = pytest.mark.usefixtures("requires_fuse")

SHORT = 0.05


class Waiter:
    """An open app device, with the ways to wait for it."""

    def __init__(self, simulator: FreebsdSimulator, descriptor: int) -> None:
        self.simulator = simulator
        self.descriptor = descriptor

    def poll(self, milliseconds: int, events: int = select.POLLIN) -> list[tuple[int, int]]:
        poller = select.poll()
        poller.register(self.descriptor, events)
        return poller.poll(milliseconds)

    def select(self, seconds: float) -> tuple[list[int], list[int], list[int]]:
        return select.select([self.descriptor], [self.descriptor], [self.descriptor], seconds)

    def epoll(self, seconds: float) -> list[tuple[int, int]]:
        with select.epoll() as epoll:
            epoll.register(self.descriptor, select.EPOLLIN)
            return epoll.poll(seconds)

    def read(self) -> bytes:
        buffer = bytearray(64)
        fcntl.ioctl(self.descriptor, LINUX.read, buffer, True)
        return bytes(buffer)


@pytest.fixture
async def waiter(folder: Path) -> AsyncIterator[Waiter]:
    async with FreebsdSimulator(folder) as simulator:
        descriptor = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
        yield Waiter(simulator, descriptor)
        await asyncio.to_thread(os.close, descriptor)


async def test_poll_is_level_triggered_until_the_request_is_read(waiter: Waiter) -> None:
    assert await asyncio.to_thread(waiter.poll, 0) == []
    waiter.simulator.host.send(HostOperation.FREEZE)
    for _ in range(3):
        assert await asyncio.to_thread(waiter.poll, 0) == [(waiter.descriptor, select.POLLIN)]
    await asyncio.to_thread(waiter.read)
    assert await asyncio.to_thread(waiter.poll, 0) == []


async def test_poll_that_asks_for_the_bands_of_select_works_too(waiter: Waiter) -> None:
    waiter.simulator.host.send(HostOperation.FREEZE)
    events = select.POLLIN | select.POLLRDBAND | select.POLLOUT | select.POLLPRI
    assert await asyncio.to_thread(waiter.poll, 0, events) == [(waiter.descriptor, select.POLLIN)]


async def test_a_sleeping_poll_is_woken(waiter: Waiter) -> None:
    sleeping = asyncio.create_task(asyncio.to_thread(waiter.poll, 60_000), name="sleeper")
    await waiter.simulator.wait_for(EventKind.WAITS)
    waiter.simulator.host.send(HostOperation.CHECK)
    async with asyncio.timeout(10):
        assert await sleeping == [(waiter.descriptor, select.POLLIN)]


async def test_select_never_sees_it_ready(waiter: Waiter) -> None:
    waiter.simulator.host.send(HostOperation.FREEZE)
    assert await asyncio.to_thread(waiter.select, SHORT) == ([], [], [])
    told = await waiter.simulator.wait_for(EventKind.WAIT_IN_VAIN)
    assert "select(2)" in told.detail
    assert await asyncio.to_thread(waiter.poll, 0) == [(waiter.descriptor, select.POLLIN)]


async def test_select_is_not_ready_when_a_request_arrives(waiter: Waiter) -> None:
    sleeping = asyncio.create_task(asyncio.to_thread(waiter.select, 0.3), name="sleeper")
    await waiter.simulator.wait_for(EventKind.WAIT_IN_VAIN)
    waiter.simulator.host.send(HostOperation.FREEZE)
    assert await sleeping == ([], [], [])


async def test_epoll_never_sees_it_ready(waiter: Waiter) -> None:
    waiter.simulator.host.send(HostOperation.FREEZE)
    assert await asyncio.to_thread(waiter.epoll, SHORT) == []
    told = await waiter.simulator.wait_for(EventKind.WAIT_IN_VAIN)
    assert "kqueue" in told.detail


async def test_epoll_is_not_ready_when_a_request_arrives(waiter: Waiter) -> None:
    sleeping = asyncio.create_task(asyncio.to_thread(waiter.epoll, 0.3), name="sleeper")
    await waiter.simulator.wait_for(EventKind.WAIT_IN_VAIN)
    waiter.simulator.host.send(HostOperation.FREEZE)
    assert await sleeping == []


async def test_each_way_of_waiting_in_vain_is_told_once(waiter: Waiter) -> None:
    for _ in range(3):
        await asyncio.to_thread(waiter.select, 0)
        await asyncio.to_thread(waiter.epoll, 0)
    kinds = [event.kind for event in waiter.simulator.events]
    assert kinds.count(EventKind.WAIT_IN_VAIN) == 2


@pytest.mark.parametrize("events", [0, select.POLLRDNORM], ids=["0", "POLLRDNORM"])
async def test_linux_hides_pollin_from_those_who_did_not_ask(waiter: Waiter, events: int) -> None:
    """Vector 53 as far as Linux goes: FreeBSD shows POLLIN whatever was asked for, Linux masks it."""
    waiter.simulator.host.send(HostOperation.FREEZE)
    assert await asyncio.to_thread(waiter.poll, 0, events) == []


def one_round_of(loop_selector: type[selectors.BaseSelector], descriptor: int) -> bool:
    """Whether an event loop of that selector calls the reader of the descriptor within a short time."""
    loop = asyncio.SelectorEventLoop(loop_selector())
    called = threading.Event()

    def stop() -> None:
        called.set()
        loop.stop()

    try:
        loop.add_reader(descriptor, stop)
        loop.call_later(SHORT, loop.stop)
        loop.run_forever()
        loop.remove_reader(descriptor)
    finally:
        loop.close()
    return called.is_set()


@pytest.mark.parametrize(
    ("loop_selector", "works"),
    [(selectors.PollSelector, True), (selectors.EpollSelector, False), (selectors.SelectSelector, False)],
)
async def test_an_event_loop_needs_the_poll_selector(
    waiter: Waiter, loop_selector: type[selectors.BaseSelector], works: bool
) -> None:
    waiter.simulator.host.send(HostOperation.FREEZE)
    assert await asyncio.to_thread(one_round_of, loop_selector, waiter.descriptor) == works


async def test_a_poller_that_is_killed_leaves_the_device_free(folder: Path) -> None:
    async with FreebsdSimulator(folder) as simulator:
        async with child(POLL_FOR_EVER, simulator.app_device) as poller:
            waiting = await simulator.wait_for(EventKind.WAITS)
            assert waiting.process == poller.pid
        await simulator.wait_for(EventKind.CLOSED)
        descriptor = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
        await asyncio.to_thread(os.close, descriptor)
