"""The driver's netlink side: what it does with the host's messages and with what comes over the connector. Pure.

Here is what its two editions have in common; they differ in `first` and `second`. Sources: facts/linux-hv-vss.md
sections 1.6, 2 and 3.3, and the drivers' own, drivers/hv/hv_snapshot.c and drivers/hv/hv_utils_transport.c.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appvss.model.instant import Instant
from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind
from appvss.simulator.hyperv import (
    MESSAGE_SIZE,
    NO_AUTO_RECOVERY,
    RING_SIZE,
    HostOperation,
    HostStatus,
    Packet,
    is_negotiation,
    name_of,
    negotiate,
    operation_of,
    set_body_flags,
    set_status,
)
from appvss.simulator.linux_netlink.kernel import NetlinkKernel
from appvss.sources.wire.linux_hv_vss import encode_operation
from appvss.sources.wire.linux_netlink import CONNECTOR_HEADER, GROUP, HEADERS, MAX_PAYLOAD, NETLINK_HEADER, VALUE

FORWARDED: Final = frozenset({HostOperation.FREEZE, HostOperation.THAW})
"""What every driver passes on to a daemon."""


@dataclass(frozen=True, slots=True)
class DriverState:
    """A look at the driver."""

    condition: str
    """`active` or `idle`; `device_init`, `ready` or `userspace_req`."""
    mode: str
    """How it reaches a daemon."""
    operation: str
    """What it waits for; empty: nothing."""
    ring: int
    """Messages of the host that wait."""


class NetlinkDriver(ABC):
    """What both editions have in common: the host's ring, one transaction, one timer.

    Args:
        kernel: whose driver it is.
        multicast: sends a payload to the group; returns whether anybody is in it.
    """

    def __init__(self, kernel: NetlinkKernel, multicast: Callable[[bytes], bool]) -> None:
        self._kernel = kernel
        self._multicast = multicast
        self._ring: deque[Packet] = deque()
        self._transaction: Packet | None = None
        """The message that was taken last; it is answered at most once."""
        self._timer: Instant | None = None
        self._events: list[Event] = []

    # What the host and time do

    def host_sends(self, packet: Packet, moment: Moment) -> None:
        """A message of the host arrives, with an interrupt.

        Raises:
            OSError: EAGAIN, the ring is full.
        """
        if sum(waiting.ring_space for waiting in self._ring) + packet.ring_space > RING_SIZE:
            raise OSError(errno.EAGAIN, "the ring to the guest is full")
        self._ring.append(packet)
        self._say(EventKind.HOST_SENT, moment, vmbus_id=packet.vmbus_id, operation=_name(packet))
        self._interrupt(moment)

    def advance(self, moment: Moment) -> None:
        """Let the timer run out, if it is due."""
        if self._timer is not None and moment.now >= self._timer:
            self._timer = None
            self._say(EventKind.TIMED_OUT, moment, operation=self._operation())
            self._time_out(moment)

    def next_deadline(self) -> Instant | None:
        """When `advance` has something to do."""
        return self._timer

    # What comes over the connector

    def receive(self, data: bytes, moment: Moment, sender: str) -> None:
        """A datagram for the kernel's port. Whatever becomes of it, the sender hears nothing.

        Args:
            data: the whole datagram.
            moment: now.
            sender: who sent it, for the events.
        """
        payload = self._payload(data)
        if isinstance(payload, str):
            self._say(EventKind.DROPPED, moment, detail=f"{sender}: {payload}")
        else:
            self._take(payload, moment, sender)

    def open_device(self, moment: Moment) -> None:
        """A program opens the character device.

        Raises:
            OSError: ENOENT, this driver has none; EBUSY, it is open.
        """
        raise OSError(errno.ENOENT, "this kernel's driver has no character device")

    def close_device(self, moment: Moment) -> None:
        """The character device is closed. Nothing happens when it is not open."""
        del moment

    # What can be looked at

    @abstractmethod
    def state(self) -> DriverState:
        """A look at everything."""

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    # How it works

    @abstractmethod
    def _interrupt(self, moment: Moment) -> None:
        """The channel's callback: look into the ring."""

    @abstractmethod
    def _time_out(self, moment: Moment) -> None:
        """The timer has run out."""

    @abstractmethod
    def _take(self, payload: bytes, moment: Moment, sender: str) -> None:
        """A message that the connector has passed on."""

    def _payload(self, data: bytes) -> bytes | str:
        """What the connector passes on, or why it drops the datagram (section 3.2)."""
        if len(data) < HEADERS:
            return f"{len(data)} bytes are no connector message"
        length = NETLINK_HEADER.unpack_from(data)[0]
        group, value, _, _, size, _ = CONNECTOR_HEADER.unpack_from(data, NETLINK_HEADER.size)
        if length < HEADERS or length > len(data) or length > HEADERS + MAX_PAYLOAD:
            return f"its length of {length} is wrong"
        if self._kernel.has_timer and HEADERS + size > length:
            return f"its message of {size} bytes has no room in {length}"
        if (group, value) != (GROUP, VALUE):
            return f"{group}:{value} is somebody else"
        return data[HEADERS : HEADERS + size]

    def _begin(self, packet: Packet, moment: Moment) -> HostOperation | int | None:
        """Take a message of the host; its operation, or None: it is worked off already."""
        buffer = bytearray(packet.data)
        if is_negotiation(buffer):
            buffer.extend(bytes(64))
            status, length = negotiate(buffer, len(packet.data))
            self._reply(packet, status, moment, bytes(buffer[:length]))
            return None
        if len(buffer) < MESSAGE_SIZE:
            detail = "too short for a message; the host gets no reply"
            self._say(EventKind.DROPPED, moment, operation=_name(packet), vmbus_id=packet.vmbus_id, detail=detail)
            return None
        self._transaction = packet
        return operation_of(buffer)

    def _answer_alone(self, operation: int, moment: Moment) -> None:
        """The kernel's own answer to what no daemon hears of."""
        flags = {HostOperation.CHECK: NO_AUTO_RECOVERY, HostOperation.DM_INFO: 0}
        self._respond(HostStatus.OK, moment, flags=flags.get(HostOperation(operation)) if operation < 8 else None)

    def _send(self, operation: int, moment: Moment) -> bool:
        """Send the transaction's operation to the daemon, and start the timer; whether anybody is there."""
        limit = self._kernel.limit(operation)
        if limit is not None and self._timer is None:
            self._timer = moment.now + limit
        self._say(EventKind.RECEIVED, moment, operation=self._operation())
        heard = self._multicast(encode_operation(operation))
        if heard:
            self._say(EventKind.WOKEN, moment, operation=self._operation(), detail="sent to the group")
        return heard

    def _fail_to_send(self, number: int, moment: Moment) -> None:
        self._timer = None
        self._respond(HostStatus.FAIL, moment, detail=f"failed to communicate to the daemon: {-number}")

    def _respond(self, status: int, moment: Moment, *, flags: int | None = None, detail: str = "") -> None:
        packet, self._transaction = self._transaction, None
        if packet is None:
            return
        buffer = bytearray(packet.data)
        if flags is not None:
            set_body_flags(buffer, flags)
        self._reply(packet, status, moment, bytes(buffer), detail)

    def _reply(self, packet: Packet, status: int, moment: Moment, data: bytes, detail: str = "") -> None:
        buffer = bytearray(data)
        set_status(buffer, status)
        self._say(
            EventKind.REPLIED,
            moment,
            vmbus_id=packet.vmbus_id,
            operation=_name(packet),
            status=status,
            reply=bytes(buffer),
            detail=detail,
        )

    def _operation(self) -> str:
        return _name(self._transaction) if self._transaction is not None else ""

    def _say(
        self,
        kind: EventKind,
        moment: Moment,
        *,
        operation: str = "",
        status: int | None = None,
        vmbus_id: int | None = None,
        reply: bytes | None = None,
        detail: str = "",
    ) -> None:
        event = Event(kind, moment, operation=operation, status=status, vmbus_id=vmbus_id, reply=reply, detail=detail)
        self._events.append(event)


def _name(packet: Packet) -> str:
    return name_of(bytearray(packet.data.ljust(MESSAGE_SIZE, b"\0")))
