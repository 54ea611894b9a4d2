"""What `appvss simulate` prints: one line for each thing that happened or was asked for, for people or as JSON.

A line is a dictionary with a `message_type`; docs/simulator.md describes every field. Fields are only ever added, what
does not apply is null, a length of time is a number of seconds in a field whose name ends in `_seconds`, a time is RFC
3339 text in UTC. All text in a line is the simulator's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

from appvss.model.duration import format_duration
from appvss.model.errors import AppvssError
from appvss.simulator.freebsd.driver import DriverState
from appvss.simulator.freebsd.event import Event
from appvss.simulator.freebsd.fs_side import FsState
from appvss.simulator.freebsd.host import BackupResult, HostResult

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
        case "state":
            return _state_text(line)
        case "ready":
            return f"ready: {line['app_device']} and {line['fs_device']}; `help` lists the commands"
        case "error":
            return f"error: {line['sentence']}. HINT: {line['hint']}"
        case "help":
            return str(line["text"])
        case _:
            return f"ended: {line['reason']}"


def ready(app_device: Path, fs_device: Path, control_socket: Path, process: int) -> Line:
    """Both devices are there and commands are taken."""
    return {
        "message_type": "ready",
        "app_device": str(app_device),
        "fs_device": str(fs_device),
        "control_socket": str(control_socket),
        "pid": process,
    }


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


def state(driver: DriverState | None, fs_side: FsState) -> Line:
    """A look at everything."""
    requests = driver.requests if driver is not None else ()
    return {
        "message_type": "state",
        "attached": driver is not None,
        "app_open": driver is not None and driver.app_registered,
        "fs_open": driver is not None and driver.fs_registered,
        "fs_ever_open": driver is not None and driver.fs_ever,
        "messages_in_ring": driver.ring if driver is not None else 0,
        "requests": [
            {"operation": request.operation.name.lower(), "msgid": request.msgid, "places": list(request.places)}
            for request in requests
        ],
        "fs_played": fs_side.opened,
        "fs_silent": fs_side.silent,
        "fs_vetoes": sorted(operation.name.lower() for operation in fs_side.vetoes),
        "fs_script": [answer.value for answer in fs_side.script],
    }


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


def _state_text(line: Line) -> str:
    if not line["attached"]:
        return "detached: no nodes"
    open_sides = [side for side in ("app", "fs") if line[f"{side}_open"]]
    parts = ["open: " + (", ".join(open_sides) or "none")]
    if not line["fs_ever_open"]:
        parts.append(f"fs never opened, {line['messages_in_ring']} messages wait in the ring")
    parts += [
        f"{request['operation']} {request['msgid']} in {', '.join(request['places']) or 'no queue'}"
        for request in line["requests"]
    ]
    if line["fs_played"]:
        parts.append(_fs_text(line))
    return "; ".join(parts)


def _fs_text(line: Line) -> str:
    text = "fs played here: "
    if line["fs_script"]:
        text += "script " + " ".join(line["fs_script"]) + ", then "
    if line["fs_silent"]:
        return text + "silent"
    return text + ("veto " + " ".join(line["fs_vetoes"]) if line["fs_vetoes"] else "auto")
