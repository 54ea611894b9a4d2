"""The kernel driver as a pure state machine: one device, one message out, one operation at a time, one timer.

It does what drivers/hv/hv_snapshot.c and hv_utils_transport.c do (facts/linux-hv-vss.md sections 1.3 to 1.6): a reply
has no id and answers whatever is open, an operation that ran out leaves its message unread, what the kernel answers by
itself makes it ready without a daemon. Time is an argument; `next_deadline` says when to call `advance`. What happened
comes out of `take_events`, in order.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final, NoReturn

from appvss.model.instant import Instant
from appvss.simulator import hyperv
from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind
from appvss.simulator.hyperv import Packet
from appvss.simulator.linux.kernel import Kernel
from appvss.sources.wire.linux_hv_vss import (
    FAILURE,
    MESSAGE_SIZE,
    NO_AUTO_RECOVERY,
    REGISTER,
    REGISTER_LEGACY,
    SUCCESS,
    Operation,
    encode_handshake,
    encode_operation,
    status_of,
)

HANDSHAKE: Final = "handshake"
"""What the answer to a registration is called in events."""

_PASSED_ON: Final = (Operation.HOT_BACKUP, Operation.FREEZE, Operation.THAW)
_MICROSECOND: Final = timedelta(microseconds=1)


class Phase(IntEnum):
    """The states of the driver's transaction, in the kernel's order, which it compares by."""

    DEVICE_INIT = 0
    """Nobody is registered."""
    READY = 1
    HOSTMSG_RECEIVED = 2
    USERSPACE_REQ = 3
    """An operation is with the daemon."""
    USERSPACE_RECV = 4
    DEVICE_DYING = 5


@dataclass(slots=True, eq=False)
class _Transaction:
    """The operation that is with the daemon."""

    packet: Packet
    buffer: bytearray
    """The host's message, of which the reply is made."""
    name: str
    deadline: Instant


@dataclass(frozen=True, slots=True)
class DriverState:
    """A look at the driver."""

    phase: Phase
    is_open: bool
    unread: str
    """What waits to be read: an operation, `HANDSHAKE`, or nothing."""
    operation: str
    """What is with the daemon; empty: nothing."""
    deadline: Instant | None
    """When the kernel gives that up."""
    ring: int
    """Messages of the host that the driver has not taken yet."""


class Driver:
    """One life of the driver, from the host's offer to the end of its removal.

    Args:
        kernel: whose driver it is.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._phase = Phase.DEVICE_INIT
        self._is_open = False
        self._unread = b""
        self._unread_name = ""
        self._transaction: _Transaction | None = None
        self._ring: deque[Packet] = deque()
        self._events: list[Event] = []
        self.is_gone = False
        """The removal is complete: the node is not there any more."""

    # What user space does

    def open(self, moment: Moment) -> None:
        """Open the device. The driver's state is not changed by it.

        Raises:
            OSError: EBUSY, it is open, in whatever mode; EBADF, it is being removed.
        """
        self.advance(moment)
        if self._phase is Phase.DEVICE_DYING:
            self._refuse(EventKind.OPEN_REFUSED, errno.EBADF, "the device is being removed", moment)
        if self._is_open:
            self._refuse(EventKind.OPEN_REFUSED, errno.EBUSY, "the device is open already", moment)
        self._is_open = True
        self._note(Event(EventKind.OPENED, moment))

    def close(self, moment: Moment) -> None:
        """The last descriptor is closed: what is open fails, what is unread is gone, nothing is thawed."""
        self.advance(moment)
        self._is_open = False
        self._unread = b""
        self._note(Event(EventKind.CLOSED, moment))
        if self._phase is Phase.DEVICE_DYING:
            self._go(moment)
            return
        if self._transaction is not None:
            self._respond(self._end_transaction(), FAILURE, moment)
        self._phase = Phase.DEVICE_INIT  # the host's messages that wait stay in the ring until its next one

    @property
    def is_readable(self) -> bool:
        """Whether poll shows POLLIN."""
        return bool(self._unread) and not self.is_hung_up

    @property
    def is_hung_up(self) -> bool:
        """Whether poll shows POLLERR and POLLHUP: the device is being removed."""
        return self._phase is Phase.DEVICE_DYING

    def read(self, size: int, moment: Moment) -> bytes | None:
        """The message that waits; None: nothing does, and the caller sleeps.

        Args:
            size: of the caller's buffer.
            moment: now.

        Raises:
            OSError: EINVAL, the buffer is too small, and the message stays; EBADF, the device is being removed.
        """
        self.advance(moment)
        if self._phase is Phase.DEVICE_DYING:
            self._refuse(EventKind.READ_REFUSED, errno.EBADF, "the device is being removed", moment)
        if not self._unread:
            return None
        if size < len(self._unread):
            detail = f"a buffer of {size} bytes for a message of {len(self._unread)}, which stays"
            self._refuse(EventKind.READ_REFUSED, errno.EINVAL, detail, moment)
        data, name, self._unread = self._unread, self._unread_name, b""
        self._note(Event(EventKind.READ, moment, operation=name))
        if name == HANDSHAKE and not self._kernel.is_ready_at_write:
            self._poll_channel(moment)
        return data

    def write(self, data: bytes, moment: Moment) -> int:
        """A registration or a reply. The result is the number of bytes that were taken, which is all of them.

        A reply at the very instant of the deadline meets the timer: it counts as written, and the host hears of the
        timer alone (section 0, fact 9).

        Raises:
            OSError: EINVAL, EFAULT or EBADF, as the driver says it.
        """
        self._expire(moment, before=moment.now)
        if self._phase is Phase.DEVICE_DYING:
            self._refuse(EventKind.WRITE_REFUSED, errno.EBADF, "the device is being removed", moment)
        if len(data) != MESSAGE_SIZE:
            self._refuse_write(errno.EINVAL, f"{len(data)} bytes instead of {MESSAGE_SIZE}", moment)
        elif data[0] in (REGISTER, REGISTER_LEGACY):
            self._register(data[0], moment)
        else:
            self._take_reply(status_of(data), moment)
        self.advance(moment)
        return len(data)

    # What the host and the machine do

    def host_sends(self, packet: Packet, moment: Moment) -> None:
        """Put a message into the ring; the driver takes one of those that wait, unless an operation is open.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the device is being removed.
        """
        self.advance(moment)
        if self._phase is Phase.DEVICE_DYING:
            raise OSError(errno.ENXIO, "the device is being removed")
        if sum(waiting.ring_space for waiting in (*self._ring, packet)) > hyperv.RING_SIZE:
            raise OSError(errno.EAGAIN, "the ring to the driver is full")
        self._ring.append(packet)
        name = hyperv.name_of(bytearray(packet.data.ljust(hyperv.MESSAGE_SIZE, b"\0")))
        waits = self._phase > Phase.READY
        detail = "waits in the ring: an operation is with the daemon" if waits else ""
        self._note(Event(EventKind.HOST_SENT, moment, operation=name, vmbus_id=packet.vmbus_id, detail=detail))
        self._on_channel(moment)

    def remove(self, moment: Moment) -> None:
        """The host withdraws the service. What is open is not answered; whoever has the device open must close it."""
        self.advance(moment)
        self._phase, self._transaction = Phase.DEVICE_DYING, None
        if self._is_open:
            detail = "the kernel waits until the device is closed"
            self._note(Event(EventKind.LEAVING, moment, detail=detail))
        else:
            self._go(moment)

    def hibernate(self, moment: Moment) -> None:
        """The machine hibernates and comes back: an open operation is forgotten, and the daemon is sent a THAW that no
        host has asked for, unless it has something to read already (section 1.6).
        """
        self.advance(moment)
        if self._phase is Phase.DEVICE_DYING:
            return
        self._transaction = None
        sent = self._send(encode_operation(Operation.THAW), "thaw", moment)
        detail = "the daemon is sent a thaw" if not sent else "the daemon is not told: " + errno.errorcode[sent]
        self._note(Event(EventKind.HIBERNATED, moment, detail=detail))
        self._phase = Phase.READY

    # What time does

    def next_deadline(self) -> Instant | None:
        """When `advance` must be called next."""
        return self._transaction.deadline if self._transaction is not None else None

    def advance(self, moment: Moment) -> None:
        """Let the timer run if it is due."""
        self._expire(moment, before=moment.now + _MICROSECOND)

    # What can be looked at

    def take_events(self) -> tuple[Event, ...]:
        """What happened since the last call, in order."""
        events = tuple(self._events)
        self._events.clear()
        return events

    def state(self) -> DriverState:
        """A look at everything that decides what happens next."""
        return DriverState(
            phase=self._phase,
            is_open=self._is_open,
            unread=self._unread_name if self._unread else "",
            operation=self._transaction.name if self._transaction is not None else "",
            deadline=self.next_deadline(),
            ring=len(self._ring),
        )

    # Registrations and replies

    def _register(self, operation: int, moment: Moment) -> None:
        if self._phase > Phase.READY:
            self._refuse_write(errno.EINVAL, "a registration while an operation is open", moment)
        if operation == REGISTER and self._send(encode_handshake(), HANDSHAKE, moment):
            self._refuse_write(errno.EFAULT, "the message before has not been read", moment)
        self._note(Event(EventKind.REGISTERED, moment, operation=f"register {operation}"))
        if self._kernel.is_ready_at_write:
            self._phase = Phase.READY

    def _take_reply(self, status: int, moment: Moment) -> None:
        transaction = self._transaction
        if transaction is None:
            self._refuse_write(errno.EINVAL, "no operation is open", moment)
        name = transaction.name
        self._note(Event(EventKind.WROTE, moment, operation=name, status=status, vmbus_id=transaction.packet.vmbus_id))
        if status & 0xFF == Operation.HOT_BACKUP:
            hyperv.set_body_flags(transaction.buffer, NO_AUTO_RECOVERY)
        if transaction.deadline <= moment.now:
            detail = "a reply met the timer: it counts as written, and the host hears of the timer alone"
            self._note(Event(EventKind.RACED, moment, operation=name, detail=detail))
            status = FAILURE
        self._respond(self._end_transaction(), status, moment)
        self._poll_channel(moment)

    def _expire(self, moment: Moment, *, before: Instant) -> None:
        transaction = self._transaction
        if transaction is None or transaction.deadline >= before:
            return
        self._note(Event(EventKind.TIMED_OUT, moment, operation=transaction.name, vmbus_id=transaction.packet.vmbus_id))
        self._respond(self._end_transaction(), FAILURE, moment)
        self._poll_channel(moment)

    # The channel to the host

    def _poll_channel(self, moment: Moment) -> None:
        """The transaction is over: be ready, and take the next message of the host, if one waits."""
        self._phase = Phase.READY
        self._on_channel(moment)

    def _on_channel(self, moment: Moment) -> None:
        """Take one message of the host, and those after it that the kernel answers by itself."""
        while self._phase <= Phase.READY and self._ring:
            packet = self._ring.popleft()
            buffer = bytearray(packet.data)
            name = hyperv.name_of(bytearray(packet.data.ljust(hyperv.MESSAGE_SIZE, b"\0")))
            if hyperv.is_negotiation(buffer):
                status, length = hyperv.negotiate(buffer, len(packet.data))
                self._answer(packet, buffer[:length], name, status, moment)
                return
            if len(buffer) < hyperv.MESSAGE_SIZE:
                detail = "too short for a message; the host gets no reply"
                self._note(Event(EventKind.DROPPED, moment, operation=name, vmbus_id=packet.vmbus_id, detail=detail))
                return
            if not self._handle(packet, buffer, name, moment):
                return
            self._phase = Phase.READY

    def _handle(self, packet: Packet, buffer: bytearray, name: str, moment: Moment) -> bool:
        """Work off one message; whether the channel is looked at again at once, with the driver ready."""
        operation = hyperv.operation_of(buffer)
        if operation == Operation.HOT_BACKUP and not self._kernel.asks_for_hot_backup:
            hyperv.set_body_flags(buffer, NO_AUTO_RECOVERY)
        elif operation in _PASSED_ON:
            self._pass_on(_Transaction(packet, buffer, name, moment.now + self._limit(operation)), moment)
            return False
        elif operation == Operation.GET_DM_INFO:
            hyperv.set_body_flags(buffer, 0)
        self._answer(packet, buffer, name, SUCCESS, moment)
        return True

    def _pass_on(self, transaction: _Transaction, moment: Moment) -> None:
        if self._phase < Phase.READY:
            self._respond(transaction, FAILURE, moment, "nobody is registered")
            return
        self._phase = Phase.USERSPACE_REQ
        name, vmbus_id = transaction.name, transaction.packet.vmbus_id
        operation = hyperv.operation_of(transaction.buffer)
        code = self._send(encode_operation(operation), name, moment, vmbus_id=vmbus_id)
        if code:
            self._phase = Phase.READY
            self._respond(transaction, FAILURE, moment, f"failed to communicate to the daemon: -{code}")
            return
        self._transaction = transaction

    def _limit(self, operation: int) -> timedelta:
        limits = self._kernel.limits
        return {Operation.FREEZE.value: limits.freeze, Operation.THAW.value: limits.thaw}.get(operation, limits.check)

    def _send(self, data: bytes, name: str, moment: Moment, *, vmbus_id: int | None = None) -> int:
        """Queue a message for the daemon. The result is 0, or the error: EINVAL, nobody has the device open; EFAULT,
        the message before has not been read.
        """
        if not self._is_open:
            return errno.EINVAL
        if self._unread:
            return errno.EFAULT
        self._unread, self._unread_name = data, name
        if vmbus_id is not None:
            self._note(Event(EventKind.RECEIVED, moment, operation=name, vmbus_id=vmbus_id))
        self._note(Event(EventKind.WOKEN, moment, operation=name, vmbus_id=vmbus_id))
        return 0

    def _end_transaction(self) -> _Transaction:
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            raise AssertionError("no operation is open")
        return transaction

    def _respond(self, transaction: _Transaction, status: int, moment: Moment, detail: str = "") -> None:
        self._answer(transaction.packet, transaction.buffer, transaction.name, status, moment, detail)

    def _answer(
        self, packet: Packet, buffer: bytearray, name: str, status: int, moment: Moment, detail: str = ""
    ) -> None:
        """Make the reply of the message in the buffer, and send it."""
        hyperv.set_status(buffer, status)
        self._note(
            Event(
                EventKind.REPLIED,
                moment,
                operation=name,
                status=status,
                vmbus_id=packet.vmbus_id,
                reply=bytes(buffer),
                detail=detail,
            )
        )

    def _go(self, moment: Moment) -> None:
        self.is_gone = True
        self._ring.clear()
        self._note(Event(EventKind.DETACHED, moment))

    # Refusals

    def _refuse_write(self, code: int, detail: str, moment: Moment) -> NoReturn:
        if self._kernel.every_error_is_efault:
            code = errno.EFAULT
        self._refuse(EventKind.WRITE_REFUSED, code, detail, moment)

    def _refuse(self, kind: EventKind, code: int, detail: str, moment: Moment) -> NoReturn:
        self._note(Event(kind, moment, detail=f"{errno.errorcode[code]}: {detail}"))
        raise OSError(code, detail)

    def _note(self, event: Event) -> None:
        self._events.append(event)
