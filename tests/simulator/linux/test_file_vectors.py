"""The vectors of the fact sheet on the mounted file, through real system calls."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.simulator.event import Event, EventKind
from appvss.simulator.hyperv import vss_message
from appvss.simulator.linux import LinuxSimulator, kernel_of
from tests.simulator.conftest import VirtualClock
from tests.simulator.linux.stage import HOST_BODY, Stage
from tests.simulator.linux.vectors import VECTORS, Vector

pytestmark = pytest.mark.usefixtures("requires_fuse")

_SHOWN = {
    0: "idle",
    select.POLLIN: "in",
    select.POLLIN | select.POLLRDNORM: "in",
    select.POLLERR | select.POLLHUP: "hup",
}


class FileBench:
    """The caller's thread answers the file's system calls, so each is made in another thread."""

    def __init__(self, simulator: LinuxSimulator, clock: VirtualClock) -> None:
        self.simulator = simulator
        self.clock = clock
        self.descriptor = -1
        self._seen = 0

    async def open(self) -> None:
        opened = await asyncio.to_thread(os.open, self.simulator.device, os.O_RDWR | os.O_CLOEXEC)
        assert self.descriptor < 0
        self.descriptor = opened

    async def close(self) -> None:
        before = self.simulator.event_count
        descriptor, self.descriptor = self.descriptor, -1
        await asyncio.to_thread(os.close, descriptor)
        await self.simulator.wait_for(EventKind.CLOSED, after=before)

    async def read(self, size: int) -> bytes:
        return await asyncio.to_thread(os.read, self.descriptor, size)

    async def write(self, data: bytes) -> int:
        return await asyncio.to_thread(os.write, self.descriptor, data)

    async def polls(self) -> str:
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN | select.POLLRDNORM | select.POLLOUT)
        shown = dict(await asyncio.to_thread(poller.poll, 0))
        return _SHOWN[shown.get(self.descriptor, 0)]

    async def host_sends(self, operation: int, vmbus_id: int) -> None:
        data = vss_message(operation, transaction=7, body_flags=HOST_BODY)
        self.simulator.host.send_raw(data, vmbus_id=vmbus_id)

    async def pass_time(self, by: timedelta, *, timers_run: bool) -> None:
        self.clock.advance(by)
        if timers_run:
            self.simulator.clock_moved()

    async def remove(self) -> None:
        self.simulator.remove()

    async def hibernate(self) -> None:
        self.simulator.hibernate()

    def take_replies(self) -> list[Event]:
        seen, self._seen = self._seen, self.simulator.event_count
        return [event for event in self.simulator.events if event.number > seen and event.kind is EventKind.REPLIED]

    def phase(self) -> str:
        state = self.simulator.state()
        return "gone" if state is None else state.phase.name


@pytest.fixture
async def bench(request: pytest.FixtureRequest, folder: Path, clock: VirtualClock) -> AsyncIterator[FileBench]:
    async with LinuxSimulator(folder, clock=clock, kernel=kernel_of(request.param)) as simulator:
        bench = FileBench(simulator, clock)
        yield bench
        with suppress(OSError):
            await asyncio.to_thread(os.close, bench.descriptor)


@pytest.mark.parametrize(
    ("bench", "vector"),
    [pytest.param(vector.kernel, vector, id=vector.number) for vector in VECTORS if vector.on_files],
    indirect=["bench"],
)
async def test_the_file_does_what_the_fact_sheet_says(bench: FileBench, vector: Vector) -> None:
    async with asyncio.timeout(30):
        await Stage(bench).play(vector)
