"""The simulator as a whole, used by real threads and processes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import signal
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.simulator.fuse import mount
from appvss.simulator.linux import EventKind, HostOutcome, LinuxSimulator, Phase
from tests.simulator.children import child
from tests.simulator.conftest import VirtualClock

pytestmark = pytest.mark.usefixtures("requires_fuse")

DAEMON = """\
import os, select, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, b"\\x81" + b"\\xee" * 11)
poller = select.poll()
poller.register(fd, select.POLLIN)
poller.poll()
assert os.read(fd, 4) == b"\\x81\\0\\0\\0"
print("registered", flush=True)
while not poller.poll()[0][1] & select.POLLHUP:
    os.read(fd, 12)
    os.write(fd, bytes(12))
"""
READ_FOR_EVER = """\
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
print("open", flush=True)
os.read(fd, 12)
"""
READ_AND_BE_INTERRUPTED = """\
import os, signal, sys
class Rang(Exception): pass
def ring(*_): raise Rang
signal.signal(signal.SIGUSR1, ring)
signal.siginterrupt(signal.SIGUSR1, False)  # SA_RESTART does not help
fd = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
try:
    os.read(fd, 12)
except Rang:
    print("rang", flush=True)
print(os.read(fd, 12).hex(), flush=True)
"""


@pytest.fixture
async def simulator(folder: Path) -> AsyncIterator[LinuxSimulator]:
    async with LinuxSimulator(folder) as simulator:
        yield simulator


def in_read(event: object) -> bool:
    return getattr(event, "kind", None) is EventKind.WAITS and getattr(event, "detail", "") == "in read"


def test_nothing_is_left_behind(folder: Path) -> None:
    async def life() -> None:
        async with LinuxSimulator(folder) as simulator:
            assert simulator.control_folder.is_dir()
            assert simulator.attached

    before = os.listdir("/proc/self/fd")
    asyncio.run(life())
    asyncio.run(life())
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert os.listdir(folder) == []
    assert not mount.control_folder(folder).exists()


async def test_a_whole_backup_with_a_daemon_in_another_process(simulator: LinuxSimulator) -> None:
    async with child(DAEMON, simulator.device) as daemon:
        result = await simulator.host.backup(hold=timedelta(0))
        assert result.ok
        wrote = [event for event in simulator.events if event.kind is EventKind.WROTE]
        assert [(event.operation, event.process) for event in wrote] == [
            ("check", daemon.pid),
            ("freeze", daemon.pid),
            ("thaw", daemon.pid),
        ]
        simulator.remove()
        await daemon.wait()
        await simulator.wait_for(EventKind.DETACHED)
    assert not simulator.attached
    assert not await asyncio.to_thread(simulator.device.exists)


async def test_a_daemon_that_is_killed_fails_what_is_open_and_what_comes(simulator: LinuxSimulator) -> None:
    async with child(READ_FOR_EVER, simulator.device) as daemon:
        await simulator.wait_for(in_read)
        await simulator.host.dm_info()
        freeze = asyncio.create_task(simulator.host.freeze(), name="freeze")
        await simulator.wait_for(EventKind.RECEIVED)
        daemon.kill()
        result = await freeze
        assert (result.outcome, result.status) == (HostOutcome.FAILED, 0x80004005)
    await simulator.wait_for(EventKind.CLOSED)
    assert (await simulator.host.thaw()).status == 0x80004005


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_read_that_waits_holds_no_end_up(simulator: LinuxSimulator, number: int) -> None:
    """C29: O_NONBLOCK is not looked at. The process can be ended all the same."""
    async with child(READ_FOR_EVER, simulator.device) as reader:
        await simulator.wait_for(in_read)
        reader.send_signal(number)
        assert await reader.wait() == -number
    await simulator.wait_for(EventKind.CLOSED)


async def test_a_signal_interrupts_a_read_and_loses_nothing(simulator: LinuxSimulator) -> None:
    """C28."""
    async with child(READ_AND_BE_INTERRUPTED, simulator.device) as reader:
        assert reader.stdout is not None
        await simulator.wait_for(in_read)
        before = simulator.event_count
        reader.send_signal(signal.SIGUSR1)
        assert await reader.stdout.readline() == b"rang\n"
        await simulator.wait_for(in_read, after=before)
        await simulator.host.dm_info()
        simulator.host.send(6)
        assert await reader.stdout.readline() == b"060000000000000000000000\n"


async def test_of_two_reads_that_wait_one_gets_the_message_and_one_must_come_again(simulator: LinuxSimulator) -> None:
    descriptor = await asyncio.to_thread(os.open, simulator.device, os.O_RDWR)
    try:
        before = simulator.event_count
        reads = [asyncio.create_task(asyncio.to_thread(os.read, descriptor, 12)) for _ in range(2)]
        first = await simulator.wait_for(in_read, after=before)
        await simulator.wait_for(in_read, after=first.number)
        await simulator.host.dm_info()
        simulator.host.send(5)
        done, _ = await asyncio.wait(reads)
        results = [task.exception() or task.result() for task in done]
        assert bytes.fromhex("050000000000000000000000") in results
        (again,) = (result for result in results if isinstance(result, OSError))
        assert again.errno == errno.EAGAIN
    finally:
        await asyncio.to_thread(os.close, descriptor)


async def test_a_removal_wakes_whoever_reads_or_polls(simulator: LinuxSimulator) -> None:
    descriptor = await asyncio.to_thread(os.open, simulator.device, os.O_RDWR)
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    before = simulator.event_count
    read = asyncio.create_task(asyncio.to_thread(os.read, descriptor, 12))
    await simulator.wait_for(in_read, after=before)
    polled = asyncio.create_task(asyncio.to_thread(poller.poll))
    await simulator.wait_for(lambda event: event.detail == "in poll", after=before)
    simulator.remove()
    assert await polled == [(descriptor, select.POLLERR | select.POLLHUP)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        await read
    state = simulator.state()
    assert state is not None
    assert (state.phase, state.is_open) == (Phase.DEVICE_DYING, True)
    await asyncio.to_thread(os.close, descriptor)
    await simulator.wait_for(EventKind.DETACHED)
    simulator.attach()
    os.close(await asyncio.to_thread(os.open, simulator.device, os.O_RDWR))


async def test_epoll_and_asyncio_can_wait_for_it(simulator: LinuxSimulator) -> None:
    descriptor = await asyncio.to_thread(os.open, simulator.device, os.O_RDWR)
    poller = select.epoll()
    try:
        await asyncio.to_thread(poller.register, descriptor, select.EPOLLIN)
        before = simulator.event_count
        polled = asyncio.create_task(asyncio.to_thread(poller.poll, 10))
        await simulator.wait_for(lambda event: event.detail == "in poll")
        await asyncio.to_thread(os.write, descriptor, b"\x81" + bytes(11))
        assert await polled == [(descriptor, select.EPOLLIN)]
        assert simulator.event_count > before
    finally:
        poller.close()
        await asyncio.to_thread(os.close, descriptor)


async def test_what_the_device_cannot_do(simulator: LinuxSimulator) -> None:
    descriptor = await asyncio.to_thread(os.open, simulator.device, os.O_RDWR)
    try:
        found = await asyncio.to_thread(os.fstat, descriptor)
        assert stat.S_IMODE(found.st_mode) == 0o600
        for act in (
            lambda: fcntl.ioctl(descriptor, 0x1234),
            lambda: os.lseek(descriptor, 1, os.SEEK_SET),
            lambda: os.mkdir(simulator.directory / "folder"),
        ):
            with pytest.raises(OSError, match=r"Inappropriate|Illegal seek|not permitted"):
                await asyncio.to_thread(act)
    finally:
        await asyncio.to_thread(os.close, descriptor)


async def test_the_kernels_limits_pass_with_the_clock(folder: Path, clock: VirtualClock) -> None:
    async with LinuxSimulator(folder, clock=clock) as simulator:
        descriptor = await asyncio.to_thread(os.open, simulator.device, os.O_RDWR)
        await simulator.host.dm_info()
        freeze = asyncio.create_task(simulator.host.freeze(), name="freeze")
        await simulator.wait_for(EventKind.RECEIVED)
        clock.advance(timedelta(seconds=900))
        simulator.clock_moved()
        result = await freeze
        assert (result.status, result.took) == (0x80004005, timedelta(seconds=900))
        await asyncio.to_thread(os.close, descriptor)
