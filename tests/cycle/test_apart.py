"""A freeze of named file systems: whom it does not concern is not asked, and that is no failure."""

from __future__ import annotations

import pytest

from appvss.cycle.effects import Announce, AskFreeze, AskPrepare, PrepareFilesystems
from appvss.cycle.state import AppState
from appvss.model.app import AppId, Requirement
from appvss.model.event import EventKind
from appvss.model.filesystem import DeclaredPath, FilesystemOutcome, FilesystemPart, Scope
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.verdict import APART, Level, Outcome
from tests.cycle.support import LIMIT, REHEARSAL, World, in_phase

SRV = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HELD)
ON_SRV = (DeclaredPath("/srv/a", "8:1", is_planned=True, is_meant=True),)


def _named(requirement: Requirement = Requirement.REQUIRED) -> World:
    """`far` lies elsewhere; `a` takes part."""
    world = World()
    world.register("far", 10, requirement, prepares=True, incarnation="one")
    world.register("a", 20)
    world.freeze("local", scope=Scope.NAMED, apart=("far", "unknown"))
    return world


@pytest.mark.parametrize("requirement", Requirement)
def test_it_is_neither_asked_nor_missed(requirement: Requirement) -> None:
    world = _named(requirement)
    (asked,) = world.all(PrepareFilesystems)
    assert asked.apps == (AppId("a"),)
    assert world.state_of("far") is AppState.REGISTERED
    world.filesystems_prepared(paths={"a": ON_SRV})
    world.ack("a")
    world.filesystems_froze(True, SRV)
    assert (world.phase, world.told()) == (Phase.HOLDING, ["a"])
    thaw = world.thaw("local")
    verdict = world.finish()
    assert "far" not in " ".join(world.story())
    assert (verdict.level, verdict.reasons) == (Level.APPLICATION, ())
    assert (world.answer(thaw).go_on, world.answer(thaw).reason) == (True, "")
    (far,) = [outcome for outcome in verdict.outcomes if outcome.app.name == "far"]
    assert (far.outcome, far.reason, far.grade, far.is_failure) == (Outcome.SKIPPED, APART, None, False)
    said = [effect.event for effect in world.all(Announce) if effect.event.kind is EventKind.APP_APART]
    assert [(event.app, event.detail) for event in said] == [("far", APART)]


def test_when_a_freeze_concerns_nobody_its_file_systems_are_all_that_is_held() -> None:
    world = World()
    world.register("far")
    world.freeze("local", scope=Scope.NAMED, apart=("far",))
    world.filesystems_prepared(paths={})
    world.filesystems_froze(True, SRV)
    world.thaw("local")
    verdict = world.finish()
    reason = "no app was held that has files on what was named: nothing in this machine vouches for the snapshot"
    assert (verdict.level, verdict.reasons) == (Level.FILESYSTEM, (reason,))


@pytest.mark.parametrize("again", ["one", "another", ""])
def test_when_it_goes_and_comes_in_the_hold_it_is_another_process_that_counts(again: str) -> None:
    world = _named()
    world.filesystems_prepared(paths={"a": ON_SRV})
    world.ack("a")
    world.filesystems_froze(True, SRV)
    world.leave("far")
    assert world.phase is Phase.HOLDING
    world.register("far", 10, incarnation=again)
    if again == "one":
        assert world.phase is Phase.HOLDING
        world.thaw("local")
        assert world.finish().level is Level.APPLICATION
    else:  # its files may lie on what is frozen, and it writes
        verdict = world.finish()
        reason = "far (required) should have taken part and was not there: it registered while the freeze was under way"
        assert (verdict.level, verdict.reasons[0]) == (Level.CRASH, reason)


@pytest.mark.parametrize("again", ["one", "another"])
def test_another_process_that_registers_before_the_freeze_may_declare_other_paths_and_is_asked(again: str) -> None:
    world = _named()
    world.leave("far")
    world.register("far", 10, incarnation=again)
    world.filesystems_prepared(paths={"a": ON_SRV})
    asked = ["a"] if again == "one" else ["far"]
    assert [effect.app.name for effect in world.all(AskFreeze)] == asked


def test_one_that_is_back_before_the_freeze_is_not_asked_to_prepare_either() -> None:
    world = _named()
    world.leave("far")
    world.register("far", 10, prepares=True, incarnation="one")
    assert world.all(AskPrepare) == []
    world.leave("far")  # nor missed
    world.filesystems_prepared(paths={"a": ON_SRV})
    assert [effect.app.name for effect in world.all(AskFreeze)] == ["a"]


def test_what_waits_asks_everybody_since_the_look_is_old_when_it_begins() -> None:
    world = in_phase(Phase.HOLDING)
    world.freeze("local", limit=4 * LIMIT, scope=Scope.NAMED, apart=("a",), overlap=Overlap.QUEUE)
    world.thaw()
    world.filesystems_thawed()
    world.confirm("b", "a")
    assert (world.phase, world.machine.cycle) == (Phase.PREPARING, "c3")
    assert world.state_of("a") is AppState.PREPARING


def test_a_rehearsal_that_gives_way_leaves_nobody_apart_either() -> None:
    world = World()
    world.register("a")
    world.freeze(REHEARSAL)
    world.freeze("local", limit=4 * LIMIT, scope=Scope.NAMED, apart=("a",))
    world.confirm("a")
    assert [effect.apps for effect in world.all(PrepareFilesystems)] == [(AppId("a"),)]


def test_one_that_had_prepared_for_a_check_may_drop_what_it_prepared() -> None:
    world = in_phase(Phase.PREPARED)
    world.freeze(scope=Scope.NAMED, apart=("a",))
    assert world.let_go() == ["a"]
    world.filesystems_prepared(paths={"b": ON_SRV})
    world.ack("b")
    world.filesystems_froze(True, SRV)
    world.thaw()
    assert world.finish().level is Level.APPLICATION


@pytest.mark.parametrize(
    ("scope", "apart", "shares"),
    [
        (Scope.NONE, (), False),
        (Scope.ALL, (), False),
        (Scope.DECLARED, (), False),
        (Scope.NAMED, (), False),
        (Scope.NAMED, ("far", "unknown", "other"), True),
    ],
)
def test_nobody_shares_a_hold_in_which_apps_are_missing_that_he_wants(
    scope: Scope, apart: tuple[str, ...], shares: bool
) -> None:
    world = _named()
    world.filesystems_prepared(paths={"a": ON_SRV})
    world.ack("a")
    world.filesystems_froze(True, SRV)
    joined = world.freeze("freebsd", scope=scope, apart=apart, overlap=Overlap.JOIN)
    assert [answer.go_on for answer in world.answers(joined)] == ([True] if shares else [])


def test_a_hold_in_which_nobody_is_missing_is_shared_by_whoever_wants_the_apps_alone() -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.NAMED)
    world.filesystems_prepared(paths={"a": ON_SRV})
    world.ack("a")
    world.filesystems_froze(True, SRV)
    assert world.answer(world.freeze("freebsd", overlap=Overlap.JOIN)).go_on


def test_the_journal_of_an_adopted_hold_knows_who_was_not_concerned() -> None:
    world = World(adoptable=frozenset({"local"}))
    world.register("far", 10)
    world.register("a", 20, incarnation="one")
    world.freeze("local", scope=Scope.NAMED, apart=("far",))
    world.filesystems_prepared()
    world.ack("a")
    entry = world.entry()
    world.restart(entry)
    assert world.phase is Phase.HOLDING
    part = world.machine._state.running.participants[AppId("far")]
    assert part.is_apart
