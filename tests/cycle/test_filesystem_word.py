"""The word before the file systems are frozen: to every app that is held, before anybody freezes anything."""

from __future__ import annotations

import pytest

from appvss.cycle.effects import AnswerSource, AskThaw, FreezeFilesystems, TellFilesystemFreeze, WriteJournal
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.filesystem import Scope
from appvss.model.phase import Phase
from tests.cycle.restarted import adopted, come_back, finish
from tests.cycle.support import LIMIT, REHEARSAL, SECOND, World, in_phase


def _kinds(world: World) -> list[type]:
    wanted = (TellFilesystemFreeze, FreezeFilesystems, AnswerSource)
    return [type(effect) for effect in world.sent if isinstance(effect, wanted)]


@pytest.mark.parametrize("scope", [Scope.NONE, Scope.ALL])
def test_all_held_apps_are_told_before_anybody_freezes_a_file_system(scope: Scope) -> None:
    world = World()
    world.register("a", 10)
    world.register("b", 20)
    world.freeze("local", scope=scope)
    if scope is Scope.ALL:
        world.filesystems_prepared()
    world.ack("a")
    assert world.told() == []
    world.ack("b")
    assert world.told() == ["a", "b"]
    world.filesystems_froze(frozen=scope is Scope.ALL)
    assert _kinds(world) == [TellFilesystemFreeze, TellFilesystemFreeze, FreezeFilesystems, AnswerSource]
    world.thaw("local")
    world.finish()
    assert world.told() == ["a", "b"]


def test_they_are_told_while_the_certificate_is_written_so_that_it_costs_no_time() -> None:
    world = in_phase(Phase.CERTIFYING)
    told = [type(effect) for effect in world.sent if isinstance(effect, WriteJournal | TellFilesystemFreeze)]
    assert told[-3:] == [WriteJournal, TellFilesystemFreeze, TellFilesystemFreeze]
    world.force()
    world.finish()
    assert world.let_go() == ["b", "a"]


def test_in_a_rehearsal_nobody_is_told() -> None:
    world = World()
    world.register("a")
    world.freeze(REHEARSAL)
    world.ack("a")
    assert (world.phase, world.told()) == (Phase.HOLDING, [])
    world.leave("a")
    world.register("a", claim=HoldClaim("c1", SECOND - SECOND))
    world.thaw(REHEARSAL)
    world.finish()
    assert world.told() == []


def test_who_has_failed_before_is_not_told() -> None:
    world = World()
    world.register("a", 10, Requirement.TOLERATED)
    world.register("b", 20)
    world.freeze()
    world.veto("a")
    world.ack("b")
    assert world.told() == ["b"]


@pytest.mark.parametrize(
    "phase", [Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS, Phase.HOLDING, Phase.THAWING_FILESYSTEMS]
)
def test_who_comes_back_while_they_may_be_frozen_is_told_again(phase: Phase) -> None:
    world = in_phase(phase)
    world.leave("b")
    world.register("b", claim=HoldClaim(world.machine.cycle, LIMIT - LIMIT))
    assert world.told() == ["a", "b", "b"]


def test_who_comes_back_before_is_told_with_the_others() -> None:
    world = in_phase(Phase.FREEZING_APPS)
    world.ack("a")
    world.leave("a")
    world.register("a", 10, claim=HoldClaim(world.machine.cycle, LIMIT - LIMIT))
    assert world.told() == []
    world.ack("b")
    assert world.told() == ["a", "b"]


def test_who_comes_back_for_its_thaw_alone_is_not_told() -> None:
    world = in_phase(Phase.THAWING_FILESYSTEMS)
    world.leave("a")
    world.filesystems_thawed()
    assert world.phase is Phase.THAWING_APPS
    world.register("a", 10, claim=HoldClaim(world.machine.cycle, LIMIT - LIMIT))
    assert world.told() == ["a", "b"]


def test_who_comes_back_while_a_failed_cycle_still_thaws_them_is_told_before_its_abort() -> None:
    world = in_phase(Phase.HOLDING)
    world.leave("a")
    world.force()
    assert world.phase is Phase.ABORTING
    world.register("a", 10, claim=HoldClaim(world.machine.cycle, LIMIT - LIMIT))
    assert (world.told(), world.let_go()) == (["a", "b", "a"], [])
    world.finish()
    assert world.let_go() == ["b", "a"]


def test_who_comes_back_to_an_adopted_hold_is_told_since_its_file_systems_may_be_frozen() -> None:
    world = adopted()
    come_back(world, "b", "a")
    assert world.told() == ["b", "a"]
    finish(world)
    assert world.told() == ["b", "a"]
    last_thaw = [effect.app for effect in world.sent if isinstance(effect, AskThaw)][-1]
    assert last_thaw == AppId("a")


def test_who_comes_back_without_its_hold_is_not_told() -> None:
    world = adopted()
    world.register("a", incarnation="one")
    assert world.told() == []
