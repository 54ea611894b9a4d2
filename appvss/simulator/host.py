"""Playing the Hyper-V host: it sends requests down the channel and waits for the replies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import count
from typing import Final, Protocol

from appvss.simulator.clock import Alarms, Clock
from appvss.simulator.event import Event, EventKind
from appvss.simulator.hyperv import (
    HostMessage,
    HostOperation,
    HostStatus,
    Packet,
    Version,
    negotiation_message,
    parse,
    vss_message,
)

PATIENCE: Final = timedelta(seconds=60)
"""How long a host seems to wait for a reply (facts/freebsd-vss.md section 5.5); longer than the driver's 15 s."""
FRAMEWORKS: Final = (Version(1, 0), Version(3, 0))
MESSAGES: Final = (Version(3, 0), Version(4, 0), Version(5, 0))


_ENDS: Final = {
    EventKind.DETACHED: "the driver detached",
    EventKind.LEAVING: "the device is being removed",
    EventKind.HIBERNATED: "the guest has hibernated",
}


class HostOutcome(StrEnum):
    """What the host made of a request."""

    OK = "ok"
    FAILED = "failed"
    """The reply has a status other than 0: a veto, a time-out, no file-system side; they cannot be told apart."""
    UNANSWERED = "unanswered"
    """No reply within the host's patience, or the driver is gone."""


@dataclass(frozen=True, slots=True)
class HostResult:
    """How one request of the host ended."""

    operation: str
    outcome: HostOutcome
    took: timedelta
    vmbus_id: int
    """The VMBus transaction id that was sent, and that the reply carried."""
    status: int | None = None
    message: HostMessage | None = None
    """The reply's fields; None without a reply."""
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the guest agreed."""
        return self.outcome is HostOutcome.OK


@dataclass(frozen=True, slots=True)
class BackupResult:
    """How a whole backup ended, as the host sees it."""

    steps: tuple[HostResult, ...]
    """Check, freeze and thaw, as far as it came."""

    @property
    def ok(self) -> bool:
        """Whether the host may call the backup consistent: all three steps, all agreed to."""
        return len(self.steps) == 3 and all(step.ok for step in self.steps)


class Channel(Protocol):
    """The way down to the guest."""

    def host_sends(self, packet: Packet) -> None:
        """Put a message into the ring.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the driver is not there.
        """


class Host:
    """The host's end of the channel. For the event loop's thread.

    Args:
        channel: the guest's end.
        alarms: for the patience.
        clock: the same clock's reading.
        patience: how long to wait for a reply unless told otherwise.
    """

    def __init__(self, channel: Channel, alarms: Alarms, clock: Clock, *, patience: timedelta = PATIENCE) -> None:
        self._channel = channel
        self._patience = patience
        self._alarms = alarms
        self._clock = clock
        self._vmbus_ids = count(1)
        self._transactions = count()
        self._pending: dict[int, asyncio.Future[Event | str]] = {}

    async def check(self, timeout: timedelta | None = None) -> HostResult:
        """HOT_BACKUP: would a freeze work?"""
        return await self.request(HostOperation.CHECK, timeout)

    async def freeze(self, timeout: timedelta | None = None) -> HostResult:
        """FREEZE."""
        return await self.request(HostOperation.FREEZE, timeout)

    async def thaw(self, timeout: timedelta | None = None) -> HostResult:
        """THAW."""
        return await self.request(HostOperation.THAW, timeout)

    async def dm_info(self, timeout: timedelta | None = None) -> HostResult:
        """GET_DM_INFO, which no app hears of."""
        return await self.request(HostOperation.DM_INFO, timeout)

    async def negotiate(
        self,
        frameworks: Sequence[Version] = FRAMEWORKS,
        messages: Sequence[Version] = MESSAGES,
        timeout: timedelta | None = None,
    ) -> HostResult:
        """Offer versions. A status of 22 or 45 means that the driver refused the offer."""
        data = negotiation_message(frameworks, messages, transaction=self._transaction())
        return await self._exchange("negotiate", data, timeout)

    async def request(self, operation: int, timeout: timedelta | None = None) -> HostResult:
        """Send any operation, known or not, and wait for the reply.

        Args:
            operation: one of `HostOperation` or another number up to 255.
            timeout: how long to wait; the result is `UNANSWERED` after it, and the driver's work goes on.
        """
        try:
            name = HostOperation(operation).name.lower()
        except ValueError:
            name = f"operation {operation}"
        return await self._exchange(name, vss_message(operation, transaction=self._transaction()), timeout)

    async def backup(self, *, hold: timedelta, thaw_after_failed_freeze: bool = False) -> BackupResult:
        """Check, freeze, hold, thaw, as a host does for one backup; it stops at the first step that is not agreed to.

        Args:
            hold: how long the snapshot takes.
            thaw_after_failed_freeze: whether the host sends THAW after a FREEZE that failed. What real hosts do is not
                known (section 5.5): an app has to cope with both.
        """
        check = await self.check()
        if not check.ok:
            return BackupResult((check,))
        freeze = await self.freeze()
        if freeze.ok:
            await self._alarms.until(self._clock.now() + hold)
        elif not thaw_after_failed_freeze:
            return BackupResult((check, freeze))
        return BackupResult((check, freeze, await self.thaw()))

    def send(self, operation: int, *, transaction: int | None = None, vmbus_id: int | None = None) -> int:
        """Send a VSS message and do not wait. Returns its VMBus transaction id, which the reply's event carries.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the driver is detached.
        """
        number = self._transaction() if transaction is None else transaction
        return self.send_raw(vss_message(operation, transaction=number), vmbus_id=vmbus_id)

    def send_raw(self, data: bytes, *, vmbus_id: int | None = None) -> int:
        """Send any bytes and do not wait.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the driver is detached.
        """
        number = next(self._vmbus_ids) if vmbus_id is None else vmbus_id
        self._channel.host_sends(Packet(number, data))
        return number

    def notice(self, event: Event) -> None:
        """Take the driver's replies; a driver that was detached, or forgot what was open, will not reply any more."""
        if event.kind is EventKind.REPLIED and event.vmbus_id is not None:
            reply = self._pending.get(event.vmbus_id)
            if reply is not None:
                _settle(reply, event)
        elif event.kind in _ENDS:
            self.give_up(_ENDS[event.kind])

    def give_up(self, reason: str) -> None:
        """End every wait without a reply."""
        for reply in self._pending.values():
            _settle(reply, reason)

    def _transaction(self) -> int:
        return next(self._transactions) % 256

    async def _exchange(self, name: str, data: bytes, timeout: timedelta | None) -> HostResult:
        vmbus_id, began = next(self._vmbus_ids), self._clock.now()
        reply: asyncio.Future[Event | str] = asyncio.get_running_loop().create_future()
        self._pending[vmbus_id] = reply
        alarm = self._alarms.ring(
            began + (timeout or self._patience), lambda: _settle(reply, "the driver did not reply in time")
        )
        try:
            self._channel.host_sends(Packet(vmbus_id, data))
            end = await reply
        except OSError as error:
            end = error.strerror or str(error)
        finally:
            self._alarms.cancel(alarm)
            del self._pending[vmbus_id]
        took = self._clock.now() - began
        if isinstance(end, str):
            return HostResult(name, HostOutcome.UNANSWERED, took, vmbus_id, detail=end)
        outcome = HostOutcome.OK if end.status == HostStatus.OK else HostOutcome.FAILED
        return HostResult(name, outcome, took, vmbus_id, end.status, parse(end.reply or b""))


def _settle(reply: asyncio.Future[Event | str], end: Event | str) -> None:
    if not reply.done():
        reply.set_result(end)
