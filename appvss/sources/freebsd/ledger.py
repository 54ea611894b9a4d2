"""Which of the device's messages await an answer, and until when. Pure: values and instants only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from appvss.model.duration import format_duration
from appvss.model.instant import Instant
from appvss.model.request import Request, RequestKind
from appvss.sources.device_thread import Silence
from appvss.sources.freebsd.settings import FreebsdSettings
from appvss.sources.wire.freebsd import FAILURE, LAST_MOMENT, LIMIT, SUCCESS, Message, Operation, time_left

NAME = "freebsd"
"""The source's name in requests, states and logs."""
REQUESTER = "Hyper-V host"
"""Who asks through this device."""
CHECK_RESERVE = timedelta(seconds=1)
"""What of a check's time belongs to the file-system side, if `filesystem_reserve` is not less: it freezes nothing
then, it only looks through the mount table."""
MOST_OPEN = 4
"""How many requests may be open: the driver has four records in all (facts/freebsd-vss.md section 2.6)."""

_KINDS = {
    Operation.CHECK: RequestKind.CHECK,
    Operation.FREEZE: RequestKind.FREEZE,
    Operation.THAW: RequestKind.THAW,
}
_ZERO = timedelta(0)


@dataclass(frozen=True, slots=True)
class _Open:
    message: Message
    deadline: Instant


class Ledger:
    """The open requests of one opening of the device. The driver says of no answer whether it took it (trap 1), so
    this is the only place that knows: each message is answered once, with its own operation and msgid, and in time.
    """

    def __init__(self, settings: FreebsdSettings) -> None:
        self._settings = settings
        self._open: dict[str, _Open] = {}

    def admit(self, message: Message, now: Instant, wall: timedelta) -> Request | Silence:
        """The request that `message` makes.

        A request whose time is gone already is not asked: it will not be answered, and the driver fails it by its own
        timer. A thaw is asked even so, with a deadline that is now: the apps must go on, whether the host hears of it
        or not.

        Args:
            message: as read from the device; not the empty one.
            now: by the monotonic clock.
            wall: by the clock that the driver's msgid is a reading of. It may have jumped; the time left is between
                zero and the budget whatever it says.
        """
        self._open = {key: entry for key, entry in self._open.items() if now < entry.deadline}
        identity = str(message.msgid)
        if identity in self._open:
            return Silence(f"{_name(message)} came a second time while it is open")
        if len(self._open) >= MOST_OPEN:
            return Silence(f"{_name(message)} came while {MOST_OPEN} others are open, more than the driver can have")
        left = time_left(message.msgid, wall) - (LIMIT - self._settings.budget) - LAST_MOMENT
        kind = _KINDS[message.operation]
        if left <= _ZERO and kind is not RequestKind.THAW:
            return Silence(
                f"{_name(message)} came too late to be answered within {format_duration(self._settings.budget)}"
            )
        deadline = now + max(left, _ZERO)
        self._open[identity] = _Open(message, deadline)
        return Request(
            id=identity,
            source=NAME,
            kind=kind,
            requester=REQUESTER,
            deadline=deadline,
            reserve=self._reserve(kind),
            hold_limit=self._settings.hold_limit if kind is RequestKind.FREEZE else _ZERO,
            supersedes=True,  # the driver has one request at a time (section 2.6): a new one means the former is over
            overlap=self._settings.overlap,
        )

    def settle(self, identity: str, *, go_on: bool, now: Instant) -> Message | Silence:
        """The message to write for an answer; the request is closed by it, also when the answer comes too late.

        Args:
            identity: the request's id.
            go_on: whether the answer agrees.
            now: by the monotonic clock, at the moment of the write.
        """
        entry = self._open.pop(identity, None)
        if entry is None:
            return Silence("it is not open: unknown, answered before, or long past its deadline")
        if now >= entry.deadline:
            return Silence(f"the answer comes {format_duration(now - entry.deadline)} after the deadline")
        return replace(entry.message, status=SUCCESS if go_on else FAILURE)

    def _reserve(self, kind: RequestKind) -> timedelta:
        """What others need after the apps: the file-system side comes after them in a check and in a freeze, before
        them in a thaw (facts/freebsd-vss.md section 3.2).
        """
        match kind:
            case RequestKind.CHECK:
                return min(CHECK_RESERVE, self._settings.filesystem_reserve)
            case RequestKind.FREEZE:
                return self._settings.filesystem_reserve
            case RequestKind.THAW:
                return _ZERO


def _name(message: Message) -> str:
    return f"{_KINDS[message.operation]} {message.msgid}"
