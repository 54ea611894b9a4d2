"""The machine around the driver: what is spread, in which order, and what a panic does."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest

from appvss.simulator.clock import Alarms
from appvss.simulator.event import Event, EventKind, EventRecord, Side
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.hyperv import HostOperation, Packet, vss_message
from appvss.sources.wire.freebsd import LAYOUT, LIMIT
from tests.simulator.conftest import VirtualClock

CHECK = Packet(1, vss_message(HostOperation.CHECK, transaction=0))


class Rig:
    def __init__(self, clock: VirtualClock, *, debug_kernel: bool = False) -> None:
        self.clock = clock
        self.alarms = Alarms(clock)
        self.record = EventRecord()
        self.machine = Machine(clock, self.alarms, self.record, debug_kernel=debug_kernel)
        self.machine.attach()

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.record.events()]


@pytest.fixture
async def rig(clock: VirtualClock) -> Rig:
    return Rig(clock)


async def test_what_a_listener_does_is_spread_after_what_it_was_told(rig: Rig) -> None:
    heard: list[EventKind] = []

    def answer(event: Event) -> None:
        if event.kind is EventKind.WOKEN:
            rig.machine.read(Side.FS, 0)

    rig.machine.listeners = [answer, lambda event: heard.append(event.kind)]
    rig.machine.open(Side.FS, None)
    rig.machine.host_sends(CHECK)
    wanted = [EventKind.OPENED, EventKind.HOST_SENT, EventKind.RECEIVED, EventKind.WOKEN, EventKind.READ]
    assert heard == wanted
    assert rig.kinds() == [EventKind.ATTACHED, *wanted]


async def test_the_timer_rings_by_itself(rig: Rig) -> None:
    rig.machine.open(Side.FS, None)
    rig.machine.host_sends(CHECK)
    rig.clock.advance(LIMIT)
    rig.alarms.moved()
    assert rig.kinds()[-2:] == [EventKind.TIMED_OUT, EventKind.REPLIED]
    assert not rig.machine.readable(Side.FS)


async def test_nothing_can_be_done_with_a_driver_that_is_not_there(rig: Rig) -> None:
    rig.machine.detach()
    for act in (
        lambda: rig.machine.open(Side.APP, None),
        lambda: rig.machine.read(Side.APP, 0),
        lambda: rig.machine.write(Side.APP, bytes(64), 0),
        lambda: rig.machine.host_sends(CHECK),
    ):
        with pytest.raises(OSError, match="not attached") as refusal:
            act()
        assert refusal.value.errno == errno.ENXIO
    assert not rig.machine.readable(Side.APP)
    rig.machine.advance()
    assert rig.machine.state() is None


async def test_a_request_of_an_earlier_attachment_is_forgotten(rig: Rig) -> None:
    rig.machine.open(Side.FS, None)
    rig.machine.host_sends(CHECK)
    rig.machine.detach()
    rig.machine.attach()
    rig.clock.advance(LIMIT)
    rig.alarms.moved()
    assert EventKind.TIMED_OUT not in rig.kinds()
    assert rig.machine.attachment == 2


async def test_a_panic_in_a_write_takes_the_driver_away(clock: VirtualClock) -> None:
    rig = Rig(clock, debug_kernel=True)
    rig.machine.open(Side.FS, None)
    rig.machine.host_sends(CHECK)
    _, _, msgid = LAYOUT.unpack(rig.machine.read(Side.FS, 0))
    with pytest.raises(OSError, match="panicked"):
        rig.machine.write(Side.FS, LAYOUT.pack(3, 0, msgid), 0)
    assert rig.kinds()[-2:] == [EventKind.PANICKED, EventKind.DETACHED]
    assert not rig.machine.attached


async def test_a_panic_in_a_timer_takes_the_driver_away(clock: VirtualClock) -> None:
    rig = Rig(clock, debug_kernel=True)
    rig.machine.open(Side.FS, None)
    rig.machine.open(Side.APP, None)
    rig.machine.host_sends(CHECK)
    message = rig.machine.read(Side.APP, 0)
    rig.machine.close_side(Side.FS, 0)
    rig.machine.write(Side.APP, message, 0)
    clock.advance(LIMIT + timedelta(seconds=1))
    rig.alarms.moved()
    assert not rig.machine.attached
    assert rig.kinds()[-2:] == [EventKind.PANICKED, EventKind.DETACHED]
    rig.machine.attach()
    assert rig.machine.attached
