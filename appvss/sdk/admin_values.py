"""What a broker tells an administrator of itself and of its apps, as values. The meaning of every field stands in
`proto/appvss/v1/admin.proto`; cycles are in `admin_cycles`.

All text is printable: whatever came from an app has been made so before it gets here (`model/names.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from appvss import contract
from appvss.model.app import AppId, Peer, Requirement
from appvss.model.grade import Grade
from appvss.model.names import printable
from appvss.model.phase import Phase
from appvss.model.policy import PolicyValue
from appvss.model.verdict import AppOutcome, Outcome
from appvss.sdk.admin_cycles import WORD_LIMIT, length_or_none, phase_of, time_of
from appvss.sdk.admin_cycles import BrokerEvent as BrokerEvent
from appvss.sdk.admin_cycles import CycleDetail as CycleDetail
from appvss.sdk.admin_cycles import CycleSummary as CycleSummary
from appvss.sdk.admin_cycles import Held as Held
from appvss.sdk.admin_cycles import Rehearsal as Rehearsal
from appvss.sdk.admin_cycles import event_of as event_of
from appvss.sdk.admin_cycles import summary_of as summary_of
from appvss.sdk.admin_filesystems import FreezerStatus, freezer_of
from appvss.v1 import admin_pb2, types_pb2

_PATH_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """One source of the broker."""

    name: str
    mode: str
    condition: str
    detail: str
    since: timedelta
    """How long it has been so."""
    budget: timedelta | None = None
    """The time that it gives from request to answer. None: the broker does not say."""
    reserve: timedelta = timedelta(0)
    """What of that the apps do not get."""
    hold_limit: timedelta | None = None
    """The longest hold. None: the broker does not say."""
    overlap: str = ""
    """What becomes of its freeze while another source's cycle is under way: `refuse`, `join`, `queue`."""


@dataclass(frozen=True, slots=True)
class HistoryStatus:
    """Journal, history and certificate: where they are, and how they do."""

    directory: str
    condition: str
    """`keeping`, `failing`, `in_memory`; empty: the broker does not say."""
    detail: str = ""
    """What is wrong and what to do; empty: nothing."""
    cycles: int = 0
    waiting: int = 0
    """How many cycles wait to be written."""


@dataclass(frozen=True, slots=True)
class RestoredMachine:
    """This machine's disk is a copy that was made while a cycle held it."""

    cycle: str
    source: str
    requester: str
    time: datetime
    """When it was found."""
    stage: str
    """How far the cycle had come: `freezing`, `held`."""
    certificate: str = ""
    """The text of the certificate that the disk carries; empty: none."""


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
    history: HistoryStatus = HistoryStatus("", "")
    policy: tuple[PolicyValue, ...] = ()
    """Every value in force, and who said so."""
    restored: RestoredMachine | None = None
    apps_set_aside: tuple[str, ...] = ()
    held_for: timedelta | None = None
    """Since the requester was told "go on". None: nothing is held."""
    hold_left: timedelta | None = None
    """Until the hold ends at the latest. None: nothing is held."""
    freezer: FreezerStatus | None = None
    """Who freezes the file systems. None: the broker does not say."""


@dataclass(frozen=True, slots=True)
class AppPast:
    """One app's part in a cycle of the past."""

    cycle: str
    time: datetime
    outcome: Outcome
    reason: str
    time_to_freeze: timedelta | None


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
    last_error_ago: timedelta | None = None
    """None: nothing went wrong, or the broker does not say when."""
    failures_in_row: int = 0
    set_aside: str = ""
    """Why it is not asked to freeze, by policy; empty: it is asked."""
    past: tuple[AppPast, ...] = ()
    """Its part in the last cycles, newest first."""
    policy: tuple[PolicyValue, ...] = ()
    refused_messages: int = 0
    registrations: int = 0
    watch_paths: bool = False
    """Whether its paths are watched while it is held."""
    grade: Grade = Grade.APP
    """What a copy is worth, at most, that is taken in its hold."""


def _lines(texts: Iterable[str], limit: int = WORD_LIMIT) -> tuple[str, ...]:
    return tuple(printable(text, limit) for text in texts)


def _policy_of(messages: Iterable[admin_pb2.PolicyValue]) -> tuple[PolicyValue, ...]:
    return tuple(PolicyValue(printable(one.key), printable(one.value), printable(one.origin)) for one in messages)


def _source_of(message: admin_pb2.Source) -> SourceStatus:
    return SourceStatus(
        name=printable(message.name, WORD_LIMIT),
        mode=printable(message.mode, WORD_LIMIT),
        condition=printable(message.condition, WORD_LIMIT),
        detail=printable(message.detail),
        since=contract.length_of(message.since),
        budget=length_or_none(message.budget, message.HasField("budget")),
        reserve=contract.length_of(message.reserve),
        hold_limit=length_or_none(message.hold_limit, message.HasField("hold_limit")),
        overlap=printable(message.overlap, WORD_LIMIT),
    )


def _history_of(message: admin_pb2.History) -> HistoryStatus:
    return HistoryStatus(
        directory=printable(message.directory, _PATH_LIMIT),
        condition=printable(message.condition, WORD_LIMIT),
        detail=printable(message.detail),
        cycles=message.cycles,
        waiting=message.waiting,
    )


def _restored_of(message: admin_pb2.Restored) -> RestoredMachine:
    return RestoredMachine(
        cycle=printable(message.cycle, WORD_LIMIT),
        source=printable(message.source, WORD_LIMIT),
        requester=printable(message.requester),
        time=time_of(message.time),
        stage=printable(message.stage, WORD_LIMIT),
        certificate=message.certificate,
    )


def status_of(message: admin_pb2.GetStatusResponse) -> BrokerStatus:
    """The broker's state, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    return BrokerStatus(
        broker=printable(message.broker, WORD_LIMIT),
        pid=message.pid,
        uptime=contract.length_of(message.uptime),
        phase=phase_of(message.phase),
        cycle=printable(message.cycle, WORD_LIMIT),
        phase_for=length_or_none(message.phase_for, message.HasField("phase_for")),
        apps=message.apps,
        absent_apps=_lines(message.absent_apps),
        sources=tuple(_source_of(source) for source in message.sources),
        last_cycle=summary_of(message.last_cycle) if message.HasField("last_cycle") else None,
        runtime_directory=printable(message.runtime_directory, _PATH_LIMIT),
        configuration=printable(message.configuration, _PATH_LIMIT),
        history=_history_of(message.history),
        policy=_policy_of(message.policy),
        restored=_restored_of(message.restored) if message.HasField("restored") else None,
        apps_set_aside=_lines(message.apps_set_aside),
        held_for=length_or_none(message.held_for, message.HasField("held_for")),
        hold_left=length_or_none(message.hold_left, message.HasField("hold_left")),
        freezer=freezer_of(message.freezer) if message.HasField("freezer") else None,
    )


def _outcome_of(number: types_pb2.Outcome.ValueType) -> Outcome:
    """What is not known counts as a lost hold, as in a verdict (`contract.outcome_of`)."""
    try:
        return Outcome(types_pb2.Outcome.Name(number).removeprefix("OUTCOME_").lower())
    except ValueError:
        return Outcome.HOLD_LOST


def _past_of(message: admin_pb2.AppPast) -> AppPast:
    return AppPast(
        cycle=printable(message.cycle, WORD_LIMIT),
        time=time_of(message.time),
        outcome=_outcome_of(message.outcome),
        reason=printable(message.reason),
        time_to_freeze=length_or_none(message.time_to_freeze, message.HasField("time_to_freeze")),
    )


def app_of(message: admin_pb2.App) -> AppStatus:
    """One app's state, from the wire.

    Raises:
        UsageError: a value is out of its range.
    """
    peer = Peer(message.peer.uid, message.peer.gid, message.peer.pid) if message.HasField("peer") else None
    return AppStatus(
        app=AppId(message.name, message.instance),
        state=printable(message.state, WORD_LIMIT),
        since=contract.length_of(message.since),
        requirement=contract.requirement_of(message.requirement),
        order=message.order,
        after=_lines(message.after),
        freeze_timeout=length_or_none(message.freeze_timeout, message.HasField("freeze_timeout")),
        hold_limit=contract.length_of(message.hold_limit),
        peer=peer,
        paths=_lines(message.paths, _PATH_LIMIT),
        library=printable(message.library, WORD_LIMIT),
        last_outcome=contract.outcome_of(message.last_outcome) if message.HasField("last_outcome") else None,
        last_error=printable(message.last_error),
        last_error_ago=length_or_none(message.last_error_ago, message.HasField("last_error_ago")),
        failures_in_row=message.failures_in_row,
        set_aside=printable(message.set_aside),
        past=tuple(_past_of(one) for one in message.past),
        policy=_policy_of(message.policy),
        refused_messages=message.refused_messages,
        registrations=message.registrations,
        watch_paths=message.watch_paths,
        grade=contract.grade_of(message.grade),
    )
