"""What the copy of each app's files is worth."""

from __future__ import annotations

import pytest

from appvss.cycle.effects import Announce
from appvss.model.app import AppId, Requirement
from appvss.model.event import EventKind
from appvss.model.filesystem import DeclaredPath, FilesystemOutcome, FilesystemPart, Scope
from appvss.model.grade import Grade
from appvss.model.phase import Phase
from appvss.model.verdict import APART, AppOutcome, Level, Outcome
from tests.cycle.support import REHEARSAL, World

RAW, FS, APP = Grade.RAW, Grade.FS, Grade.APP
SRV = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HELD)
WAL_FAT = FilesystemPart("/wal", "8:2", "vfat", FilesystemOutcome.UNFREEZABLE, "its kind has no freeze")
DATA = DeclaredPath("/srv/a", "8:1", is_planned=True, is_meant=True)
WAL = DeclaredPath("/wal/a", "8:2", reason="/wal: the requester does not mean it", lowers=True)
WAL_PLANNED = DeclaredPath("/wal/a", "8:2", is_planned=True, is_meant=True)
RUN = DeclaredPath("/run/a", "0:9", reason="/run: it lies in memory: no snapshot of a disk has it")
ROOT = DeclaredPath("/var/a", "8:3", reason="/: its requester leaves that out", lowers=True, is_spared=True)
GONE = DeclaredPath("/data/a", "8:1", True, True, "nothing lies there, as the broker sees it", is_there=False)
GONE_ON_ROOT = DeclaredPath("/opt/a", "8:3", reason="nothing lies there; /: spared", lowers=True, is_there=False)
GONE_SPARED = DeclaredPath("/opt/a", "8:3", lowers=True, is_spared=True, is_there=False)
LOST = DeclaredPath("var", "", reason="nobody can tell where it lies", lowers=True)
OUTSIDE = "it has files in /wal/a, which is not in the freeze: /wal: the requester does not mean it"
UNSEEN = "nothing lies at any of its paths, as the broker sees it: nobody can tell where its files are"
STILL = "it only stands still, and what it had in its memory is not in the snapshot"

Paths = tuple[DeclaredPath, ...]


def world_of(
    paths: Paths | None,
    *,
    grade: Grade = APP,
    requirement: Requirement = Requirement.REQUIRED,
    scope: Scope = Scope.DECLARED,
    frozen: bool = True,
    looks: bool = True,
) -> World:
    """A hold of `a`, which declares `paths`, and of `/srv`."""
    world = World()
    world.register("a", requirement=requirement, grade=grade)
    world.freeze("local", scope=scope)
    if scope is not Scope.NONE:
        located = {} if paths is None else {"a": paths}
        world.filesystems_prepared(paths=located if looks else None)
    world.ack("a")
    world.filesystems_froze(frozen, *((SRV, WAL_FAT) if frozen else ()))
    assert world.phase is Phase.HOLDING
    return world


def outcome_of(world: World) -> AppOutcome:
    world.thaw("local")
    world.finish()
    (outcome,) = world.verdict.outcomes
    return outcome


@pytest.mark.parametrize(
    ("paths", "grade", "reason", "level"),
    [
        ((), APP, "", Level.APPLICATION),
        ((DATA,), APP, "", Level.APPLICATION),
        ((DATA, RUN), APP, "", Level.APPLICATION),
        ((RUN,), APP, "", Level.APPLICATION),
        ((DATA, WAL), FS, OUTSIDE, Level.FILESYSTEM),
        ((WAL,), RAW, OUTSIDE, Level.FILESYSTEM),
        (
            (DATA, ROOT),
            FS,
            "it has files in /var/a, which is not in the freeze: /: its requester leaves that out",
            Level.FILESYSTEM,
        ),
        ((ROOT,), APP, "", Level.APPLICATION),
        (
            (DATA, LOST),
            FS,
            "it has files in var, which is not in the freeze: nobody can tell where it lies",
            Level.FILESYSTEM,
        ),
        # It was to be frozen, and turned out to have no freeze.
        ((DATA, WAL_PLANNED), FS, "it has files in /wal/a, which is not in the freeze", Level.FILESYSTEM),
        (None, RAW, "it registered after it had been looked up where the files of the apps lie", Level.FILESYSTEM),
        ((DATA, GONE), APP, "", Level.APPLICATION),
        ((GONE,), RAW, UNSEEN, Level.FILESYSTEM),
        ((GONE, GONE_ON_ROOT), RAW, UNSEEN, Level.FILESYSTEM),
        ((GONE_SPARED,), RAW, UNSEEN, Level.FILESYSTEM),
    ],
)
def test_a_held_app_is_worth_what_the_file_systems_of_its_paths_say(
    paths: Paths | None, grade: Grade, reason: str, level: Level
) -> None:
    world = world_of(paths)
    outcome = outcome_of(world)
    assert (outcome.outcome, outcome.grade, outcome.reason, world.verdict.level) == (Outcome.HELD, grade, reason, level)
    assert world.verdict.reasons == (
        (f"a (required) was held, and its copy is worth less: {reason}",) if level is Level.FILESYSTEM else ()
    )


@pytest.mark.parametrize(
    ("spares_root", "doubts", "grade"), [(False, (), APP), (True, (), RAW), (False, ("/usb is not frozen",), RAW)]
)
def test_where_everything_is_frozen_it_does_not_matter_where_the_files_of_an_app_are(
    spares_root: bool, doubts: tuple[str, ...], grade: Grade
) -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.ALL, spares_root=spares_root)
    world.filesystems_prepared(doubts=doubts, paths={"a": (GONE,)})
    world.ack("a")
    world.filesystems_froze(True, SRV)
    assert outcome_of(world).grade is grade


def test_one_that_is_tolerated_is_named_and_lowers_nothing() -> None:
    world = world_of((DATA, WAL), requirement=Requirement.TOLERATED)
    assert outcome_of(world).grade is FS
    assert world.verdict.level is Level.APPLICATION
    assert world.verdict.reasons == (f"a (tolerated) was held, and its copy is worth less: {OUTSIDE}",)


def test_one_that_is_ignored_is_not_named() -> None:
    world = world_of((DATA, WAL), requirement=Requirement.IGNORED)
    assert (outcome_of(world).grade, world.verdict.reasons) == (FS, ())


@pytest.mark.parametrize("paths", [(WAL,), None])
def test_where_nobody_freezes_here_the_app_rests_on_its_hold(paths: Paths | None) -> None:
    world = world_of(paths, scope=Scope.NONE, frozen=False)
    assert (outcome_of(world).grade, world.verdict.level) == (APP, Level.APPLICATION)


def test_a_freezer_that_does_not_tell_lowers_nobody() -> None:
    assert outcome_of(world_of(None, looks=False)).grade is APP


def test_what_is_left_out_lowers_also_when_nothing_was_frozen_at_all() -> None:
    world = world_of((WAL,), frozen=False)
    assert (outcome_of(world).grade, world.verdict.level) == (RAW, Level.CRASH)


@pytest.mark.parametrize(
    ("paths", "scope", "frozen", "grade", "level"),
    [
        ((DATA,), Scope.DECLARED, True, FS, Level.FILESYSTEM),
        ((), Scope.ALL, True, FS, Level.FILESYSTEM),
        ((ROOT,), Scope.DECLARED, True, RAW, Level.FILESYSTEM),
        ((), Scope.DECLARED, True, RAW, Level.FILESYSTEM),  # nobody knows where its files lie
        ((), Scope.NAMED, True, RAW, Level.FILESYSTEM),
        ((), Scope.NONE, False, RAW, Level.CRASH),
    ],
)
def test_one_that_only_stands_still_is_worth_its_file_systems(
    paths: Paths, scope: Scope, frozen: bool, grade: Grade, level: Level
) -> None:
    world = world_of(paths, grade=FS, scope=scope, frozen=frozen)
    outcome = outcome_of(world)
    assert (outcome.grade, outcome.reason, world.verdict.level) == (grade, STILL, level)
    assert world.verdict.reasons == (f"a (required) was held, and its copy is worth less: {STILL}",)


def test_one_that_declares_that_its_hold_is_worth_nothing_is_believed() -> None:
    world = world_of((DATA,), grade=RAW)
    outcome = outcome_of(world)
    assert (outcome.grade, outcome.reason, world.verdict.level) == (RAW, STILL, Level.FILESYSTEM)


@pytest.mark.parametrize("is_alone", [False, True])
def test_an_app_without_a_path_on_a_named_file_system_that_was_asked_lowers_nothing_and_vouches_for_nothing(
    is_alone: bool,
) -> None:
    world = World()
    world.register("far")
    others = [] if is_alone else ["a"]
    for name in others:
        world.register(name)
    world.freeze("local", scope=Scope.NAMED)
    world.filesystems_prepared(paths={"far": (WAL,), "a": (DATA,)})
    world.ack("far", *others)
    world.filesystems_froze(True, SRV)
    world.thaw("local")
    verdict = world.finish()
    (far,) = [outcome for outcome in verdict.outcomes if outcome.app.name == "far"]
    assert (far.outcome, far.grade, far.reason) == (Outcome.HELD, None, APART)
    reason = "no app was held that has files on what was named: nothing in this machine vouches for the snapshot"
    assert (verdict.level, verdict.reasons) == ((Level.FILESYSTEM, (reason,)) if is_alone else (Level.APPLICATION, ()))


@pytest.mark.parametrize(
    ("paths", "scope", "frozen", "grade"),
    [
        ((DATA,), Scope.DECLARED, True, FS),
        ((DATA, WAL), Scope.DECLARED, True, RAW),
        ((), Scope.DECLARED, True, RAW),
        ((), Scope.ALL, True, FS),
        ((), Scope.NAMED, True, RAW),
        ((DATA,), Scope.ALL, False, RAW),
        ((), Scope.NONE, False, RAW),
    ],
)
def test_one_that_did_not_hold_is_worth_its_file_systems(
    paths: Paths, scope: Scope, frozen: bool, grade: Grade
) -> None:
    world = World()
    world.register("a", requirement=Requirement.TOLERATED)
    world.freeze("local", scope=scope)
    if scope is not Scope.NONE:
        world.filesystems_prepared(paths={"a": paths})
    world.veto("a")
    world.filesystems_froze(frozen, *((SRV,) if frozen else ()))
    outcome = outcome_of(world)
    assert (outcome.outcome, outcome.grade, outcome.reason) == (Outcome.VETOED, grade, "busy")


@pytest.mark.parametrize("end", ["forced", "doubt"])
def test_when_the_hold_did_not_end_as_it_should_every_copy_is_raw(end: str) -> None:
    world = world_of((DATA,))
    if end == "forced":
        world.force()
    else:
        world.thaw("local")
        world.filesystems_thawed(False, "the guardian thawed")
    world.finish()
    (outcome,) = world.verdict.outcomes
    assert (outcome.grade, outcome.reason, world.verdict.level) == (RAW, "", Level.CRASH)
    assert len(world.verdict.reasons) == 1


def test_a_cycle_that_failed_has_no_copy() -> None:
    world = World()
    world.register("a")
    world.freeze()
    world.veto("a")
    world.finish()
    assert (world.verdict.level, world.verdict.outcomes[0].grade) == (Level.FAILED, None)


def test_a_rehearsal_has_no_copy_either() -> None:
    world = World()
    world.register("a", grade=FS)
    world.freeze(REHEARSAL)
    world.ack("a")
    world.thaw(REHEARSAL)
    world.finish()
    assert (world.verdict.level, world.verdict.outcomes[0].grade) == (Level.APPLICATION, None)


def test_what_is_to_be_known_of_paths_is_said_before_anything_is_frozen() -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.DECLARED)
    world.filesystems_prepared(paths={"a": (DATA, WAL, RUN), "gone": (WAL,)})
    (event,) = [effect.event for effect in world.of_last(Announce) if effect.event.kind is EventKind.PATHS_LOCATED]
    assert (event.app, event.detail) == ("a", f"/wal/a: {WAL.reason}; /run/a: {RUN.reason}")


def test_of_many_paths_some_are_named() -> None:
    many = tuple(DeclaredPath(f"/wal/{number}", "8:2", lowers=True) for number in range(5))
    reason = outcome_of(world_of((DATA, *many))).reason
    first = "; in ".join(f"/wal/{number}, which is not in the freeze" for number in range(3))
    assert reason == f"it has files in {first}; and in 2 more"


def test_an_app_that_registers_while_they_are_prepared_was_not_looked_at() -> None:
    world = World()
    world.register("a")
    world.freeze("local", scope=Scope.ALL)
    world.register("late", requirement=Requirement.TOLERATED)
    world.filesystems_prepared(paths={"a": (DATA,)})
    world.ack("a", "late")
    world.filesystems_froze(True, SRV)
    world.thaw("local")
    world.finish()
    assert {outcome.app: outcome.grade for outcome in world.verdict.outcomes} == {AppId("a"): APP, AppId("late"): RAW}


def test_a_process_that_comes_back_while_they_are_prepared_has_its_paths_where_they_were() -> None:
    world = World()
    world.register("a", requirement=Requirement.TOLERATED, incarnation="one")
    world.register("slow", 20, prepares=True)
    world.freeze("local", scope=Scope.ALL)
    world.filesystems_prepared(paths={"a": (DATA,), "slow": (DATA,)})
    world.leave("a")
    world.register("a", requirement=Requirement.TOLERATED, incarnation="one")
    world.ready("slow")
    world.ack("slow", "a")
    world.filesystems_froze(True, SRV)
    world.thaw("local")
    verdict = world.finish()
    assert (verdict.level, [part.grade for part in verdict.outcomes]) == (Level.APPLICATION, [APP, APP])


@pytest.mark.parametrize(("spares_root", "doubts"), [(True, ()), (False, ("/usb is not frozen",))])
def test_one_that_did_not_hold_and_declares_nothing_may_have_its_files_on_what_was_left_out(
    spares_root: bool, doubts: tuple[str, ...]
) -> None:
    world = World()
    world.register("a", requirement=Requirement.TOLERATED)
    world.freeze("local", scope=Scope.ALL, spares_root=spares_root)
    world.filesystems_prepared(doubts=doubts, paths={"a": ()})
    world.veto("a")
    world.filesystems_froze(True, SRV)
    assert outcome_of(world).grade is RAW


def test_where_a_process_has_its_files_says_nothing_of_the_one_that_comes_in_its_place() -> None:
    world = World()
    world.register("a", requirement=Requirement.TOLERATED, incarnation="one")
    world.register("b")
    world.freeze("local", scope=Scope.ALL)
    world.register("a", requirement=Requirement.TOLERATED, incarnation="two")
    world.filesystems_prepared(paths={"a": (DATA,), "b": (DATA,)})  # it was asked for the paths of the former one
    world.ack("a", "b")
    world.filesystems_froze(True, SRV)
    world.thaw("local")
    grades = {outcome.app.name: outcome.grade for outcome in world.finish().outcomes}
    assert grades == {"a": RAW, "b": APP}


def test_a_process_that_comes_back_before_its_paths_are_found_has_them_all_the_same() -> None:
    world = World()
    world.register("a", requirement=Requirement.TOLERATED, incarnation="one")
    world.freeze("local", scope=Scope.ALL)
    world.register("a", requirement=Requirement.TOLERATED, incarnation="one")
    world.filesystems_prepared(paths={"a": (DATA,)})
    world.ack("a")
    world.filesystems_froze(True, SRV)
    assert outcome_of(world).grade is APP
