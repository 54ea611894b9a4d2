"""Requesters that share a hold: it lasts until the last of them asks for the thaw."""

from __future__ import annotations

import pytest

from appvss.cycle.effects import Announce, AskAbort, AskThaw
from appvss.cycle.inputs import AppThawed, DeadlinePassed
from appvss.cycle.state import ANSWER_MARGIN
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.request import Request
from appvss.model.verdict import Level
from tests.cycle.support import HOLD, LIMIT, MOMENT, SECOND, World, in_phase, seconds

JOIN = Overlap.JOIN
SHARED = [
    Phase.REQUESTED,
    Phase.FREEZING_APPS,
    Phase.CERTIFYING,
    Phase.FREEZING_FILESYSTEMS,
]
"""Where a requester that joins waits for its answer."""


def _shared(hold: object = HOLD, limit: object = LIMIT) -> tuple[World, Request, Request]:
    """A hold of `freebsd` that `local` has joined, and both freezes."""
    world = World()
    world.register("a")
    first = world.freeze()
    second = world.freeze("local", limit=limit, hold=hold, overlap=JOIN)  # type: ignore[arg-type] # lengths
    world.ack("a")
    world.filesystems_froze()
    assert world.phase is Phase.HOLDING
    return world, first, second


def _thaw_all(world: World) -> None:
    world.filesystems_thawed()
    world.confirm("a")


# -- into the hold


@pytest.mark.parametrize("phase", SHARED)
def test_whoever_joins_before_the_hold_is_answered_with_it(phase: Phase) -> None:
    world = in_phase(phase)
    world.disk = True
    joined = world.freeze("local", overlap=JOIN)
    assert (world.phase, world.answers(joined)) == (phase, [])
    world.until_rest()
    assert len(world.answers(joined)) == 1


def test_all_are_told_in_the_same_step() -> None:
    world, first, second = _shared()
    assert [effect.cycle for effect in (world.answer(first), world.answer(second))] == ["c1", "c1"]
    assert world.answer(first).go_on
    assert world.answer(second).go_on
    (event,) = [effect.event for effect in world.all(Announce) if effect.event.kind is EventKind.REQUESTER_JOINED]
    assert (event.cycle, event.detail) == ("c1", "local host through local")


def test_whoever_joins_the_hold_is_told_at_once_how_long_it_lasts() -> None:
    world = in_phase(Phase.HOLDING)
    world.pass_time(seconds(10))
    long, short = world.freeze("local", overlap=JOIN), world.freeze("other", hold=SECOND, overlap=JOIN)
    assert (world.answer(long).go_on, world.answer(long).hold_limit) == (True, HOLD - seconds(10))
    assert (world.answer(short).go_on, world.answer(short).hold_limit) == (True, SECOND)


def test_nobody_joins_while_an_app_is_away() -> None:
    world = in_phase(Phase.HOLDING)
    world.leave("a")
    freeze = world.freeze("local", overlap=JOIN)
    assert world.answers(freeze) == []
    world.register("a", claim=HoldClaim("c1", SECOND))
    world.thaw()
    world.filesystems_thawed()
    world.confirm("b", "a")
    assert world.machine.cycle == f"c{freeze.id}"  # it has waited


@pytest.mark.parametrize("limit", [ANSWER_MARGIN, -SECOND])
def test_nobody_joins_whose_time_is_over(limit: object) -> None:
    world = in_phase(Phase.HOLDING)
    freeze = world.freeze("local", limit=limit, overlap=JOIN)  # type: ignore[arg-type] # a length
    world.feed(DeadlinePassed())
    assert [answer.go_on for answer in world.answers(freeze)] == ([False] if limit == ANSWER_MARGIN else [])
    world.thaw()
    assert world.phase is Phase.THAWING_FILESYSTEMS


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS, Phase.ABORTING])
def test_a_check_and_a_hold_that_ends_cannot_be_shared(phase: Phase) -> None:
    world = in_phase(phase)
    freeze = world.freeze("local", overlap=JOIN)
    assert (world.phase, world.answers(freeze), world.machine.cycle) == (phase, [], "c1")
    world.until_rest()
    assert len(world.answers(freeze)) == 1


def test_one_that_joins_has_less_time_than_the_freeze_takes() -> None:
    world = World()
    world.register("a")
    first = world.freeze()
    joined = world.freeze("local", limit=SECOND, overlap=JOIN)
    world.pass_time(SECOND - ANSWER_MARGIN - MOMENT)
    assert world.answers(joined) == []
    world.pass_time(MOMENT)
    answer = world.answer(joined)
    assert (answer.go_on, answer.reason, answer.cycle) == (False, "the apps were not held in time for local host", "")
    world.ack("a")
    world.filesystems_froze()
    assert world.answer(first).go_on
    thaw = world.thaw("local")  # it may say so all the same; nothing was promised to it
    assert (world.answer(thaw).go_on, world.phase) == (True, Phase.HOLDING)
    again = world.freeze("local", overlap=JOIN)
    assert world.answer(again).go_on
    world.thaw()
    assert world.phase is Phase.HOLDING


def test_one_whose_time_is_over_is_not_told_go_on_by_a_timer_that_is_late() -> None:
    world = World(return_grace=seconds(2))
    world.register("a", requirement=Requirement.TOLERATED)
    first = world.freeze()
    joined = world.freeze("local", limit=seconds(3), overlap=JOIN)
    world.ack("a")
    world.leave("a")
    world.filesystems_froze()
    world.jump(seconds(3) - ANSWER_MARGIN)
    world.feed(DeadlinePassed())
    assert (world.phase, world.answer(first).go_on, world.answer(joined).go_on) == (Phase.HOLDING, True, False)
    world.thaw()
    assert world.phase is Phase.THAWING_FILESYSTEMS


# -- out of the hold


@pytest.mark.parametrize(("early", "late"), [("freebsd", "local"), ("local", "freebsd")])
def test_either_may_ask_for_the_thaw_first(early: str, late: str) -> None:
    world, _, _ = _shared()
    first = world.thaw(early)
    assert (world.phase, world.answers(first), world.let_go()) == (Phase.HOLDING, [], [])
    world.pass_time(SECOND)
    second = world.thaw(late)
    _thaw_all(world)
    for thaw in (first, second):
        answer = world.answer(thaw)
        assert (answer.go_on, answer.verdict, answer.cycle) == (True, world.verdict, "c1")
    assert (world.verdict.level, world.verdict.hold) == (Level.APPLICATION, SECOND)
    for source in (early, late):  # and what is asked once more is answered likewise
        assert world.answer(world.thaw(source)).verdict == world.verdict


def test_a_thaw_is_told_no_when_its_time_is_over_and_another_still_holds() -> None:
    world, _, _ = _shared()
    thaw = world.thaw(limit=SECOND)
    world.pass_time(SECOND - ANSWER_MARGIN)
    answer = world.answer(thaw)
    assert (answer.go_on, answer.reason) == (
        False,
        "another requester that shares the hold has not asked for the thaw yet",
    )
    world.thaw("local")
    _thaw_all(world)
    assert world.verdict.level is Level.APPLICATION
    assert world.answer(world.thaw()).go_on  # by now it is known


@pytest.mark.parametrize(("lost", "stays"), [("freebsd", "local"), ("local", "freebsd")])
@pytest.mark.parametrize("by_name", [True, False])
def test_one_is_lost_and_the_hold_goes_on_for_the_other(lost: str, stays: str, by_name: bool) -> None:
    world, first, second = _shared()
    freeze = first if lost == "freebsd" else second
    world.lose_source(lost, freeze.id if by_name else "")
    assert world.phase is Phase.HOLDING
    thaw = world.thaw(stays)
    _thaw_all(world)
    assert (world.verdict.level, world.answer(thaw).go_on) == (Level.APPLICATION, True)


@pytest.mark.parametrize(("thawed", "lost"), [("freebsd", "local"), ("local", "freebsd")])
def test_the_last_one_is_lost(thawed: str, lost: str) -> None:
    """Nobody is left that would still rely on the hold; the other one had it up to its thaw."""
    world, _, _ = _shared()
    thaw = world.thaw(thawed)
    world.lose_source(lost)
    assert world.phase is Phase.THAWING_FILESYSTEMS
    _thaw_all(world)
    assert (world.verdict.level, world.answer(thaw).go_on) == (Level.APPLICATION, True)


def test_all_are_lost() -> None:
    world, _, _ = _shared()
    world.lose_source("local")
    assert world.phase is Phase.HOLDING
    world.lose_source()
    assert (world.phase, world.finish().level) == (Phase.ABORTING, Level.CRASH)


def test_one_that_has_asked_for_the_thaw_is_lost_and_gets_no_answer() -> None:
    world, _, _ = _shared()
    thaw = world.thaw()
    world.lose_source()
    assert world.phase is Phase.HOLDING
    world.thaw("local")
    _thaw_all(world)
    assert (world.answers(thaw), world.verdict.level) == ([], Level.APPLICATION)


@pytest.mark.parametrize("source", ["local", "other"])
def test_a_requester_that_has_no_part_is_lost(source: str) -> None:
    world, _, _ = _shared()
    thaw = world.thaw("local")
    world.lose_source(source, "another")
    assert world.phase is Phase.HOLDING
    world.thaw()
    _thaw_all(world)
    assert world.answer(thaw).go_on


@pytest.mark.parametrize("phase", SHARED)
def test_one_that_has_joined_is_lost_before_the_hold(phase: Phase) -> None:
    world = in_phase(phase)
    joined = world.freeze("local", overlap=JOIN)
    world.lose_source("local", joined.id)
    assert (world.phase, world.machine._state.running.joined) == (phase, {})
    world.until_rest()
    assert world.answers(joined) == []


@pytest.mark.parametrize("phase", SHARED)
def test_one_that_has_joined_gives_up_before_the_hold(phase: Phase) -> None:
    world = in_phase(phase)
    joined = world.freeze("local", overlap=JOIN)
    thaw = world.thaw("local")
    assert (world.phase, world.answer(joined).go_on, world.answer(thaw).go_on) == (phase, False, True)
    assert world.answer(joined).reason == "local host asked for the thaw before everything was held"


@pytest.mark.parametrize("phase", SHARED)
@pytest.mark.parametrize("how", ["gives up", "is lost", "is forced", "asks anew"])
def test_before_the_hold_the_cycle_is_that_of_its_own_requester(phase: Phase, how: str) -> None:
    world = in_phase(phase)
    world.disk = True
    joined = world.freeze("local", overlap=JOIN)
    match how:
        case "gives up":
            world.thaw()
        case "is lost":
            world.lose_source()
        case "is forced":
            world.force()
        case _:
            world.check(supersedes=True)
    if phase is Phase.FREEZING_FILESYSTEMS:
        world.filesystems_thawed(cycle="c1")
    for name in ("b", "a"):
        world.feed(AppThawed(AppId(name), "c1", unbroken=True))
    answer = world.answer(joined)
    assert not answer.go_on
    assert answer.verdict is not None
    assert answer.verdict.level is Level.FAILED
    assert world.answer(world.thaw("local")).go_on  # nothing was promised


# -- what ends the hold for all


def _no_to_all(world: World) -> None:
    """Everybody learns that the hold did not last."""
    verdict = world.finish()
    assert verdict.level is Level.CRASH
    assert (world.all(AskThaw), [effect.reason for effect in world.all(AskAbort)]) == ([], [verdict.reasons[0]])
    for source in ("freebsd", "local"):
        assert not world.answer(world.thaw(source)).go_on


def test_the_hold_limit_ends_it_for_all() -> None:
    world, _, _ = _shared()
    world.pass_time(HOLD)
    assert world.phase is Phase.ABORTING
    _no_to_all(world)


def test_an_app_that_loses_its_hold_ends_it_for_all() -> None:
    world, _, _ = _shared()
    world.lose_hold("a")
    assert world.phase is Phase.ABORTING
    world.filesystems_thawed()
    assert world.verdict.level is Level.CRASH
    for source in ("freebsd", "local"):
        assert not world.answer(world.thaw(source)).go_on


def test_a_forced_thaw_ends_it_for_all() -> None:
    world, _, _ = _shared()
    world.force()
    _no_to_all(world)


def test_a_new_freeze_of_the_cycles_own_requester_ends_it_for_all() -> None:
    world, _, _ = _shared()
    new = world.freeze(supersedes=True)
    assert world.phase is Phase.ABORTING
    _thaw_all(world)
    assert world.machine.cycle == f"c{new.id}"
    assert world.verdict.reasons == ("freebsd host asked for a new freeze before the thaw of this cycle came",)


@pytest.mark.parametrize("overlap", list(Overlap))
def test_a_new_freeze_after_the_thaw_leaves_the_hold_of_the_other_alone(overlap: Overlap) -> None:
    world, _, _ = _shared()
    world.thaw()
    new = world.freeze(supersedes=True, overlap=overlap)
    assert world.phase is Phase.HOLDING
    assert bool(world.answers(new)) is (overlap is Overlap.REFUSE)
    world.thaw("local")
    _thaw_all(world)
    assert world.verdict.level is Level.APPLICATION


def _kernel_joins() -> World:
    """`freebsd`, which has one request at a time, has joined the hold of `local`."""
    world = World()
    world.register("a")
    world.hold("a", source="local")  # type: ignore[arg-type] # a name
    world.freeze(supersedes=True, overlap=JOIN)
    return world


def test_one_that_has_joined_asks_anew_and_shares_it_again() -> None:
    world = _kernel_joins()
    world.pass_time(SECOND)
    again = world.freeze(supersedes=True, overlap=JOIN)
    assert (world.phase, world.answer(again).go_on, world.answer(again).hold_limit) == (
        Phase.HOLDING,
        True,
        HOLD - SECOND,
    )
    world.thaw("local")
    assert world.phase is Phase.HOLDING
    world.thaw()
    _thaw_all(world)
    assert world.verdict.level is Level.APPLICATION


@pytest.mark.parametrize("kind", ["freeze", "check"])
def test_the_only_one_that_still_holds_asks_anew(kind: str) -> None:
    world = _kernel_joins()
    thaw = world.thaw("local")
    new = (
        world.freeze(supersedes=True, overlap=JOIN) if kind == "freeze" else world.check(supersedes=True, overlap=JOIN)
    )
    assert world.phase is Phase.THAWING_FILESYSTEMS
    _thaw_all(world)
    assert (world.answer(thaw).go_on, world.machine.cycle) == (True, f"c{new.id}")


def test_one_that_has_joined_asks_anew_before_the_hold() -> None:
    world = World()
    world.register("a")
    world.freeze("local")
    old = world.freeze(supersedes=True, overlap=JOIN)
    new = world.freeze(supersedes=True, overlap=JOIN)
    assert world.answer(old).reason == "a newer request has taken its place"
    world.ack("a")
    world.filesystems_froze()
    assert world.answer(new).go_on


def test_a_second_requester_of_a_source_that_has_joined_waits() -> None:
    world, _, _ = _shared()
    second = world.freeze("local", overlap=JOIN)
    world.thaw()
    world.thaw("local")
    _thaw_all(world)
    assert world.machine.cycle == f"c{second.id}"


# -- each for its own limit


def test_the_hold_lasts_no_longer_than_the_limit_of_those_that_are_left() -> None:
    world, first, second = _shared(hold=seconds(5))
    assert (world.answer(first).hold_limit, world.answer(second).hold_limit) == (HOLD, seconds(5))
    world.pass_time(seconds(2))
    thaw = world.thaw()
    assert world.machine.hold_ends == world.now + seconds(3)
    world.pass_time(seconds(3))
    assert world.phase is Phase.ABORTING
    world.finish()
    assert world.verdict.reasons == (
        "the hold limit of local host passed before the thaw of those that share the hold came",
    )
    assert not world.answer(thaw).go_on


def test_the_limit_of_one_is_no_reason_to_end_the_hold_of_another() -> None:
    world, _, _ = _shared(hold=seconds(5))
    world.pass_time(seconds(10))
    assert world.phase is Phase.HOLDING
    world.freeze("other", hold=seconds(15), overlap=JOIN)
    world.thaw("local")
    world.thaw()
    assert world.machine.hold_ends == world.now + seconds(15)
    world.thaw("other")
    _thaw_all(world)
    assert world.verdict.level is Level.APPLICATION


def test_one_that_is_over_its_limit_ends_the_hold_when_nobody_else_wants_it() -> None:
    world, _, _ = _shared(hold=seconds(5))
    world.pass_time(seconds(10))
    world.thaw()
    assert world.until_rest() < 2 * world.settings.thaw_limit + SECOND
    assert world.verdict.level is Level.CRASH
