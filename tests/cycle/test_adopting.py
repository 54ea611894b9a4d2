"""A broker that was killed in its hold, and the new one that takes the hold up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import (
    Announce,
    AskAbort,
    EndCycle,
    InspectPaths,
)
from appvss.cycle.holding import CLAIM_TOLERANCE
from appvss.cycle.state import AppState
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from tests.cycle.restarted import GONE, GRACE, adopted, come_back, finish
from tests.cycle.support import MOMENT, SECOND, World, seconds

TOLERATED = Requirement.TOLERATED


# -- it goes on


def test_everything_is_as_the_entry_says() -> None:
    world = adopted()
    assert (world.phase, world.machine.cycle, world.story()) == (Phase.HOLDING, "c1", [])
    assert [world.state_of(name) for name in "ab"] == [AppState.AWAY, AppState.AWAY]
    assert [registration.app.name for registration, _ in world.machine.away()] == ["a", "b"]
    entered, taken_up = (effect.event for effect in world.all(Announce))
    assert (entered.kind, taken_up.kind, taken_up.cycle) == (EventKind.PHASE_CHANGED, EventKind.CYCLE_ADOPTED, "c1")
    assert taken_up.detail == "held, asked for by freebsd host through freebsd"


@pytest.mark.parametrize("returns", [("a", "b"), ("b", "a")])
def test_apps_come_back_and_the_thaw_gets_a_true_answer(returns: tuple[str, str]) -> None:
    world = adopted()
    come_back(world, *returns)
    assert (world.story(), world.state_of("a")) == ([], AppState.HELD)
    thaw, verdict = finish(world)
    assert world.story() == ["thaw filesystems", "thaw b", "thaw a", "thaw: go on"]
    assert (verdict.level, verdict.reasons, verdict.cycle) == (Level.APPLICATION, (), "c1")
    assert (world.answer(thaw).go_on, world.answer(thaw).verdict) == (True, verdict)
    record = world.all(EndCycle)[-1].record
    assert (record.source, record.requester, record.phase) == ("freebsd", "freebsd host", Phase.COMPLETED)
    assert record.took == GONE
    first = verdict.outcomes[0]
    assert (first.app.name, first.order, first.hold) == ("a", 10, GONE)


def test_the_thaw_comes_before_anybody_is_back() -> None:
    world = adopted()
    thaw = world.thaw()
    world.filesystems_thawed()
    assert (world.phase, world.let_go()) == (Phase.THAWING_APPS, [])
    come_back(world, "a")
    assert world.let_go() == []  # in reverse: `b` is first
    world.pass_time(SECOND)
    come_back(world, "b", held=GONE + SECOND)
    assert world.finish().level is Level.APPLICATION
    assert (world.let_go(), world.answer(thaw).go_on) == (["b", "a"], True)


def test_the_evidence_and_the_times_of_the_former_broker_are_kept() -> None:
    world = World()
    world.register("db")
    world.freeze()
    world.pass_time(SECOND)
    world.ack("db", evidence={"lsn": "0/1"})
    world.filesystems_froze()
    world.restart(world.entry(), GONE)
    world.register("db", claim=HoldClaim("c1", GONE))
    _, verdict = finish(world)
    (outcome,) = verdict.outcomes
    assert (outcome.evidence, outcome.time_to_freeze, outcome.hold) == ({"lsn": "0/1"}, SECOND, GONE)
    assert verdict.hold == GONE


# -- what is not proved is lost


@pytest.mark.parametrize("is_thawing", [True, False])
@pytest.mark.parametrize("required", [True, False])
def test_an_app_that_does_not_come_back_has_lost_its_hold(required: bool, is_thawing: bool) -> None:
    world = adopted(required=required)
    come_back(world, "a")
    thaw = world.thaw() if is_thawing else None
    if is_thawing:
        world.filesystems_thawed()
    world.pass_time(GRACE)
    assert (world.phase is Phase.HOLDING) is not (required or is_thawing)
    thaw = thaw or world.thaw()
    verdict = world.finish()
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HOLD_LOST}
    assert (verdict.level is Level.APPLICATION) is not required
    assert world.answer(thaw).go_on is not required
    assert "its stream broke and it did not come back within 5.0s" in verdict.reasons[-1]


@pytest.mark.parametrize(
    ("cycle", "held", "incarnation", "let_go", "reason"),
    [
        ("", GONE, "two", [], "it came back without its hold"),
        ("c0", GONE, "two", ["c0"], "it came back with a hold of cycle c0"),
        ("c1", GONE, "three", ["c1"], "another process came back in its place"),
        ("c1", GONE, "", ["c1"], "another process came back in its place"),
        (
            "c1",
            GONE - CLAIM_TOLERANCE - MOMENT,
            "two",
            ["c1"],
            "it says that it has held for 1.0s only: not since its ack",
        ),
    ],
)
@pytest.mark.parametrize("phase", [Phase.HOLDING, Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS])
def test_an_app_comes_back_and_proves_nothing(
    phase: Phase, cycle: str, held: timedelta, incarnation: str, let_go: list[str], reason: str
) -> None:
    world = adopted()
    if phase is not Phase.HOLDING:
        world.thaw()
    if phase is Phase.THAWING_APPS:
        world.filesystems_thawed()
    world.register("b", claim=HoldClaim(cycle, held) if cycle else None, incarnation=incarnation)
    assert [
        effect.cycle for effect in world.sent if isinstance(effect, AskAbort) and effect.app == AppId("b")
    ] == let_go
    assert world.phase is (Phase.ABORTING if phase is Phase.HOLDING else phase)
    come_back(world, "a")
    verdict = world.finish()
    (outcome,) = [outcome for outcome in verdict.outcomes if outcome.app.name == "b"]
    assert outcome.outcome is Outcome.HOLD_LOST
    assert outcome.reason == reason
    assert verdict.level is Level.CRASH


def test_an_unknown_incarnation_is_believed_by_its_claim() -> None:
    world = World()
    world.register("a")
    world.hold("a")
    world.restart(world.entry(), GONE)
    world.register("a", claim=HoldClaim("c1", GONE))
    assert finish(world)[1].level is Level.APPLICATION


def test_an_app_that_says_itself_that_its_hold_was_broken() -> None:
    world = adopted()
    come_back(world, "a", "b")
    world.thaw()
    world.filesystems_thawed()
    world.confirm("b", unbroken=False, reason="the lock was gone")
    assert world.finish().reasons == ("b (required) lost its hold: the lock was gone",)


def test_the_hold_limit_of_an_app_counts_from_its_ack_to_the_former_broker() -> None:
    world = World(return_grace=timedelta(minutes=5))
    world.register("a", hold=seconds(10))
    world.hold("a")
    world.restart(world.entry(), seconds(6))
    world.pass_time(seconds(4) - MOMENT)
    assert world.phase is Phase.HOLDING
    world.pass_time(MOMENT)
    assert (world.phase, world.until_rest()) == (Phase.ABORTING, world.settings.thaw_limit)
    assert world.outcomes() == {"a": Outcome.HOLD_LOST}


def test_watched_paths_cannot_be_compared_any_more() -> None:
    world = adopted(watched=True)
    come_back(world, "a", "b")
    thaw, verdict = finish(world)
    assert world.all(InspectPaths) == []
    assert verdict.reasons == (
        "a (required) lost its hold: the broker was restarted in the hold: nobody can tell whether its paths have "
        "changed",
    )
    assert not world.answer(thaw).go_on


def test_what_had_failed_before_stays_so() -> None:
    world = World()
    world.register("a")
    world.register("slow", requirement=TOLERATED)
    world.register("late", requirement=TOLERATED, needs=timedelta(hours=1))
    world.freeze()
    world.ack("a")
    world.veto("slow", "busy", retryable=True)
    world.filesystems_froze()
    world.restart(world.entry(), GONE)
    assert world.state_of("slow") is AppState.FAILED
    for name in ("slow", "late"):
        world.register(name, claim=HoldClaim("c1", GONE))
    assert world.let_go()[-2:] == ["slow", "late"]  # whatever they hold, it is not for this cycle
    world.register("a", claim=HoldClaim("c1", GONE))
    verdict = finish(world)[1]
    assert [(outcome.app.name, outcome.outcome) for outcome in verdict.outcomes] == [
        ("a", Outcome.HELD),
        ("slow", Outcome.VETOED),
        ("late", Outcome.SKIPPED),
    ]
    assert (verdict.outcomes[1].retryable, verdict.level) == (True, Level.APPLICATION)


def test_an_app_that_leaves_and_comes_back_again() -> None:
    world = adopted()
    come_back(world, "a", "b")
    world.leave("b")
    world.pass_time(SECOND)
    come_back(world, "b", held=GONE + SECOND)
    assert finish(world)[1].level is Level.APPLICATION


def test_an_app_that_was_not_there_is_absent() -> None:
    world = adopted()
    world.register("new")
    assert (world.phase, world.state_of("new")) == (Phase.ABORTING, AppState.ABSENT)
