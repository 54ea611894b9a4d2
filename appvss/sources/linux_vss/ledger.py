"""Which operation of the driver awaits an answer, and until when. Pure: values and instants only.

There is one at a time, and a reply says neither which one it answers nor which kind (facts/linux-hv-vss.md section 0,
fact 1). So this is the only place that knows, and a reply that might answer the next operation is never made.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta

from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.model.instant import Instant
from appvss.model.request import Request, RequestKind
from appvss.sources.device_thread import Silence
from appvss.sources.linux_vss.settings import Budgets, LinuxVssSettings, margin_of
from appvss.sources.wire.linux_hv_vss import FAILURE, SUCCESS, Operation

REQUESTER = "Hyper-V host"
"""Who asks through this driver."""
GRACE = timedelta(milliseconds=500)
"""How long after a request's deadline its answer is waited for before it is refused without one: the broker answers at
the deadline at the latest, and its answer has a way to go."""

_KINDS = {
    Operation.HOT_BACKUP: RequestKind.CHECK,
    Operation.FREEZE: RequestKind.FREEZE,
    Operation.THAW: RequestKind.THAW,
}
PASSED_ON = tuple(_KINDS)
"""What the driver passes on to a daemon."""
_ZERO = timedelta(0)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status to write, which closes the request."""

    request: Request
    status: int


@dataclass(frozen=True, slots=True)
class TooLate:
    """The kernel may have given the request up, so that a reply would answer another: close the device instead."""

    request: Request


@dataclass(frozen=True, slots=True)
class Unheard:
    """The broker agrees to a request that was refused or given up meanwhile: the host does not know that it holds."""

    request: Request


@dataclass(frozen=True, slots=True)
class _Open:
    request: Request
    refused_at: Instant
    """When it is refused, unless an answer has come."""
    unsure_at: Instant
    """From when on the kernel may have given it up."""


class Ledger:
    """The open request of the device, through all its openings: no id comes twice.

    Args:
        settings: what the administrator set.
        budgets: what the kernel leaves of it.
    """

    def __init__(self, settings: LinuxVssSettings, budgets: Budgets) -> None:
        self._settings = settings
        self._budgets = budgets
        self._numbers = itertools.count(1)
        self._is_hold_lost = False
        """A thaw that no host had asked for has ended the hold, and the host does not know it yet."""
        self._open: _Open | None = None
        self._closed: Request | None = None
        """The last request that was closed without a yes."""

    @property
    def open(self) -> Request | None:
        """The request that awaits its answer."""
        return self._open.request if self._open is not None else None

    def next_expiry(self) -> Instant | None:
        """When `expire` must be called next."""
        return self._open.refused_at if self._open is not None else None

    def admit(self, operation: Operation, now: Instant) -> Request:
        """The request that an operation makes. Nothing is open: whoever admits calls `give_up` before.

        Args:
            operation: one of the three that the kernel passes on.
            now: by the monotonic clock, after the read.
        """
        kind = _KINDS[operation]
        budget, limit = self._times(kind)
        freezes = kind is RequestKind.FREEZE
        if freezes:
            self._is_hold_lost = False
        request = Request(
            id=str(next(self._numbers)),
            source=self._settings.NAME,
            kind=kind,
            requester=REQUESTER,
            deadline=now + budget,
            reserve=self._budgets.reserve if freezes else _ZERO,
            hold_limit=self._settings.hold_limit if freezes else _ZERO,
            supersedes=True,  # the driver has one operation at a time: a new one means that the former is over
            overlap=self._settings.overlap,
            filesystems=FilesystemChoice(Scope.ALL if freezes else Scope.NONE),
        )
        self._open = _Open(request, now + budget + GRACE, now + limit - margin_of(limit) / 2)
        return request

    def give_up(self) -> Request | None:
        """Close the open request, because the kernel does not wait for its answer any more; None: nothing is open."""
        entry, self._open = self._open, None
        if entry is None:
            return None
        self._closed = entry.request
        return entry.request

    def refused_thaw(self) -> None:
        """The kernel has not taken the answer to a thaw: it was the one of a hibernation, which no host has asked for
        (facts/linux-hv-vss.md section 1.6). The hold is over, and whatever copy the host makes of it is worth less than
        it was told. So the next thaw is answered with a no, unless a freeze comes before it.
        """
        self._is_hold_lost = True

    def settle(self, identity: str, *, go_on: bool, now: Instant) -> Reply | TooLate | Unheard | Silence:
        """What to do with an answer; the request is closed by it.

        Args:
            identity: the request's id.
            go_on: whether the answer agrees.
            now: by the monotonic clock, at the moment of the write.
        """
        if self._open is not None and self._open.request.id == identity:
            if self._open.request.kind is RequestKind.THAW and self._is_hold_lost:
                self._is_hold_lost, go_on = False, False
            return self._close(self._open, SUCCESS if go_on else FAILURE, now)
        if go_on and self._closed is not None and self._closed.id == identity:
            return Unheard(self._closed)
        return Silence("it is not open: unknown, answered before, or refused at its deadline")

    def expire(self, now: Instant) -> Reply | TooLate | None:
        """The refusal of the open request, if its time is over."""
        if self._open is None or now < self._open.refused_at:
            return None
        return self._close(self._open, FAILURE, now)

    def _close(self, entry: _Open, status: int, now: Instant) -> Reply | TooLate:
        self._open = None
        if status != SUCCESS:
            self._closed = entry.request
        if now >= entry.unsure_at:
            return TooLate(entry.request)
        return Reply(entry.request, status)

    def _times(self, kind: RequestKind) -> tuple[timedelta, timedelta]:
        """Our budget, and the kernel's limit."""
        match kind:
            case RequestKind.FREEZE:
                return self._budgets.freeze, self._budgets.limits.freeze
            case RequestKind.THAW:
                return self._budgets.thaw, self._budgets.limits.thaw
            case RequestKind.CHECK:
                return self._budgets.check, self._budgets.limits.check
