"""The app's machine: every state against every input, then long random lives, with the contract's promises checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appvss.model.app import HoldClaim
from appvss.model.instant import Instant
from appvss.sdk import inputs
from appvss.sdk.effects import (
    DropStream,
    Effect,
    EndEntering,
    EndPrepare,
    Enter,
    Finish,
    Greet,
    Leave,
    Note,
    RunPrepare,
    Send,
    TellFilesystemFreeze,
)
from appvss.sdk.inputs import Failure, Input
from appvss.sdk.machine import GREETING_LIMIT, AppMachine
from appvss.sdk.states import Entering, Held, Idle, Leaving, Preparing, State

START = Instant(timedelta(hours=1))
SECOND = timedelta(seconds=1)
BUDGET = 2 * SECOND
LIMIT = 10 * SECOND
DECLARED = 60 * SECOND

PREPARE = inputs.PrepareAsked("c", "host", BUDGET)
FREEZE = inputs.FreezeAsked("c", "host", BUDGET, LIMIT)
THAW = inputs.ThawAsked("c")
ABORT = inputs.AbortAsked("c", "the host gave up")
OTHER_PREPARE = inputs.PrepareAsked("d", "host", BUDGET)
OTHER_FREEZE = inputs.FreezeAsked("d", "host", BUDGET, LIMIT)
OTHER_THAW = inputs.ThawAsked("d")
OTHER_ABORT = inputs.AbortAsked("d", "the host gave up")
ENTERED = inputs.Entered({"lsn": "7"})
FAILED = inputs.EnterFailed(Failure("a long statement runs", retryable=True))
LEFT = inputs.Left(None)
LEFT_BADLY = inputs.Left(Failure("the session is gone"))
CLOSE = inputs.CloseAsked("the app is stopping")
TICK = inputs.DeadlinePassed()
TOLD = inputs.FilesystemFreezeTold("c")
OTHER_TOLD = inputs.FilesystemFreezeTold("d")

ROADS: dict[str, list[Input]] = {
    "idle": [],
    "preparing": [PREPARE],
    "entering": [FREEZE],
    "held": [FREEZE, ENTERED],
    "leaving": [FREEZE, ENTERED, THAW],
}


def machine_at(place: str, *, attached: bool = True) -> AppMachine:
    machine = AppMachine(DECLARED)
    machine.handle(inputs.StreamOpened(), START)
    machine.handle(inputs.Welcomed(1), START)
    for happened in ROADS[place]:
        machine.handle(happened, START)
    if not attached:
        machine.handle(inputs.StreamEnded(), START)
    return machine


def words(effects: Sequence[Effect]) -> list[str]:
    """Effects as short texts: a message as what it says, a note not at all."""
    said = []
    for effect in effects:
        match effect:
            case Send(message=message):
                kind = message.WhichOneof("message")
                assert kind is not None
                body = getattr(message, kind)
                text = f"{kind} {body.cycle}"
                if kind == "thawed":
                    text += " unbroken" if body.unbroken else f" broken: {body.reason}"
                elif kind == "veto":
                    text += f": {body.reason}" + (" (retryable)" if body.retryable else "")
                elif kind == "hold_lost":
                    text += f": {body.reason}"
                said.append(text)
            case Note():
                pass
            case Enter() | RunPrepare():
                said.append(f"{type(effect).__name__} {effect.cycle}")
            case Leave(ended=None):
                said.append("Leave")
            case Leave(ended=ended):
                said.append(f"Leave: {ended}")
            case EndEntering(reason=reason) | EndPrepare(reason=reason) | DropStream(reason=reason):
                said.append(f"{type(effect).__name__}: {reason}")
            case _:
                said.append(type(effect).__name__)
    return said


UNKNOWN_C = "thawed c broken: this app holds nothing for cycle c"
UNKNOWN_D = "thawed d broken: this app holds nothing for cycle d"
ABORTED = "the broker aborted the cycle before the app was frozen: the host gave up"
THAWED = "the broker thawed the cycle before the app was frozen"
STOPPING = "the app is stopping"
BROKE = "the stream to the broker broke before the app was frozen"

# (where, what happened) -> (where then, what is to be done)
TABLE: list[tuple[str, Input, type[State], list[str]]] = [
    ("idle", PREPARE, Preparing, ["RunPrepare c"]),
    ("idle", FREEZE, Entering, ["Enter c"]),
    ("idle", THAW, Idle, [UNKNOWN_C]),
    ("idle", ABORT, Idle, [UNKNOWN_C]),
    ("idle", inputs.QuestionUnusable("c", "no budget"), Idle, ["veto c: no budget"]),
    ("idle", inputs.StreamEnded(), Idle, []),
    ("idle", TICK, Idle, []),
    ("idle", CLOSE, Idle, ["Finish"]),
    ("preparing", PREPARE, Preparing, []),
    (
        "preparing",
        OTHER_PREPARE,
        Preparing,
        ["veto d: the app is still preparing for cycle c (retryable)"],
    ),
    ("preparing", FREEZE, Preparing, ["veto c: the app is still preparing for cycle c (retryable)"]),
    ("preparing", THAW, Preparing, [f"EndPrepare: {THAWED}", f"veto c: {THAWED}", UNKNOWN_C]),
    ("preparing", ABORT, Preparing, [f"EndPrepare: {ABORTED}", f"veto c: {ABORTED}", UNKNOWN_C]),
    ("preparing", OTHER_THAW, Preparing, [UNKNOWN_D]),
    ("preparing", inputs.PrepareEnded(None), Idle, ["ready c"]),
    ("preparing", inputs.PrepareEnded(Failure("the disk is full")), Idle, ["veto c: the disk is full"]),
    ("preparing", inputs.StreamEnded(), Preparing, [f"EndPrepare: {BROKE}"]),
    ("preparing", TICK, Preparing, []),
    ("preparing", CLOSE, Preparing, [f"EndPrepare: {STOPPING}", f"veto c: {STOPPING}"]),
    ("entering", PREPARE, Entering, ["veto c: the app is still getting quiet for cycle c (retryable)"]),
    ("entering", FREEZE, Entering, []),
    ("entering", OTHER_FREEZE, Entering, ["veto d: the app is still getting quiet for cycle c (retryable)"]),
    ("entering", THAW, Entering, [f"EndEntering: {THAWED}"]),
    ("entering", ABORT, Entering, [f"EndEntering: {ABORTED}"]),
    ("entering", OTHER_ABORT, Entering, [UNKNOWN_D]),
    ("entering", ENTERED, Held, ["frozen c"]),
    ("entering", FAILED, Idle, ["veto c: a long statement runs (retryable)"]),
    ("entering", inputs.StreamEnded(), Entering, [f"EndEntering: {BROKE}"]),
    ("entering", TICK, Entering, []),
    ("entering", CLOSE, Entering, [f"EndEntering: {STOPPING}"]),
    ("held", PREPARE, Held, ["ready c"]),
    ("held", OTHER_PREPARE, Held, ["veto d: the app is frozen for cycle c (retryable)"]),
    ("held", FREEZE, Held, ["frozen c"]),
    ("held", OTHER_FREEZE, Held, ["veto d: the app is frozen for cycle c (retryable)"]),
    ("held", inputs.QuestionUnusable("c", "no budget"), Held, []),
    ("held", inputs.QuestionUnusable("d", "no budget"), Held, ["veto d: no budget"]),
    ("held", THAW, Leaving, ["Leave"]),
    ("held", ABORT, Leaving, ["Leave"]),
    ("held", OTHER_THAW, Held, [UNKNOWN_D]),
    ("held", LEFT, Idle, ["hold_lost c: the app went on by itself"]),
    ("held", LEFT_BADLY, Idle, ["hold_lost c: the session is gone"]),
    ("held", inputs.StreamEnded(), Held, []),
    ("held", TICK, Held, []),
    ("held", CLOSE, Leaving, [f"hold_lost c: {STOPPING}", f"Leave: {STOPPING}"]),
    ("leaving", PREPARE, Leaving, ["veto c: the app is still letting go of cycle c (retryable)"]),
    ("leaving", OTHER_FREEZE, Leaving, ["veto d: the app is still letting go of cycle c (retryable)"]),
    ("leaving", THAW, Leaving, []),
    ("leaving", ABORT, Leaving, []),
    ("leaving", OTHER_THAW, Leaving, [UNKNOWN_D]),
    ("leaving", LEFT, Idle, ["thawed c unbroken"]),
    ("leaving", LEFT_BADLY, Idle, ["thawed c broken: the session is gone"]),
    ("leaving", inputs.StreamEnded(), Leaving, []),
    ("leaving", TICK, Leaving, []),
    ("leaving", CLOSE, Leaving, []),
    ("idle", TOLD, Idle, []),
    ("preparing", TOLD, Preparing, []),
    ("entering", TOLD, Entering, []),
    ("held", TOLD, Held, ["TellFilesystemFreeze"]),
    ("held", OTHER_TOLD, Held, []),
    ("leaving", TOLD, Leaving, []),
]


@pytest.mark.parametrize(("place", "happened", "then", "done"), TABLE)
def test_each_state_answers_each_input(place: str, happened: Input, then: type[State], done: list[str]) -> None:
    machine = machine_at(place)
    effects = machine.handle(happened, START)
    assert (type(machine.state), words(effects)) == (then, done)


WORK = [inputs.PrepareEnded(None), ENTERED, FAILED, LEFT]
NOT_GOING_ON = [
    (place, happened) for place in ROADS for happened in WORK if not any((place, happened) == row[:2] for row in TABLE)
]


@pytest.mark.parametrize(("place", "happened"), NOT_GOING_ON)
def test_the_end_of_work_that_is_not_going_on_is_refused_by_name(place: str, happened: Input) -> None:
    machine = machine_at(place)
    before = machine.state
    (note,) = machine.handle(happened, START)
    assert isinstance(note, Note)
    assert type(happened).__name__ in note.sentence
    assert machine.state == before


@pytest.mark.parametrize("place", ROADS)
@pytest.mark.parametrize("happened", [PREPARE, FREEZE, THAW, ABORT], ids=lambda value: type(value).__name__)
def test_a_broker_that_asks_before_its_welcome_is_dropped(place: str, happened: Input) -> None:
    machine = machine_at(place, attached=False)
    machine.handle(inputs.StreamOpened(), START)
    before = machine.state
    assert words(machine.handle(happened, START)) == ["DropStream: the broker's first message was not a welcome"]
    assert machine.state == before


# The stream.


def test_the_hello_claims_a_hold_and_only_a_hold() -> None:
    for place in ROADS:
        machine = machine_at(place, attached=False)
        (greet,) = (
            machine.handle(inputs.StreamOpened(), START + 3 * SECOND)
            if place == "held"
            else machine.handle(inputs.StreamOpened(), START)
        )
        assert greet == Greet(HoldClaim("c", 3 * SECOND) if place == "held" else None)


def test_a_call_without_a_welcome_is_dropped_in_time() -> None:
    machine = AppMachine(DECLARED)
    machine.handle(inputs.StreamOpened(), START)
    assert machine.next_deadline() == START + GREETING_LIMIT
    assert machine.handle(TICK, START + GREETING_LIMIT - SECOND) == []
    assert words(machine.handle(TICK, START + GREETING_LIMIT)) == ["DropStream: no welcome came within 10.0s"]
    assert machine.next_deadline() is None


def test_a_welcome_in_a_version_that_is_not_spoken_is_no_welcome() -> None:
    machine = AppMachine(DECLARED)
    machine.handle(inputs.StreamOpened(), START)
    assert words(machine.handle(inputs.Welcomed(2), START)) == ["DropStream: the broker chose protocol version 2"]
    assert not machine.attached


def come_back(machine: AppMachine, now: Instant) -> list[str]:
    return words(machine.handle(inputs.StreamOpened(), now)) + words(machine.handle(inputs.Welcomed(1), now))


def test_a_hold_outlives_its_stream_and_is_unbroken() -> None:
    machine = machine_at("held", attached=False)
    assert come_back(machine, START + SECOND) == ["Greet"]
    assert words(machine.handle(THAW, START + SECOND)) == ["Leave"]
    assert words(machine.handle(LEFT, START + SECOND)) == ["thawed c unbroken"]


def test_a_hold_that_ends_without_a_stream_is_told_of_at_the_next_one() -> None:
    machine = machine_at("held", attached=False)
    reason = "the hold limit of 10.0s passed before a thaw came"
    assert words(machine.handle(TICK, START + LIMIT)) == [f"Leave: {reason}"]
    machine.handle(LEFT, START + LIMIT)
    assert come_back(machine, START + LIMIT) == ["Greet", f"hold_lost c: {reason}"]
    assert words(machine.handle(THAW, START + LIMIT)) == [f"thawed c broken: {reason}"]
    machine.handle(inputs.StreamEnded(), START + LIMIT)
    assert come_back(machine, START + LIMIT) == ["Greet"]


def test_a_limit_that_passed_when_the_stream_broke_is_told_of_at_the_next_one() -> None:
    machine = machine_at("held")
    reason = "the hold limit of 10.0s passed before a thaw came"
    assert words(machine.handle(inputs.StreamEnded(), START + LIMIT)) == [f"Leave: {reason}"]
    assert come_back(machine, START + LIMIT) == ["Greet", f"hold_lost c: {reason}"]


def test_a_hold_whose_limit_passed_while_the_process_was_stopped_is_not_claimed() -> None:
    machine = machine_at("held", attached=False)
    leave, greet = words(machine.handle(inputs.StreamOpened(), START + LIMIT))[-2:]
    assert leave.startswith("Leave: the hold limit")
    assert greet == "Greet"
    assert isinstance(machine.state, Leaving)


def test_what_was_asked_on_a_broken_stream_is_not_answered_on_the_next() -> None:
    for place, ended in (("preparing", inputs.PrepareEnded(None)), ("entering", FAILED), ("leaving", LEFT)):
        machine = machine_at(place, attached=False)
        assert come_back(machine, START) == ["Greet"]
        assert words(machine.handle(ended, START)) == []
        assert machine.state == Idle()


def test_an_app_that_gets_quiet_after_its_stream_broke_lets_go() -> None:
    machine = machine_at("entering", attached=False)
    assert words(machine.handle(ENTERED, START)) == [f"Leave: {BROKE}"]
    come_back(machine, START)
    assert words(machine.handle(FREEZE, START)) == ["veto c: the app is still letting go of cycle c (retryable)"]
    assert words(machine.handle(LEFT, START)) == []


# The two clocks.


@pytest.mark.parametrize("after", [BUDGET, BUDGET + SECOND])
def test_quiet_too_late_is_not_quiet(after: timedelta) -> None:
    machine = machine_at("entering")
    assert machine.next_deadline() == START + BUDGET
    reason = "the time to get quiet, 2.0s, ran out"
    assert words(machine.handle(ENTERED, START + after)) == [f"Leave: {reason}"]
    assert words(machine.handle(LEFT, START + after)) == [f"veto c: {reason}"]


def test_quiet_just_in_time_is_quiet_and_the_hold_counts_from_then() -> None:
    machine = machine_at("entering")
    just = START + BUDGET - timedelta(microseconds=1)
    assert words(machine.handle(ENTERED, just)) == ["frozen c"]
    assert machine.next_deadline() == just + LIMIT


def test_an_entering_that_was_ended_is_vetoed_only_when_it_is_over() -> None:
    machine = machine_at("entering")
    assert words(machine.handle(TICK, START + BUDGET)) == ["EndEntering: the time to get quiet, 2.0s, ran out"]
    assert machine.next_deadline() is None
    assert words(machine.handle(ABORT, START + BUDGET)) == []
    assert words(machine.handle(FAILED, START + BUDGET)) == [
        "veto c: the time to get quiet, 2.0s, ran out",
        "thawed c broken: the app was not frozen: the time to get quiet, 2.0s, ran out",
    ]


def test_a_prepare_that_takes_too_long_is_vetoed_at_once() -> None:
    machine = machine_at("preparing")
    reason = "the time to prepare, 2.0s, ran out"
    assert words(machine.handle(TICK, START + BUDGET)) == [f"EndPrepare: {reason}", f"veto c: {reason}"]
    assert machine.next_deadline() is None
    assert words(machine.handle(inputs.PrepareEnded(None), START + BUDGET)) == []
    assert machine.state == Idle()


def test_the_hold_limit_is_kept_to_the_microsecond() -> None:
    machine = machine_at("held")
    assert machine.next_deadline() == START + LIMIT
    assert machine.handle(TICK, START + LIMIT - timedelta(microseconds=1)) == []
    reason = "the hold limit of 10.0s passed before a thaw came"
    assert words(machine.handle(TICK, START + LIMIT)) == [f"hold_lost c: {reason}", f"Leave: {reason}"]
    assert words(machine.handle(THAW, START + LIMIT)) == []
    assert words(machine.handle(LEFT, START + LIMIT)) == [f"thawed c broken: {reason}"]


def test_a_thaw_after_the_limit_is_broken_though_no_timer_fired() -> None:
    machine = machine_at("held")
    late = START + LIMIT
    assert [word.split(":")[0] for word in words(machine.handle(THAW, late))] == ["hold_lost c", "Leave"]
    assert words(machine.handle(LEFT, late)) == ["thawed c broken: the hold limit of 10.0s passed before a thaw came"]


@pytest.mark.parametrize(("asked", "kept"), [(LIMIT, LIMIT), (2 * DECLARED, DECLARED)])
def test_the_shorter_of_two_hold_limits_counts(asked: timedelta, kept: timedelta) -> None:
    machine = machine_at("idle")
    machine.handle(inputs.FreezeAsked("c", "host", BUDGET, asked), START)
    machine.handle(ENTERED, START)
    assert machine.next_deadline() == START + kept


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (inputs.PrepareAsked("c", "host", timedelta(0)), "veto c: the broker gives no time to prepare: 0.0ms"),
        (inputs.FreezeAsked("c", "host", timedelta(0), LIMIT), "veto c: the broker gives no time to get quiet: 0.0ms"),
        (inputs.FreezeAsked("c", "host", BUDGET, -SECOND), "veto c: the broker gives no time to stay quiet: -1.0s"),
    ],
)
def test_no_time_is_a_veto(asked: Input, refusal: str) -> None:
    machine = machine_at("idle")
    assert words(machine.handle(asked, START)) == [refusal]
    assert machine.state == Idle()


# Twice, late, and never.


def test_a_thaw_that_comes_twice_is_answered_twice_with_the_same() -> None:
    machine = machine_at("leaving")
    machine.handle(ABORT, START)
    assert words(machine.handle(LEFT, START)) == ["thawed c unbroken"] * 2
    assert words(machine.handle(THAW, START)) == ["thawed c unbroken"]


def test_a_thaw_after_a_veto_says_what_became_of_the_freeze() -> None:
    machine = machine_at("entering")
    machine.handle(FAILED, START)
    assert words(machine.handle(ABORT, START)) == ["thawed c broken: the app was not frozen: a long statement runs"]


def test_an_abort_before_frozen_gets_its_veto_and_its_thawed() -> None:
    machine = machine_at("entering")
    machine.handle(ABORT, START)
    machine.handle(THAW, START)
    assert words(machine.handle(ENTERED, START)) == [f"Leave: {ABORTED}"]
    assert words(machine.handle(LEFT, START)) == [f"veto c: {ABORTED}"] + [f"thawed c broken: {ABORTED}"] * 2


# The end.


@pytest.mark.parametrize(
    ("place", "ending"),
    [("preparing", inputs.PrepareEnded(None)), ("entering", FAILED), ("held", LEFT), ("leaving", LEFT)],
)
def test_closing_finishes_when_the_app_has_let_go(place: str, ending: Input) -> None:
    machine = machine_at(place)
    assert Finish() not in machine.handle(CLOSE, START)
    assert machine.handle(ending, START)[-1] == Finish()
    for asked in (PREPARE, FREEZE):
        assert words(machine.handle(asked, START))[0] == f"veto c: {STOPPING}"


def test_closing_in_mid_hold_breaks_it() -> None:
    machine = machine_at("held")
    machine.handle(CLOSE, START)
    machine.handle(THAW, START)
    assert words(machine.handle(LEFT, START)) == [f"thawed c broken: {STOPPING}", "Finish"]


def test_closing_twice_asks_once() -> None:
    machine = machine_at("entering")
    machine.handle(CLOSE, START)
    assert words(machine.handle(CLOSE, START)) == []


class Life(RuleBasedStateMachine):
    """A broker that says anything at any time, an app that does anything, a stream that breaks, a jumping clock."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = AppMachine(DECLARED)
        self.now = START
        self.stream = False
        self.working = ""
        self.limit = timedelta(0)
        self.owed: Counter[str] = Counter()
        self.frozen: dict[str, Instant] = {}
        self.released: set[str] = set()
        self.thawed_in_time: set[str] = set()
        self.closing = False
        self.finished = False

    def tell(self, happened: Input) -> None:
        for effect in self.machine.handle(happened, self.now):
            match effect:
                case Send(message=message):
                    assert self.machine.attached
                    self.check_message(message.WhichOneof("message") or "", message)
                case RunPrepare():
                    assert self.working == ""
                    self.working = "prepare"
                case Enter():
                    assert self.working == ""
                    self.working = "enter"
                    self.entering = effect.cycle
                    self.limit = effect.hold_limit
                    self.released.discard(effect.cycle)
                    self.thawed_in_time.discard(effect.cycle)
                    self.frozen.pop(effect.cycle, None)
                case Leave(ended=ended):
                    assert self.working == "held"
                    self.working = "leave"
                    self.released.add(self.entering)
                    if ended is None:
                        self.thawed_in_time.add(self.entering)
                case EndEntering():
                    assert self.working == "enter"
                case EndPrepare():
                    assert self.working == "prepare"
                case Finish():
                    assert self.closing
                    assert self.working == ""
                    self.finished = True
                case Greet(claim=claim):
                    if claim is not None:
                        assert self.working == "held"
                        assert claim.held_for < self.limit
                case TellFilesystemFreeze():
                    assert self.working == "held"

    def check_message(self, kind: str, message: object) -> None:
        body = getattr(message, kind)
        match kind:
            case "frozen":
                assert self.working == "held"
                self.frozen.setdefault(body.cycle, self.now)
                self.owed[f"freeze {body.cycle}"] = 0
            case "ready":
                self.owed[f"prepare {body.cycle}"] = 0
            case "veto":
                assert body.reason
                assert not (
                    self.working in {"held", "leave"} and body.cycle == self.entering and not self.owed_any(body)
                )
                self.owed[f"freeze {body.cycle}"] = self.owed[f"prepare {body.cycle}"] = 0
            case "thawed":
                self.owed[f"thaw {body.cycle}"] -= 1
                assert self.owed[f"thaw {body.cycle}"] >= 0
                if body.unbroken:
                    assert body.cycle in self.frozen
                    assert body.cycle in self.thawed_in_time
                else:
                    assert body.reason
            case "hold_lost":
                assert body.reason

    def owed_any(self, body: object) -> bool:
        cycle = getattr(body, "cycle", "")
        return bool(self.owed[f"freeze {cycle}"] or self.owed[f"prepare {cycle}"])

    @initialize()
    def begin(self) -> None:
        self.open_stream()

    @precondition(lambda self: not self.stream)
    @rule()
    def open_stream(self) -> None:
        self.stream = True
        self.tell(inputs.StreamOpened())
        self.tell(inputs.Welcomed(1))

    @precondition(lambda self: self.stream)
    @rule()
    def break_stream(self) -> None:
        self.stream = False
        self.owed.clear()
        self.tell(inputs.StreamEnded())

    @precondition(lambda self: self.stream)
    @rule(cycle=st.sampled_from("abc"))
    def ask_prepare(self, cycle: str) -> None:
        self.owed[f"prepare {cycle}"] = 1
        self.tell(inputs.PrepareAsked(cycle, "host", BUDGET))

    @precondition(lambda self: self.stream)
    @rule(cycle=st.sampled_from("abc"))
    def ask_freeze(self, cycle: str) -> None:
        self.owed[f"freeze {cycle}"] = 1
        self.tell(inputs.FreezeAsked(cycle, "host", BUDGET, LIMIT))

    @precondition(lambda self: self.stream)
    @rule(cycle=st.sampled_from("abc"), abort=st.booleans())
    def ask_thaw(self, cycle: str, abort: bool) -> None:
        self.owed[f"thaw {cycle}"] += 1
        self.tell(inputs.AbortAsked(cycle, "why not") if abort else inputs.ThawAsked(cycle))

    @precondition(lambda self: self.stream)
    @rule(cycle=st.sampled_from("abc"))
    def tell_of_the_filesystem_freeze(self, cycle: str) -> None:
        self.tell(inputs.FilesystemFreezeTold(cycle))

    @precondition(lambda self: self.working == "prepare")
    @rule(ok=st.booleans())
    def prepared(self, ok: bool) -> None:
        self.working = ""
        self.tell(inputs.PrepareEnded(None if ok else Failure("no")))

    @precondition(lambda self: self.working == "enter")
    @rule(ok=st.booleans())
    def entered(self, ok: bool) -> None:
        self.working = "held" if ok else ""
        self.tell(ENTERED if ok else FAILED)

    @precondition(lambda self: self.working == "leave")
    @rule(ok=st.booleans())
    def left(self, ok: bool) -> None:
        self.working = ""
        if not ok:
            self.thawed_in_time.discard(self.entering)
        self.tell(LEFT if ok else LEFT_BADLY)

    @precondition(lambda self: self.working == "held")
    @rule()
    def left_by_itself(self) -> None:
        self.working = ""
        self.released.add(self.entering)
        self.tell(LEFT)

    @rule(seconds=st.sampled_from([0, 1, 3, 11, 60]), timer=st.booleans())
    def time_passes(self, seconds: int, timer: bool) -> None:
        self.now += seconds * SECOND
        if timer:
            self.tell(TICK)

    @rule(really=st.integers(0, 20))
    def close(self, really: int) -> None:
        if really == 20:
            self.closing = True
            self.tell(CLOSE)

    @invariant()
    def nothing_is_held_beyond_its_limit(self) -> None:
        if self.working != "held":
            return
        deadline = self.machine.next_deadline()
        assert deadline is not None
        assert deadline <= self.now + self.limit

    @invariant()
    def an_idle_app_owes_nothing(self) -> None:
        if self.working == "" and self.stream:
            assert not any(self.owed.values()), self.owed

    @invariant()
    def the_machine_knows_what_runs(self) -> None:
        states = {"": Idle, "prepare": Preparing, "enter": Entering, "held": Held, "leave": Leaving}
        assert type(self.machine.state) is states[self.working]


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=300, stateful_step_count=50)
