"""The test vectors on the pure driver, with a clock that is moved by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.freebsd.driver import Driver
from appvss.simulator.hyperv import Packet, vss_message
from tests.simulator.conftest import VirtualClock
from tests.simulator.freebsd.stage import HOST_BODY, Stage
from tests.simulator.freebsd.vectors import DEBUG_KERNEL, VECTORS, Vector


class DriverBench:
    """The pure driver."""

    def __init__(self, clock: VirtualClock, *, debug_kernel: bool = False) -> None:
        self.driver = Driver(debug_kernel=debug_kernel)
        self._clock = clock
        self._events: list[Event] = []

    def moment(self) -> Moment:
        return Moment(self._clock.now(), self._clock.wall())

    async def open(self, side: Side) -> None:
        self.driver.open(side, side, self.moment())

    async def close(self, side: Side) -> None:
        self.driver.close(side, self.moment())

    async def read(self, side: Side) -> bytes:
        return self.driver.read(side, self.moment())

    async def write(self, side: Side, data: bytes) -> None:
        self.driver.write(side, data, self.moment())

    async def unknown_ioctl(self, side: Side) -> None:
        """Not the driver's: test_device.py."""

    async def polls(self, side: Side) -> bool:
        return self.driver.readable(side)

    async def host_sends(self, operation: int, transaction: int, vmbus_id: int) -> None:
        data = vss_message(operation, transaction=transaction, body_flags=HOST_BODY)
        self.driver.host_sends(Packet(vmbus_id, data), self.moment())

    async def pass_time(self, by: timedelta, *, timers_run: bool) -> None:
        self._clock.advance(by)
        if timers_run:
            self.driver.advance(self.moment())

    async def detach(self) -> list[Side]:
        return [Side(str(opener)) for opener in self.driver.detach(self.moment())]

    def take_replies(self) -> list[Event]:
        events = self.driver.take_events()
        self._events += events
        return [event for event in events if event.kind is EventKind.REPLIED]

    def newest_msgid(self) -> int:
        self._events += self.driver.take_events()
        return [event.msgid or 0 for event in self._events if event.kind is EventKind.RECEIVED][-1]

    def wall(self) -> timedelta:
        return self._clock.wall()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.number)
async def test_vector(vector: Vector, clock: VirtualClock) -> None:
    await Stage(DriverBench(clock)).play(vector)


@pytest.mark.parametrize("vector", DEBUG_KERNEL, ids=lambda vector: vector.number)
async def test_vector_on_a_debug_kernel(vector: Vector, clock: VirtualClock) -> None:
    await Stage(DriverBench(clock, debug_kernel=True)).play(vector)


def test_every_vector_is_there() -> None:
    elsewhere = {7, 8, 9, 10, 11, 53, 54, 55}
    assert {int(vector.number.split()[0]) for vector in VECTORS} | elsewhere == set(range(1, 57))
