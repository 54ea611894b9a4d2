"""Values as JSON objects. Stable: docs/reference/json.md describes every field, and fields are only ever added.

A length of time is a number of seconds in a field whose name ends in `_seconds`; a time is RFC 3339 text in UTC; what
is not there is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from appvss.model.verdict import AppOutcome, Verdict

if TYPE_CHECKING:
    from appvss.cli.freeze_run import FreezeReport
    from appvss.sdk.admin_values import AppStatus, BrokerEvent, BrokerStatus, CycleSummary, SourceStatus

Fields = Mapping[str, object]


def seconds(length: timedelta | None) -> float | None:
    """A length of time in seconds."""
    return None if length is None else length.total_seconds()


def instant(time: datetime) -> str:
    """A time as RFC 3339 text."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def outcome(value: AppOutcome) -> Fields:
    """One app's part in a cycle."""
    return {
        "name": value.app.name,
        "instance": value.app.instance or None,
        "outcome": value.outcome.value,
        "requirement": value.requirement.value,
        "order": value.order,
        "reason": value.reason,
        "retryable": value.retryable,
        "time_to_freeze_seconds": seconds(value.time_to_freeze),
        "hold_seconds": seconds(value.hold),
        "evidence": dict(value.evidence),
    }


def verdict(value: Verdict) -> Fields:
    """How a cycle ended."""
    return {
        "cycle": value.cycle,
        "level": value.level.value,
        "outcomes": [outcome(part) for part in value.outcomes],
        "reasons": list(value.reasons),
        "hold_seconds": seconds(value.hold),
    }


def summary(value: CycleSummary) -> Fields:
    """One cycle in a line."""
    return {
        "cycle": value.cycle,
        "source": value.source,
        "requester": value.requester,
        "time": instant(value.time),
        "took_seconds": seconds(value.took),
        "phase": value.phase,
        "verdict": verdict(value.verdict),
    }


def _source(value: SourceStatus) -> Fields:
    return {
        "name": value.name,
        "mode": value.mode,
        "condition": value.condition,
        "detail": value.detail,
        "since_seconds": seconds(value.since),
    }


def status(value: BrokerStatus) -> Fields:
    """The broker at one glance."""
    return {
        "broker": value.broker,
        "pid": value.pid,
        "uptime_seconds": seconds(value.uptime),
        "phase": value.phase,
        "cycle": value.cycle or None,
        "phase_for_seconds": seconds(value.phase_for),
        "apps": value.apps,
        "absent_apps": list(value.absent_apps),
        "sources": [_source(source) for source in value.sources],
        "last_cycle": None if value.last_cycle is None else summary(value.last_cycle),
        "runtime_directory": value.runtime_directory,
        "configuration": value.configuration or None,
    }


def app(value: AppStatus) -> Fields:
    """One app."""
    peer = value.peer
    return {
        "name": value.app.name,
        "instance": value.app.instance or None,
        "state": value.state,
        "since_seconds": seconds(value.since),
        "requirement": value.requirement.value,
        "order": value.order,
        "after": list(value.after),
        "freeze_timeout_seconds": seconds(value.freeze_timeout),
        "hold_limit_seconds": seconds(value.hold_limit),
        "peer": None if peer is None else {"uid": peer.uid, "gid": peer.gid, "pid": peer.pid},
        "paths": list(value.paths),
        "library": value.library or None,
        "last_outcome": None if value.last_outcome is None else outcome(value.last_outcome),
        "last_error": value.last_error or None,
    }


def event(value: BrokerEvent) -> Fields:
    """One thing that happened."""
    return {
        "kind": value.kind,
        "time": instant(value.time),
        "cycle": value.cycle or None,
        "app": value.app or None,
        "phase": value.phase,
        "detail": value.detail,
        "took_seconds": seconds(value.took),
        "since_request_seconds": seconds(value.since_request),
    }


def freeze(value: FreezeReport) -> Fields:
    """How a command inside a hold went."""
    code, held, error = value.command_exit_code, value.held, value.error
    return {
        "command": list(value.command),
        "cycle": held.cycle if held else value.verdict.cycle if value.verdict else None,
        "was_held": held is not None,
        "hold_limit_seconds": seconds(held.hold_limit) if held else None,
        "command_exit_code": code if code is not None and code >= 0 else None,
        "command_signal": -code if code is not None and code < 0 else None,
        "ended_early": value.ended_early,
        "signal": None if value.signal is None else int(value.signal),
        "notes": list(value.sentences),
        "error": None if error is None else {"name": error.name, "sentence": error.sentence, "hint": error.hint},
        "verdict": None if value.verdict is None else verdict(value.verdict),
        "exit_code": value.exit_code,
    }
