"""The invariants see what they are there to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from appvss.cycle.effects import (
    AnswerSource,
    AskAbort,
    AskFreeze,
    AskPrepare,
    AskThaw,
    Effect,
    EndCycle,
    FreezeFilesystems,
    TellFilesystemFreeze,
)
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppReady,
    AppRegistered,
    FreezeRequested,
    Input,
    SourceLost,
    ThawRequested,
)
from appvss.cycle.invariants import InvariantBroken, Ledger, check_step
from appvss.cycle.state import Cycle, State
from appvss.model.app import AppId, HoldClaim, Registration
from appvss.model.cycle import CycleRecord
from appvss.model.grade import Grade
from appvss.model.phase import Phase
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.verdict import Level, Verdict
from tests.cycle.support import BEGINNING, LIMIT, MOMENT, World, in_phase, seconds

A = AppId("a")
FREEZE = AskFreeze(A, "c", "host", LIMIT, LIMIT)
TELL = TellFilesystemFreeze(A, "c")


def _state(world: World) -> State:
    return world.machine._state


def _cycle(world: World) -> Cycle:
    return _state(world).running


def _no_deadline(world: World) -> None:
    _cycle(world).stage_deadline = None


def _no_watch(world: World) -> None:
    _cycle(world).hold_expiry = None


def _untold(world: World) -> None:
    _cycle(world).participants[A].is_told = False


def _too_much(world: World) -> None:
    _cycle(world).budget = sum(_cycle(world).grants, timedelta(0)) - MOMENT


@pytest.mark.parametrize(
    ("phase", "spoil", "sentence"),
    [
        (Phase.PREPARED, _no_deadline, "no deadline is armed in phase prepared"),
        (Phase.HOLDING, _no_watch, "a is held and nothing watches its limit"),
        (Phase.HOLDING, _too_much, "granted"),
        (Phase.HOLDING, _untold, "a is held, and nobody has told it of the file-system freeze"),
        (Phase.FREEZING_FILESYSTEMS, _untold, "a is held, and nobody has told it of the file-system freeze"),
    ],
)
def test_a_running_cycle(phase: Phase, spoil: Callable[[World], None], sentence: str) -> None:
    world = in_phase(phase)
    check_step(_state(world), None)
    spoil(world)
    with pytest.raises(InvariantBroken, match=sentence):
        check_step(_state(world), None)


def _unanswered(cycle: Cycle) -> None:
    cycle.owed.append(World().request(RequestKind.THAW))


def _not_let_go(cycle: Cycle) -> None:
    cycle.participants[A].let_go = False


def _ended_early(cycle: Cycle) -> None:
    cycle.ended_by = "forced"


def _not_confirmed(cycle: Cycle) -> None:
    cycle.participants[A].confirmed = False


def _thawed_early(cycle: Cycle) -> None:
    cycle.participants[A].let_go_at = BEGINNING - MOMENT


def _doubted(cycle: Cycle) -> None:
    cycle.participants[A].doubt = "its files grew"


def _worth_less(cycle: Cycle) -> None:
    verdict = cycle.verdict
    assert verdict is not None
    outcomes = tuple(replace(outcome, grade=Grade.FS) for outcome in verdict.outcomes)
    cycle.verdict = replace(verdict, outcomes=outcomes)


def _past_its_limit(cycle: Cycle) -> None:
    cycle.participants[A].hold_limit = -MOMENT


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_unanswered, "ended with a request unanswered"),
        (_not_let_go, "a was sent a freeze and neither thaw nor abort"),
        (_ended_early, "is `application` and ended early"),
        (_not_confirmed, "a is required, was not held"),
        (_thawed_early, "a was thawed before the hold ended"),
        (_doubted, "a was held, although its files grew"),
        (_past_its_limit, "a held past its limit"),
    ],
)
def test_a_cycle_that_has_ended(spoil: Callable[[Cycle], None], sentence: str) -> None:
    world = in_phase(Phase.COMPLETED)
    check_step(_state(world), None)
    spoil(_cycle(world))
    with pytest.raises(InvariantBroken, match=sentence):
        check_step(_state(world), None)


def test_a_copy_that_is_worth_less_is_never_called_application() -> None:
    world = in_phase(Phase.COMPLETED)
    check_step(_state(world), None)
    _worth_less(_cycle(world))
    with pytest.raises(InvariantBroken, match="a is worth fs, and the verdict is `application`"):
        check_step(_state(world), None)


def test_a_step_that_enters_a_phase_outside_its_row() -> None:
    state = State(World().settings, BEGINNING)
    check_step(state, frozenset())
    state.enter(Phase.PREPARING)
    with pytest.raises(InvariantBroken, match=r"entered .*preparing"):
        check_step(state, frozenset({Phase.ABORTED}))


# -- the ledger


def _request(limit: timedelta = LIMIT) -> Request:
    return World().request(RequestKind.FREEZE, limit=limit)


def _answer(request: Request) -> AnswerSource:
    return AnswerSource(Answer(request, go_on=True, reason=""))


def test_a_freeze_is_ended_by_exactly_one_thaw() -> None:
    ledger = Ledger()
    ledger.sent([FREEZE], BEGINNING)
    with pytest.raises(InvariantBroken, match="still frozen at rest"):
        ledger.at_rest(BEGINNING)
    with pytest.raises(InvariantBroken, match="two freezes"):
        ledger.sent([FREEZE], BEGINNING)
    ledger.sent([AskThaw(A, "c")], BEGINNING)
    ledger.at_rest(BEGINNING)
    with pytest.raises(InvariantBroken, match="let go twice"):
        ledger.sent([AskAbort(A, "c", "again")], BEGINNING)


def test_what_was_prepared_may_be_aborted_once() -> None:
    ledger = Ledger()
    ledger.sent([AskPrepare(A, "c", "host", LIMIT), AskAbort(A, "c", "over")], BEGINNING)
    with pytest.raises(InvariantBroken, match="let go twice"):
        ledger.sent([AskAbort(A, "c", "over")], BEGINNING)
    ledger.sent([AskPrepare(A, "d", "host", LIMIT), AskFreeze(A, "d", "host", LIMIT, LIMIT)], BEGINNING)
    ledger.sent([AskThaw(A, "d")], BEGINNING)
    with pytest.raises(InvariantBroken, match="let go twice"):
        ledger.sent([AskThaw(A, "d")], BEGINNING)


@pytest.mark.parametrize("told", [AppFroze(A, "c"), AppRegistered(Registration(A, claim=HoldClaim("c", seconds(1))))])
def test_an_app_that_says_it_is_frozen_must_be_let_go(told: AppFroze | AppRegistered) -> None:
    ledger = Ledger()
    ledger.told(told, BEGINNING)
    with pytest.raises(InvariantBroken, match="still frozen at rest"):
        ledger.at_rest(BEGINNING)


@pytest.mark.parametrize("told", [AppLeft(A, "gone"), AppRegistered(Registration(A))])
def test_a_registration_that_has_ended_is_owed_nothing(told: AppLeft | AppRegistered) -> None:
    ledger = Ledger()
    ledger.sent([AskPrepare(A, "b", "host", LIMIT), FREEZE], BEGINNING)
    ledger.told(told, BEGINNING)
    ledger.told(AppReady(A, "c"), BEGINNING)
    ledger.at_rest(BEGINNING)
    with pytest.raises(InvariantBroken, match="holds nothing"):
        ledger.sent([AskAbort(A, "b", "over")], BEGINNING)


@pytest.mark.parametrize("tells", [[], [TellFilesystemFreeze(A, "other")]])
def test_no_file_system_is_frozen_behind_an_apps_back(tells: list[Effect]) -> None:
    for told, sent in ((None, []), (AppRegistered(Registration(A, claim=HoldClaim("c", LIMIT))), [TELL])):
        ledger = Ledger()
        ledger.sent([FREEZE, replace(FREEZE, cycle="other"), *sent], BEGINNING)
        if told is not None:
            ledger.told(told, BEGINNING)  # on another stream: what it was told before counts no more
            ledger.sent([replace(FREEZE, cycle="other")], BEGINNING)
        ledger.sent(tells, BEGINNING)
        with pytest.raises(InvariantBroken, match=r"the file systems are frozen, and nobody has told \['a'\]"):
            ledger.sent([FreezeFilesystems("c", LIMIT, LIMIT)], BEGINNING)
        ledger.sent([TELL, FreezeFilesystems("c", LIMIT, LIMIT)], BEGINNING)


def test_no_requester_goes_on_before_the_apps_were_told_but_for_a_rehearsal() -> None:
    ledger, request = Ledger(), _request()
    answer = AnswerSource(Answer(request, go_on=True, reason="", cycle="c"))
    ledger.told(FreezeRequested(request, "c"), BEGINNING)
    ledger.sent([FREEZE], BEGINNING)
    with pytest.raises(InvariantBroken, match="the requester goes on, and nobody has told"):
        ledger.sent([answer], BEGINNING)
    rehearsal = replace(request, rehearses=True)
    ledger.told(FreezeRequested(rehearsal, "c"), BEGINNING)
    ledger.sent([AnswerSource(replace(answer.answer, request=rehearsal))], BEGINNING)


def test_nobody_is_told_who_holds_nothing() -> None:
    ledger = Ledger()
    ledger.sent([FREEZE, TELL, AskAbort(A, "c", "over")], BEGINNING)
    with pytest.raises(InvariantBroken, match="a was told of the file-system freeze and holds nothing"):
        ledger.sent([TELL], BEGINNING)


def test_a_request_gets_exactly_one_answer() -> None:
    ledger, request = Ledger(), _request()
    with pytest.raises(InvariantBroken, match="never asked"):
        ledger.sent([_answer(request)], BEGINNING)
    ledger.told(FreezeRequested(request, "c"), BEGINNING)
    with pytest.raises(InvariantBroken, match="requests without an answer"):
        ledger.at_rest(BEGINNING)
    ledger.sent([_answer(request)], BEGINNING)
    ledger.at_rest(BEGINNING)
    with pytest.raises(InvariantBroken, match="answered twice"):
        ledger.sent([_answer(request)], BEGINNING)


def test_an_answer_is_neither_late_nor_missing() -> None:
    ledger, request = Ledger(), _request()
    ledger.told(FreezeRequested(request, "c"), BEGINNING)
    ledger.on_time(BEGINNING, request.deadline)
    with pytest.raises(InvariantBroken, match="without an answer in time"):
        ledger.on_time(BEGINNING, request.deadline + MOMENT)
    ledger.on_time(request.deadline + MOMENT, request.deadline + seconds(1))
    with pytest.raises(InvariantBroken, match="after its limit"):
        ledger.sent([_answer(request)], request.deadline + MOMENT)


def test_what_was_asked_too_late_or_by_a_lost_source_is_owed_no_answer() -> None:
    ledger = Ledger()
    ledger.told(ThawRequested(_request(-MOMENT)), BEGINNING)
    ledger.told(FreezeRequested(_request(), "c"), BEGINNING)
    ledger.told(SourceLost("local", "gone"), BEGINNING)
    with pytest.raises(InvariantBroken, match="requests without an answer"):
        ledger.at_rest(BEGINNING)
    ledger.told(SourceLost("freebsd", "gone"), BEGINNING)
    ledger.at_rest(BEGINNING)


def test_of_a_lost_requester_only_its_own_request_is_not_owed() -> None:
    ledger, first = Ledger(), _request()
    second = replace(first, id="2")
    ledger.told(FreezeRequested(first, "c"), BEGINNING)
    ledger.told(FreezeRequested(second, "d"), BEGINNING)
    ledger.told(SourceLost("freebsd", "gone", "2"), BEGINNING)
    with pytest.raises(InvariantBroken, match="requests without an answer: \\['1'\\]"):
        ledger.at_rest(BEGINNING)


def _told() -> tuple[Ledger, Request]:
    """An app is frozen, and the requester was told "go on"."""
    ledger, request = Ledger(), _request()
    ledger.told(FreezeRequested(request, "c"), BEGINNING)
    ledger.sent([FREEZE, _answer(request)], BEGINNING)
    return ledger, request


THAW = replace(_request(), id="9", kind=RequestKind.THAW)


@pytest.mark.parametrize(
    "told", [None, ThawRequested(replace(THAW, source="local")), SourceLost("freebsd", "gone", "7")]
)
def test_no_thaw_is_sent_while_a_requester_holds(told: Input | None) -> None:
    ledger, _ = _told()
    if told is not None:
        ledger.told(told, BEGINNING)
    with pytest.raises(InvariantBroken, match="a was sent its thaw while the requesters of freebsd still hold"):
        ledger.sent([AskThaw(A, "c")], BEGINNING)


@pytest.mark.parametrize(
    "told",
    [
        ThawRequested(THAW),
        SourceLost("freebsd", "gone"),
        SourceLost("freebsd", "gone", "1"),
        FreezeRequested(replace(_request(), id="2", supersedes=True), "d"),
    ],
)
def test_a_thaw_is_sent_when_nobody_holds_any_more(told: Input) -> None:
    ledger, _ = _told()
    ledger.told(told, BEGINNING)
    ledger.sent([AskThaw(A, "c")], BEGINNING)


def test_an_abort_is_sent_whoever_holds_and_the_next_cycle_is_another() -> None:
    ledger, _ = _told()
    verdict = Verdict("c", Level.CRASH, (), ("the hold limit passed",))
    record = CycleRecord("c", "freebsd", "host", BEGINNING, LIMIT, Phase.ABORTED, verdict)
    ledger.sent([AskAbort(A, "c", "the hold limit passed"), EndCycle(record)], BEGINNING)
    ledger.sent([FREEZE, AskThaw(A, "c")], BEGINNING)


def test_a_requester_that_was_told_no_holds_nothing() -> None:
    ledger, request = Ledger(), _request()
    ledger.told(FreezeRequested(request, "c"), BEGINNING)
    ledger.sent([FREEZE, AnswerSource(Answer(request, go_on=False, reason="no")), AskThaw(A, "c")], BEGINNING)


def test_the_requester_of_an_adopted_hold_holds() -> None:
    ledger = Ledger("freebsd")
    ledger.told(AppRegistered(Registration(A, claim=HoldClaim("c", LIMIT))), BEGINNING)
    with pytest.raises(InvariantBroken, match="still hold"):
        ledger.sent([AskThaw(A, "c")], BEGINNING)
