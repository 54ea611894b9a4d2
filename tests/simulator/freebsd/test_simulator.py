"""The simulator as a whole, used by real threads and processes."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import select
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.freebsd import EventKind, FreebsdSimulator, HostOutcome, Side
from appvss.simulator.fuse import mount
from appvss.sources.wire.freebsd import LINUX, SUCCESS, Message, Operation, decode, encode
from tests.simulator.children import OPEN_AND_WAIT, child
from tests.simulator.conftest import VirtualClock

pytestmark = pytest.mark.usefixtures("requires_fuse")

ANSWER_FOR_EVER = """\
import fcntl, os, select, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
poller = select.poll()
poller.register(fd, select.POLLIN)
print('open', flush=True)
while True:
    poller.poll()
    message = bytearray(64)
    fcntl.ioctl(fd, 0x80407602, message, True)
    if not message[4]:
        fcntl.ioctl(fd, 0x40407603, bytes(message))
"""
OPEN_AS_NOBODY = """\
import os, sys
os.setgroups([])
os.setresgid(int(sys.argv[2]), int(sys.argv[2]), int(sys.argv[2]))
os.setresuid(65534, 65534, 65534)
for flags in (os.O_RDONLY, os.O_RDWR):
    try:
        os.close(os.open(sys.argv[1], flags))
        print("opened")
    except OSError as error:
        print(error.errno)
"""


@pytest.fixture
async def simulator(folder: Path) -> AsyncIterator[FreebsdSimulator]:
    async with FreebsdSimulator(folder) as simulator:
        yield simulator


def code_of(act: Callable[[], object]) -> int:
    try:
        act()
    except OSError as error:
        return error.errno or 0
    return 0


def test_nothing_is_left_behind(folder: Path) -> None:
    async def life() -> None:
        async with FreebsdSimulator(folder) as simulator:
            assert simulator.control_folder.is_dir()
            assert EventKind.OPENED in [event.kind for event in simulator.events]

    before = os.listdir("/proc/self/fd")
    asyncio.run(life())
    asyncio.run(life())
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert os.listdir(folder) == []
    assert not mount.control_folder(folder).exists()


async def test_a_whole_backup_with_an_app_in_another_process(simulator: FreebsdSimulator) -> None:
    async with child(ANSWER_FOR_EVER, simulator.app_device) as app:
        result = await simulator.host.backup(hold=timedelta(0))
        assert result.ok
        read = [event for event in simulator.events if event.kind is EventKind.READ and event.side is Side.APP]
        assert [(event.operation, event.process) for event in read] == [
            ("check", app.pid),
            ("freeze", app.pid),
            ("thaw", app.pid),
        ]


async def test_both_sides_in_other_processes(folder: Path) -> None:
    async with (
        FreebsdSimulator(folder, automatic_fs=False) as simulator,
        child(ANSWER_FOR_EVER, simulator.app_device),
        child(ANSWER_FOR_EVER, simulator.fs_device),
    ):
        for _ in range(20):
            assert (await simulator.host.backup(hold=timedelta(0))).ok


async def test_an_app_that_is_killed_with_a_request_in_its_hands(folder: Path, clock: VirtualClock) -> None:
    async with FreebsdSimulator(folder, clock=clock) as simulator:
        async with child(OPEN_AND_WAIT, simulator.app_device):
            freeze = asyncio.create_task(simulator.host.freeze(), name="freeze")
            await simulator.wait_for(EventKind.WOKEN)
        await simulator.wait_for(EventKind.CLOSED)
        state = simulator.state()
        assert state is not None
        assert not state.app_registered
        assert [request.places for request in state.requests] == [("app waiting",)]
        clock.advance(timedelta(seconds=15))
        simulator.clock_moved()
        assert (await freeze).outcome is HostOutcome.FAILED


async def test_what_the_device_cannot_do(simulator: FreebsdSimulator) -> None:
    def use() -> None:
        descriptor = os.open(simulator.app_device, os.O_RDWR | os.O_NONBLOCK)
        try:
            assert code_of(lambda: os.read(descriptor, 64)) == errno.ENODEV
            assert code_of(lambda: os.write(descriptor, bytes(64))) == errno.ENODEV
            assert code_of(lambda: shared_map(descriptor)) == errno.ENODEV
            assert os.lseek(descriptor, 5, os.SEEK_SET) == 5
            assert os.isatty(descriptor)
            assert code_of(lambda: os.open(simulator.app_device, os.O_RDONLY)) == errno.EBUSY
        finally:
            os.close(descriptor)

    def shared_map(descriptor: int) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        library.mmap.restype = ctypes.c_void_p
        if library.mmap(None, 4096, 1, 1, descriptor, 0) == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")

    await asyncio.to_thread(use)


async def test_the_folder_has_the_nodes_and_nothing_else(simulator: FreebsdSimulator) -> None:
    def use() -> None:
        assert sorted(os.listdir(simulator.directory)) == ["hv_appvss_dev", "hv_fsvss_dev"]
        assert stat.S_IMODE(simulator.app_device.stat().st_mode) == 0o640
        assert code_of(lambda: (simulator.directory / "new").touch()) == errno.EPERM
        assert code_of((simulator.directory / "new").mkdir) == errno.EPERM
        assert code_of(simulator.app_device.unlink) == errno.EPERM
        assert code_of(lambda: simulator.app_device.rename(simulator.directory / "new")) == errno.EPERM
        assert code_of(lambda: os.statvfs(simulator.directory)) == 0
        with open(simulator.app_device, "wb") as file:  # truncates, which a device ignores
            assert file.fileno() > 0

    await asyncio.to_thread(use)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
async def test_rights_are_kept_by_the_kernel(simulator: FreebsdSimulator) -> None:
    def try_as(group: int) -> list[str]:
        words = [sys.executable, "-ISc", OPEN_AS_NOBODY, str(simulator.app_device), str(group)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.split()

    simulator.directory.parent.chmod(0o755)
    assert await asyncio.to_thread(try_as, 4242) == [str(errno.EACCES), str(errno.EACCES)]
    await asyncio.to_thread(os.chown, simulator.app_device, 0, 4242)
    assert await asyncio.to_thread(try_as, 4242) == ["opened", str(errno.EACCES)]


async def test_reopening_at_once_never_finds_it_busy(simulator: FreebsdSimulator) -> None:
    def open_and_close() -> None:
        for _ in range(300):
            os.close(os.open(simulator.app_device, os.O_RDONLY))

    await asyncio.to_thread(open_and_close)


async def test_a_copy_of_the_descriptor_keeps_the_device_open(simulator: FreebsdSimulator) -> None:
    def use() -> None:
        first = os.open(simulator.app_device, os.O_RDONLY)
        second = os.dup(first)
        os.close(first)
        assert code_of(lambda: os.open(simulator.app_device, os.O_RDONLY)) == errno.EBUSY
        os.close(second)
        os.close(os.open(simulator.app_device, os.O_RDONLY))

    await asyncio.to_thread(use)


async def test_many_callers_at_once(simulator: FreebsdSimulator) -> None:
    """One holds the device, forty others want it: every call is answered."""

    def want() -> int:
        return sum(code_of(lambda: os.open(simulator.app_device, os.O_RDONLY)) == errno.EBUSY for _ in range(20))

    holder = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        wants = [tasks.create_task(asyncio.to_thread(want), name=f"want-{number}") for number in range(40)]
    assert [task.result() for task in wants] == [20] * 40
    await asyncio.to_thread(os.close, holder)


async def test_a_second_simulator_is_refused_and_harms_nothing(simulator: FreebsdSimulator) -> None:
    with pytest.raises(SimulatorUnavailable, match="another simulator"):
        async with FreebsdSimulator(simulator.directory):
            pytest.fail("it was let in")
    assert sorted(await asyncio.to_thread(os.listdir, simulator.directory)) == ["hv_appvss_dev", "hv_fsvss_dev"]


async def test_a_folder_that_is_not_empty_is_refused_and_left_alone(folder: Path) -> None:
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread((folder / "file").touch)
    with pytest.raises(SimulatorUnavailable, match="not empty"):
        async with FreebsdSimulator(folder):
            pytest.fail("it was mounted")
    assert os.listdir(folder) == ["file"]
    assert os.listdir(folder.parent) == ["dev"]


async def test_two_folders_are_two_machines(folder: Path) -> None:
    other = folder.with_name("other")
    async with FreebsdSimulator(folder) as first, FreebsdSimulator(other) as second:
        descriptor = await asyncio.to_thread(os.open, first.app_device, os.O_RDONLY)
        assert (await second.host.freeze()).ok
        await asyncio.to_thread(os.close, descriptor)


async def test_leaving_wakes_whoever_waits(folder: Path) -> None:
    def wait() -> int:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return poller.poll(60_000)[0][1]

    async with FreebsdSimulator(folder) as simulator:
        descriptor = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
        waiting = asyncio.create_task(asyncio.to_thread(wait), name="waiting")
        await simulator.wait_for(EventKind.WAITS)
    async with asyncio.timeout(10):
        assert await waiting & select.POLLERR
    assert await asyncio.to_thread(code_of, lambda: fcntl.ioctl(descriptor, LINUX.read, bytearray(64))) in (
        errno.ENOTCONN,
        errno.ECONNABORTED,
    )
    os.close(descriptor)


async def test_somebody_else_unmounts_it(simulator: FreebsdSimulator) -> None:
    await asyncio.to_thread(mount.unmount, simulator.directory)
    async with asyncio.timeout(10):
        await simulator.wait_gone()
    await simulator.wait_for(EventKind.UNMOUNTED)


async def test_an_exception_in_the_block_unmounts_too(folder: Path) -> None:
    async def life() -> None:
        async with FreebsdSimulator(folder):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await life()
    assert os.listdir(folder) == []


async def test_a_cancelled_block_unmounts_too(folder: Path) -> None:
    entered = asyncio.Event()

    async def life() -> None:
        async with FreebsdSimulator(folder):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(life(), name="life")
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(folder) == []


async def test_everything_is_told_to_observer_and_watchers(folder: Path) -> None:
    observed: list[int] = []
    async with FreebsdSimulator(folder, observer=lambda event: observed.append(event.number)) as simulator:
        watch = simulator.watch()
        first = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        after = simulator.event_count
        await simulator.host.dm_info()
        assert (await first).number == after + 1
        assert observed == list(range(1, simulator.event_count + 1)) == [event.number for event in simulator.events]
        reply = await simulator.wait_for(lambda event: event.status == SUCCESS, after=after)
        assert reply.kind is EventKind.REPLIED
        with pytest.raises(TimeoutError):
            await simulator.wait_for(EventKind.PANICKED, timeout=timedelta(milliseconds=1))


async def test_the_wall_clock_jumps_for_the_guest_alone(simulator: FreebsdSimulator) -> None:
    def answer() -> Message:
        descriptor = os.open(simulator.app_device, os.O_RDONLY)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(10_000)
        buffer = bytearray(64)
        fcntl.ioctl(descriptor, LINUX.read, buffer, True)
        fcntl.ioctl(descriptor, LINUX.write, encode(decode(buffer)))
        os.close(descriptor)
        return decode(buffer)

    simulator.shift_wall(timedelta(days=-365))
    app = asyncio.create_task(asyncio.to_thread(answer), name="app")
    await simulator.wait_for(EventKind.OPENED, after=simulator.event_count)
    assert (await simulator.host.check()).ok
    message = await app
    assert message.operation is Operation.CHECK
    received = await simulator.wait_for(EventKind.RECEIVED)
    assert received.msgid == message.msgid


async def test_a_debug_kernel_panics_for_real(folder: Path) -> None:
    async with FreebsdSimulator(folder, debug_kernel=True) as simulator:
        descriptor = await asyncio.to_thread(os.open, simulator.app_device, os.O_RDONLY)
        freeze = asyncio.create_task(simulator.host.freeze(), name="freeze")
        await simulator.wait_for(EventKind.WOKEN)

        def answer_wrongly() -> int:
            buffer = bytearray(64)
            fcntl.ioctl(descriptor, LINUX.read, buffer, True)
            wrong = Message(Operation.THAW, SUCCESS, decode(buffer).msgid)
            return code_of(lambda: fcntl.ioctl(descriptor, LINUX.write, encode(wrong)))

        assert await asyncio.to_thread(answer_wrongly) == errno.ENXIO
        assert (await freeze).outcome is HostOutcome.UNANSWERED
        assert not simulator.attached
        await asyncio.to_thread(os.close, descriptor)
