"""What a cycle knows, and the few things that every step does to it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import Announce, AnswerSource
from appvss.cycle.state import ANSWER_MARGIN, AppState, Cycle, CycleSettings, Participant, State, answer_by
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.event import EventKind
from appvss.model.request import RequestKind
from appvss.model.verdict import Outcome
from tests.cycle.support import BEGINNING, LIMIT, MOMENT, World, seconds


def _part(**how: timedelta) -> Participant:
    return Participant(Registration(AppId("a")), AppState.HELD, BEGINNING, acked_at=BEGINNING, **how)  # type: ignore[arg-type] # one length


def _cycle() -> Cycle:
    return Cycle("c", "freebsd", "host", BEGINNING, is_check=False, request=None)


def test_the_answer_must_be_decided_a_margin_before_the_deadline() -> None:
    request = World().request(RequestKind.FREEZE)
    assert answer_by(request) == BEGINNING + LIMIT - ANSWER_MARGIN


@pytest.mark.parametrize(("late", "answered"), [(timedelta(0), True), (MOMENT, False)])
def test_no_answer_is_given_after_the_deadline(late: timedelta, answered: bool) -> None:
    request = World().request(RequestKind.FREEZE)
    state = State(CycleSettings(), request.deadline + late)
    state.answer(request, go_on=False)
    assert [type(effect) for effect in state.outbox] == [AnswerSource, Announce][0 if answered else 1 :]
    announced = state.outbox[-1]
    assert isinstance(announced, Announce)
    assert announced.event.kind is EventKind.SOURCE_ANSWERED
    assert announced.event.detail == ("freeze: no" if answered else "no answer to freeze: its time is over")


def test_the_earliest_hold_limit_is_watched() -> None:
    cycle = _cycle()
    cycle.watch(_part(hold_limit=seconds(5)))
    assert cycle.hold_expiry == BEGINNING + seconds(5)
    cycle.watch(_part(hold_limit=seconds(9)))
    assert cycle.hold_expiry == BEGINNING + seconds(5)
    cycle.watch(_part(hold_limit=seconds(2)))
    assert cycle.hold_expiry == BEGINNING + seconds(2)


def test_an_app_that_has_not_acked_has_no_limit_to_watch() -> None:
    part, cycle = Participant(Registration(AppId("a")), AppState.FREEZING, BEGINNING), _cycle()
    cycle.watch(part)
    assert (part.expires_at, cycle.hold_expiry) == (None, None)


@pytest.mark.parametrize("requirement", list(Requirement))
def test_only_a_required_app_is_required(requirement: Requirement) -> None:
    part = Participant(Registration(AppId("a"), requirement=requirement), AppState.READY, BEGINNING)
    assert part.is_required is (requirement is Requirement.REQUIRED)


def test_the_outcome_of_an_app_tells_its_times() -> None:
    part = _part()
    part.asked_at, part.acked_at, part.let_go_at = BEGINNING, BEGINNING + seconds(1), BEGINNING + seconds(4)
    part.outcome = Outcome.HELD
    assert (part.result().time_to_freeze, part.result().hold) == (seconds(1), seconds(3))
    part.acked_at, part.outcome = None, Outcome.TIMED_OUT
    assert (part.result().time_to_freeze, part.result().hold) == (None, None)


def test_the_last_ack_is_the_latest() -> None:
    cycle = _cycle()
    assert cycle.last_ack() is None
    for name, length in (("a", 1), ("b", 3), ("c", 2)):
        part = Participant(Registration(AppId(name)), AppState.HELD, BEGINNING, acked_at=BEGINNING + seconds(length))
        cycle.participants[AppId(name)] = part
    assert cycle.last_ack() == BEGINNING + seconds(3)
