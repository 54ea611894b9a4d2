"""The lines that only the simulator of FreeBSD's devices prints; the others are in `appvss.simulator.lines`."""

from __future__ import annotations

from pathlib import Path

from appvss.simulator.freebsd.driver import DriverState
from appvss.simulator.freebsd.fs_side import FsState
from appvss.simulator.lines import Line


def ready(app_device: Path, fs_device: Path, control_socket: Path, process: int) -> Line:
    """Both devices are there and commands are taken."""
    return {
        "message_type": "ready",
        "app_device": str(app_device),
        "fs_device": str(fs_device),
        "control_socket": str(control_socket),
        "pid": process,
        "text": f"ready: {app_device} and {fs_device}; `help` lists the commands",
    }


def state(driver: DriverState | None, fs_side: FsState) -> Line:
    """A look at everything."""
    requests = driver.requests if driver is not None else ()
    line = {
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
    return {**line, "text": _state_text(line)}


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
