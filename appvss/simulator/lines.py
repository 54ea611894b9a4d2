"""What `appvss simulate` prints: one line for each thing that happened or was asked for, for people or as JSON.

A line is a dictionary with a `message_type`; docs/simulator.md describes every field. Fields are only ever added, what
does not apply is null, a length of time is a number of seconds in a field whose name ends in `_seconds`, a time is RFC
3339 text in UTC. All text in a line is the simulator's own. The lines here are those of every simulator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError
from appvss.simulator.event import Event
from appvss.simulator.host import BackupResult, HostResult

Line: TypeAlias = Mapping[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def as_json(line: Line) -> str:
    """The line for programs."""
    return json.dumps(line)


def as_text(line: Line) -> str:
    """The line for people."""
    match line["message_type"]:
        case "device_event":
            return _event_text(line)
        case "result":
            return _result_text(line)
        case "error":
            return f"error: {line['sentence']}. HINT: {line['hint']}"
        case "ready" | "state" | "help":
            return str(line["text"])
        case _:
            return f"ended: {line['reason']}"


def device_event(event: Event) -> Line:
    """Something happened."""
    return {
        "message_type": "device_event",
        "number": event.number,
        "time": (_EPOCH + event.at.wall).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "kind": event.kind.value,
        "side": event.side.value if event.side is not None else None,
        "operation": event.operation or None,
        "status": event.status,
        "msgid": event.msgid,
        "pid": event.process,
        "vmbus_id": event.vmbus_id,
        "detail": event.detail,
    }


def done(command: str, detail: str = "") -> Line:
    """A command that has nothing to tell was carried out."""
    return _result(command, "done", None, None, detail)


def host_result(command: str, result: HostResult) -> Line:
    """A request of the host has ended."""
    return _result(command, result.outcome.value, result.took.total_seconds(), result.status, result.detail)


def backup_result(command: str, result: BackupResult) -> Line:
    """A whole backup has ended."""
    took = sum(step.took.total_seconds() for step in result.steps)
    detail = ", ".join(f"{step.operation} {step.outcome}" for step in result.steps)
    return _result(command, "ok" if result.ok else "failed", took, None, detail)


def error(problem: AppvssError) -> Line:
    """A command was not carried out."""
    return {
        "message_type": "error",
        "name": problem.name,
        "sentence": problem.sentence,
        "hint": problem.hint,
        "problems": [],
        "exit_code": int(problem.exit_code),
    }


def help_text(text: str) -> Line:
    """The commands."""
    return {"message_type": "help", "text": text}


def ended(reason: str) -> Line:
    """The simulator unmounts and ends."""
    return {"message_type": "ended", "reason": reason}


def _result(command: str, outcome: str, took: float | None, status: int | None, detail: str) -> Line:
    return {
        "message_type": "result",
        "command": command,
        "outcome": outcome,
        "took_seconds": took,
        "status": status,
        "detail": detail,
    }


def _event_text(line: Line) -> str:
    parts = [line["time"][11:23], f"{line['side'] or '-':<4}", f"{line['kind']:<13}"]
    if line["operation"]:
        parts.append(line["operation"])
    if line["status"] is not None:
        parts.append(f"status {line['status']:#x}" if line["status"] > 0xFFFF else f"status {line['status']}")
    if line["msgid"] is not None:
        parts.append(f"msgid {line['msgid']}")
    if line["vmbus_id"] is not None:
        parts.append(f"vmbus {line['vmbus_id']}")
    if line["pid"] is not None:
        parts.append(f"by process {line['pid']}" if line["pid"] else "by the simulator")
    if line["detail"]:
        parts.append(f"- {line['detail']}")
    return " ".join(parts).rstrip()


def _result_text(line: Line) -> str:
    took = "" if line["took_seconds"] is None else f" after {_seconds(line['took_seconds'])}"
    status = "" if line["status"] in (None, 0) else f", status {line['status']:#x}"
    detail = f" ({line['detail']})" if line["detail"] else ""
    return f"{line['command']}: {line['outcome']}{took}{status}{detail}"


def _seconds(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))
