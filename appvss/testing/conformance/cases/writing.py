"""Whether writes stand still in a hold, and go through after it, however it ends. Played with `--writable` alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.testing.conformance.case import Case, Unmet
from appvss.testing.conformance.cases.freezing import ABORTED_AFTER, TINY
from appvss.testing.conformance.probe import WriteProbe
from appvss.testing.conformance.stage import LONG_HOLD, REQUESTER, TRIES, Stage

_RUNS: Final = 3
_LONGEST_WRITE: Final = timedelta(seconds=10)
_BLOCKED: Final = timedelta(milliseconds=400)
"""A write that does not end in this time, beyond its usual one, is held back."""
_LATER: Final = timedelta(milliseconds=200)
_PARTS: Final = (0.5, 0.25, 0.1, 0.0)


def _probe(stage: Stage) -> WriteProbe:
    """The user's command, after a look at what it does when nothing is held."""
    probe = stage.probe
    if probe is None:
        stage.skip("no --writable COMMAND was given: whether writes go through is not known")
    if not probe.usual:
        for _ in range(_RUNS):
            one = probe.attempt(_LONGEST_WRITE)
            if not one.went_through:
                raise Unmet(
                    f"--writable ended with {one.seen} while nothing was held",
                    "a write goes through, and the command ends with code 0",
                    "Run the command of --writable by hand, and mend it.",
                )
            probe.usual = max(probe.usual, one.took)
    return probe


def _must_be_writable(stage: Stage, after: str, at_least: timedelta = timedelta(0)) -> str:
    """A write goes through soon; in words.

    Args:
        stage: where it is played.
        after: what has ended the hold.
        at_least: how long the hold may last besides: one that is a timer of the server, which nobody lifts any more,
            was set before the app knew how much of its budget it would need.
    """
    bound = at_least + stage.subject.released_within + _probe(stage).usual
    one = _probe(stage).until_through(bound)
    if not one.went_through:
        raise Unmet(
            f"no write goes through {format_duration(one.took)} after {after}: {one.seen}",
            f"writes go through within {format_duration(at_least + stage.subject.released_within)}",
        )
    return f"a write went through {format_duration(one.took)} after {after}"


def _must_be_held_back(stage: Stage, when: str, happen: Callable[[Stage], None]) -> None:
    """No write goes through in a hold.

    One that does not end in its time shows nothing if it would not have ended without the hold either, on a machine
    that is slow now: right after the hold it must take clearly less.
    """
    probe = _probe(stage)
    for _ in range(TRIES):
        cycle, _ = stage.freeze()
        happen(stage)
        bound = probe.usual * 1.5 + _BLOCKED
        one = probe.attempt(bound)
        if one.went_through:
            stage.skip_past_limit()
        stage.must(not one.went_through, f"a write went through {when}", "no write goes through")
        stage.thaw(cycle, unbroken=True)
        if one.ended:
            return
        _must_be_writable(stage, "the thaw")
        usual = probe.attempt(_LONGEST_WRITE)
        if usual.went_through and usual.took * 1.5 <= bound:
            return
        probe.usual = max(probe.usual, usual.took)
    stage.skip(
        f"a write takes {format_duration(usual.took)} now, also when nothing is held: what one waits for is not known"
    )


def writable_at_rest(stage: Stage) -> str:
    """Nothing is held."""
    return f"a write goes through, in {format_duration(_probe(stage).usual)}"


def writes_held(stage: Stage) -> str:
    """A write in the hold: at once, after a cut of its stream, after a thaw of another cycle."""
    _probe(stage)
    if not stage.subject.holds_writes:
        stage.skip("--holds-writes is not promised: in its hold, writes may go through")
    # Each in a hold of its own: a write that waits takes its time, and the app may bear only short holds.
    for when, happen in _MEANWHILE.items():
        _must_be_held_back(stage, when, happen)
    return f"held back in the hold; {_must_be_writable(stage, 'the thaw')}"


def _cut_stream(stage: Stage) -> None:
    since = stage.app.attachments
    stage.app.disconnect()
    stage.returned(since)


def _thaw_another(stage: Stage) -> None:
    stage.thaw(stage.cycle(), unbroken=False)


_MEANWHILE: Final[dict[str, Callable[[Stage], None]]] = {
    "in the hold": lambda _: None,
    "in the hold, after its stream was cut": _cut_stream,
    "in the hold, after the thaw of another cycle": _thaw_another,
}


def after_thaw(stage: Stage) -> str:
    """The hold is thawed."""
    _probe(stage)
    cycle, _ = stage.freeze()
    stage.thaw(cycle, unbroken=True)
    return _must_be_writable(stage, "the thaw")


def after_abort(stage: Stage) -> str:
    """The cycle is aborted, in the hold and at different moments while it gets quiet."""
    _probe(stage)
    stage.tolerated.add("ack_too_late")  # an ack that was under way when the abort came
    cycle, _ = stage.freeze()
    stage.answer(stage.app.ask_abort("the check aborts it", cycle), "the abort")
    said = _must_be_writable(stage, "the abort in the hold")
    quiet_after = stage.time_to_freeze
    for part in ABORTED_AFTER:
        cycle = stage.cycle()
        asked = stage.app.ask_freeze(cycle, requester=REQUESTER, budget=stage.subject.budget, hold_limit=LONG_HOLD)
        stage.pass_time(quiet_after * part)
        stage.answer(stage.app.ask_abort("the check aborts it", cycle), "the abort", stage.subject.budget)
        asked.cancel()
        last = _must_be_writable(stage, "the abort while it got quiet")
    return f"{said}; {last}"


def after_veto(stage: Stage) -> str:
    """The budget runs out: half of the time that it took before, then less, until it does."""
    _probe(stage)
    stage.works()
    quiet_after = stage.time_to_freeze
    for part in _PARTS:
        budget = max(TINY, quiet_after * part)
        cycle, answer = stage.freeze_in_time(budget)
        if answer is not None and not answer.frozen:
            return _must_be_writable(stage, f"the veto, with a budget of {format_duration(budget)}")
        stage.answer(stage.app.ask_abort("the check aborts it", cycle), "the abort")
        said = _must_be_writable(stage, "the abort")
    return f"it was quiet in time, also with {format_duration(budget)}: no veto came; {said}"


def after_hold_limit(stage: Stage) -> str:
    """The hold limit passes."""
    _probe(stage)
    limit = stage.hold_limit
    cycle, _ = stage.freeze(hold_limit=limit)
    stage.app.hold_lost(cycle, within=limit + stage.subject.margin)
    said = _must_be_writable(stage, "the hold limit")
    stage.thaw(cycle, unbroken=False)
    return said


def after_broker_lost(stage: Stage) -> str:
    """The broker is killed, and the hold limit passes without it."""
    _probe(stage)
    limit = stage.hold_limit
    cycle, _ = stage.freeze(hold_limit=limit)
    since = stage.app.attachments
    stage.broker.stop()
    try:
        stage.pass_time(limit)
        said = _must_be_writable(stage, "the hold limit, without a broker")
    finally:
        stage.broker.start()
    stage.must(stage.returned(since) is None, "it claims a hold although its limit has passed", "it claims none")
    stage.thaw(cycle, unbroken=False)
    return said


def after_stop(stage: Stage) -> str:
    """The app's process is stopped past its limit, and goes on."""
    _probe(stage)
    limit = stage.hold_limit
    cycle, _ = stage.freeze(hold_limit=limit)
    stage.signal_app(signal.SIGSTOP)
    try:
        stage.pass_time(limit + _LATER)
    finally:
        stage.signal_app(signal.SIGCONT)
    said = _must_be_writable(stage, "it was stopped past its limit and went on")
    stage.thaw(cycle, unbroken=False)
    return said


def after_sigterm(stage: Stage) -> str:
    """It is asked to end, and has time to let go: nobody has to start it again, and no timer to run out."""
    _probe(stage)
    stage.freeze()
    since = stage.app.attachments
    stage.program.send(signal.SIGTERM)
    stage.must(stage.program.wait(stage.subject.end_within), "the program runs on after SIGTERM", "it ends")
    said = _must_be_writable(stage, "the end by SIGTERM in the hold")
    stage.come_back(since)
    stage.works()
    return f"{said}; {_must_be_writable(stage, 'the cycle after that')}"


def _after_kill(how: str, kill: Callable[[Stage], None]) -> Callable[[Stage], str]:
    def play(stage: Stage) -> str:
        _probe(stage)
        limit = stage.hold_limit
        stage.freeze(hold_limit=limit)
        since = stage.app.attachments
        kill(stage)
        try:
            said = _must_be_writable(stage, how, limit + stage.subject.budget)
        except Unmet as unmet:
            stage.come_back(since)
            try:
                said = f"{_must_be_writable(stage, 'its restart')}, not before it"
            except Unmet:
                raise unmet from None
        else:
            stage.come_back(since)
        stage.works()
        return f"{said}; {_must_be_writable(stage, 'the cycle after that')}"

    return play


def _kill_app(stage: Stage) -> None:
    stage.signal_app(signal.SIGKILL)


def _kill_program(stage: Stage) -> None:
    stage.program.send(signal.SIGKILL)


_FREE: Final = (
    "Hold by something that ends with your process or your session, or keep an undo record for your next start."
)

CASES: Final = (
    Case(
        "writable_at_rest",
        "nothing is held -> a write goes through",
        "The command of --writable must succeed when nothing is held.",
        writable_at_rest,
    ),
    Case(
        "writes_held",
        "held -> no write goes through, also after its stream was cut, and after the thaw of another cycle",
        "Take a lock that keeps every writer out, or do not promise --holds-writes.",
        writes_held,
    ),
    Case("writable_after_thaw", "thawed -> writes go through", "Let go before you answer the thaw.", after_thaw),
    Case("writable_after_abort", "aborted -> writes go through", "Let go at an abort as at a thaw.", after_abort),
    Case(
        "writable_after_veto",
        "the budget ran out -> writes go through",
        "Undo what was done half-way before you veto.",
        after_veto,
    ),
    Case(
        "writable_after_hold_limit",
        "the hold limit has passed -> writes go through, before any thaw",
        "Let go by yourself when the limit passes.",
        after_hold_limit,
    ),
    Case(
        "writable_after_broker_lost",
        "the broker is dead and the hold limit has passed -> writes go through",
        "Keep the limit yourself: a broker that died must not leave you frozen.",
        after_broker_lost,
    ),
    Case(
        "writable_after_stop",
        "stopped past its limit, and going on -> writes go through",
        "Look at the clock when you wake up, and let go.",
        after_stop,
    ),
    Case(
        "writable_after_sigterm",
        "SIGTERM in the hold -> writes go through",
        "Let go of the hold when you are asked to end.",
        after_sigterm,
        ends_process=True,
    ),
    Case(
        "writable_after_kill",
        "the app's process is killed with -9 in the hold -> writes go through, at the latest after its restart",
        _FREE,
        _after_kill("kill -9 of the app in its hold", _kill_app),
        ends_process=True,
    ),
    Case(
        "writable_after_kill_of_all",
        "the whole program is killed with -9 in the hold -> writes go through, at the latest after its restart",
        _FREE,
        _after_kill("kill -9 of the program in the hold", _kill_program),
        ends_process=True,
    ),
)
