"""The test vectors on the mounted files, through real system calls from other threads."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.simulator.freebsd import Event, EventKind, FreebsdSimulator, Side
from appvss.simulator.freebsd.driver import KernelPanic
from appvss.simulator.hyperv import vss_message
from appvss.sources.wire.freebsd import LINUX
from tests.simulator.conftest import VirtualClock
from tests.simulator.freebsd.stage import HOST_BODY, Stage
from tests.simulator.freebsd.vectors import DEBUG_KERNEL, VECTORS, Vector

UNKNOWN_IOCTL = 0x7699
"""_IO('v', 0x99)"""


class FuseBench:
    """The mounted files. Every system call runs in a thread, never on the loop that answers it."""

    def __init__(self, simulator: FreebsdSimulator, clock: VirtualClock) -> None:
        self._simulator = simulator
        self._clock = clock
        self._paths = {Side.APP: simulator.app_device, Side.FS: simulator.fs_device}
        self.descriptors: dict[Side, int] = {}
        self._seen = 0

    async def open(self, side: Side) -> None:
        self.descriptors[side] = await asyncio.to_thread(os.open, self._paths[side], os.O_RDONLY)

    async def close(self, side: Side) -> None:
        before = self._simulator.event_count
        await asyncio.to_thread(os.close, self.descriptors.pop(side))
        await self._simulator.wait_for(EventKind.CLOSED, after=before)

    async def read(self, side: Side) -> bytes:
        buffer = bytearray(b"\xaa" * 64)
        await asyncio.to_thread(fcntl.ioctl, self.descriptors[side], LINUX.read, buffer, True)
        return bytes(buffer)

    async def write(self, side: Side, data: bytes) -> None:
        buffer = bytearray(data)
        try:
            assert await asyncio.to_thread(fcntl.ioctl, self.descriptors[side], LINUX.write, buffer, True) == 0
        except OSError:
            self._raise_panic()
            raise
        assert buffer == data

    async def unknown_ioctl(self, side: Side) -> None:
        assert await asyncio.to_thread(fcntl.ioctl, self.descriptors[side], UNKNOWN_IOCTL) == 0

    async def polls(self, side: Side) -> bool:
        poller = select.poll()
        poller.register(self.descriptors[side], select.POLLIN)
        ready = await asyncio.to_thread(poller.poll, 0)
        assert ready in ([], [(self.descriptors[side], select.POLLIN)])
        return bool(ready)

    async def host_sends(self, operation: int, transaction: int, vmbus_id: int) -> None:
        data = vss_message(operation, transaction=transaction, body_flags=HOST_BODY)
        self._simulator.host.send_raw(data, vmbus_id=vmbus_id)

    async def pass_time(self, by: timedelta, *, timers_run: bool) -> None:
        self._clock.advance(by)
        if timers_run:
            self._simulator.clock_moved()
            self._raise_panic()

    async def detach(self) -> list[Side]:
        before = self._simulator.event_count
        self._simulator.detach()
        doomed = [event for event in self._simulator.events if event.number > before]
        # The opener is this very process, which the simulator spares; test_detach.py has real victims.
        return [event.side for event in doomed if event.kind is EventKind.SPARED and event.side is not None]

    def take_replies(self) -> list[Event]:
        events = [event for event in self._simulator.events if event.number > self._seen]
        self._seen = self._simulator.event_count
        return [event for event in events if event.kind is EventKind.REPLIED]

    def newest_msgid(self) -> int:
        return [event.msgid or 0 for event in self._simulator.events if event.kind is EventKind.RECEIVED][-1]

    def wall(self) -> timedelta:
        return self._clock.wall()

    def _raise_panic(self) -> None:
        if any(event.kind is EventKind.PANICKED for event in self._simulator.events):
            raise KernelPanic

    def close_all(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)


async def play(vector: Vector, folder: Path, clock: VirtualClock, *, debug_kernel: bool) -> None:
    async with FreebsdSimulator(folder, clock=clock, automatic_fs=False, debug_kernel=debug_kernel) as simulator:
        bench = FuseBench(simulator, clock)
        try:
            await Stage(bench).play(vector)
            if debug_kernel:
                assert not simulator.attached
        finally:
            await asyncio.to_thread(bench.close_all)


@pytest.mark.usefixtures("requires_fuse")
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.number)
async def test_vector(vector: Vector, folder: Path, clock: VirtualClock) -> None:
    await play(vector, folder, clock, debug_kernel=False)


@pytest.mark.usefixtures("requires_fuse")
@pytest.mark.parametrize("vector", DEBUG_KERNEL, ids=lambda vector: vector.number)
async def test_vector_on_a_debug_kernel(vector: Vector, folder: Path, clock: VirtualClock) -> None:
    await play(vector, folder, clock, debug_kernel=True)
