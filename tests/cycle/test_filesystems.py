"""File systems in a cycle: prepared beside the apps, frozen after them, thawed before them, and what they do to the
verdict.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from appvss.cycle.effects import Announce, FreezeFilesystems, PrepareFilesystems
from appvss.model.app import AppId
from appvss.model.budget import LEAST_GRANT
from appvss.model.event import EventKind
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, FilesystemPart, Scope
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.verdict import Level
from tests.cycle.support import HOLD, LIMIT, REHEARSAL, SECOND, World

SRV = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HELD, time_to_freeze=SECOND / 50)
EFI = FilesystemPart("/boot", "8:2", "vfat", FilesystemOutcome.UNFREEZABLE, "vfat has no freeze")


def held(scope: Scope = Scope.ALL, *, frozen: bool = True, doubts: tuple[str, ...] = ()) -> World:
    """A hold of one app and of `/srv`; `/boot` cannot be frozen."""
    world = World()
    world.register("a")
    world.freeze("local", scope=scope)
    world.filesystems_prepared(EFI, doubts=doubts)
    world.ack("a")
    world.filesystems_froze(frozen, *((SRV,) if frozen else ()))
    assert world.phase is Phase.HOLDING
    return world


def ended(world: World) -> World:
    world.thaw("local")
    world.finish()
    return world


def test_they_are_prepared_beside_the_apps_frozen_after_them_and_thawed_before_them() -> None:
    world = World()
    world.register("a", 10, prepares=True)
    world.register("b", 20)
    world.freeze("local", scope=Scope.ALL)
    assert (world.phase, world.story()) == (Phase.PREPARING, ["prepare filesystems", "prepare a"])
    world.ready("a")
    assert world.phase is Phase.PREPARING
    world.filesystems_prepared()
    world.ack("a", "b")
    world.filesystems_froze(True, SRV)
    world.thaw("local")
    world.finish()
    assert world.story()[2:] == [
        "freeze a",
        "freeze b",
        "freeze filesystems",
        "freeze: go on",
        "thaw filesystems",
        "thaw b",
        "thaw a",
        "thaw: go on",
    ]
    assert (world.verdict.level, world.verdict.filesystems) == (Level.APPLICATION, (SRV,))


def test_the_freezer_is_told_what_is_wanted_by_whom_and_for_how_long() -> None:
    world = World()
    world.register("a")
    world.register("b", prepares=True)
    world.freeze("local", limit=LIMIT, scope=Scope.DECLARED, hold=HOLD)
    (asked,) = world.all(PrepareFilesystems)
    assert (asked.choice, asked.apps) == (FilesystemChoice(Scope.DECLARED), (AppId("a"), AppId("b")))
    assert timedelta(0) < asked.budget < LIMIT
    world.ready("b")
    world.filesystems_prepared()
    world.ack("a", "b")
    (freeze,) = world.all(FreezeFilesystems)
    assert freeze.hold_limit == HOLD


def test_who_wants_none_has_none_prepared() -> None:
    world = World()
    world.register("a")
    world.freeze("local")
    assert (world.phase, world.all(PrepareFilesystems)) == (Phase.FREEZING_APPS, [])


def test_a_check_opens_none_and_the_freeze_after_it_does() -> None:
    world = World()
    world.register("a", prepares=True)
    world.check("linux")
    world.ready("a")
    assert (world.phase, world.all(PrepareFilesystems)) == (Phase.PREPARED, [])
    world.freeze("linux", scope=Scope.ALL)
    assert (world.phase, world.story(of_last=True)) == (Phase.PREPARING, ["prepare filesystems"])
    world.register("late", prepares=True)
    assert world.story(of_last=True) == [], "it does its work when it freezes, as all do after a check"
    world.filesystems_prepared()
    assert world.story(of_last=True) == ["freeze a", "freeze late"]


def test_a_rehearsal_freezes_none_whatever_is_asked() -> None:
    world = World()
    world.register("a")
    world.freeze(REHEARSAL, scope=Scope.ALL)
    assert (world.phase, world.all(PrepareFilesystems)) == (Phase.FREEZING_APPS, [])


def test_with_no_time_to_spare_they_get_some_of_their_own() -> None:
    world = World()
    world.register("a", needs=LIMIT / 2 - 1.2 * SECOND, prepares=True)
    world.freeze("local", reserve=LIMIT / 2 + SECOND, scope=Scope.ALL)
    assert world.story() == ["prepare filesystems"]
    (asked,) = world.all(PrepareFilesystems)
    assert asked.budget == (LIMIT / 2 + SECOND) / 2
    world = World()
    world.register("a", needs=LIMIT - SECOND)
    world.freeze("local", scope=Scope.ALL)
    assert world.all(PrepareFilesystems)[0].budget >= LEAST_GRANT


def test_a_named_one_that_cannot_be_frozen_ends_the_cycle_before_any_app_is_asked() -> None:
    world = World()
    world.register("a")
    request = world.freeze("local", scope=Scope.NAMED)
    world.filesystems_failed("/mnt is no mount point", EFI)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["thaw filesystems"])
    world.finish()
    assert "freeze a" not in world.story()
    answer = world.answer(request)
    assert (answer.go_on, answer.reason) == (False, "the file systems could not be frozen: /mnt is no mount point")
    assert (world.verdict.level, world.verdict.filesystems) == (Level.FAILED, (EFI,))


def test_who_is_not_ready_in_time_ends_the_cycle_before_any_app_is_frozen() -> None:
    world = World()
    world.register("a", prepares=True)
    world.freeze("local", scope=Scope.ALL)
    world.ready("a")
    world.pass_time(LIMIT)
    assert world.story() == ["prepare filesystems", "prepare a", "abort a", "thaw filesystems", "freeze: no"]
    world.finish()
    assert "the file systems were not ready to be frozen in the time that was left" in world.verdict.reasons


def test_an_app_that_does_not_prepare_in_time_fails_alone() -> None:
    world = World()
    world.register("a", prepares=True)
    world.freeze("local", scope=Scope.ALL)
    world.filesystems_prepared()
    world.pass_time(LIMIT)
    world.finish()
    assert world.verdict.reasons[0].startswith("a (required) did not answer in time")


def test_a_late_or_foreign_answer_is_refused() -> None:
    world = World()
    world.register("a", prepares=True)
    world.freeze("local", scope=Scope.ALL)
    world.filesystems_prepared(cycle="another")
    assert world.refusals() == ["other_cycle"]
    world.filesystems_failed(cycle="another")
    assert world.refusals() == ["other_cycle"]
    world.filesystems_prepared()
    world.filesystems_prepared()
    assert world.refusals() == ["other_cycle"]
    world.filesystems_failed()
    assert (world.refusals(), world.phase) == (["other_cycle"], Phase.PREPARING)


@pytest.mark.parametrize("name", ["filesystems_lost", "filesystems_failed"])
def test_words_about_another_cycle_end_none(name: str) -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.ALL)
    world.filesystems_prepared()
    world.ack("a")
    getattr(world, name)(cycle="another")
    assert (world.refusals(), world.phase) == (["other_cycle"], Phase.FREEZING_FILESYSTEMS)


def test_what_is_left_out_lowers_the_level_where_the_administrator_says_so() -> None:
    world = ended(held(doubts=("the file system /boot was not frozen: vfat has no freeze",)))
    assert world.verdict.level is Level.CRASH
    assert world.verdict.reasons == ("the file system /boot was not frozen: vfat has no freeze",)
    assert world.verdict.filesystems == (EFI, SRV)
    world = ended(held())
    assert (world.verdict.level, world.verdict.reasons, world.verdict.filesystems) == (
        Level.APPLICATION,
        (),
        (EFI, SRV),
    )


def test_the_requester_was_told_of_what_is_left_out_and_hears_that_the_rest_was_held() -> None:
    world = held(doubts=("the file system /boot was not frozen: vfat has no freeze",))
    request = world.thaw("local")
    world.finish()
    assert world.answer(request).go_on


def test_they_went_on_in_the_hold_so_everything_is_let_go_at_once() -> None:
    world = held()
    world.filesystems_lost("the guardian has died")
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["thaw filesystems"])
    world.filesystems_thawed(False, "the guardian has died", "/srv")
    world.finish()
    assert world.verdict.level is Level.CRASH
    assert world.verdict.reasons[0] == "the file systems went on before the thaw: the guardian has died"
    lost = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HOLD_LOST, "the guardian has died", SECOND / 50)
    assert world.verdict.filesystems == (EFI, lost)


@pytest.mark.parametrize("phase", [Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS, Phase.COMPLETED])
def test_word_of_it_after_the_thaw_was_asked_for_changes_nothing(phase: Phase) -> None:
    world = held()
    world.thaw("local")
    if phase is not Phase.THAWING_FILESYSTEMS:
        world.filesystems_thawed()
    if phase is Phase.COMPLETED:
        world.finish()
    before = world.photo()
    world.filesystems_lost()
    assert (world.phase, world.refusals(), world.photo()) == (phase, [], before)


def test_the_apps_alone_failed_so_the_file_systems_stand() -> None:
    world = held()
    world.thaw("local")
    world.filesystems_thawed()
    world.confirm("a", unbroken=False, reason="the session is gone")
    assert (world.verdict.level, world.verdict.filesystems) == (Level.FILESYSTEM, (EFI, SRV))


@pytest.mark.parametrize(
    ("first", "second", "shares"),
    [
        (Scope.ALL, Scope.NONE, True),
        (Scope.ALL, Scope.ALL, True),
        (Scope.NONE, Scope.ALL, False),
        (Scope.DECLARED, Scope.ALL, False),
    ],
)
def test_a_hold_is_shared_with_who_wants_no_more_file_systems(first: Scope, second: Scope, shares: bool) -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=first)
    world.freeze("linux", overlap=Overlap.JOIN, scope=second)
    joined = [effect for effect in world.all(Announce) if effect.event.kind is EventKind.REQUESTER_JOINED]
    assert bool(joined) is shares


def test_one_that_is_hidden_under_another_is_named_beside_it_and_keeps_its_outcome() -> None:
    over = replace(SRV, device="8:3")
    under = replace(EFI, path="/srv", reason="it is hidden under another mount")
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.ALL)
    world.filesystems_prepared(under)
    world.ack("a")
    world.filesystems_froze(True, over)
    world.thaw("local")
    world.filesystems_thawed(False, "somebody else thawed /srv", "/srv")
    world.finish()
    assert [(part.device, part.outcome) for part in world.verdict.filesystems] == [
        ("8:2", FilesystemOutcome.UNFREEZABLE),
        ("8:3", FilesystemOutcome.HOLD_LOST),
    ]


def test_one_that_turns_out_to_have_no_freeze_lowers_the_level_and_is_never_called_lost() -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.ALL)
    world.filesystems_prepared()
    world.ack("a")
    world.filesystems_froze(True, EFI, SRV, doubts=("/boot is not frozen: vfat has no freeze",))
    world.thaw("local")
    world.filesystems_thawed(False, "somebody else thawed them", "/boot", "/srv")
    world.finish()
    assert world.verdict.level is Level.CRASH
    assert world.verdict.reasons[1] == "/boot is not frozen: vfat has no freeze"
    assert [part.outcome for part in world.verdict.filesystems] == [
        FilesystemOutcome.UNFREEZABLE,
        FilesystemOutcome.HOLD_LOST,
    ]
