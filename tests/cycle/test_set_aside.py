"""Apps that are not asked: set aside by the administrator's policy, too slow, or waiting for each other."""

from __future__ import annotations

import pytest

from appvss.cycle.effects import Announce
from appvss.cycle.inputs import RegistrationChanged
from appvss.cycle.state import AppState
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import LIMIT, REHEARSAL, SECOND, World, in_phase

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
WHY = "set aside by policy after 3 failures in a row, the last: timed_out"


def _world(requirement: Requirement = REQUIRED) -> World:
    """`lazy` is set aside; `a` is like any other."""
    world = World()
    world.register("a")
    world.register("lazy", 10, requirement, prepares=True, set_aside=WHY)
    return world


# -- set aside by policy


@pytest.mark.parametrize("requirement", [REQUIRED, TOLERATED])
def test_an_app_that_is_set_aside_is_not_asked_and_named(requirement: Requirement) -> None:
    world = _world(requirement)
    world.hold("a")
    thaw = world.thaw()
    verdict = world.finish()
    assert "lazy" not in " ".join(world.story())
    assert (verdict.level, verdict.reasons) == (Level.APPLICATION, (f"lazy (tolerated) was not asked: {WHY}",))
    assert world.answer(thaw).go_on
    (outcome,) = [outcome for outcome in verdict.outcomes if outcome.app.name == "lazy"]
    assert (outcome.outcome, outcome.requirement, outcome.reason) == (Outcome.SKIPPED, TOLERATED, WHY)
    failed = [effect.event for effect in world.all(Announce) if effect.event.kind is EventKind.APP_FAILED]
    assert [(event.app, event.detail) for event in failed] == [("lazy", f"skipped: {WHY}")]


def test_an_ignored_app_that_is_set_aside_stays_ignored() -> None:
    world = _world(IGNORED)
    world.hold("a")
    world.thaw()
    assert world.finish().reasons == ()
    assert world.outcomes()["lazy"] is Outcome.SKIPPED


def test_nobody_else_makes_no_hold_of_it() -> None:
    world = World()
    world.register("lazy", set_aside=WHY)
    world.freeze()
    world.filesystems_froze(frozen=False)
    world.thaw()
    verdict = world.finish()
    assert (verdict.level, verdict.reasons) == (
        Level.CRASH,
        ("no app was held: nothing in this machine vouches for the snapshot", f"lazy (tolerated) was not asked: {WHY}"),
    )


def test_an_app_that_is_expected_is_there_when_it_is_set_aside() -> None:
    world = World(expected=("lazy",))
    world.register("a")
    world.register("lazy", set_aside=WHY)
    world.hold("a")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_it_is_not_asked_after_a_check_either() -> None:
    world = _world()
    check = world.check()
    assert (world.phase, world.answer(check).go_on) == (Phase.PREPARED, True)
    world.freeze()
    assert world.story() == ["check: go on", "freeze a"]


def test_another_process_takes_part_again() -> None:
    world = _world()
    world.hold("a")
    world.leave("lazy")
    world.register("lazy", 10)
    world.thaw()
    world.finish()
    world.freeze()
    assert world.story(of_last=True) == ["freeze lazy"]


@pytest.mark.parametrize("phase", Phase)
def test_a_policy_is_in_force_from_the_next_cycle_on(phase: Phase) -> None:
    world = in_phase(phase)
    before = world.state_of("b")
    world.feed(RegistrationChanged(Registration(AppId("b"), set_aside=WHY)))
    assert (world.refusals(), world.phase, world.state_of("b")) == ([], phase, before)
    (event,) = [effect.event for effect in world.of_last(Announce)]
    assert (event.kind, event.app, event.detail) == (EventKind.APP_SET_ASIDE, "b", WHY)
    world.feed(RegistrationChanged(Registration(AppId("b"), set_aside=WHY)))
    assert world.last == []
    world.force()
    world.until_rest()
    world.freeze()
    assert world.state_of("b") is AppState.FAILED


def test_a_policy_for_an_app_that_is_gone_changes_nothing() -> None:
    world = in_phase(Phase.IDLE)
    before = world.photo()
    world.feed(RegistrationChanged(Registration(AppId("gone"), set_aside=WHY)))
    assert (world.last, world.photo()) == ([], before)


# -- a rehearsal asks it


def test_a_rehearsal_asks_it_and_it_proves_itself() -> None:
    world = _world()
    world.freeze(REHEARSAL)
    world.ready("lazy")
    world.ack("lazy", "a")
    world.thaw(REHEARSAL)
    assert world.finish().level is Level.APPLICATION
    assert world.outcomes() == {"lazy": Outcome.HELD, "a": Outcome.HELD}


def test_when_it_fails_the_rehearsal_says_what_a_snapshot_would_have_got() -> None:
    world = _world()
    world.freeze(REHEARSAL)
    world.veto("lazy", "still busy")
    world.ack("a")
    world.thaw(REHEARSAL)
    assert (world.finish().level, world.verdict.reasons) == (
        Level.APPLICATION,
        ("lazy (tolerated) refused: still busy",),
    )


# -- left out for another reason


def test_one_that_has_prepared_and_then_gets_no_time_is_told_so() -> None:
    world = World()
    world.register("a")
    world.register("slow", 10, TOLERATED, prepares=True, needs=LIMIT - 3 * SECOND)
    world.check()
    world.ready("slow")
    world.pass_time(SECOND)
    world.freeze(limit=LIMIT - 4 * SECOND)
    assert world.story() == ["prepare slow", "check: go on", "abort slow", "freeze a"]
    world.ack("a")
    world.filesystems_froze()
    world.thaw()
    world.finish()
    assert world.let_go() == ["slow", "a"]


def test_apps_that_wait_for_each_other_are_left_out_when_none_is_required() -> None:
    world = World()
    world.register("a")
    world.register("left", requirement=TOLERATED, after=("right",))
    world.register("right", requirement=TOLERATED, after=("left",))
    world.register("end", after=("right",))
    world.hold("a", "end")
    world.thaw()
    verdict = world.finish()
    why = "was not asked: the apps left, right wait for each other through `after`"
    assert (verdict.level, verdict.reasons) == (
        Level.APPLICATION,
        (f"left (tolerated) {why}", f"right (tolerated) {why}"),
    )


def test_two_circles_are_left_out_at_once() -> None:
    world = World()
    world.register("a")
    for name, other in (("b", "c"), ("c", "b"), ("d", "e"), ("e", "d")):
        world.register(name, requirement=IGNORED, after=(other,))
    world.freeze()
    assert world.story() == ["freeze a"]


def test_a_circle_with_a_required_app_fails_the_cycle_early() -> None:
    world = World()
    world.register("a", requirement=TOLERATED, after=("b",))
    world.register("b", after=("a",))
    world.register("c", after=("a",))
    answer = world.answer(world.freeze())
    assert answer.reason == "the apps a, b wait for each other through `after`"
    assert world.story() == ["freeze: no"]
