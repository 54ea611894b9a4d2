"""What proves a hold, and what loses it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import AskFreeze
from appvss.cycle.inputs import AppThawed, DeadlinePassed
from appvss.cycle.state import AppState
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.phase import Phase
from appvss.model.request import Request
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import HOLD, LIMIT, MOMENT, World, seconds

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
GRACE = seconds(5)


def _holding(*tolerated: str, hold: timedelta = HOLD, frozen: bool = True) -> World:
    """`a` freezes before `b`; those that are named are only tolerated."""
    world = World(return_grace=GRACE)
    world.register("a", 10, TOLERATED if "a" in tolerated else REQUIRED)
    world.register("b", 20, TOLERATED if "b" in tolerated else REQUIRED)
    world.hold("a", "b", hold=hold, frozen=frozen)
    return world


def _thaw(world: World) -> Request:
    thaw = world.thaw()
    world.filesystems_thawed()
    return thaw


# -- proof of hold


def test_a_hold_that_an_app_calls_broken_lowers_the_verdict_and_fails_the_thaw() -> None:
    world = _holding()
    thaw = _thaw(world)
    world.confirm("b", unbroken=False, reason="the session was killed")
    world.confirm("a")
    assert (world.phase, world.verdict.level) == (Phase.COMPLETED, Level.FILESYSTEM)
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HOLD_LOST}
    answer = world.answer(thaw)
    assert (answer.go_on, answer.reason) == (False, "b (required) lost its hold: the session was killed")


def test_a_broken_hold_without_a_reason_says_so() -> None:
    world = _holding()
    _thaw(world)
    world.confirm("b", unbroken=False)
    world.confirm("a")
    assert world.verdict.reasons == ("b (required) lost its hold: it gave no reason",)


def test_a_hold_that_is_not_confirmed_is_lost() -> None:
    world = _holding()
    thaw = _thaw(world)
    world.pass_time(world.settings.thaw_limit)
    assert (world.phase, world.story(of_last=True)) == (Phase.THAWING_APPS, ["thaw a"])
    world.confirm("a")
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HOLD_LOST}
    assert not world.answer(thaw).go_on
    assert world.verdict.reasons == ("b (required) lost its hold: it did not confirm its thaw",)


def test_the_brokers_clock_contradicts_an_app_that_says_unbroken() -> None:
    world = World()
    world.register("a", hold=seconds(10))
    world.hold("a")
    world.pass_time(seconds(10) - MOMENT)
    world.thaw()
    world.jump(MOMENT)
    world.filesystems_thawed()
    world.until_rest()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST}
    assert world.verdict.reasons == ("a (required) lost its hold: its hold limit of 10.0s passed before the thaw",)


def test_a_thaw_that_a_late_timer_sends_after_the_limit_does_not_prove_the_hold() -> None:
    world = World()
    world.register("a", hold=seconds(10))
    world.hold("a")
    world.pass_time(seconds(9))
    world.thaw()
    world.jump(seconds(6))
    world.feed(DeadlinePassed())
    assert world.story(of_last=True) == ["thaw a"]
    world.confirm("a", unbroken=True)
    assert world.outcomes() == {"a": Outcome.HOLD_LOST}
    assert world.verdict.reasons[-1] == "a (required) lost its hold: its hold limit of 10.0s passed before the thaw"


def test_a_thaw_that_is_sent_again_within_the_limit_proves_the_hold() -> None:
    world = World()
    world.register("a", hold=seconds(10))
    world.hold("a")
    world.pass_time(seconds(9))
    _thaw(world)
    world.leave("a")
    world.pass_time(seconds(1) - MOMENT)
    world.register("a", hold=seconds(10), claim=HoldClaim("c1", seconds(10) - MOMENT))
    assert world.story(of_last=True) == ["thaw a"]
    world.confirm("a")
    assert world.outcomes() == {"a": Outcome.HELD}


def test_an_app_that_thaws_before_it_was_asked_has_lost_its_hold() -> None:
    world = _holding("b")
    world.confirm("b")
    assert (world.phase, world.state_of("b")) == (Phase.HOLDING, AppState.FAILED)
    _thaw(world)
    world.finish()
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HOLD_LOST}
    assert world.verdict.reasons == ("b (tolerated) lost its hold: it thawed before it was asked to",)
    assert world.let_go() == ["b", "a"]


def test_a_required_app_that_thaws_before_it_was_asked_ends_the_cycle() -> None:
    world = _holding()
    world.confirm("b")
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["abort b", "thaw filesystems"])
    world.finish()
    assert world.verdict.level is Level.CRASH


@pytest.mark.parametrize("unbroken", [True, False])
def test_a_thaw_confirmed_twice_counts_once(unbroken: bool) -> None:
    world = _holding()
    _thaw(world)
    world.confirm("b", unbroken=unbroken)
    world.confirm("b", unbroken=not unbroken)
    world.confirm("a")
    assert world.outcomes()["b"] is (Outcome.HELD if unbroken else Outcome.HOLD_LOST)


def test_a_lost_hold_after_a_thaw_that_was_called_unbroken_counts() -> None:
    world = _holding()
    _thaw(world)
    world.confirm("b")
    world.lose_hold("b", "the lock had expired")
    world.confirm("a")
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HOLD_LOST}
    assert world.verdict.level is Level.FILESYSTEM


def test_the_last_app_says_that_its_hold_was_lost_instead_of_thawed() -> None:
    world = _holding()
    thaw = _thaw(world)
    world.confirm("b")
    world.lose_hold("a", "")
    assert (world.phase, world.answer(thaw).go_on) == (Phase.COMPLETED, False)
    assert world.verdict.reasons == ("a (required) lost its hold: it gave no reason",)


def test_a_thaw_for_another_cycle_or_of_a_stranger_changes_nothing() -> None:
    world = _holding()
    before = world.photo()
    world.feed(AppThawed(AppId("a"), "other", unbroken=True))
    world.confirm("stranger")
    assert (world.photo(), world.story(of_last=True)) == (before, [])


# -- lost holds


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_required_app_loses_its_hold(name: str) -> None:
    world = _holding()
    world.lose_hold(name)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, [f"abort {name}", "thaw filesystems"])
    world.filesystems_thawed()
    world.finish()
    assert sorted(world.let_go()) == ["a", "b"]
    assert (world.verdict.level, world.verdict.reasons) == (
        Level.CRASH,
        (f"{name} (required) lost its hold: session gone",),
    )
    # The requester was told to go on: its thaw must hear of it.
    answer = world.answer(world.thaw())
    assert (answer.go_on, answer.reason) == (False, f"{name} (required) lost its hold: session gone")


def test_a_tolerated_app_loses_its_hold() -> None:
    world = _holding("a")
    world.lose_hold("a")
    assert (world.phase, world.story(of_last=True)) == (Phase.HOLDING, ["abort a"])
    world.lose_hold("a")
    assert world.story(of_last=True) == []
    thaw = _thaw(world)
    world.finish()
    assert (world.answer(thaw).go_on, world.verdict.level) == (True, Level.APPLICATION)


def test_a_hold_cannot_be_lost_before_the_ack() -> None:
    world = World()
    world.register("a", 10)
    world.register("b", 20)
    world.freeze()
    before = world.photo()
    world.lose_hold("a")
    assert world.refusals() == ["ack_of_other_kind"]
    world.lose_hold("b")
    assert world.refusals() == ["ack_before_asked"]
    world.lose_hold("stranger")
    assert world.refusals() == ["not_asked"]
    assert world.photo() == before


# -- the app's own limit


def test_the_own_limit_of_a_required_app_ends_the_cycle() -> None:
    world = World()
    world.register("a", 10, hold=seconds(8))
    world.register("b", 20)
    world.hold("a", "b")
    world.pass_time(seconds(8) - MOMENT)
    assert world.phase is Phase.HOLDING
    world.pass_time(MOMENT)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["abort a", "thaw filesystems"])
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}
    assert world.verdict.reasons == ("a (required) lost its hold: its hold limit of 8.0s passed before the thaw",)


def test_the_own_limit_of_a_tolerated_app_ends_its_part_alone() -> None:
    world = World()
    world.register("a", 10, TOLERATED, hold=seconds(8))
    world.register("b", 20)
    world.hold("a", "b")
    world.pass_time(seconds(8))
    assert (world.phase, world.story(of_last=True)) == (Phase.HOLDING, ["abort a"])
    _thaw(world)
    assert world.finish().level is Level.APPLICATION


def test_the_own_limit_counts_from_the_ack_also_while_others_freeze() -> None:
    world = World()
    world.register("a", 10, hold=seconds(2))
    world.register("b", 20)
    world.freeze()
    world.ack("a")
    world.pass_time(seconds(2))
    assert (world.phase, world.let_go()) == (Phase.ABORTING, ["a", "b"])


def test_several_limits_at_one_instant_count_for_all() -> None:
    world = World()
    world.register("a", 10, hold=seconds(8))
    world.register("b", 10, hold=seconds(8))
    world.register("c", 20)
    world.hold("a", "b", "c")
    world.pass_time(seconds(8))
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HOLD_LOST, "c": Outcome.HELD}
    assert len(world.verdict.reasons) == 2


def test_a_limit_that_passes_while_the_file_systems_thaw_is_a_lost_hold() -> None:
    world = World()
    world.register("a", hold=seconds(10))
    world.register("b", hold=seconds(60))
    world.hold("a", "b")
    world.pass_time(seconds(9))
    world.thaw()
    world.pass_time(seconds(1))
    assert (world.phase, world.story(of_last=True)) == (Phase.THAWING_FILESYSTEMS, ["abort a"])
    world.filesystems_thawed()
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}


def test_the_hold_limit_of_the_cycle_lets_everything_go() -> None:
    world = _holding(hold=seconds(30))
    world.pass_time(seconds(30) - MOMENT)
    assert world.phase is Phase.HOLDING
    world.pass_time(MOMENT)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["thaw filesystems"])
    world.finish()
    assert world.let_go() == ["b", "a"]
    assert (world.verdict.level, world.verdict.reasons) == (
        Level.CRASH,
        ("the hold limit of 30.0s passed before the thaw came",),
    )
    answer = world.answer(world.thaw())
    assert (answer.go_on, answer.reason) == (False, "the hold limit of 30.0s passed before the thaw came")


def test_a_freeze_without_a_hold_limit_holds_for_no_time() -> None:
    world = World()
    world.register("a")
    world.hold("a", hold=timedelta(0))
    world.until_rest()
    assert world.verdict.reasons[0] == "the hold limit of 0.0ms passed before the thaw came"


# -- in rest


def test_apps_come_and_go_in_rest() -> None:
    world = World()
    world.register("a")
    world.leave("a")
    world.leave("a")
    assert world.last == []
    world.freeze()
    assert world.of_last(AskFreeze) == []


def test_a_deadline_that_rings_too_early_changes_nothing() -> None:
    world = _holding()
    before = world.photo()
    world.feed(DeadlinePassed())
    assert (world.photo(), world.last) == (before, [])
    assert world.machine.next_deadline() == world.now + min(HOLD, LIMIT + HOLD)
