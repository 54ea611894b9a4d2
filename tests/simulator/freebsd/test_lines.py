"""What is printed, for people and for programs."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.model.errors import UsageError
from appvss.model.instant import Instant
from appvss.simulator import lines
from appvss.simulator.clock import Moment
from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.freebsd import lines as freebsd_lines
from appvss.simulator.freebsd.driver import DriverState, RequestState
from appvss.simulator.freebsd.fs_side import FsAnswer, FsState
from appvss.simulator.host import BackupResult, HostOutcome, HostResult
from appvss.simulator.lines import Line
from appvss.sources.wire.freebsd import Operation

AT = Moment(Instant(timedelta(0)), timedelta(seconds=1_700_000_000, microseconds=1234))
AUTO = FsState(opened=True, silent=False, vetoes=frozenset(), script=())
FULL = Event(
    EventKind.WROTE,
    AT,
    side=Side.APP,
    operation="freeze",
    status=1,
    msgid=17,
    process=4711,
    vmbus_id=3,
    detail="late",
    number=9,
)
FREEZE = HostResult("freeze", HostOutcome.FAILED, timedelta(seconds=15), 3, 0x80004005)
REQUEST = RequestState(Operation.FREEZE, 17, Instant(timedelta(0)), ("app waiting",))
LOST = RequestState(Operation.CHECK, 18, Instant(timedelta(0)), ())
OPEN = DriverState(True, True, True, 0, (REQUEST, LOST))
NEVER = DriverState(False, False, False, 2, ())


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            lines.device_event(FULL),
            "22:13:20.001 app  wrote         freeze status 1 msgid 17 vmbus 3 by process 4711 - late",
        ),
        (lines.device_event(Event(EventKind.DETACHED, AT)), "22:13:20.001 -    detached"),
        (
            lines.device_event(Event(EventKind.REPLIED, AT, status=0x80004005, process=0)),
            "22:13:20.001 -    replied       status 0x80004005 by the simulator",
        ),
        (lines.host_result("freeze", FREEZE), "freeze: failed after 15.0s, status 0x80004005"),
        (
            lines.backup_result("backup 1s", BackupResult((FREEZE,))),
            "backup 1s: failed after 15.0s (freeze failed)",
        ),
        (lines.done("fs auto", "why"), "fs auto: done (why)"),
        (lines.error(UsageError("it is wrong", "Do right.")), "error: it is wrong. HINT: Do right."),
        (lines.ended("quit"), "ended: quit"),
        (lines.help_text("a\nb"), "a\nb"),
        (freebsd_lines.state(None, AUTO), "detached: no nodes"),
        (
            freebsd_lines.state(OPEN, AUTO),
            "open: app, fs; freeze 17 in app waiting; check 18 in no queue; fs played here: auto",
        ),
        (
            freebsd_lines.state(NEVER, FsState(False, False, frozenset(), ())),
            "open: none; fs never opened, 2 messages wait in the ring",
        ),
        (
            freebsd_lines.state(
                OPEN, FsState(True, False, frozenset({Operation.THAW, Operation.CHECK}), (FsAnswer.DIE,))
            ),
            "open: app, fs; freeze 17 in app waiting; check 18 in no queue; "
            "fs played here: script die, then veto check thaw",
        ),
        (
            freebsd_lines.state(DriverState(False, True, True, 0, ()), FsState(True, True, frozenset(), ())),
            "open: fs; fs played here: silent",
        ),
    ],
)
def test_lines_for_people(line: Line, text: str) -> None:
    assert lines.as_text(line) == text


def test_the_ready_line_names_both_devices() -> None:
    line = freebsd_lines.ready(Path("/d/a"), Path("/d/f"), Path("/d.control/control.sock"), 5)
    assert lines.as_text(line) == "ready: /d/a and /d/f; `help` lists the commands"
    assert json.loads(lines.as_json(line)) == {
        "message_type": "ready",
        "app_device": "/d/a",
        "fs_device": "/d/f",
        "control_socket": "/d.control/control.sock",
        "pid": 5,
        "text": "ready: /d/a and /d/f; `help` lists the commands",
    }


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (
            lines.device_event(FULL),
            {
                "message_type": "device_event",
                "number": 9,
                "time": "2023-11-14T22:13:20.001234Z",
                "kind": "wrote",
                "side": "app",
                "operation": "freeze",
                "status": 1,
                "msgid": 17,
                "pid": 4711,
                "vmbus_id": 3,
                "detail": "late",
            },
        ),
        (
            lines.host_result("freeze", FREEZE),
            {
                "message_type": "result",
                "command": "freeze",
                "outcome": "failed",
                "took_seconds": 15.0,
                "status": 0x80004005,
                "detail": "",
            },
        ),
        (
            freebsd_lines.state(OPEN, AUTO),
            {
                "message_type": "state",
                "attached": True,
                "app_open": True,
                "fs_open": True,
                "fs_ever_open": True,
                "messages_in_ring": 0,
                "requests": [
                    {"operation": "freeze", "msgid": 17, "places": ["app waiting"]},
                    {"operation": "check", "msgid": 18, "places": []},
                ],
                "fs_played": True,
                "fs_silent": False,
                "fs_vetoes": [],
                "fs_script": [],
                "text": "open: app, fs; freeze 17 in app waiting; check 18 in no queue; fs played here: auto",
            },
        ),
        (
            lines.error(UsageError("it is wrong", "Do right.")),
            {
                "message_type": "error",
                "name": "UsageError",
                "sentence": "it is wrong",
                "hint": "Do right.",
                "problems": [],
                "exit_code": 2,
            },
        ),
        (lines.ended("SIGTERM"), {"message_type": "ended", "reason": "SIGTERM"}),
    ],
)
def test_lines_for_programs(line: Line, fields: dict[str, Any]) -> None:
    assert json.loads(lines.as_json(line)) == fields
    assert "\n" not in lines.as_json(line)
