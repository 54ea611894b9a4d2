"""A broker that has just started misses the apps of the former one: they may well run, and write."""

from __future__ import annotations

import pytest

from appvss.model.app import AppId, Registration, Requirement
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import SECOND, World

LIMIT = 5 * SECOND


def started(requirement: Requirement = Requirement.REQUIRED) -> World:
    """`a` is there again; `b` is not."""
    world = World()
    known = [Registration(AppId(name), requirement=requirement) for name in "ab"]
    world.machine.await_return(known, world.now + LIMIT)
    world.register("a")
    return world


def test_a_freeze_is_refused_as_long_as_an_app_is_missed() -> None:
    world = started()
    answer = world.answer(world.freeze())
    assert not answer.go_on
    assert answer.reason == (
        "b (required) should have taken part and was not there: a former broker had it, and it has not come back to "
        "this one yet"
    )
    assert world.outcomes() == {"a": Outcome.SKIPPED, "b": Outcome.ABSENT}
    assert world.story(of_last=False) == ["freeze: no"]


def test_one_that_is_back_is_missed_no_longer() -> None:
    world = started()
    world.register("b")
    world.hold("a", "b")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_one_that_came_and_left_is_not_missed() -> None:
    world = started()
    world.register("b")
    world.leave("b")
    world.hold("a")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_after_its_time_nobody_is_missed() -> None:
    world = started()
    world.pass_time(LIMIT)
    world.hold("a")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_one_that_is_back_already_is_not_awaited() -> None:
    world = World()
    world.register("a")
    world.machine.await_return([Registration(AppId("a"))], world.now + LIMIT)
    world.leave("a")
    world.hold()


@pytest.mark.parametrize("requirement", [Requirement.TOLERATED, Requirement.IGNORED])
def test_one_that_is_not_required_is_named_and_fails_nothing(requirement: Requirement) -> None:
    world = started(requirement)
    world.hold("a")
    world.thaw()
    verdict = world.finish()
    assert verdict.level is Level.APPLICATION
    assert world.outcomes()["b"] is Outcome.ABSENT
    assert bool(verdict.reasons) is (requirement is Requirement.TOLERATED)


def test_a_check_that_found_everybody_does_not_miss_one_later() -> None:
    world = started()
    world.pass_time(LIMIT - SECOND)
    assert not world.answer(world.check()).go_on
    world.pass_time(SECOND)
    assert world.answer(world.check()).go_on
