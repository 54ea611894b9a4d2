"""The app's process is stopped, asked to end, and killed, each in its hold."""

from __future__ import annotations

import contextlib
import signal
from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.sdk.clock import now
from appvss.testing.conformance.case import Case
from appvss.testing.conformance.stage import Stage

_LATER: Final = timedelta(milliseconds=200)


def stopped_past_limit(stage: Stage) -> str:
    """It cannot see its limit pass: it is stopped, as by a debugger, and the thaw comes before it goes on."""
    limit = stage.hold_limit
    cycle, _ = stage.freeze(hold_limit=limit)
    since, asked = stage.app.attachments, None
    stage.signal_app(signal.SIGSTOP)
    try:
        stage.pass_time(limit + _LATER)
        with contextlib.suppress(ConnectionError):  # a long stop is the end of the stream as well (keepalive)
            asked = stage.app.ask_thaw(cycle)
    finally:
        stage.signal_app(signal.SIGCONT)
    if asked is None:
        stage.must(stage.returned(since) is None, "it claims a hold whose limit has passed", "it claims none")
        asked = stage.app.ask_thaw(cycle)
    thawed = stage.answer(asked, "the thaw")
    stage.must(
        not thawed.unbroken,
        f"unbroken = true, {format_duration(_LATER)} after its limit had passed",
        "unbroken = false",
    )
    stage.works()
    return f"thawed, unbroken = false: {thawed.reason or 'no reason'}; the next cycle was held"


def sigterm_in_hold(stage: Stage) -> str:
    """It is asked to end, as a service manager does."""
    stage.freeze()
    since, began, program = stage.app.attachments, now(), stage.program
    program.send(signal.SIGTERM)
    within = stage.subject.end_within
    stage.must(program.wait(within), f"the program runs on {format_duration(within)} after SIGTERM", "it ends")
    took = now() - began
    how = program.how_it_ended()
    stage.must(program.wait_group(within), "processes that it started are left after its end", "it ends as a whole")
    stage.app.gone(within=within)
    stage.come_back(since)
    stage.must(stage.app.holding is None, "the new process claims the hold of the old one", "it claims none")
    stage.works()
    return f"{how}, {format_duration(took)} after SIGTERM; started again, it works"


def killed_in_hold(stage: Stage) -> str:
    """Its process is killed with -9."""
    stage.freeze(hold_limit=stage.hold_limit)  # a hold that is a timer of the server goes on until then
    since, before = stage.app.attachments, stage.app.incarnation
    stage.signal_app(signal.SIGKILL)
    stage.app.gone(within=stage.subject.end_within)
    took = stage.come_back(since)
    _must_be_new(stage, before)
    return f"it was back {format_duration(took)} after the kill, claimed no hold, and works"


def all_killed_in_hold(stage: Stage) -> str:
    """The whole program is killed with -9: its supervisor, too, if it has one."""
    stage.freeze(hold_limit=stage.hold_limit)
    since, before = stage.app.attachments, stage.app.incarnation
    stage.program.send(signal.SIGKILL)
    stage.program.wait(stage.subject.end_within)
    try:
        stage.app.gone(within=stage.subject.end_within)
    except TimeoutError:
        stage.must(False, "the app's process goes on without the program that had started it", "it ends with it")
    took = stage.come_back(since)
    _must_be_new(stage, before)
    return f"it was back {format_duration(took)} after the start, claimed no hold, and works"


def _must_be_new(stage: Stage, before: str) -> None:
    stage.must(stage.app.holding is None, "the new process claims the hold of the old one", "it claims none")
    stage.must(
        stage.app.incarnation != before,
        "the new process has the incarnation of the old one",
        "an incarnation is chosen at random once for each process",
    )
    stage.works()


CASES: Final = (
    Case(
        "stopped_past_limit",
        "SIGSTOP in the hold, past its limit, and going on -> it does not say that the hold was unbroken",
        "Look at the clock before you answer: a process that was stopped has lost its hold before it can claim it.",
        stopped_past_limit,
    ),
    Case(
        "sigterm_in_hold",
        "SIGTERM in the hold -> the program ends in time, with all that it started; started again, it works",
        "Let go and end when you are asked to.",
        sigterm_in_hold,
        ends_process=True,
    ),
    Case(
        "killed_in_hold",
        "kill -9 of the app's process in the hold -> back again, it claims no hold and works",
        "Keep nothing of a hold beyond your process but an undo record, and undo it at the start.",
        killed_in_hold,
        ends_process=True,
    ),
    Case(
        "all_killed_in_hold",
        "kill -9 of the whole program in the hold -> started again, it claims no hold and works",
        "Let the app end with its supervisor, and undo at the start what a hold has left.",
        all_killed_in_hold,
        ends_process=True,
    ),
)
