"""The source on a device that does what the driver never does: it lies, fails, or hangs a system call for good."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tenacity import wait_fixed

from appvss.model.errors import DeviceWrong, SourceError
from appvss.model.request import Answer
from appvss.model.source import SourceCondition, SourceMode
from appvss.simulator.clock import Alarms
from appvss.simulator.event import EventRecord, Side
from appvss.simulator.freebsd import FsSide, Host, HostOperation
from appvss.simulator.freebsd.device import NODE_NAMES, Device
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import FuseConnection
from appvss.sources.device_opener import DeviceOpener
from appvss.sources.device_source import STOP_LIMIT
from appvss.sources.freebsd import FreebsdSettings, FreebsdSource
from appvss.sources.wire.freebsd import LAYOUT, LINUX
from tests.sources.device_support import NOTHING, WAIT, Listener, VirtualClock, left_behind, new_since, running
from tests.sources.trouble import Troubled, Usual, mounted, on


class TroubledDevice(Troubled, Device):
    """The simulator's device, with some of its answers replaced."""


def on_ioctl(command: int, answer: bytes | int) -> Callable[[Request], bytes]:
    """Answer that ioctl with these bytes, or with this errno."""

    def trouble(request: Request) -> bytes:
        if request.opcode != Opcode.IOCTL or abi.parse_ioctl(request.body).command != command:
            raise Usual
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return abi.ioctl_reply(answer)

    return trouble


def poll_says(events: int) -> Callable[[Request], bytes | None]:
    return on(Opcode.POLL, abi.poll_reply(events))


@dataclass
class Stage:
    path: Path
    device: TroubledDevice
    machine: Machine
    host: Host
    connection: FuseConnection
    clock: VirtualClock

    def source(self, mode: SourceMode = SourceMode.AUTOMATIC) -> FreebsdSource:
        return FreebsdSource(FreebsdSettings(device=str(self.path), mode=mode), self.clock, pause=wait_fixed(WAIT))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    clock, record = VirtualClock(), EventRecord()
    alarms = Alarms(clock)
    machine = Machine(clock, alarms, record, debug_kernel=False)
    device, host, fs = TroubledDevice(machine), Host(machine, alarms, clock), FsSide(machine, automatic=True)
    machine.listeners = [device.notice, host.notice, fs.notice]
    async with mounted(device, machine.attach) as (folder, connection):
        yield Stage(folder / NODE_NAMES[Side.APP], device, machine, host, connection, clock)
        connection.close()
    host.give_up("the end")
    alarms.ring_all()
    machine.close()


@pytest.mark.parametrize(
    "data", [bytes(64), b"\xff" * 64, LAYOUT.pack(9, 0, 1), LAYOUT.pack(0, 0, 1), LAYOUT.pack(0, 1, 1)]
)
async def test_a_device_that_says_yes_to_everything_is_the_wrong_one(stage: Stage, data: bytes) -> None:
    stage.device.trouble = on_ioctl(LINUX.read, data)
    with pytest.raises(DeviceWrong, match=f"{stage.path} is not the driver's device: its READ brings no message"):
        async with asyncio.timeout(WAIT):
            await stage.source(SourceMode.REQUIRED).run(Listener())


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (on_ioctl(LINUX.read, errno.ENXIO), "is gone: "),
        (on_ioctl(LINUX.read, errno.ENOTTY), "is gone: "),
        (on_ioctl(LINUX.read, LAYOUT.pack(9, 0, 1)), "does not behave any more: "),
        (on_ioctl(LINUX.read, bytes(64)), "does not behave any more: "),
        (poll_says(select.POLLHUP), "is gone: poll(2) reports 0x10"),
        (poll_says(select.POLLIN | select.POLLERR), "is gone: poll(2) reports 0x9"),
    ],
)
async def test_a_device_that_fails_while_it_serves_is_lost(
    stage: Stage, trouble: Callable[[Request], bytes], words: str
) -> None:
    listener, before = Listener(), left_behind()
    async with running(stage.source(), listener):
        await listener.next_state(SourceCondition.SERVING)
        stage.device.trouble = trouble
        stage.host.send(HostOperation.FREEZE)
        state = await listener.next_state(SourceCondition.LOST)
        assert f"{stage.path} {words}" in state.detail
        assert listener.losses == [("freebsd", state.detail)]
        assert listener.requests == []
        assert new_since(before)[1:] == NOTHING[1:]


async def test_a_device_that_fails_to_take_an_answer_is_lost(stage: Stage) -> None:
    source, listener = stage.source(), Listener()
    async with running(source, listener):
        await listener.next_state(SourceCondition.SERVING)
        stage.device.trouble = on_ioctl(LINUX.write, errno.ENXIO)
        stage.host.send(HostOperation.FREEZE)
        request = await listener.next_request()
        source.answer(Answer(request, go_on=True, reason=""))
        state = await listener.next_state(SourceCondition.LOST)
    assert state.detail == f"{stage.path} is gone: {os.strerror(errno.ENXIO)}"
    assert listener.losses == [("freebsd", state.detail)]


async def test_an_open_that_hangs_is_given_up_and_not_begun_twice(stage: Stage) -> None:
    stage.device.trouble = on(Opcode.OPEN, None)
    opener = DeviceOpener(str(stage.path), limit=timedelta(seconds=0.5))
    reading, writing = os.pipe()
    try:
        with pytest.raises(SourceError, match=f"opening {stage.path} took longer than 500.0ms"):
            await asyncio.to_thread(opener.open, reading)
        assert stage.device.struck.is_set()
        with pytest.raises(SourceError, match=r"process \d+, which tried to open .* before, cannot be ended"):
            await asyncio.to_thread(opener.open, reading)
        # The kernel lets go of the child; the next attempt is an ordinary one again.
        stage.connection.close()
        with pytest.raises(OSError, match="not connected"):
            await asyncio.to_thread(opener.open, reading)
    finally:
        os.close(reading)
        os.close(writing)
    assert not left_behind()[2]


async def test_cancelling_does_not_wait_for_an_open_that_hangs(stage: Stage) -> None:
    stage.device.trouble = on(Opcode.OPEN, None)
    source, listener = stage.source(), Listener()
    began = time.monotonic()
    async with running(source, listener), asyncio.timeout(WAIT):
        await stage.device.struck.wait()
    assert time.monotonic() - began < STOP_LIMIT.total_seconds()
    assert left_behind()[2]
    # The kernel lets go of the child; whoever opens next reaps it.
    stage.connection.close()
    async with running(source, listener):
        assert "it cannot be opened" in (await listener.next_state()).detail
    assert not left_behind()[2]


async def test_cancelling_does_not_wait_for_an_ioctl_that_hangs(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    listener, before = Listener(), left_behind()
    began = time.monotonic()
    async with running(stage.source(), listener):
        await listener.next_state(SourceCondition.SERVING)
        stage.device.trouble = on(Opcode.IOCTL, None)
        stage.host.send(HostOperation.FREEZE)
        async with asyncio.timeout(WAIT):
            await stage.device.struck.wait()
    assert STOP_LIMIT.total_seconds() <= time.monotonic() - began < WAIT
    assert "hangs in a system call and is left behind" in caplog.text
    # The kernel lets go of the thread, which then puts everything away.
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "appvss-freebsd")
    stage.connection.close()
    await asyncio.to_thread(thread.join, WAIT)
    assert new_since(before)[1:] == NOTHING[1:]
