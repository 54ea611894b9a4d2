"""What both sides of the wire share: socket names, channel options, and values <-> messages.

The meaning of every field stands in `proto/appvss/v1`. Whatever arrives is checked here, once, so that the rooms behind
it see only values of `model/`. It is one module of more than 500 lines, because it is one thing that both sides import;
what only administrators ask is converted where it is asked (`delivery/`, `sdk/admin_*`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from appvss.model.app import DEFAULT_HOLD_LIMIT, DEFAULT_ORDER, AppId, HoldClaim, Registration, Requirement
from appvss.model.errors import MessageInvalid, SocketPathTooLong
from appvss.model.event import Event
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, FilesystemPart, Scope
from appvss.model.grade import Grade
from appvss.model.instant import Instant
from appvss.model.names import REASON_LIMIT, check_name, printable
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict
from appvss.v1 import app_pb2, types_pb2

PROTOCOL_VERSIONS: Final = (1,)
"""The versions of `app.proto` that this code speaks."""

DEFAULT_RUNTIME_DIRECTORY: Final = "/run/appvss" if sys.platform.startswith("linux") else "/var/run/appvss"
RUNTIME_DIRECTORY_VARIABLE: Final = "APPVSS_RUNTIME_DIRECTORY"
"""Environment variable that tells apps and commands where the broker's sockets are."""
STATE_DIRECTORY_VARIABLE: Final = "APPVSS_STATE_DIRECTORY"
"""Environment variable that tells the broker where journal, history and certificate are kept."""
APPS_SOCKET: Final = "apps.sock"
PEER_SOCKET: Final = "apps.peer.sock"
ADMIN_SOCKET: Final = "admin.sock"
LOCK_FILE: Final = "broker.lock"

TOKEN_METADATA: Final = "appvss-token"  # noqa: S105 - the name of a header, not a secret
TOKEN_LENGTH: Final = 64
"""Hexadecimal digits in a token; on the side socket a newline follows."""

_DURATION_SECONDS_LIMIT: Final = 315_576_000_000
"""google/protobuf/duration.proto: 10,000 years."""
MESSAGE_LIMIT: Final = 64 * 1024
"""Bytes: the largest message that a broker takes, and the largest that an app gets."""
ADMIN_RESPONSE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes: the largest answer on the admin socket (a cycle with its events)."""
CYCLE_LIMIT: Final = 64
"""Longest id of a cycle, in characters."""
VERDICT_LIMIT: Final = ADMIN_RESPONSE_LIMIT // 2
"""Bytes above which a verdict goes without the apps' evidence."""
INCARNATION_LENGTHS: Final = (16, 64)
EVIDENCE_LIMIT: Final = 16
AFTER_LIMIT: Final = 32
PATHS_LIMIT: Final = 64
PATH_LENGTH_LIMIT: Final = 1024
DEVICE_LIMIT: Final = 32
"""Longest `major:minor`, in characters."""
FILESYSTEM_TYPE_LIMIT: Final = 64
EVIDENCE_KEY_LIMIT: Final = 64
EVIDENCE_VALUE_LIMIT: Final = 256

# Measured in facts/libraries.md section 3: without the two max_pending_requests a restarted broker loses up to a
# quarter of thousands of returning apps; without ping_timeout_ms a stopped peer is noticed after a minute; the smallest
# ping interval that the server allows must lie below the one that the clients use, or they are cut off.
_BOTH_SIDES: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    # The bandwidth probe sends a ping of its own with nearly every small message: on a local socket a fifth of the
    # server's work in a fan-out (docs/performance.md).
    ("grpc.http2.bdp_probe", 0),
)
SERVER_OPTIONS: Final = (
    *_BOTH_SIDES,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", ADMIN_RESPONSE_LIMIT),
)
"""Channel arguments of every server."""
APP_CHANNEL_OPTIONS: Final = (
    *_BOTH_SIDES,
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    # The library's own reconnecting must not outwait the SDK's back-off: each attempt of the SDK is a real one.
    # `min_reconnect_backoff_ms` is in truth the time that one connection may take to be made: with 100 ms a broker that
    # is busy with thousands of returning apps, or stopped for a moment, is given up each time (measured: "connection
    # attempt timed out before receiving SETTINGS frame" after 0.11 s).
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""Channel arguments of an app."""
ADMIN_CHANNEL_OPTIONS: Final = (
    *_BOTH_SIDES,
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", ADMIN_RESPONSE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
)
"""Channel arguments of an administrator's command."""

# `sun_path` holds 108 bytes on Linux (unix(7)) and 104 on the BSDs (unix(4)), the closing zero among them.
SOCKET_PATH_LIMIT: Final = 107 if sys.platform.startswith("linux") else 103


def runtime_directory(configured: str | os.PathLike[str] | None = None) -> Path:
    """Where the broker's sockets are: `configured`, else the environment variable, else the platform's place."""
    return Path(configured or os.environ.get(RUNTIME_DIRECTORY_VARIABLE) or DEFAULT_RUNTIME_DIRECTORY)


def socket_path(directory: Path, name: str) -> str:
    """The path of the socket `name` in `directory`.

    Raises:
        SocketPathTooLong: the kernel's address structure cannot hold it.
    """
    path = str(directory / name)
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise SocketPathTooLong(
            f"the socket path {path} has {length} bytes, over {SOCKET_PATH_LIMIT}",
            "Choose a shorter runtime directory: `broker.runtime_directory` in the configuration, "
            f"or {RUNTIME_DIRECTORY_VARIABLE} in the environment.",
        )
    return path


def duration_message(length: timedelta) -> Duration:
    """`length` as a protobuf Duration."""
    message = Duration()
    message.FromTimedelta(length)
    return message


def length_of(message: Duration) -> timedelta:
    """A protobuf Duration as a length.

    Raises:
        MessageInvalid: it is none that google.protobuf.Duration allows.
    """
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > _DURATION_SECONDS_LIMIT or abs(nanos) >= 1_000_000_000 or seconds * nanos < 0:
        raise MessageInvalid(
            f"a duration of {seconds} s{f' and {nanos} ns' if nanos else ''} is out of range",
            "Send a length that google.protobuf.Duration allows.",
        )
    return message.ToTimedelta()


def wall_of(message: Timestamp) -> timedelta:
    """A protobuf Timestamp as time since 1970-01-01 UTC."""
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def timestamp_message(wall: timedelta) -> Timestamp:
    """A wall-clock time, given as the length since 1970-01-01 UTC."""
    microseconds = wall // timedelta(microseconds=1)
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1000)


_REQUIREMENTS: Final = {
    Requirement.REQUIRED: types_pb2.REQUIREMENT_REQUIRED,
    Requirement.TOLERATED: types_pb2.REQUIREMENT_TOLERATED,
    Requirement.IGNORED: types_pb2.REQUIREMENT_IGNORED,
}
_OUTCOMES: Final = {
    Outcome.HELD: types_pb2.OUTCOME_HELD,
    Outcome.VETOED: types_pb2.OUTCOME_VETOED,
    Outcome.TIMED_OUT: types_pb2.OUTCOME_TIMED_OUT,
    Outcome.DISCONNECTED: types_pb2.OUTCOME_DISCONNECTED,
    Outcome.HOLD_LOST: types_pb2.OUTCOME_HOLD_LOST,
    Outcome.ABSENT: types_pb2.OUTCOME_ABSENT,
    Outcome.SKIPPED: types_pb2.OUTCOME_SKIPPED,
}
_LEVELS: Final = {
    Level.APPLICATION: types_pb2.LEVEL_APPLICATION,
    Level.FILESYSTEM: types_pb2.LEVEL_FILESYSTEM,
    Level.CRASH: types_pb2.LEVEL_CRASH,
    Level.FAILED: types_pb2.LEVEL_FAILED,
}
_GRADES: Final = {
    Grade.RAW: types_pb2.GRADE_RAW,
    Grade.FS: types_pb2.GRADE_FS,
    Grade.APP: types_pb2.GRADE_APP,
}
_REQUIREMENT_OF: Final = {number: value for value, number in _REQUIREMENTS.items()}
_OUTCOME_OF: Final = {number: value for value, number in _OUTCOMES.items()}
_LEVEL_OF: Final = {number: value for value, number in _LEVELS.items()}
_GRADE_OF: Final = {number: value for value, number in _GRADES.items()}


def grade_message(grade: Grade | None) -> types_pb2.Grade.ValueType:
    """A grade for the wire."""
    return types_pb2.GRADE_UNSPECIFIED if grade is None else _GRADES[grade]


def grade_of(number: types_pb2.Grade.ValueType) -> Grade:
    """What an app declares, from the wire; one that says nothing, or nothing that is known here, means `app`."""
    return _GRADE_OF.get(number, Grade.APP)


def requirement_message(requirement: Requirement) -> types_pb2.Requirement.ValueType:
    """A requirement's number on the wire."""
    return _REQUIREMENTS[requirement]


def requirement_of(number: int) -> Requirement:
    """A requirement from the wire; what is not known counts as required."""
    return _REQUIREMENT_OF.get(types_pb2.Requirement.ValueType(number), Requirement.REQUIRED)


def evidence_of(entries: Mapping[str, str]) -> dict[str, str]:
    """An app's evidence, printable and within its limits.

    Raises:
        MessageInvalid: there are too many entries. Evidence that cannot be kept whole is not kept in part.
    """
    if len(entries) > EVIDENCE_LIMIT:
        raise MessageInvalid(
            f"the evidence has {len(entries)} entries, over {EVIDENCE_LIMIT}", "Send the positions that matter."
        )
    return {
        printable(key, EVIDENCE_KEY_LIMIT): printable(value, EVIDENCE_VALUE_LIMIT) for key, value in entries.items()
    }


def cycle_of(word: str) -> str:
    """A cycle's id as an app names it, safe to show. One that this changes is no id of ours in any case."""
    return printable(word, CYCLE_LIMIT)


def app_id_of(name: str, instance: str) -> AppId:
    """An app's identity from the wire.

    Raises:
        NameInvalid: name or instance may not be used.
    """
    return AppId(name, instance)


def _limited(what: str, entries: Iterable[str], limit: int) -> tuple[str, ...]:
    kept = tuple(entries)
    if len(kept) > limit:
        raise MessageInvalid(f"{what} has {len(kept)} entries, over {limit}", f"Send at most {limit} entries.")
    return kept


def _declared(what: str, message: Duration) -> timedelta:
    length = length_of(message)
    if message.seconds < 0 or message.nanos < 0:
        raise MessageInvalid(f"{what} is negative: {length.total_seconds()} s", "Send a length above zero, or none.")
    # Less than our clock can tell is still not zero, which would mean that nothing was declared.
    return max(length, timedelta.resolution) if message.nanos else length


def check_watchable(paths: Iterable[str]) -> None:
    """Make sure that these paths can be watched, as they are, and not as they would be shown.

    Raises:
        MessageInvalid: there is none, or one is not absolute, too long, or not printable.
    """
    whole = tuple(paths)
    if not whole:
        raise MessageInvalid(
            "watch_paths is set, and paths is empty", "Declare the files and folders that only this app writes."
        )
    for path in whole:
        shown = printable(path, PATH_LENGTH_LIMIT)
        if shown != path or not path.startswith("/"):
            raise MessageInvalid(
                f"the path {printable(path, 80)!r} cannot be watched",
                f"Declare absolute, printable paths of at most {PATH_LENGTH_LIMIT} characters.",
            )


def registration_of(hello: app_pb2.Hello) -> Registration:
    """What an app declares, checked; `incarnation_of` checks its incarnation.

    Raises:
        NameInvalid: name, instance or a name in `after` may not be used.
        MessageInvalid: any other limit of `types.proto` is broken.
    """
    after = tuple(check_name(name, "name in after") for name in _limited("after", hello.after, AFTER_LIMIT))
    claim = None
    if hello.HasField("holding"):
        claim = HoldClaim(cycle_of(hello.holding.cycle), _declared("held_for", hello.holding.held_for))
    if hello.watch_paths:
        check_watchable(hello.paths)
    return Registration(
        app=app_id_of(hello.name, hello.instance),
        order=hello.order if hello.HasField("order") else DEFAULT_ORDER,
        after=after,
        requirement=requirement_of(hello.requirement),
        prepares=hello.prepares,
        freeze_timeout=_declared("freeze_timeout", hello.freeze_timeout) or None,
        hold_limit=_declared("hold_limit", hello.hold_limit) or DEFAULT_HOLD_LIMIT,
        claim=claim,
        incarnation=hello.incarnation,
        watch_paths=hello.watch_paths,
        grade=grade_of(hello.grade),
    )


def incarnation_of(hello: app_pb2.Hello) -> str:
    """The random word by which an app is known over its reconnects.

    Raises:
        MessageInvalid: it is too short, too long, or not printable ASCII.
    """
    word = hello.incarnation
    if not (INCARNATION_LENGTHS[0] <= len(word) <= INCARNATION_LENGTHS[1] and word.isascii() and word.isprintable()):
        raise MessageInvalid(
            f"the incarnation has {len(word)} characters, or one that is not printable ASCII",
            "Choose 16 to 64 printable ASCII characters at random when the process starts.",
        )
    return word


def paths_of(hello: app_pb2.Hello) -> tuple[str, ...]:
    """The paths that an app declares, printable.

    Raises:
        MessageInvalid: there are too many.
    """
    return tuple(printable(path, PATH_LENGTH_LIMIT) for path in _limited("paths", hello.paths, PATHS_LIMIT))


def hello_message(registration: Registration, *, incarnation: str, library: str, paths: Iterable[str]) -> app_pb2.Hello:
    """The first message of an app's stream."""
    hello = app_pb2.Hello(
        protocol_versions=PROTOCOL_VERSIONS,
        name=registration.app.name,
        instance=registration.app.instance,
        incarnation=incarnation,
        order=registration.order,
        after=registration.after,
        requirement=requirement_message(registration.requirement),
        prepares=registration.prepares,
        hold_limit=duration_message(registration.hold_limit),
        paths=paths,
        library=library,
        watch_paths=registration.watch_paths,
        grade=grade_message(registration.grade),
    )
    if registration.freeze_timeout is not None:
        hello.freeze_timeout.FromTimedelta(registration.freeze_timeout)
    if registration.claim is not None:
        hello.holding.cycle = registration.claim.cycle
        hello.holding.held_for.FromTimedelta(registration.claim.held_for)
    return hello


def outcome_message(outcome: AppOutcome) -> types_pb2.AppOutcome:
    """One app's part in a cycle, for the wire."""
    message = types_pb2.AppOutcome(
        name=outcome.app.name,
        instance=outcome.app.instance,
        outcome=_OUTCOMES[outcome.outcome],
        requirement=_REQUIREMENTS[outcome.requirement],
        order=outcome.order,
        reason=outcome.reason,
        retryable=outcome.retryable,
        evidence=dict(outcome.evidence),
        grade=grade_message(outcome.grade),
    )
    if outcome.time_to_freeze is not None:
        message.time_to_freeze.FromTimedelta(outcome.time_to_freeze)
    if outcome.hold is not None:
        message.hold.FromTimedelta(outcome.hold)
    return message


def outcome_of(message: types_pb2.AppOutcome) -> AppOutcome:
    """One app's part in a cycle, from the wire. An outcome that is not known counts as a lost hold: doubt is
    failure.
    """
    return AppOutcome(
        app=AppId(message.name, message.instance),
        outcome=_OUTCOME_OF.get(message.outcome, Outcome.HOLD_LOST),
        requirement=requirement_of(message.requirement),
        order=message.order,
        reason=printable(message.reason),
        retryable=message.retryable,
        time_to_freeze=length_of(message.time_to_freeze) if message.HasField("time_to_freeze") else None,
        hold=length_of(message.hold) if message.HasField("hold") else None,
        evidence=dict(message.evidence),
        grade=_GRADE_OF.get(message.grade),
    )


_SCOPES: Final = {scope: types_pb2.FilesystemScope.Value(f"FILESYSTEM_SCOPE_{scope.name}") for scope in Scope}
_SCOPE_OF: Final = {number: scope for scope, number in _SCOPES.items()}
_FILESYSTEM_OUTCOMES: Final = {
    outcome: types_pb2.FilesystemOutcome.Value(f"FILESYSTEM_OUTCOME_{outcome.name}") for outcome in FilesystemOutcome
}
_FILESYSTEM_OUTCOME_OF: Final = {number: outcome for outcome, number in _FILESYSTEM_OUTCOMES.items()}


def scope_message(scope: Scope) -> types_pb2.FilesystemScope.ValueType:
    """A scope's number on the wire."""
    return _SCOPES[scope]


def scope_of(number: types_pb2.FilesystemScope.ValueType) -> Scope:
    """A scope from the wire; what is not known is none."""
    return _SCOPE_OF.get(number, Scope.NONE)


def choice_message(choice: FilesystemChoice) -> types_pb2.FilesystemChoice:
    """What a requester wants frozen, for the wire."""
    return types_pb2.FilesystemChoice(scope=_SCOPES[choice.scope], paths=choice.paths, spares_root=choice.spares_root)


def choice_of(message: types_pb2.FilesystemChoice) -> FilesystemChoice:
    """What a requester wants frozen, from the wire. The zero message wants none.

    Raises:
        MessageInvalid: paths are named and not asked for, or the other way round; or one is not absolute, too long, or
            not printable.
    """
    scope = scope_of(message.scope)
    paths = _limited("paths", message.paths, PATHS_LIMIT)
    if bool(paths) is not (scope is Scope.NAMED):
        raise MessageInvalid(
            f"the scope of the file systems is {scope}, and {len(paths)} paths are named",
            "Name paths with the scope `named`, and with no other.",
        )
    for path in paths:
        if not path.startswith("/") or printable(path, PATH_LENGTH_LIMIT) != path:
            raise MessageInvalid(
                f"the path {printable(path, 80)!r} is not absolute, too long, or not printable",
                f"Name absolute, printable mount points of at most {PATH_LENGTH_LIMIT} characters.",
            )
    return FilesystemChoice(scope, paths, message.spares_root)


def filesystem_outcome_message(outcome: FilesystemOutcome) -> types_pb2.FilesystemOutcome.ValueType:
    """The number on the wire of what became of a file system."""
    return _FILESYSTEM_OUTCOMES[outcome]


def filesystem_outcome_of(number: types_pb2.FilesystemOutcome.ValueType) -> FilesystemOutcome:
    """What became of a file system, from the wire. What is not known counts as a lost hold: doubt is failure."""
    return _FILESYSTEM_OUTCOME_OF.get(number, FilesystemOutcome.HOLD_LOST)


def filesystem_part_message(part: FilesystemPart) -> types_pb2.FilesystemPart:
    """One file system's part in a cycle, for the wire."""
    message = types_pb2.FilesystemPart(
        path=part.path,
        device=part.device,
        type=part.type,
        outcome=_FILESYSTEM_OUTCOMES[part.outcome],
        reason=part.reason,
    )
    if part.time_to_freeze is not None:
        message.time_to_freeze.FromTimedelta(part.time_to_freeze)
    return message


def filesystem_part_of(message: types_pb2.FilesystemPart) -> FilesystemPart:
    """One file system's part in a cycle, from the wire."""
    return FilesystemPart(
        path=printable(message.path, PATH_LENGTH_LIMIT),
        device=printable(message.device, DEVICE_LIMIT),
        type=printable(message.type, FILESYSTEM_TYPE_LIMIT),
        outcome=filesystem_outcome_of(message.outcome),
        reason=printable(message.reason, REASON_LIMIT),
        time_to_freeze=length_of(message.time_to_freeze) if message.HasField("time_to_freeze") else None,
    )


def verdict_message(verdict: Verdict) -> types_pb2.Verdict:
    """A verdict for the wire. When thousands of apps gave so much evidence that no message could carry it, it is left
    out: the verdict itself must arrive.
    """
    message = types_pb2.Verdict(
        cycle=verdict.cycle,
        level=_LEVELS[verdict.level],
        outcomes=[outcome_message(outcome) for outcome in verdict.outcomes],
        reasons=verdict.reasons,
        filesystems=[filesystem_part_message(part) for part in verdict.filesystems],
    )
    if verdict.hold is not None:
        message.hold.FromTimedelta(verdict.hold)
    if message.ByteSize() > VERDICT_LIMIT:
        for outcome in message.outcomes:
            outcome.ClearField("evidence")
    return message


def verdict_of(message: types_pb2.Verdict) -> Verdict:
    """A verdict from the wire. A level that is not known counts as failed: doubt is failure."""
    return Verdict(
        cycle=message.cycle,
        level=_LEVEL_OF.get(message.level, Level.FAILED),
        outcomes=tuple(outcome_of(outcome) for outcome in message.outcomes),
        reasons=tuple(printable(reason, REASON_LIMIT) for reason in message.reasons),
        hold=length_of(message.hold) if message.HasField("hold") else None,
        filesystems=tuple(filesystem_part_of(part) for part in message.filesystems),
    )


_PHASES: Final = {phase: types_pb2.Phase.Value(f"PHASE_{phase.name}") for phase in Phase}


def phase_message(phase: Phase) -> types_pb2.Phase.ValueType:
    """A phase's number on the wire."""
    return _PHASES[phase]


def event_message(event: Event, wall: timedelta, began: Instant | None) -> types_pb2.Event:
    """An event for the wire.

    Args:
        event: what happened.
        wall: when, by the wall clock, since 1970-01-01 UTC.
        began: when its cycle was requested; None outside of a cycle.
    """
    message = types_pb2.Event(
        kind=event.kind,
        time=timestamp_message(wall),
        cycle=event.cycle,
        app=event.app,
        phase=_PHASES[Phase(event.phase)] if event.phase and event.cycle else types_pb2.PHASE_UNSPECIFIED,
        detail=printable(event.detail),
    )
    if event.took is not None:
        message.took.FromTimedelta(event.took)
    if began is not None:
        message.since_request.FromTimedelta(event.at - began)
    return message
