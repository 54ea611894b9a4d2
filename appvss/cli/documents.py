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
    from collections.abc import Iterable

    from appvss.cli.explanation import Doubt
    from appvss.cli.freeze_run import FreezeReport
    from appvss.cli.preflight.finding import Finding
    from appvss.cli.rehearsal import AppFigures, Figures, RehearsalReport, SourceFit
    from appvss.model.certificate import Certificate, Examination
    from appvss.model.filesystem import FilesystemPart, FilesystemSurvey
    from appvss.model.policy import PolicyValue
    from appvss.sdk.admin_cycles import BrokerEvent, CycleDetail, CycleSummary
    from appvss.sdk.admin_filesystems import FreezerStatus
    from appvss.sdk.admin_values import AppPast, AppStatus, BrokerStatus, RestoredMachine, SourceStatus

Fields = Mapping[str, object]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        "grade": None if value.grade is None else value.grade.value,
    }


def verdict(value: Verdict) -> Fields:
    """How a cycle ended."""
    return {
        "cycle": value.cycle,
        "level": value.level.value,
        "outcomes": [outcome(part) for part in value.outcomes],
        "reasons": list(value.reasons),
        "hold_seconds": seconds(value.hold),
        "filesystems": [filesystem(part) for part in value.filesystems],
    }


def filesystem(value: FilesystemPart) -> Fields:
    """One file system's part in a cycle."""
    return {
        "path": value.path,
        "device": value.device,
        "type": value.type,
        "outcome": value.outcome.value,
        "reason": value.reason,
        "time_to_freeze_seconds": seconds(value.time_to_freeze),
    }


def filesystems(value: FilesystemSurvey) -> Fields:
    """What a freeze would do to the file systems."""
    return {
        "scope": value.scope.value,
        "planned": [
            {
                "path": one.path,
                "device": one.device,
                "type": one.type,
                "source": one.source,
                "wave": one.wave,
                "others": list(one.others),
                "lies_on": list(one.lies_on),
            }
            for one in value.planned
        ],
        "left": [
            {
                "path": one.path,
                "device": one.device,
                "type": one.type,
                "outcome": one.outcome.value,
                "reason": one.reason,
                "lowers": one.lowers,
            }
            for one in value.left
        ],
        "warnings": [
            {"kind": one.kind, "path": one.path or None, "sentence": one.sentence, "dead_locks": one.dead_locks}
            for one in value.warnings
        ],
        "veto": value.veto or None,
        "apps": [
            {"app": one.app, "apart": one.is_apart, "paths": list(one.paths), "lowers": one.lowers}
            for one in value.apps
        ],
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
        "rehearses": value.rehearses,
    }


def cycle(value: CycleDetail) -> Fields:
    """One cycle with its events."""
    return {
        **summary(value.summary),
        "events": [event(one) for one in value.events],
        "certificate": value.certificate or None,
    }


def doubt(value: Doubt) -> Fields:
    """One thing that speaks against a snapshot."""
    return {
        "kind": value.kind,
        "app": None if value.app is None else str(value.app),
        "sentence": value.sentence,
        "consequence": value.consequence or None,
        "who": value.who or None,
        "next_steps": list(value.next_steps),
        "lowers": value.lowers,
    }


def policy(values: Iterable[PolicyValue]) -> list[Fields]:
    """Values in force."""
    return [{"key": value.key, "value": value.value, "origin": value.origin} for value in values]


def restored(value: RestoredMachine) -> Fields:
    """The cycle in whose hold this machine's disk was copied."""
    return {
        "cycle": value.cycle,
        "source": value.source,
        "requester": value.requester,
        "time": instant(value.time),
        "stage": value.stage,
        "certificate": value.certificate or None,
    }


def _source(value: SourceStatus) -> Fields:
    return {
        "name": value.name,
        "mode": value.mode,
        "condition": value.condition,
        "detail": value.detail,
        "since_seconds": seconds(value.since),
        "budget_seconds": seconds(value.budget),
        "reserve_seconds": seconds(value.reserve),
        "hold_limit_seconds": seconds(value.hold_limit),
        "overlap": value.overlap or None,
    }


def _history(value: BrokerStatus) -> Fields | None:
    history = value.history
    if not history.condition:
        return None
    return {
        "directory": history.directory,
        "condition": history.condition,
        "detail": history.detail,
        "cycles": history.cycles,
        "waiting": history.waiting,
    }


def _freezer(value: FreezerStatus | None) -> Fields | None:
    if value is None:
        return None
    return {
        "mode": value.mode,
        "condition": value.condition,
        "guardian_pid": value.guardian_pid,
        "frozen": [{"path": path, "since_seconds": seconds(since)} for path, since in value.frozen],
        "hanging": list(value.hanging),
        "detail": value.detail,
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
        "history": _history(value),
        "policy": policy(value.policy),
        "restored": None if value.restored is None else restored(value.restored),
        "apps_set_aside": list(value.apps_set_aside),
        "held_for_seconds": seconds(value.held_for),
        "hold_left_seconds": seconds(value.hold_left),
        "freezer": _freezer(value.freezer),
    }


def _past(value: AppPast) -> Fields:
    return {
        "cycle": value.cycle,
        "time": instant(value.time),
        "outcome": value.outcome.value,
        "reason": value.reason,
        "time_to_freeze_seconds": seconds(value.time_to_freeze),
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
        "last_error_ago_seconds": seconds(value.last_error_ago),
        "failures_in_row": value.failures_in_row,
        "set_aside": value.set_aside or None,
        "past": [_past(one) for one in value.past],
        "policy": policy(value.policy),
        "refused_messages": value.refused_messages,
        "registrations": value.registrations,
        "watch_paths": value.watch_paths,
        "grade": value.grade.value,
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


def _figures(value: Figures | None) -> Fields | None:
    if value is None:
        return None
    return {
        "count": value.count,
        "p50_seconds": seconds(value.p50),
        "p99_seconds": seconds(value.p99),
        "max_seconds": seconds(value.most),
    }


def _rehearsed_app(value: AppFigures) -> Fields:
    return {
        "name": value.app.name,
        "instance": value.app.instance or None,
        "outcomes": {outcome.value: times for outcome, times in value.outcomes.items()},
        "time_to_freeze": _figures(value.time_to_freeze),
        "reason": value.reason,
    }


def _fit(value: SourceFit) -> Fields:
    return {
        "name": value.source,
        "counts": value.counts,
        "fits": value.fits,
        "limit_seconds": seconds(value.limit),
        "margin_seconds": seconds(value.margin),
        "hold_limit_seconds": seconds(value.hold_limit),
        "safe_hold_seconds": seconds(value.safe_hold),
        "shortest": None if value.shortest is None else str(value.shortest),
    }


def rehearsal(value: RehearsalReport) -> Fields:
    """Some rehearsals together."""
    return {
        "rounds": [summary(one.summary) for one in value.rounds],
        "apps": [_rehearsed_app(one) for one in value.apps],
        "time_to_prepare": _figures(value.time_to_prepare),
        "time_to_freeze": _figures(value.time_to_freeze),
        "sources": [_fit(one) for one in value.sources],
        "all_held": value.all_held,
        "fits": value.fits,
    }


def finding(value: Finding) -> Fields:
    """What a check of `appvss doctor` has found."""
    return {"check": value.check, "grade": value.grade.value, "sentence": value.sentence, "hint": value.hint or None}


def certificate(value: Certificate) -> Fields:
    """What a certificate says."""
    return {
        "cycle": value.cycle,
        "source": value.source,
        "requester": value.requester,
        "time": instant(_EPOCH + value.time),
        "written_after_seconds": seconds(value.written_after),
        "host": value.host,
        "boot": value.boot,
        "broker": value.version,
        "stage": value.stage.value,
        "rehearses": value.rehearses,
        "hold_limit_seconds": seconds(value.hold_limit),
        "apps": [
            {
                "name": app.app.name,
                "instance": app.app.instance or None,
                "is_quiet": app.is_quiet,
                "requirement": app.requirement.value,
                "order": app.order,
                "outcome": app.outcome.value if app.outcome else None,
                "reason": app.reason,
                "time_to_freeze_seconds": seconds(app.time_to_freeze),
                "hold_limit_seconds": seconds(app.hold_limit),
                "evidence": dict(app.evidence),
            }
            for app in value.apps
        ],
        "policy": policy(value.policy),
        "left_out": list(value.left_out),
        "digest": value.digest,
    }


def examination(value: Examination, note: str) -> Fields:
    """What a certificate and a history prove."""
    return {
        "cycle": value.cycle,
        "level": None if value.level is None else value.level.value,
        "is_proven": value.is_proven,
        "sentences": [*value.sentences, *([note] if note else [])],
    }
