"""The kernel driver as a pure state machine: two devices, a ring from the host, one timer per request.

It does what FreeBSD's hv_snapshot.c does, defects included, because a broker has to live with them: one shared message
buffer (facts/freebsd-vss.md section 3.5), requests that fall out of every queue (2.6), answers whose `opt` is trusted
(2.3), replies twice when a WRITE meets the timer (trap 13). Time is an argument; `next_deadline` says when to call
`advance`. What happened comes out of `take_events`, in order.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from appvss.model.instant import Instant
from appvss.simulator import hyperv
from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.hyperv import HostOperation, HostStatus, Packet
from appvss.sources.wire.freebsd import EMPTY, LAYOUT, LIMIT, SUCCESS, Message, Operation, encode

POOL_SIZE: Final = 4
"""Request records that the driver has (section 2.6)."""

_OPERATIONS: Final[dict[int, Operation]] = {
    HostOperation.CHECK: Operation.CHECK,
    HostOperation.FREEZE: Operation.FREEZE,
    HostOperation.THAW: Operation.THAW,
}
_MICROSECOND: Final = timedelta(microseconds=1)


class KernelPanic(Exception):
    """An assertion of a debug kernel failed. The driver must not be used any more."""


@dataclass(slots=True, eq=False)
class _Record:
    """One host request. It has its own copy of the operation, but its reply is cut from the shared buffer."""

    vmbus_id: int
    length: int
    operation: Operation
    msgid: int
    deadline: Instant


@dataclass(slots=True)
class _Door:
    """One of the two devices."""

    side: Side
    registered: bool = False
    opener: Hashable | None = None
    """Who opened it last; never forgotten while the driver is attached."""
    waiting: deque[_Record] = field(default_factory=deque)
    answer: deque[_Record] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class RequestState:
    """A request that the driver still holds."""

    operation: Operation
    msgid: int
    deadline: Instant
    places: tuple[str, ...]
    """The queues it is in: `app waiting`, `app answer`, `fs waiting`, `fs answer`; none when it is lost."""


@dataclass(frozen=True, slots=True)
class DriverState:
    """A look at the driver."""

    app_registered: bool
    fs_registered: bool
    fs_ever: bool
    ring: int
    """Messages of the host that wait for the fs device to be opened."""
    requests: tuple[RequestState, ...]


class Driver:
    """One attachment of the driver.

    Args:
        debug_kernel: a kernel built with INVARIANTS, whose assertions panic.
    """

    def __init__(self, *, debug_kernel: bool = False) -> None:
        self._debug_kernel = debug_kernel
        self._app = _Door(Side.APP)
        self._fs = _Door(Side.FS)
        self._ring: deque[Packet] = deque()
        self._buffer = bytearray(hyperv.RING_SIZE)
        self._live: list[_Record] = []
        self._events: list[Event] = []

    # What user space does

    def open(self, side: Side, opener: Hashable, moment: Moment) -> None:
        """Open a device. Opening the fs device makes the driver read what waits in the ring.

        Args:
            side: which device.
            opener: who opens it; `detach` names them.
            moment: now.

        Raises:
            OSError: EBUSY, it is open.
        """
        self.advance(moment)
        door = self._door(side)
        if door.registered:
            self._note(Event(EventKind.OPEN_REFUSED, moment, side=side, detail="EBUSY: the device is open already"))
            raise OSError(errno.EBUSY, "the device is open already")
        door.registered, door.opener = True, opener
        self._note(Event(EventKind.OPENED, moment, side=side))
        if side is Side.FS:
            self._read_ring(moment)

    def close(self, side: Side, moment: Moment) -> None:
        """The last descriptor is closed. No queue is emptied, nothing is answered."""
        self.advance(moment)
        self._door(side).registered = False
        self._note(Event(EventKind.CLOSED, moment, side=side))

    def readable(self, side: Side) -> bool:
        """Whether poll shows POLLIN: a request waits that was not read."""
        return bool(self._door(side).waiting)

    def read(self, side: Side, moment: Moment) -> bytes:
        """The ioctl READ: the oldest waiting request, or the empty message. Never fails."""
        self.advance(moment)
        door = self._door(side)
        if not door.waiting:
            self._note(Event(EventKind.READ_EMPTY, moment, side=side, status=EMPTY.status))
            return encode(EMPTY)
        record = door.waiting.popleft()
        door.answer.append(record)
        self._note_record(EventKind.READ, record, moment, side=side, status=SUCCESS)
        return encode(Message(record.operation, SUCCESS, record.msgid))

    def write(self, side: Side, data: bytes, moment: Moment) -> None:
        """The ioctl WRITE: an answer. The caller never learns whether it was taken.

        A WRITE at the very instant of the request's deadline meets the timer (trap 13).
        """
        self._expire(moment, before=moment.now)
        door = self._door(side)
        opt, status, msgid = LAYOUT.unpack(data)
        record = next((record for record in door.answer if record.msgid == msgid), None)
        if record is None:
            detail = (
                "no request of that msgid was read here: late, repeated, wrong or never read; the caller is not told"
            )
            self._note(Event(EventKind.WRITE_IGNORED, moment, side=side, status=status, msgid=msgid, detail=detail))
            return
        door.answer.remove(record)
        self._note_record(EventKind.WROTE, record, moment, side=side, status=status)
        self._assert(opt == record.operation, f"opt {opt} answers a {record.operation.name}", moment)
        follow = self._after_app(opt, status) if side is Side.APP else self._after_fs(opt, status)
        if record.deadline <= moment.now:
            self._race(record, follow, moment)
        elif follow is None:
            detail = f"opt {opt} is unknown" if opt not in (1, 2, 3) else "the fs device was closed meanwhile"
            detail += ": the request is in no queue any more, the host gets FAIL when its timer runs out"
            self._note_record(EventKind.LOST, record, moment, side=side, detail=detail)
        elif isinstance(follow, Side):
            self._hand_to(self._door(follow), record, moment)
        else:
            self._finish(record, follow, moment)

    # What the host does

    def host_sends(self, packet: Packet, moment: Moment) -> None:
        """Put a message into the ring and, if the driver reads it, act on it.

        Raises:
            OSError: EAGAIN, the ring is full.
        """
        self.advance(moment)
        if sum(waiting.ring_space for waiting in (*self._ring, packet)) > hyperv.RING_SIZE:
            raise OSError(errno.EAGAIN, "the ring to the driver is full")
        self._ring.append(packet)
        operation = hyperv.name_of(bytearray(packet.data.ljust(hyperv.MESSAGE_SIZE, b"\0")))
        fs_ever = self._fs.opener is not None
        detail = "" if fs_ever else "waits in the ring: the fs device was never opened"
        self._note(Event(EventKind.HOST_SENT, moment, operation=operation, vmbus_id=packet.vmbus_id, detail=detail))
        if fs_ever:
            self._read_ring(moment)

    # What time does

    def next_deadline(self) -> Instant | None:
        """When `advance` must be called next."""
        return min((record.deadline for record in self._live), default=None)

    def advance(self, moment: Moment) -> None:
        """Let the timers run that are due."""
        self._expire(moment, before=moment.now + _MICROSECOND)

    def detach(self, moment: Moment) -> tuple[Hashable, ...]:
        """The driver goes: requests and ring vanish unanswered. Returns who gets SIGKILL, the fs opener first."""
        openers = tuple(door.opener for door in (self._fs, self._app) if door.opener is not None)
        self._ring.clear()
        self._live.clear()
        for door in (self._fs, self._app):
            door.waiting.clear()
            door.answer.clear()
            door.registered = False
        self._note(Event(EventKind.DETACHED, moment))
        return openers

    # What can be looked at

    def take_events(self) -> tuple[Event, ...]:
        """What happened since the last call, in order."""
        events = tuple(self._events)
        self._events.clear()
        return events

    def opener(self, side: Side) -> Hashable | None:
        """Who opened the device last, whether it is still open or not."""
        return self._door(side).opener

    def state(self) -> DriverState:
        """A look at everything that decides what happens next."""
        requests = tuple(
            RequestState(
                record.operation,
                record.msgid,
                record.deadline,
                tuple(place for place, queue in self._places() if record in queue),
            )
            for record in self._live
        )
        return DriverState(
            self._app.registered, self._fs.registered, self._fs.opener is not None, len(self._ring), requests
        )

    # How it works

    def _door(self, side: Side) -> _Door:
        return self._app if side is Side.APP else self._fs

    def _places(self) -> tuple[tuple[str, deque[_Record]], ...]:
        """The four queues in the order in which the driver's timer searches them."""
        return (
            ("fs waiting", self._fs.waiting),
            ("fs answer", self._fs.answer),
            ("app waiting", self._app.waiting),
            ("app answer", self._app.answer),
        )

    def _read_ring(self, moment: Moment) -> None:
        """Take messages out of the ring until it is empty. An empty message ends it too, as in the driver."""
        while self._ring:
            packet = self._ring.popleft()
            if not packet.data:
                return
            self._buffer[: len(packet.data)] = packet.data
            if hyperv.is_negotiation(self._buffer):
                status, length = hyperv.negotiate(self._buffer, len(packet.data))
                self._respond(packet.vmbus_id, length, status, moment)
            elif self._fs.registered:
                self._receive(packet, moment)
            else:
                self._fail_at_once(packet, moment)

    def _receive(self, packet: Packet, moment: Moment) -> None:
        """A VSS message while the fs device is open."""
        code = hyperv.operation_of(self._buffer)
        if code == HostOperation.DM_INFO:
            hyperv.set_body_flags(self._buffer, 0)
            self._respond(packet.vmbus_id, len(packet.data), HostStatus.OK, moment)
            return
        operation = _OPERATIONS.get(code)
        reason = ""
        if operation is None:
            reason = "the operation is unknown to the driver"
        elif any(queue for _, queue in self._places()):
            reason = "another request is under way; its reply will carry this message's header"
        elif len(self._live) >= POOL_SIZE:
            reason = f"all {POOL_SIZE} request records are in use"
        if operation is None or reason:
            name = hyperv.name_of(self._buffer)
            detail = f"{reason}; the host gets no reply"
            self._note(Event(EventKind.DROPPED, moment, operation=name, vmbus_id=packet.vmbus_id, detail=detail))
            return
        msgid = moment.wall // _MICROSECOND * 1000 & (2**64 - 1)
        record = _Record(packet.vmbus_id, len(packet.data), operation, msgid, moment.now + LIMIT)
        self._live.append(record)
        self._note_record(EventKind.RECEIVED, record, moment)
        to_app = operation is not Operation.THAW and self._app.registered
        self._hand_to(self._app if to_app else self._fs, record, moment)

    def _fail_at_once(self, packet: Packet, moment: Moment) -> None:
        """A VSS message after the fs device was closed: the driver takes the daemon for dead."""
        code = hyperv.operation_of(self._buffer)
        if code == HostOperation.CHECK:
            hyperv.set_body_flags(self._buffer, hyperv.NO_AUTO_RECOVERY)
        elif code == HostOperation.DM_INFO:
            hyperv.set_body_flags(self._buffer, 0)
        self._respond(packet.vmbus_id, len(packet.data), HostStatus.FAIL, moment)

    def _hand_to(self, door: _Door, record: _Record, moment: Moment) -> None:
        door.waiting.append(record)
        self._note_record(EventKind.WOKEN, record, moment, side=door.side)

    def _after_app(self, opt: int, status: int) -> Side | HostStatus | None:
        """What follows an answer of the app side, by the `opt` that the answer carries and 8 bits of its status."""
        if not self._fs.registered:
            return None
        failed = status & 0xFF != SUCCESS
        if opt in (Operation.CHECK, Operation.FREEZE):
            return HostStatus.FAIL if failed else Side.FS
        if opt == Operation.THAW:
            return HostStatus.FAIL if failed else HostStatus.OK
        return None

    def _after_fs(self, opt: int, status: int) -> Side | HostStatus | None:
        """What follows an answer of the fs side, by the `opt` that the answer carries."""
        if opt not in (Operation.CHECK, Operation.FREEZE, Operation.THAW):
            return None
        if status != SUCCESS:
            return HostStatus.FAIL
        if opt == Operation.THAW and self._app.registered:
            return Side.APP
        return HostStatus.OK

    def _race(self, record: _Record, follow: Side | HostStatus | None, moment: Moment) -> None:
        """The timer fired while the WRITE was being worked on. The doubled free record is not imitated."""
        self._assert(False, "timeout but fail to find request", moment)
        detail = "a WRITE met the timer: undefined in the real driver, which may panic or answer the host twice"
        self._note_record(EventKind.RACED, record, moment, detail=detail)
        self._finish(record, HostStatus.FAIL, moment)
        if isinstance(follow, HostStatus):
            self._reply_for(record, follow, moment)

    def _expire(self, moment: Moment, *, before: Instant) -> None:
        """Run the timers whose deadline lies before an instant, oldest first.

        Like the driver, a timer takes whatever request has its msgid out of the queues and then answers for its own.
        """
        for record in sorted((r for r in self._live if r.deadline < before), key=lambda r: r.deadline):
            self._note_record(EventKind.TIMED_OUT, record, moment)
            found = self._drain(record.msgid)
            self._assert(found, "timeout but fail to find request", moment)
            self._finish(record, HostStatus.FAIL, moment)

    def _drain(self, msgid: int) -> bool:
        for _, queue in self._places():
            for record in queue:
                if record.msgid == msgid:
                    queue.remove(record)
                    return True
        return False

    def _finish(self, record: _Record, status: HostStatus, moment: Moment) -> None:
        self._live.remove(record)
        self._reply_for(record, status, moment)

    def _reply_for(self, record: _Record, status: HostStatus, moment: Moment) -> None:
        if record.operation is Operation.CHECK:
            hyperv.set_body_flags(self._buffer, hyperv.NO_AUTO_RECOVERY)
        self._respond(record.vmbus_id, record.length, status, moment)

    def _respond(self, vmbus_id: int, length: int, status: int, moment: Moment) -> None:
        """Send what is in the shared buffer, whoever's message that is by now."""
        hyperv.set_status(self._buffer, status)
        reply, name = bytes(self._buffer[:length]), hyperv.name_of(self._buffer)
        self._note(Event(EventKind.REPLIED, moment, operation=name, status=status, vmbus_id=vmbus_id, reply=reply))

    def _assert(self, condition: bool, text: str, moment: Moment) -> None:
        if self._debug_kernel and not condition:
            self._note(Event(EventKind.PANICKED, moment, detail=f"panic: {text}"))
            raise KernelPanic(text)

    def _note_record(
        self,
        kind: EventKind,
        record: _Record,
        moment: Moment,
        *,
        side: Side | None = None,
        status: int | None = None,
        detail: str = "",
    ) -> None:
        self._note(
            Event(
                kind,
                moment,
                side=side,
                operation=record.operation.name.lower(),
                status=status,
                msgid=record.msgid,
                vmbus_id=record.vmbus_id,
                detail=detail,
            )
        )

    def _note(self, event: Event) -> None:
        self._events.append(event)
