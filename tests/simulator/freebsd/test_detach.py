"""Detaching kills real processes, takes the nodes away and leaves dead descriptors (vector 6, section 1)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appvss.simulator.freebsd import EventKind, FreebsdSimulator, HostOutcome, Side
from appvss.sources.wire.freebsd import LINUX
from tests.simulator.children import OPEN_AND_WAIT, OPEN_CLOSE_AND_WAIT, OPEN_IN_A_THREAD_AND_WAIT, child

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.fixture
async def simulator(folder: Path) -> AsyncIterator[FreebsdSimulator]:
    async with FreebsdSimulator(folder, automatic_fs=False) as simulator:
        yield simulator


async def death_of(process: Process) -> int:
    async with asyncio.timeout(10):
        return await process.wait()


async def test_vector_6_both_openers_die_the_app_although_it_had_closed(simulator: FreebsdSimulator) -> None:
    async with (
        child(OPEN_CLOSE_AND_WAIT, simulator.app_device) as app,
        child(OPEN_AND_WAIT, simulator.fs_device) as file_system,
        child(OPEN_AND_WAIT, os.devnull) as stranger,
    ):
        simulator.detach()
        assert await death_of(app) == -signal.SIGKILL
        assert await death_of(file_system) == -signal.SIGKILL
        assert stranger.returncode is None
        killed = [(event.side, event.process) for event in simulator.events if event.kind is EventKind.KILLED]
        assert killed == [(Side.FS, file_system.pid), (Side.APP, app.pid)]


async def test_the_whole_process_of_a_thread_that_opened_dies(simulator: FreebsdSimulator) -> None:
    async with child(OPEN_IN_A_THREAD_AND_WAIT, simulator.app_device) as app:
        assert [event.process for event in simulator.events if event.kind is EventKind.OPENED] == [app.pid]
        simulator.detach()
        assert await death_of(app) == -signal.SIGKILL


async def test_only_the_last_opener_is_remembered(simulator: FreebsdSimulator) -> None:
    async with (
        child(OPEN_CLOSE_AND_WAIT, simulator.app_device) as first,
        child(OPEN_AND_WAIT, simulator.app_device) as second,
    ):
        simulator.detach()
        assert await death_of(second) == -signal.SIGKILL
        assert first.returncode is None


async def test_an_opener_that_is_gone_is_not_mistaken_for_another(simulator: FreebsdSimulator) -> None:
    async with child(OPEN_AND_WAIT, simulator.app_device) as app:
        app.kill()
        await death_of(app)
    simulator.detach()
    assert [event.kind for event in simulator.events if event.side is Side.APP][-1] is EventKind.SPARED


async def test_the_nodes_vanish_and_come_back_new(simulator: FreebsdSimulator) -> None:
    before = await asyncio.to_thread(simulator.app_device.stat)
    simulator.detach()
    assert await asyncio.to_thread(os.listdir, simulator.directory) == []
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
    simulator.attach()
    assert sorted(await asyncio.to_thread(os.listdir, simulator.directory)) == ["hv_appvss_dev", "hv_fsvss_dev"]
    after = await asyncio.to_thread(simulator.app_device.stat)
    assert after.st_ino != before.st_ino


def errno_of_ioctl(descriptor: int, number: int) -> int:
    try:
        fcntl.ioctl(descriptor, number, bytearray(64), True)
    except OSError as error:
        return error.errno or 0
    return 0


def poll_now(descriptor: int) -> list[tuple[int, int]]:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return poller.poll(0)


@pytest.mark.parametrize("attached_again", [False, True], ids=["gone", "attached again"])
async def test_a_held_descriptor_is_dead(simulator: FreebsdSimulator, attached_again: bool) -> None:
    held = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
    try:
        simulator.detach()
        if attached_again:
            simulator.attach()
        for number in (LINUX.read, LINUX.write, 0x7699):
            assert await asyncio.to_thread(errno_of_ioctl, held, number) == errno.ENXIO
        assert await asyncio.to_thread(poll_now, held) == [(held, select.POLLHUP)]
    finally:
        await asyncio.to_thread(os.close, held)
    if attached_again:
        # The old descriptor's close is not the new device's.
        new = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
        assert EventKind.CLOSED not in [event.kind for event in simulator.events]
        await asyncio.to_thread(os.close, new)


async def test_the_host_gets_no_reply_any_more(simulator: FreebsdSimulator) -> None:
    waiting = asyncio.create_task(simulator.host.freeze(), name="freeze")
    await simulator.wait_for(EventKind.HOST_SENT)
    simulator.detach()
    assert (await waiting).outcome is HostOutcome.UNANSWERED
    result = await simulator.host.freeze()
    assert (result.outcome, result.detail) == (HostOutcome.UNANSWERED, "the driver is not attached")


async def test_detaching_and_attaching_may_be_repeated(simulator: FreebsdSimulator) -> None:
    for _ in range(3):
        simulator.detach()
        simulator.detach()
        assert not simulator.attached
        assert simulator.state() is None
        simulator.attach()
        simulator.attach()
        assert simulator.attached
    kinds = [event.kind for event in simulator.events]
    assert kinds.count(EventKind.DETACHED) == 3
    assert kinds.count(EventKind.ATTACHED) == 4
