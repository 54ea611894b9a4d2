"""The paths of held apps are looked at after the ack and before the thaw: what has changed is no hold."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import Announce, InspectPaths, WatchPaths
from appvss.cycle.ending import INSPECTION_LIMIT
from appvss.cycle.inputs import PathsInspected
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import MOMENT, REHEARSAL, SECOND, World, in_phase, seconds

TOLERATED = Requirement.TOLERATED
WHY = "its files changed while it was held: /srv/db/wal grew"


def _holding(*, requirement: Requirement = Requirement.REQUIRED, **settings: object) -> World:
    """`a`, whose paths are watched, froze before `b`, whose paths are not."""
    world = World(**settings)
    world.register("a", 10, requirement, watched=True)
    world.register("b", 20)
    world.hold("a", "b")
    return world


def test_the_first_look_is_asked_for_with_the_ack() -> None:
    world = World()
    world.register("a", 10, watched=True)
    world.register("b", 20, watched=True)
    world.freeze()
    assert world.all(WatchPaths) == []
    world.ack("a")
    assert world.of_last(WatchPaths) == [WatchPaths(AppId("a"), "c1")]
    world.ack("b")
    assert world.of_last(WatchPaths) == [WatchPaths(AppId("b"), "c1")]


@pytest.mark.parametrize("first", ["paths", "filesystems"])
def test_no_app_is_thawed_before_the_second_look(first: str) -> None:
    world = _holding()
    world.thaw()
    assert world.of_last(InspectPaths) == [InspectPaths("c1", INSPECTION_LIMIT)]
    if first == "paths":
        world.paths_inspected()
    else:
        world.filesystems_thawed()
    assert (world.phase, world.let_go()) == (Phase.THAWING_FILESYSTEMS, [])
    if first == "paths":
        world.filesystems_thawed()
    else:
        world.paths_inspected()
    assert (world.phase, world.let_go()) == (Phase.THAWING_APPS, ["b"])
    assert world.finish().level is Level.APPLICATION


@pytest.mark.parametrize("requirement", [Requirement.REQUIRED, TOLERATED])
def test_a_change_is_a_lost_hold_whatever_the_app_says(requirement: Requirement) -> None:
    world = _holding(requirement=requirement)
    thaw = world.thaw()
    world.paths_inspected(a=WHY)
    (event,) = [effect.event for effect in world.of_last(Announce)]
    assert (event.kind, event.detail) == (EventKind.PATHS_INSPECTED, f"a: {WHY}")
    world.filesystems_thawed()
    verdict = world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}
    assert verdict.reasons == (f"a ({requirement}) lost its hold: {WHY}",)
    is_required = requirement is Requirement.REQUIRED
    assert verdict.level is (Level.FILESYSTEM if is_required else Level.APPLICATION)
    assert world.answer(thaw).go_on is not is_required


def test_the_apps_own_word_and_the_clock_come_first() -> None:
    world = World()
    world.register("a", watched=True)
    world.register("b", watched=True, hold=seconds(5))
    world.hold("a", "b")
    world.pass_time(seconds(5) - MOMENT)
    world.thaw()
    world.filesystems_thawed()
    world.pass_time(2 * MOMENT)
    world.paths_inspected(a=WHY, b=WHY)
    world.confirm("a", unbroken=False, reason="the lock was gone")
    world.finish()
    assert [outcome.reason for outcome in world.verdict.outcomes] == [
        "the lock was gone",
        "its hold limit of 5.0s passed before the thaw",
    ]


def test_without_anybody_who_is_watched_nobody_looks() -> None:
    world = in_phase(Phase.THAWING_FILESYSTEMS)
    assert world.all(InspectPaths) == []
    world = World()
    world.register("a")
    world.register("gone", requirement=TOLERATED, watched=True)
    world.register("bad", requirement=TOLERATED, watched=True)
    world.freeze()
    world.veto("bad")
    world.ack("gone", "a")
    world.leave("gone", died=True)
    world.filesystems_froze()
    world.thaw()
    assert world.all(InspectPaths) == []


def test_a_cycle_that_ends_early_does_not_wait_for_a_look() -> None:
    world = _holding()
    world.force()
    assert (world.all(InspectPaths), world.phase) == ([], Phase.ABORTING)


def test_a_rehearsal_looks_as_well() -> None:
    world = World()
    world.register("a", watched=True)
    world.freeze(REHEARSAL)
    world.ack("a")
    world.thaw(REHEARSAL)
    assert (world.phase, world.let_go()) == (Phase.THAWING_FILESYSTEMS, [])
    world.paths_inspected(a=WHY)
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST}


# -- a look that takes too long


def test_nobody_stays_frozen_for_a_look() -> None:
    world = _holding()
    world.thaw()
    world.pass_time(INSPECTION_LIMIT / 2)
    world.filesystems_thawed()
    world.pass_time(INSPECTION_LIMIT / 2 - MOMENT)
    assert world.let_go() == []
    world.pass_time(MOMENT)
    assert (world.phase, world.let_go()) == (Phase.THAWING_APPS, ["b"])
    world.paths_inspected()
    assert world.refusals() == ["not_now"]
    assert world.finish().reasons == (
        "a (required) lost its hold: nobody could look in time whether its paths had changed in the hold",
    )


def test_as_long_as_the_file_systems_are_not_thawed_there_is_time_to_look() -> None:
    world = _holding(thaw_limit=seconds(5))
    world.thaw()
    world.pass_time(seconds(3))
    assert world.phase is Phase.THAWING_FILESYSTEMS
    world.paths_inspected()
    world.filesystems_thawed()
    assert world.finish().level is Level.APPLICATION


@pytest.mark.parametrize("after", [2 * INSPECTION_LIMIT, INSPECTION_LIMIT])
def test_the_look_is_late_when_the_file_systems_are_thawed(after: timedelta) -> None:
    world = _holding()
    world.thaw()
    world.pass_time(after)
    world.filesystems_thawed()
    world.pass_time(timedelta(0))
    assert (world.phase, world.let_go()) == (Phase.THAWING_APPS, ["b"])


def test_neither_freezer_nor_witness_answers() -> None:
    world = _holding(thaw_limit=seconds(5))
    thaw = world.thaw()
    world.pass_time(seconds(5))
    assert (world.phase, world.let_go()) == (Phase.THAWING_APPS, ["b"])
    world.confirm("b", "a")
    assert (world.phase, world.verdict.level, world.answer(thaw).go_on) == (Phase.COMPLETED, Level.CRASH, False)
    assert len(world.verdict.reasons) == 2


# -- out of turn


def test_an_inspection_of_another_cycle_or_a_second_one_is_refused() -> None:
    world = _holding()
    world.thaw()
    before = world.photo()
    world.feed(PathsInspected("other", {AppId("a"): WHY}))
    assert (world.refusals(), world.photo()) == (["other_cycle"], before)
    world.paths_inspected()
    before = world.photo()
    world.paths_inspected(a=WHY)
    assert (world.refusals(), world.photo()) == (["other_cycle"], before)


def test_what_is_seen_of_apps_that_failed_or_take_no_part_changes_nothing() -> None:
    world = _holding(requirement=TOLERATED)
    world.thaw()
    world.lose_hold("a", "the session is gone")
    world.paths_inspected(a=WHY, stranger=WHY)
    world.filesystems_thawed()
    assert world.finish().reasons == ("a (tolerated) lost its hold: the session is gone",)


def test_one_that_is_away_is_looked_at_and_returns_for_its_thaw() -> None:
    world = _holding()
    world.leave("a")
    thaw = world.thaw()
    assert len(world.all(InspectPaths)) == 1
    world.paths_inspected(a=WHY)
    world.filesystems_thawed()
    world.pass_time(SECOND)
    world.register("a", 10, claim=HoldClaim("c1", SECOND))
    world.finish()
    assert world.outcomes()["a"] is Outcome.HOLD_LOST
    assert not world.answer(thaw).go_on
