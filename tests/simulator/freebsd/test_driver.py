"""The pure driver beyond the vectors: limits, garbage, and what holds after any steps whatever."""

from __future__ import annotations

import errno
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.freebsd.driver import POOL_SIZE, Driver, DriverState
from appvss.simulator.hyperv import HostOperation, HostStatus, Packet, Version, negotiation_message, vss_message
from appvss.sources.wire.freebsd import LAYOUT, LIMIT, Operation, decode, encode
from tests.simulator.conftest import VirtualClock


class Rig:
    """A driver with a clock."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.driver = Driver()
        self.events: list[Event] = []
        self.sent = 0

    @property
    def moment(self) -> Moment:
        return Moment(self.clock.now(), self.clock.wall())

    def send(self, data: bytes) -> int:
        self.sent += 1
        self.driver.host_sends(Packet(self.sent, data), self.moment)
        return self.sent

    def ask(self, operation: int) -> int:
        return self.send(vss_message(operation, transaction=self.sent % 256))

    def open(self, side: Side) -> None:
        self.driver.open(side, side, self.moment)

    def pass_time(self, by: timedelta) -> None:
        self.clock.advance(by)
        self.driver.advance(self.moment)

    def take(self, kind: EventKind) -> list[Event]:
        self.events += self.driver.take_events()
        found = [event for event in self.events if event.kind is kind]
        self.events = [event for event in self.events if event.kind is not kind]
        return found


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_ring_is_bounded_and_kept_until_the_fs_device_is_opened(rig: Rig) -> None:
    room = 16384 // 64
    for _ in range(room):
        rig.ask(0)
    with pytest.raises(OSError, match="full") as refusal:
        rig.ask(0)
    assert refusal.value.errno == errno.EAGAIN
    assert rig.driver.state().ring == room
    rig.open(Side.FS)
    assert rig.driver.state().ring == 0
    assert len(rig.take(EventKind.DROPPED)) == room


def test_messages_of_the_ring_are_worked_off_in_order(rig: Rig) -> None:
    first, second = rig.ask(HostOperation.CHECK), rig.ask(HostOperation.FREEZE)
    rig.open(Side.FS)
    assert [event.vmbus_id for event in rig.take(EventKind.RECEIVED)] == [first]
    assert [event.vmbus_id for event in rig.take(EventKind.DROPPED)] == [second]


def test_an_empty_message_ends_the_reading_of_the_ring(rig: Rig) -> None:
    rig.send(b"")
    rig.ask(HostOperation.FREEZE)
    rig.open(Side.FS)
    assert rig.driver.state().ring == 1
    rig.ask(HostOperation.DM_INFO)
    assert rig.driver.state().ring == 0
    assert len(rig.take(EventKind.RECEIVED)) == 1


def test_a_short_message_is_completed_by_what_the_buffer_held_before(rig: Rig) -> None:
    rig.open(Side.FS)
    rig.ask(HostOperation.DM_INFO)
    rig.send(vss_message(HostOperation.DM_INFO, transaction=1)[:20])
    assert [len(event.reply or b"") for event in rig.take(EventKind.REPLIED)] == [40, 20]


def test_negotiation_is_answered_although_the_fs_device_is_closed(rig: Rig) -> None:
    """Vector 11."""
    rig.open(Side.FS)
    rig.driver.close(Side.FS, rig.moment)
    rig.send(negotiation_message([Version(3, 0)], [Version(5, 0)], transaction=3))
    (reply,) = rig.take(EventKind.REPLIED)
    assert (reply.status, reply.operation) == (0, "negotiate")


@pytest.mark.parametrize("operation", [0, 1, 4, 7, 9, 255])
def test_unknown_operations_fail_at_once_when_the_fs_device_was_closed(rig: Rig, operation: int) -> None:
    rig.open(Side.FS)
    rig.driver.close(Side.FS, rig.moment)
    rig.ask(operation)
    assert [event.status for event in rig.take(EventKind.REPLIED)] == [HostStatus.FAIL]


def test_requests_that_fell_out_of_the_queues_use_up_the_records(rig: Rig) -> None:
    rig.open(Side.FS)
    for _ in range(POOL_SIZE):
        rig.ask(HostOperation.FREEZE)
        message = decode(rig.driver.read(Side.FS, rig.moment))
        rig.driver.write(Side.FS, LAYOUT.pack(0, 0, message.msgid), rig.moment)
        rig.pass_time(timedelta(seconds=1))
    assert len(rig.take(EventKind.LOST)) == POOL_SIZE
    rig.ask(HostOperation.FREEZE)
    (dropped,) = rig.take(EventKind.DROPPED)
    assert "records" in dropped.detail
    rig.pass_time(LIMIT)
    assert len(rig.take(EventKind.REPLIED)) == POOL_SIZE
    rig.ask(HostOperation.FREEZE)
    assert rig.take(EventKind.RECEIVED)[-1].vmbus_id == rig.sent


def test_a_timer_is_due_before_whatever_else_happens_at_its_instant(rig: Rig) -> None:
    rig.open(Side.FS)
    rig.ask(HostOperation.FREEZE)
    rig.clock.advance(LIMIT)
    assert decode(rig.driver.read(Side.FS, rig.moment)).operation is Operation.NONE
    assert [event.status for event in rig.take(EventKind.REPLIED)] == [HostStatus.FAIL]


def test_the_deadline_to_come_is_the_oldest_request(rig: Rig) -> None:
    assert rig.driver.next_deadline() is None
    rig.open(Side.FS)
    rig.ask(HostOperation.FREEZE)
    assert rig.driver.next_deadline() == rig.clock.now() + LIMIT
    rig.pass_time(LIMIT)
    assert rig.driver.next_deadline() is None


def test_detaching_forgets_everything_and_names_the_openers(rig: Rig) -> None:
    rig.open(Side.APP)
    rig.driver.close(Side.APP, rig.moment)
    rig.open(Side.FS)
    rig.ask(HostOperation.FREEZE)
    assert rig.driver.detach(rig.moment) == (Side.FS, Side.APP)
    assert rig.driver.state() == DriverState(False, False, True, 0, ())
    rig.pass_time(LIMIT)
    assert rig.take(EventKind.REPLIED) == []


def test_a_jump_of_the_wall_clock_moves_the_msgid_and_not_the_timer(rig: Rig) -> None:
    rig.open(Side.FS)
    jumped = Moment(rig.moment.now, rig.moment.wall - timedelta(days=400))
    rig.driver.host_sends(Packet(1, vss_message(HostOperation.FREEZE, transaction=0)), jumped)
    (request,) = rig.driver.state().requests
    assert request.msgid == jumped.wall // timedelta(microseconds=1) * 1000
    assert request.deadline == jumped.now + LIMIT


SIDES = st.sampled_from(list(Side))
STATUSES = st.sampled_from([0, 0, 0, 1, 0x100, 2**32 - 1])


class AnySteps(RuleBasedStateMachine):
    """Host, app and file-system side do whatever they like."""

    @initialize()
    def begin(self) -> None:
        self.rig = Rig()
        self.open: set[Side] = set()
        self.read: dict[Side, list[bytes]] = {side: [] for side in Side}
        self.replies: dict[int, int] = {}
        self.received: dict[int, int] = {}
        self.raced: set[int] = set()

    @rule(side=SIDES)
    def opens(self, side: Side) -> None:
        if side in self.open:
            with pytest.raises(OSError, match="open already"):
                self.rig.open(side)
        else:
            self.rig.open(side)
            self.open.add(side)

    @rule(side=SIDES)
    def closes(self, side: Side) -> None:
        if side in self.open:
            self.rig.driver.close(side, self.rig.moment)
            self.open.remove(side)

    @rule(operation=st.sampled_from([*HostOperation, HostOperation.CHECK, HostOperation.FREEZE, HostOperation.THAW, 9]))
    def asks(self, operation: int) -> None:
        self.rig.ask(operation)

    @rule(data=st.binary(max_size=60))
    def sends_garbage(self, data: bytes) -> None:
        self.rig.send(data)

    @rule(side=SIDES)
    def reads(self, side: Side) -> None:
        self.rig.driver.advance(self.rig.moment)
        was_readable = self.rig.driver.readable(side)
        data = self.rig.driver.read(side, self.rig.moment)
        assert (decode(data).operation is not Operation.NONE) == was_readable
        if was_readable:
            self.read[side].append(data)

    @rule(side=SIDES, source=SIDES, status=STATUSES, opt=st.none() | st.integers(0, 5), oldest=st.booleans())
    def writes(self, side: Side, source: Side, status: int, opt: int | None, oldest: bool) -> None:
        if self.read[source]:
            message = decode(self.read[source][0 if oldest else -1])
            chosen = message.operation if opt is None else opt
            self.rig.driver.write(side, LAYOUT.pack(chosen, status, message.msgid), self.rig.moment)

    @rule(side=SIDES, data=st.binary(min_size=64, max_size=64))
    def writes_garbage(self, side: Side, data: bytes) -> None:
        self.rig.driver.write(side, data, self.rig.moment)

    @rule(seconds=st.sampled_from([0.001, 1, 7, 14.999, 15]), timers_run=st.booleans())
    def time_passes(self, seconds: float, timers_run: bool) -> None:
        self.rig.clock.advance(timedelta(seconds=seconds))
        if timers_run:
            self.rig.driver.advance(self.rig.moment)

    @invariant()
    def the_queues_are_sound(self) -> None:
        if not hasattr(self, "rig"):
            return
        state = self.rig.driver.state()
        assert len(state.requests) <= POOL_SIZE
        assert all(len(request.places) <= 1 for request in state.requests)
        assert sum(len(request.places) for request in state.requests) <= 1
        assert self.rig.driver.readable(Side.APP) == any("app waiting" in r.places for r in state.requests)
        assert self.rig.driver.readable(Side.FS) == any("fs waiting" in r.places for r in state.requests)
        assert (state.app_registered, state.fs_registered) == (Side.APP in self.open, Side.FS in self.open)

    @invariant()
    def no_request_is_answered_twice(self) -> None:
        if not hasattr(self, "rig"):
            return
        for event in self.rig.driver.take_events():
            number = event.vmbus_id or 0
            if event.kind is EventKind.RECEIVED:
                self.received[number] = self.received.get(number, 0) + 1
            elif event.kind is EventKind.RACED:
                self.raced.add(number)
            elif event.kind is EventKind.REPLIED:
                self.replies[number] = self.replies.get(number, 0) + 1
        open_requests = len(self.rig.driver.state().requests)
        answered = sum(1 for number in self.received if number in self.replies)
        assert all(count == 1 for count in self.received.values())
        assert all(count <= (2 if number in self.raced else 1) for number, count in self.replies.items())
        assert len(self.received) == answered + open_requests

    def teardown(self) -> None:
        """Whatever happened: 15 seconds later every request that the driver took was answered."""
        if hasattr(self, "rig"):
            self.rig.pass_time(LIMIT)
            self.no_request_is_answered_twice()
            assert self.rig.driver.state().requests == ()


AnySteps.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnySteps = AnySteps.TestCase


def test_messages_of_the_driver_are_what_the_wire_module_reads(rig: Rig) -> None:
    rig.open(Side.FS)
    rig.ask(HostOperation.THAW)
    data = rig.driver.read(Side.FS, rig.moment)
    assert encode(decode(data)) == data
