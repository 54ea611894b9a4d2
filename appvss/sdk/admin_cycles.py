"""Cycles as a broker tells of them: in a line, with their events, as a rehearsal. The meaning of every field stands in
`proto/appvss/v1/admin.proto` and `requester.proto`.

All text is printable: whatever came from an app has been made so before it gets here (`model/names.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from appvss import contract
from appvss.model.errors import MessageInvalid
from appvss.model.names import printable
from appvss.model.phase import Phase
from appvss.model.verdict import Verdict
from appvss.v1 import admin_pb2, requester_pb2, types_pb2

WORD_LIMIT: Final = 64
"""Longest word, name or id that is kept, in characters."""
_PREFIX: Final = "PHASE_"


@dataclass(frozen=True, slots=True)
class CycleSummary:
    """One cycle that has ended, in a line."""

    cycle: str
    source: str
    requester: str
    time: datetime
    took: timedelta
    phase: Phase | None
    """`completed` or `aborted`; None: one that this version does not know."""
    verdict: Verdict
    rehearses: bool = False
    """Whether it was a rehearsal: no file system was frozen, and there was no snapshot."""


@dataclass(frozen=True, slots=True)
class BrokerEvent:
    """One thing that happened in the broker."""

    kind: str
    time: datetime
    cycle: str
    app: str
    phase: Phase | None
    detail: str
    took: timedelta | None
    since_request: timedelta | None


@dataclass(frozen=True, slots=True)
class CycleDetail:
    """One cycle with its events, oldest first."""

    summary: CycleSummary
    events: tuple[BrokerEvent, ...]
    certificate: str = ""
    """The text of the part that was written before the snapshot (docs/reference/certificate.md); empty: there is
    none."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How one rehearsal ended."""

    summary: CycleSummary
    time_to_prepare: timedelta | None
    """From the first prepare to the last answer. None: nobody prepares."""
    time_to_freeze: timedelta
    """From the first freeze to the last ack: what a source's limit must cover."""


@dataclass(frozen=True, slots=True)
class Held:
    """Everything is frozen."""

    cycle: str
    hold_limit: timedelta
    """How long the hold may last from the moment of this answer on."""


@dataclass(frozen=True, slots=True)
class HookEnd:
    """What the hold of a hook was worth."""

    verdict: Verdict
    is_kept: bool
    """Whether everything that was told to be held stood still until the thaw."""


def phase_of(number: types_pb2.Phase.ValueType) -> Phase | None:
    """A phase, from the wire; None: unspecified, or newer than this code."""
    try:
        return Phase(types_pb2.Phase.Name(number).removeprefix(_PREFIX).lower())
    except ValueError:
        return None


def time_of(message: Timestamp) -> datetime:
    """A time of the wall clock, from the wire.

    Raises:
        MessageInvalid: no calendar has it.
    """
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise MessageInvalid(
            f"a time of {message.seconds} s since 1970 is out of range", "Send a time that a calendar has."
        ) from error


def length_or_none(message: Duration, is_there: bool) -> timedelta | None:
    """A length that may be absent, from the wire.

    Raises:
        MessageInvalid: it is none that google.protobuf.Duration allows.
    """
    return contract.length_of(message) if is_there else None


def event_of(message: types_pb2.Event) -> BrokerEvent:
    """One event, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return BrokerEvent(
        kind=printable(message.kind, WORD_LIMIT),
        time=time_of(message.time),
        cycle=printable(message.cycle, WORD_LIMIT),
        app=printable(message.app, 2 * WORD_LIMIT + 2),
        phase=phase_of(message.phase),
        detail=printable(message.detail),
        took=length_or_none(message.took, message.HasField("took")),
        since_request=length_or_none(message.since_request, message.HasField("since_request")),
    )


def summary_of(message: admin_pb2.CycleSummary) -> CycleSummary:
    """One cycle in a line, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return CycleSummary(
        cycle=printable(message.cycle, WORD_LIMIT),
        source=printable(message.source, WORD_LIMIT),
        requester=printable(message.requester),
        time=time_of(message.time),
        took=contract.length_of(message.took),
        phase=phase_of(message.phase),
        verdict=contract.verdict_of(message.verdict),
        rehearses=message.rehearses,
    )


def detail_of(message: admin_pb2.GetCycleResponse) -> CycleDetail:
    """One cycle with its events, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    events = tuple(event_of(event) for event in message.events)
    return CycleDetail(summary_of(message.summary), events, message.certificate)


def rehearsal_of(message: requester_pb2.RehearseResponse) -> Rehearsal:
    """One rehearsal, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return Rehearsal(
        summary=summary_of(message.summary),
        time_to_prepare=length_or_none(message.time_to_prepare, message.HasField("time_to_prepare")),
        time_to_freeze=contract.length_of(message.time_to_freeze),
    )


def hook_freeze_of(message: requester_pb2.HookFreezeResponse) -> Held | Verdict:
    """How the freeze of a hook went, from the wire. An answer that says neither is no hold.

    Raises:
        UsageError: a value is out of its range.
    """
    if message.HasField("held"):
        return Held(printable(message.held.cycle, WORD_LIMIT), contract.length_of(message.held.hold_limit))
    return contract.verdict_of(message.ended.verdict)


def hook_end_of(message: requester_pb2.HookThawResponse) -> HookEnd | None:
    """What the hold of a hook was worth, from the wire. None: nothing was held.

    Raises:
        UsageError: a value is out of its range.
    """
    return HookEnd(contract.verdict_of(message.verdict), message.kept) if message.HasField("verdict") else None
