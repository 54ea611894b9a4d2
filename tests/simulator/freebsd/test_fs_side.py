"""The played file-system side."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.model.errors import DeviceAbsent, DeviceBusy, UsageError
from appvss.simulator.clock import Alarms
from appvss.simulator.event import EventKind, EventRecord, Side
from appvss.simulator.freebsd.fs_side import SCRIPT_LIMIT, FsAnswer, FsSide
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.hyperv import HostOperation, HostStatus, Packet, vss_message
from appvss.sources.wire.freebsd import LIMIT, Operation
from tests.simulator.conftest import VirtualClock

THREE = (HostOperation.CHECK, HostOperation.FREEZE, HostOperation.THAW)
OK, FAIL = HostStatus.OK, HostStatus.FAIL


class Rig:
    def __init__(self, *, automatic: bool = True) -> None:
        self.clock = VirtualClock()
        self.alarms = Alarms(self.clock)
        self.record = EventRecord()
        self.machine = Machine(self.clock, self.alarms, self.record, debug_kernel=False)
        self.fs = FsSide(self.machine, automatic=automatic)
        self.machine.listeners = [self.fs.notice]
        self.machine.attach()

    def ask(self, *operations: int) -> list[int | None]:
        """Send each and let its 15 seconds pass; the statuses that the host got."""
        before = self.record.count
        for operation in operations:
            self.machine.host_sends(Packet(1, vss_message(operation, transaction=0)))
            self.clock.advance(LIMIT)
            self.alarms.moved()
        new = (event for event in self.record.events() if event.number > before)
        return [event.status for event in new if event.kind is EventKind.REPLIED]

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.record.events()]


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_it_agrees_to_everything_at_first(rig: Rig) -> None:
    assert rig.ask(*THREE) == [OK, OK, OK]
    assert EventKind.TIMED_OUT not in rig.kinds()


@pytest.mark.parametrize(
    ("vetoes", "statuses"),
    [
        ([Operation.CHECK], [FAIL, OK, OK]),
        ([Operation.FREEZE], [OK, FAIL, OK]),
        ([Operation.CHECK, Operation.THAW], [FAIL, OK, FAIL]),
    ],
)
async def test_it_vetoes(rig: Rig, vetoes: list[Operation], statuses: list[int]) -> None:
    rig.fs.veto(*vetoes)
    assert rig.ask(*THREE) == statuses
    rig.fs.answer_all()
    assert rig.ask(*THREE) == [OK, OK, OK]


async def test_it_is_silent(rig: Rig) -> None:
    rig.fs.keep_silent()
    assert rig.ask(HostOperation.FREEZE) == [FAIL]
    assert rig.kinds().count(EventKind.TIMED_OUT) == 1


async def test_a_script_is_played_and_then_it_is_as_before(rig: Rig) -> None:
    rig.fs.veto(Operation.THAW)
    rig.fs.play([FsAnswer.VETO, FsAnswer.OK, FsAnswer.SILENT, FsAnswer.OK])
    assert rig.ask(*THREE) == [FAIL, OK, FAIL]
    assert rig.fs.state.script == (FsAnswer.OK,)
    assert rig.ask(HostOperation.THAW, HostOperation.THAW) == [OK, FAIL]


async def test_it_dies_with_a_request_in_its_hands(rig: Rig) -> None:
    rig.fs.play([FsAnswer.DIE])
    assert rig.ask(HostOperation.FREEZE) == [FAIL]
    assert rig.kinds().count(EventKind.TIMED_OUT) == 1
    assert rig.ask(HostOperation.THAW) == [FAIL]
    rig.fs.open()
    assert rig.ask(HostOperation.THAW) == [OK]


async def test_nothing_brings_it_back_but_a_new_attachment(rig: Rig) -> None:
    rig.fs.die()
    rig.fs.die()
    opened = [rig.fs.state.opened]
    rig.machine.detach()
    opened.append(rig.fs.state.opened)
    rig.machine.attach()
    opened.append(rig.fs.state.opened)
    assert opened == [False, False, True]
    assert rig.ask(HostOperation.FREEZE) == [OK]


async def test_a_request_that_waits_is_answered_by_the_one_who_opens(rig: Rig) -> None:
    rig.fs.die()
    rig.machine.open(Side.FS, None)
    rig.machine.host_sends(Packet(1, vss_message(HostOperation.FREEZE, transaction=0)))
    rig.machine.close_side(Side.FS, 0)
    rig.clock.advance(timedelta(seconds=1))
    rig.fs.open()
    assert rig.kinds()[-1] is EventKind.REPLIED


async def test_it_is_left_to_another_program() -> None:
    rig = Rig(automatic=False)
    assert not rig.fs.state.opened
    rig.machine.open(Side.FS, None)
    with pytest.raises(DeviceBusy):
        rig.fs.open()
    assert not rig.fs.state.opened
    rig.machine.detach()
    with pytest.raises(DeviceAbsent):
        rig.fs.open()


async def test_opening_twice_is_fine(rig: Rig) -> None:
    rig.fs.open()
    assert rig.kinds().count(EventKind.OPENED) == 1


async def test_a_script_is_bounded(rig: Rig) -> None:
    rig.fs.play([FsAnswer.OK] * SCRIPT_LIMIT)
    with pytest.raises(UsageError, match="1000"):
        rig.fs.play([FsAnswer.OK] * (SCRIPT_LIMIT + 1))
