"""What is remembered of an app, and when it is set aside and asked again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.broker.app_past import APPS_LIMIT, PARTS_LIMIT, AppPast
from appvss.model.app import AppId, Requirement
from appvss.model.instant import Instant
from appvss.model.names import REASON_LIMIT
from appvss.model.past import PastCycle
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict

APP = AppId("orders-db")
OTHER = AppId("other")
FIRST, SECOND = "1" * 32, "2" * 32
FAILURES = [Outcome.VETOED, Outcome.TIMED_OUT, Outcome.DISCONNECTED, Outcome.HOLD_LOST]


def part(outcome: Outcome, app: AppId = APP, reason: str = "busy", *, retryable: bool = False) -> AppOutcome:
    return AppOutcome(app, outcome, Requirement.REQUIRED, 50, "" if outcome is Outcome.HELD else reason, retryable)


class Past:
    """An `AppPast` that is told one cycle after the other, each a second later. It is also its clock."""

    def __init__(self) -> None:
        self.apps = AppPast(self)
        self.cycles = 0

    def now(self) -> Instant:
        return Instant(self.wall())

    def wall(self) -> timedelta:
        return timedelta(seconds=self.cycles, milliseconds=500)

    def cycle(self, *parts: AppOutcome, rehearses: bool = False, asked_ago: timedelta = timedelta(0)) -> None:
        self.cycles += 1
        cycle = f"c-{self.cycles}"
        verdict = Verdict(cycle, Level.FAILED, parts, ())
        time = timedelta(seconds=self.cycles) - asked_ago
        self.apps.ended(
            PastCycle(cycle, "local", "me", time, timedelta(0), Phase.COMPLETED, verdict, rehearses=rehearses)
        )

    def each(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.cycle(part(outcome))


def test_an_app_that_is_not_known_has_no_past() -> None:
    past = AppPast()
    assert (past.of(APP), past.failures_in_row(APP), past.last_failure(APP)) == ((), 0, None)
    assert past.set_aside(APP, FIRST, 1) == ""


def test_parts_are_kept_newest_first_and_bounded() -> None:
    past = Past()
    for _ in range(PARTS_LIMIT + 5):
        past.cycle(part(Outcome.HELD), part(Outcome.VETOED, OTHER))
    kept = past.apps.of(APP)
    assert len(kept) == PARTS_LIMIT
    assert (kept[0].cycle, kept[0].time, kept[0].outcome) == ("c-25", timedelta(seconds=25), part(Outcome.HELD))
    assert kept[-1].cycle == "c-6"
    assert past.apps.failures_in_row(OTHER) == PARTS_LIMIT + 5


def test_least_recent_apps_are_dropped() -> None:
    past = Past()
    for number in range(APPS_LIMIT):
        past.cycle(part(Outcome.VETOED, AppId("app", str(number))))
    past.cycle(part(Outcome.VETOED, AppId("app", "0")))
    past.cycle(part(Outcome.VETOED, APP))
    assert past.apps.failures_in_row(AppId("app", "0")) == 2
    assert past.apps.of(AppId("app", "1")) == ()
    assert len(past.apps.of(AppId("app", "2"))) == 1


@pytest.mark.parametrize("outcome", FAILURES)
def test_failures_are_counted_until_it_holds(outcome: Outcome) -> None:
    past = Past()
    past.each(outcome, outcome)
    assert past.apps.failures_in_row(APP) == 2
    past.each(Outcome.HELD)
    assert past.apps.failures_in_row(APP) == 0
    past.each(outcome)
    assert past.apps.failures_in_row(APP) == 1


def test_a_retryable_veto_counts() -> None:
    past = Past()
    past.cycle(part(Outcome.VETOED, retryable=True))
    assert past.apps.failures_in_row(APP) == 1


def test_being_skipped_is_passed_over() -> None:
    past = Past()
    past.each(Outcome.VETOED, Outcome.SKIPPED, Outcome.VETOED, Outcome.SKIPPED)
    assert past.apps.failures_in_row(APP) == 2
    past.each(Outcome.HELD, Outcome.SKIPPED)
    assert past.apps.failures_in_row(APP) == 0


def test_being_absent_counts_only_for_who_has_been_there() -> None:
    past = Past()
    past.each(Outcome.ABSENT, Outcome.ABSENT)
    assert past.apps.failures_in_row(APP) == 0
    past.each(Outcome.HELD, Outcome.ABSENT)
    assert past.apps.failures_in_row(APP) == 1
    registered = Past()
    registered.apps.set_aside(APP, FIRST, 0)
    registered.each(Outcome.ABSENT)
    assert registered.apps.failures_in_row(APP) == 1


def test_last_failure_outlives_a_good_hold() -> None:
    past = Past()
    past.each(Outcome.TIMED_OUT, Outcome.HELD, Outcome.SKIPPED)
    assert past.apps.last_failure(APP) == (timedelta(seconds=1), "timed_out in cycle c-1: busy")
    assert past.apps.last_failure(OTHER) is None


# -- set aside


def test_set_aside_after_so_many_failures_with_the_reason() -> None:
    past = Past()
    assert past.apps.set_aside(APP, FIRST, 2) == ""
    past.each(Outcome.TIMED_OUT)
    assert past.apps.set_aside(APP, FIRST, 2) == ""
    past.each(Outcome.VETOED)
    reason = "set aside by policy after 2 failures in a row, the last: vetoed in cycle c-2: busy"
    assert past.apps.set_aside(APP, FIRST, 2) == reason
    past.each(*[Outcome.SKIPPED] * (PARTS_LIMIT + 1))
    assert past.apps.set_aside(APP, FIRST, 2) == reason


def test_nobody_is_set_aside_without_such_a_policy() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 0)
    past.each(*[Outcome.VETOED] * 30)
    assert past.apps.set_aside(APP, FIRST, 0) == ""
    assert past.apps.set_aside(APP, FIRST, 31) == ""
    assert past.apps.set_aside(APP, FIRST, 30) != ""


def test_another_process_is_asked_again_and_set_aside_again_when_it_fails() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 2)
    past.each(Outcome.VETOED, Outcome.VETOED)
    assert past.apps.set_aside(APP, SECOND, 2) == ""
    past.each(Outcome.VETOED)
    assert past.apps.set_aside(APP, SECOND, 2).startswith("set aside by policy after 3 failures in a row")
    assert past.apps.set_aside(APP, FIRST, 2) == ""


def test_the_failure_of_a_process_that_died_in_the_cycle_is_not_its_successors() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 1)
    past.apps.set_aside(APP, SECOND, 1)  # its supervisor was quick: the cycle has not ended
    past.cycle(part(Outcome.DISCONNECTED), asked_ago=timedelta(seconds=1))
    assert past.apps.set_aside(APP, SECOND, 1) == ""
    past.each(Outcome.DISCONNECTED)
    assert past.apps.set_aside(APP, SECOND, 1)


def test_another_process_that_holds_has_the_slate_wiped() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 2)
    past.each(Outcome.VETOED, Outcome.VETOED)
    past.apps.set_aside(APP, SECOND, 2)
    past.each(Outcome.HELD, Outcome.VETOED)
    assert past.apps.set_aside(APP, SECOND, 2) == ""


def test_a_rehearsal_in_which_it_held_brings_it_back() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 2)
    past.each(Outcome.VETOED, Outcome.VETOED)
    assert past.apps.set_aside(APP, FIRST, 2)
    past.cycle(part(Outcome.VETOED), rehearses=True)
    assert "after 3 failures" in past.apps.set_aside(APP, FIRST, 2)
    past.cycle(part(Outcome.HELD), rehearses=True)
    assert past.apps.set_aside(APP, FIRST, 2) == ""


def test_a_failure_in_a_rehearsal_counts() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 1)
    past.cycle(part(Outcome.TIMED_OUT), rehearses=True)
    assert past.apps.set_aside(APP, FIRST, 1)


def test_failures_of_a_former_brokers_time_set_nobody_aside_until_one_more() -> None:
    past = Past()
    past.each(Outcome.VETOED, Outcome.VETOED)  # from the history, before anybody has registered
    assert past.apps.failures_in_row(APP) == 2
    assert past.apps.set_aside(APP, FIRST, 2) == ""
    past.each(Outcome.VETOED)
    assert past.apps.set_aside(APP, FIRST, 2)


def test_the_reason_is_one_line_of_bounded_length() -> None:
    past = Past()
    past.apps.set_aside(APP, FIRST, 1)
    past.cycle(part(Outcome.VETOED, reason="x\n" * 400))
    reason = past.apps.set_aside(APP, FIRST, 1)
    assert len(reason) == REASON_LIMIT
    assert reason.isprintable()
