"""What a broker tells an administrator, as values. The meaning of every field stands in `proto/appvss/v1/admin.proto`.

All text is printable: whatever came from an app has been made so before it gets here (`model/names.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from appvss import contract
from appvss.model.app import AppId, Peer, Requirement
from appvss.model.errors import MessageInvalid
from appvss.model.names import printable
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Verdict
from appvss.v1 import admin_pb2, types_pb2

_PATH_LIMIT: Final = 1024
_WORD_LIMIT: Final = 64
_PREFIX: Final = "PHASE_"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source of the broker."""

    name: str
    mode: str
    condition: str
    detail: str
    since: timedelta
    """How long it has been so."""


@dataclass(frozen=True, slots=True)
class CycleSummary:
    """One cycle that has ended, in a line."""

    cycle: str
    source: str
    requester: str
    time: datetime
    took: timedelta
    phase: Phase | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """The broker at one glance."""

    broker: str
    pid: int
    uptime: timedelta
    phase: Phase | None
    """None: a phase that this version does not know."""
    cycle: str
    """The running cycle; empty: none runs."""
    phase_for: timedelta | None
    apps: int
    absent_apps: tuple[str, ...]
    sources: tuple[SourceStatus, ...]
    last_cycle: CycleSummary | None
    runtime_directory: str
    configuration: str
    """The file that the configuration came from; empty: built-in values."""


@dataclass(frozen=True, slots=True)
class AppStatus:
    """One app that is registered, or that should be."""

    app: AppId
    state: str
    since: timedelta
    """How long it has been in that state."""
    requirement: Requirement
    order: int
    after: tuple[str, ...]
    freeze_timeout: timedelta | None
    hold_limit: timedelta
    peer: Peer | None
    """None: nobody knows who it is."""
    paths: tuple[str, ...]
    library: str
    last_outcome: AppOutcome | None
    last_error: str


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


@dataclass(frozen=True, slots=True)
class Held:
    """Everything is frozen."""

    cycle: str
    hold_limit: timedelta
    """How long the hold may last from the moment of this answer on."""


def _phase_of(number: types_pb2.Phase.ValueType) -> Phase | None:
    try:
        return Phase(types_pb2.Phase.Name(number).removeprefix(_PREFIX).lower())
    except ValueError:  # unspecified, or newer than this code
        return None


def _time_of(message: Timestamp) -> datetime:
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise MessageInvalid(
            f"a time of {message.seconds} s since 1970 is out of range", "Send a time that a calendar has."
        ) from error


def _lines(texts: Iterable[str], limit: int = _WORD_LIMIT) -> tuple[str, ...]:
    return tuple(printable(text, limit) for text in texts)


def _source_of(message: admin_pb2.Source) -> SourceStatus:
    return SourceStatus(
        name=printable(message.name, _WORD_LIMIT),
        mode=printable(message.mode, _WORD_LIMIT),
        condition=printable(message.condition, _WORD_LIMIT),
        detail=printable(message.detail),
        since=contract.length_of(message.since),
    )


def status_of(message: admin_pb2.GetStatusResponse) -> BrokerStatus:
    """The broker's state, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return BrokerStatus(
        broker=printable(message.broker, _WORD_LIMIT),
        pid=message.pid,
        uptime=contract.length_of(message.uptime),
        phase=_phase_of(message.phase),
        cycle=printable(message.cycle, _WORD_LIMIT),
        phase_for=contract.length_of(message.phase_for) if message.HasField("phase_for") else None,
        apps=message.apps,
        absent_apps=_lines(message.absent_apps),
        sources=tuple(_source_of(source) for source in message.sources),
        last_cycle=summary_of(message.last_cycle) if message.HasField("last_cycle") else None,
        runtime_directory=printable(message.runtime_directory, _PATH_LIMIT),
        configuration=printable(message.configuration, _PATH_LIMIT),
    )


def app_of(message: admin_pb2.App) -> AppStatus:
    """One app's state, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    peer = Peer(message.peer.uid, message.peer.gid, message.peer.pid) if message.HasField("peer") else None
    return AppStatus(
        app=AppId(message.name, message.instance),
        state=printable(message.state, _WORD_LIMIT),
        since=contract.length_of(message.since),
        requirement=contract.requirement_of(message.requirement),
        order=message.order,
        after=_lines(message.after),
        freeze_timeout=contract.length_of(message.freeze_timeout) if message.HasField("freeze_timeout") else None,
        hold_limit=contract.length_of(message.hold_limit),
        peer=peer,
        paths=_lines(message.paths, _PATH_LIMIT),
        library=printable(message.library, _WORD_LIMIT),
        last_outcome=contract.outcome_of(message.last_outcome) if message.HasField("last_outcome") else None,
        last_error=printable(message.last_error),
    )


def event_of(message: types_pb2.Event) -> BrokerEvent:
    """One event, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return BrokerEvent(
        kind=printable(message.kind, _WORD_LIMIT),
        time=_time_of(message.time),
        cycle=printable(message.cycle, _WORD_LIMIT),
        app=printable(message.app, 2 * _WORD_LIMIT + 2),
        phase=_phase_of(message.phase),
        detail=printable(message.detail),
        took=contract.length_of(message.took) if message.HasField("took") else None,
        since_request=contract.length_of(message.since_request) if message.HasField("since_request") else None,
    )


def summary_of(message: admin_pb2.CycleSummary) -> CycleSummary:
    """One cycle in a line, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return CycleSummary(
        cycle=printable(message.cycle, _WORD_LIMIT),
        source=printable(message.source, _WORD_LIMIT),
        requester=printable(message.requester),
        time=_time_of(message.time),
        took=contract.length_of(message.took),
        phase=_phase_of(message.phase),
        verdict=contract.verdict_of(message.verdict),
    )


def detail_of(message: admin_pb2.GetCycleResponse) -> CycleDetail:
    """One cycle with its events, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return CycleDetail(summary_of(message.summary), tuple(event_of(event) for event in message.events))
