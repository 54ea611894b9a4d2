"""The plan of a freeze, as administrators are told of it."""

from __future__ import annotations

from appvss.broker.survey import survey_of
from appvss.freezer.cautions import Caution, CautionKind
from appvss.freezer.choosing import Left
from appvss.freezer.plan import Plan, Target
from appvss.model.app import AppId
from appvss.model.filesystem import (
    DeclaredPath,
    FilesystemApp,
    FilesystemOutcome,
    FilesystemSurvey,
    FilesystemWarning,
    LeftFilesystem,
    PlannedFilesystem,
    Scope,
)


def test_everything_is_told_in_its_order_and_nothing_that_a_terminal_would_obey() -> None:
    plan = Plan(
        waves=(
            (Target(b"/mnt/i\x1bmage", 30, "7:0", "ext4", "/dev/loop0", lies_on=("8:2",)),),
            (Target(b"/srv", 31, "8:2", "xfs", "/dev/sda2", (b"/home", b"/\xff")), Target(b"/a", 32, "8:3", "xfs", "")),
        ),
        left=(Left(b"/boot", "8:1", "vfat", FilesystemOutcome.UNFREEZABLE, "it has no freeze", True),),
        cautions=(Caution(CautionKind.SWAP, b"/srv", "a swap file lies on it", True),),
        veto="so it is",
    )
    assert survey_of(plan, Scope.ALL, {}) == FilesystemSurvey(
        Scope.ALL,
        (
            PlannedFilesystem("/mnt/i\\x1bmage", "7:0", "ext4", "/dev/loop0", 1, (), ("8:2",)),
            PlannedFilesystem("/srv", "8:2", "xfs", "/dev/sda2", 2, ("/home", "/\\xff"), ()),
            PlannedFilesystem("/a", "8:3", "xfs", "", 2),
        ),
        (LeftFilesystem("/boot", "8:1", "vfat", FilesystemOutcome.UNFREEZABLE, "it has no freeze", True),),
        (FilesystemWarning("swap", "/srv", "a swap file lies on it", True),),
        "so it is",
    )


def test_apps_are_told_whose_paths_are_not_in_the_freeze_and_who_would_not_be_asked() -> None:
    places = {
        "/srv/a": (DeclaredPath("/srv/a", "8:1", is_planned=True, is_meant=True),),
        "/wal": (DeclaredPath("/wal", "8:2", reason="/: the requester does not mean it", lowers=True),),
        "/run/a": (DeclaredPath("/run/a", "0:9", reason="/run: it lies in memory"),),
    }
    declared = {
        AppId("b"): ("/wal",),
        AppId("a"): ("/srv/a", "/wal"),
        AppId("c"): ("/srv/a",),
        AppId("d"): ("/srv/a", "/run/a"),
    }
    plan = Plan(places=places)
    wal, run = "/wal: /: the requester does not mean it", "/run/a: /run: it lies in memory"
    a, d = FilesystemApp("a", False, (wal,), True), FilesystemApp("d", False, (run,), False)
    assert survey_of(plan, Scope.NAMED, declared).apps == (a, FilesystemApp("b", True, (wal,), False), d)
    assert survey_of(plan, Scope.DECLARED, declared).apps == (a, FilesystemApp("b", False, (wal,), True), d)
    assert survey_of(Plan(), Scope.NAMED, declared).apps == ()
