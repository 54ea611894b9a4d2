"""A host, its Linux guest's device and the source on it: what the tests of the source with a simulator share."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_fixed

from appvss.model.errors import SimulatorUnavailable
from appvss.model.request import Answer, Request
from appvss.model.source import SourceCondition
from appvss.simulator.event import Event, EventKind
from appvss.simulator.host import HostResult
from appvss.simulator.hyperv import HostOperation
from appvss.simulator.linux import LinuxSimulator, kernel_of
from appvss.sources.linux_hv_vss import LinuxHvVssSettings, LinuxHvVssSource
from tests.sources.device_support import WAIT, Listener, MachineClock, VirtualClock


@dataclass
class Scene:
    """A clock that stands still unless it is moved, or the machine's."""

    simulator: LinuxSimulator
    clock: VirtualClock | MachineClock
    source: LinuxHvVssSource
    listener: Listener = field(default_factory=Listener)

    def host_asks(self, operation: HostOperation) -> asyncio.Task[HostResult]:
        return asyncio.create_task(self.simulator.host.request(operation), name=f"host-{operation.name}")

    def answer(self, request: Request, *, go_on: bool = True) -> None:
        self.source.answer(Answer(request, go_on=go_on, reason=""))

    async def ask(self, operation: HostOperation) -> tuple[asyncio.Task[HostResult], Request]:
        """The host asks, and the source brings it."""
        result = self.host_asks(operation)
        return result, await self.listener.next_request()

    async def round_trip(self, operation: HostOperation, *, go_on: bool = True) -> HostResult:
        """The host asks, the source brings it, the broker answers at once, the host hears."""
        result, request = await self.ask(operation)
        self.answer(request, go_on=go_on)
        return await self.heard(result)

    async def heard(self, result: asyncio.Task[HostResult]) -> HostResult:
        async with asyncio.timeout(WAIT):
            return await result

    def move(self, by: timedelta) -> None:
        assert isinstance(self.clock, VirtualClock)
        self.clock.move(by)
        self.simulator.clock_moved()

    async def serving(self) -> None:
        state = await self.listener.next_state(SourceCondition.SERVING)
        assert state.detail == str(self.simulator.device)

    def writes(self) -> list[tuple[str, int | None]]:
        """The replies that the driver took."""
        return [(event.operation, event.status) for event in self.events(EventKind.WROTE)]

    def events(self, *kinds: EventKind) -> list[Event]:
        return [event for event in self.simulator.events if event.kind in kinds]


@contextmanager
def short_folder() -> Iterator[Path]:
    """A short path for the mount, and a place for what lies beside it."""
    parent = Path(tempfile.mkdtemp(prefix="vss-", dir="/tmp"))
    yield parent / "dev"
    shutil.rmtree(parent)


@asynccontextmanager
async def staged(
    kernel: str = "6.1", clock: VirtualClock | MachineClock | None = None, **settings: Any
) -> AsyncIterator[Scene]:
    """Everything but the source's `run`; skips where nothing can be mounted."""
    clock = clock or VirtualClock()
    with short_folder() as folder:
        simulator = LinuxSimulator(folder, kernel=kernel_of(kernel), clock=clock)
        try:
            await simulator.__aenter__()
        except SimulatorUnavailable as error:
            pytest.skip(f"no FUSE here: {error.sentence}")
        try:
            values = LinuxHvVssSettings(device=str(simulator.device), **settings)
            source = LinuxHvVssSource(values, clock, pause=wait_fixed(0.02), release=f"{kernel}.0")
            yield Scene(simulator, clock, source)
        finally:
            await simulator.__aexit__(None, None, None)


@asynccontextmanager
async def opened_by_us(path: Path) -> AsyncIterator[int]:
    """The device, open in this process; in a thread, because this thread answers the system call."""
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        await asyncio.to_thread(os.close, descriptor)
