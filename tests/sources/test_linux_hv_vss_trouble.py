"""The source on what is not the device, on one that is in use, and on one that lies, fails, hangs or dies."""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tenacity import wait_fixed

from appvss.model.errors import (
    DeviceAbsent,
    DeviceBusy,
    DeviceForbidden,
    DeviceWrong,
    SourceError,
)
from appvss.model.request import Answer, RequestKind
from appvss.model.source import SourceCondition, SourceMode
from appvss.simulator.clock import Alarms
from appvss.simulator.event import EventRecord
from appvss.simulator.fuse import abi, mount
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import FuseConnection
from appvss.simulator.host import Host
from appvss.simulator.hyperv import HostOperation
from appvss.simulator.linux import MODERN
from appvss.simulator.linux.device import NODE_NAME, Device
from appvss.simulator.linux.machine import Machine
from appvss.sources.device_source import STOP_LIMIT
from appvss.sources.device_thread import Arrived, News, Opened, Unasked
from appvss.sources.linux_hv_vss import LinuxHvVssSettings, LinuxHvVssSource
from appvss.sources.linux_hv_vss.device import LinuxHvVssDevice
from appvss.sources.linux_vss.holder import holder_of
from appvss.sources.linux_vss.ledger import Ledger
from appvss.sources.wire.linux_hv_vss import encode_operation
from tests.simulator.children import child
from tests.sources.device_support import (
    NOTHING,
    WAIT,
    Listener,
    MachineClock,
    VirtualClock,
    left_behind,
    make_path,
    new_since,
    running,
    without_override,
)
from tests.sources.linux_scene import opened_by_us, short_folder, staged
from tests.sources.trouble import Troubled, Usual, mounted, on

OPEN_AS = """\
import os, sys
open("/proc/self/comm", "w").write(sys.argv[2])
fd = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
sys.stdin.read()
"""


def source_of(path: Path | str, mode: SourceMode = SourceMode.AUTOMATIC) -> LinuxHvVssSource:
    return LinuxHvVssSource(LinuxHvVssSettings(device=str(path), mode=mode), MachineClock(), pause=wait_fixed(WAIT))


# What is not the device


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("missing", DeviceAbsent, "does not exist"),
        ("below a file", DeviceAbsent, "does not exist"),
        ("plain", DeviceWrong, "ready to be written"),
        ("folder", DeviceWrong, "it cannot be opened"),
        ("fifo", DeviceWrong, "ready to be written"),
        ("null", DeviceWrong, "ready to be written"),
        ("loop", DeviceWrong, "it cannot be opened"),
    ],
)
async def test_a_path_that_is_not_the_device_is_named_and_left_alone(
    tmp_path: Path, kind: str, error: type[SourceError], words: str
) -> None:
    before = left_behind()
    path = make_path(tmp_path, kind)
    source = source_of(path, SourceMode.REQUIRED)
    with pytest.raises(error, match=words) as caught:
        async with asyncio.timeout(WAIT):
            await source.run(Listener())
    assert str(path) in caught.value.sentence
    assert caught.value.hint.endswith(".")
    assert new_since(before) == NOTHING
    if kind == "plain":
        assert path.read_text() == "somebody's file"
    listener = Listener()
    async with running(source_of(path), listener):
        assert words in (await listener.next_state(SourceCondition.WAITING)).detail


async def test_off_is_off(tmp_path: Path) -> None:
    source, listener = source_of(tmp_path / "device", SourceMode.OFF), Listener()
    async with asyncio.timeout(WAIT):
        await source.run(listener)
    assert (source.state.condition, listener.states) == (SourceCondition.OFF, [])


def test_a_device_without_rights_is_forbidden(tmp_path: Path) -> None:
    weaker = without_override()
    path = tmp_path / "device"
    path.touch(mode=0)
    program = (
        "import asyncio, sys\n"
        "from appvss.model.errors import SourceError\n"
        "from tests.sources.test_linux_hv_vss_trouble import Listener, SourceMode, source_of\n"
        "try:\n"
        "    asyncio.run(source_of(sys.argv[1], SourceMode.REQUIRED).run(Listener()))\n"
        "except SourceError as error:\n"
        "    print(error.name, error.sentence)\n"
    )
    command = [*weaker, sys.executable, "-c", program, str(path)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=WAIT, check=True)
    assert answer.stdout == f"{DeviceForbidden.__name__} uid {os.geteuid()} may not open {path}\n"


# Who has it


@pytest.mark.parametrize(
    ("program", "hint"), [("hv_vss_daemon", "systemctl mask --now hv-vss-daemon"), ("other", "Stop that process")]
)
async def test_who_has_the_device_open_is_named(program: str, hint: str) -> None:
    async with staged() as scene:
        settings = LinuxHvVssSettings(device=str(scene.simulator.device), mode=SourceMode.REQUIRED)
        async with child(OPEN_AS, scene.simulator.device, program) as holder:
            with pytest.raises(DeviceBusy) as caught:
                async with asyncio.timeout(WAIT):
                    await LinuxHvVssSource(settings, scene.clock).run(scene.listener)
            assert f"is open in process {holder.pid} ({program})" in caught.value.sentence
            assert hint in caught.value.hint
            async with running(scene.source, scene.listener):
                await scene.listener.next_state(SourceCondition.WAITING)
                holder.kill()
                await scene.serving()
                assert (await scene.round_trip(HostOperation.CHECK)).ok


async def test_a_holder_that_cannot_be_seen_is_not_invented() -> None:
    """It is this process: nobody else has it."""
    async with staged() as scene, opened_by_us(scene.simulator.device):
        assert await asyncio.to_thread(holder_of, str(scene.simulator.device)) is None
        async with running(scene.source, scene.listener):
            detail = (await scene.listener.next_state(SourceCondition.WAITING)).detail
    assert "is open in another process" in detail
    assert "fuser -v" in detail


async def test_nobody_else_gets_the_device_while_it_is_served() -> None:
    async with staged() as scene, running(scene.source, scene.listener):
        await scene.serving()
        with pytest.raises(OSError, match="busy"):
            async with opened_by_us(scene.simulator.device):
                pass


# One that dies


@contextmanager
def simulator_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from appvss.cli.main import main; main()", "simulate", "linux", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready"):
                break
        else:
            pytest.skip("no FUSE here")
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_a_device_that_dies_is_lost_and_the_next_one_is_served() -> None:
    with short_folder() as folder:
        listener = Listener()
        settings = LinuxHvVssSettings(device=str(folder / NODE_NAME))
        source = LinuxHvVssSource(settings, MachineClock(), pause=wait_fixed(0.02))
        with simulator_process(folder) as process:
            async with running(source, listener):
                await listener.next_state(SourceCondition.SERVING)
                process.kill()
                lost = await listener.next_state(SourceCondition.LOST)
                assert listener.losses == [("linux_hv_vss", lost.detail)]
                await listener.next_state(SourceCondition.WAITING)
                with simulator_process(folder):
                    await listener.next_state(SourceCondition.SERVING)
        await asyncio.to_thread(mount.unmount, folder)


# One that does what the driver never does


class TroubledDevice(Troubled, Device):
    """The simulator's device, with some of its answers replaced."""


@dataclass
class Stage:
    path: Path
    device: TroubledDevice
    machine: Machine
    host: Host
    connection: FuseConnection
    clock: VirtualClock

    def source(self, mode: SourceMode = SourceMode.AUTOMATIC) -> LinuxHvVssSource:
        settings = LinuxHvVssSettings(device=str(self.path), mode=mode)
        return LinuxHvVssSource(settings, self.clock, pause=wait_fixed(WAIT), release="6.1")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    clock, record = VirtualClock(), EventRecord()
    alarms = Alarms(clock)
    machine = Machine(clock, alarms, record, MODERN)
    device, host = TroubledDevice(machine), Host(machine, alarms, clock)
    machine.listeners = [device.notice, host.notice]
    async with mounted(device, machine.attach) as (folder, connection):
        yield Stage(folder / NODE_NAME, device, machine, host, connection, clock)
        connection.close()
    host.give_up("the end")
    alarms.ring_all()


@pytest.mark.parametrize(
    ("trouble", "error", "words"),
    [
        (on(Opcode.WRITE, errno.EIO), DeviceWrong, "it does not take a registration: Input/output error"),
        (on(Opcode.WRITE, errno.EINVAL), DeviceWrong, "it does not take a registration: Invalid argument"),
        (on(Opcode.WRITE, errno.EBADF), DeviceAbsent, "is being removed"),
        (on(Opcode.POLL, abi.poll_reply(select.POLLHUP)), DeviceAbsent, "is being removed"),
        (on(Opcode.READ, errno.EIO), DeviceWrong, "it does not take a registration"),
        (on(Opcode.READ, b"12345"), DeviceWrong, "has 5 bytes"),
        (on(Opcode.OPEN, errno.EBADF), DeviceAbsent, "is being removed"),
    ],
)
async def test_a_device_that_does_not_begin_like_one_is_the_wrong_one(
    stage: Stage, trouble: Callable[[Request], bytes | None], error: type[SourceError], words: str
) -> None:
    stage.device.trouble = trouble
    with pytest.raises(error, match=words):
        async with asyncio.timeout(WAIT):
            await stage.source(SourceMode.REQUIRED).run(Listener())


def device_on(stage: Stage, news: queue.SimpleQueue[News], patience: timedelta) -> LinuxHvVssDevice:
    settings = LinuxHvVssSettings(device=str(stage.path))
    ledger = Ledger(settings, settings.budgets("6.1"))
    return LinuxHvVssDevice(str(stage.path), ledger, stage.clock, news.put, patience=patience)


async def test_a_registration_that_is_not_answered_is_not_waited_for_long(stage: Stage) -> None:
    stage.device.trouble = on(Opcode.WRITE, abi.write_reply(12))
    device = device_on(stage, queue.SimpleQueue(), timedelta(milliseconds=50))
    device.start()
    with pytest.raises(DeviceWrong, match="does not answer a registration"):
        async with asyncio.timeout(WAIT):
            await asyncio.wrap_future(device.finished)
    device.stop()


async def test_stopping_does_not_wait_for_the_answer_to_the_registration(stage: Stage) -> None:
    stage.device.trouble = on(Opcode.WRITE, abi.write_reply(12))
    device = device_on(stage, queue.SimpleQueue(), timedelta(hours=1))
    device.start()
    async with asyncio.timeout(WAIT):
        await stage.device.struck.wait()
        device.stop()
        assert await asyncio.wrap_future(device.finished) is None


async def test_an_operation_that_nobody_knows_is_refused(stage: Stage) -> None:
    """No kernel passes one on so far. What is not understood is not agreed to."""
    written: list[bytes] = []
    read = iter([encode_operation(7), encode_operation(9)])

    def trouble(request: Request) -> bytes | None:
        if request.opcode == Opcode.READ and request.unique and stage.machine.state().unread == "freeze":
            stage.machine.read(12, 0)
            return next(read)
        if request.opcode == Opcode.WRITE:
            written.append(abi.parse_write(request.body)[1])
        raise Usual

    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    device = device_on(stage, news, timedelta(seconds=WAIT))
    device.start()
    assert isinstance(await asyncio.to_thread(news.get, True, WAIT), Opened)
    stage.device.trouble = trouble
    for number in (7, 9):
        asked = asyncio.create_task(stage.host.freeze(), name="freeze")
        said = await asyncio.to_thread(news.get, True, WAIT)
        assert said == Unasked(f"operation {number} is refused: this broker does not know it")
        async with asyncio.timeout(WAIT):
            assert (await asked).status == 0x80004005
    stage.device.trouble = None
    stage.host.send(HostOperation.FREEZE)
    arrived = await asyncio.to_thread(news.get, True, WAIT)
    assert isinstance(arrived, Arrived)
    assert arrived.request.kind is RequestKind.FREEZE
    device.stop()
    async with asyncio.timeout(WAIT):
        assert await asyncio.wrap_future(device.finished) is None
    assert [data.hex() for data in written] == ["054000800000000000000000"] * 2


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (on(Opcode.READ, errno.EBADF), "is gone: Bad file descriptor"),
        (on(Opcode.READ, b"12345"), "does not behave any more: the device's message has 5 bytes"),
        (on(Opcode.READ, b""), "does not behave any more: the device's message has 0 bytes"),
        (on(Opcode.POLL, abi.poll_reply(select.POLLERR | select.POLLHUP)), "is being removed: poll(2) reports 0x18"),
    ],
)
async def test_a_device_that_fails_while_it_serves_is_lost(
    stage: Stage, trouble: Callable[[Request], bytes | None], words: str
) -> None:
    listener, before = Listener(), left_behind()
    async with running(stage.source(), listener):
        await listener.next_state(SourceCondition.SERVING)
        stage.device.trouble = trouble
        stage.host.send(HostOperation.FREEZE)
        state = await listener.next_state(SourceCondition.LOST)
        assert words in state.detail
        assert (listener.losses, listener.requests) == ([("linux_hv_vss", state.detail)], [])
        assert new_since(before)[1:] == NOTHING[1:]


@pytest.mark.parametrize(("code", "words"), [(errno.EBADF, "is gone"), (errno.EFAULT, "nobody waits any more")])
async def test_a_device_that_fails_to_take_an_answer_is_lost(stage: Stage, code: int, words: str) -> None:
    source, listener = stage.source(), Listener()
    async with running(source, listener):
        await listener.next_state(SourceCondition.SERVING)
        stage.host.send(HostOperation.FREEZE)
        request = await listener.next_request()
        stage.device.trouble = on(Opcode.WRITE, code)
        source.answer(Answer(request, go_on=True, reason=""))
        state = await listener.next_state(SourceCondition.LOST)
    assert words in state.detail
    assert listener.losses == [("linux_hv_vss", state.detail)]


@pytest.mark.parametrize("opcode", [Opcode.OPEN, Opcode.WRITE])
async def test_cancelling_does_not_wait_for_a_system_call_that_hangs(
    stage: Stage, opcode: Opcode, caplog: pytest.LogCaptureFixture
) -> None:
    before = left_behind()
    stage.device.trouble = on(opcode, None)
    began = time.monotonic()
    async with running(stage.source(), Listener()), asyncio.timeout(WAIT):
        await stage.device.struck.wait()
    assert STOP_LIMIT.total_seconds() <= time.monotonic() - began < WAIT
    assert "hangs in a system call and is left behind" in caplog.text
    # The kernel lets go of the thread, which then puts everything away.
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "appvss-linux-hv-vss")
    stage.connection.close()
    await asyncio.to_thread(thread.join, WAIT)
    assert new_since(before)[1:] == NOTHING[1:]
