"""The vectors of the fact sheet on the pure driver."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest

from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind
from appvss.simulator.hyperv import Packet, vss_message
from appvss.simulator.linux.driver import Driver
from appvss.simulator.linux.kernel import kernel_of
from tests.simulator.conftest import VirtualClock
from tests.simulator.linux.stage import HOST_BODY, Stage
from tests.simulator.linux.vectors import VECTORS, Vector


class DriverBench:
    def __init__(self, clock: VirtualClock, kernel: str) -> None:
        self.clock = clock
        self.driver = Driver(kernel_of(kernel))

    def moment(self) -> Moment:
        return Moment(self.clock.now(), self.clock.wall())

    async def open(self) -> None:
        if self.driver.is_gone:
            raise OSError(errno.ENOENT, "no node")
        self.driver.open(self.moment())

    async def close(self) -> None:
        self.driver.close(self.moment())

    async def read(self, size: int) -> bytes:
        data = self.driver.read(size, self.moment())
        assert data is not None, "it sleeps"
        return data

    async def write(self, data: bytes) -> int:
        return self.driver.write(data, self.moment())

    async def polls(self) -> str:
        if self.driver.is_hung_up:
            return "hup"
        return "in" if self.driver.is_readable else "idle"

    async def host_sends(self, operation: int, vmbus_id: int) -> None:
        data = vss_message(operation, transaction=7, body_flags=HOST_BODY)
        self.driver.host_sends(Packet(vmbus_id, data), self.moment())

    async def pass_time(self, by: timedelta, *, timers_run: bool) -> None:
        self.clock.advance(by)
        if timers_run:
            self.driver.advance(self.moment())

    async def remove(self) -> None:
        self.driver.remove(self.moment())

    async def hibernate(self) -> None:
        self.driver.hibernate(self.moment())

    def take_replies(self) -> list[Event]:
        return [event for event in self.driver.take_events() if event.kind is EventKind.REPLIED]

    def phase(self) -> str:
        return "gone" if self.driver.is_gone else self.driver.state().phase.name


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.number)
async def test_the_driver_does_what_the_fact_sheet_says(vector: Vector, clock: VirtualClock) -> None:
    await Stage(DriverBench(clock, vector.kernel)).play(vector)
