"""What doctor makes of the freezer's state and of what a freeze would do."""

from __future__ import annotations

from typing import Any

import pytest

from appvss.cli.preflight import filesystems
from appvss.cli.preflight.finding import Grade
from appvss.model.filesystem import (
    FilesystemApp,
    FilesystemOutcome,
    FilesystemSurvey,
    FilesystemWarning,
    LeftFilesystem,
    PlannedFilesystem,
    Scope,
)
from appvss.sdk.admin_filesystems import FreezerStatus

STICK = LeftFilesystem(
    "/media/stick", "8:17", "exfat", FilesystemOutcome.UNFREEZABLE, "exfat has no freeze", lowers=True
)
EFI = LeftFilesystem("/boot/efi", "8:1", "vfat", FilesystemOutcome.EXCLUDED, "the configuration leaves it out")
ROOT = PlannedFilesystem("/", "8:2", "ext4", "/dev/sda2", 1)


def status(condition: str, **fields: Any) -> FreezerStatus:
    return FreezerStatus(mode="none" if condition == "off" else "linux", condition=condition, **fields)


def test_an_older_broker_says_nothing_of_it() -> None:
    assert list(filesystems.freezer(None, None)) == []


@pytest.mark.parametrize(
    ("status", "is_locked", "grade", "part"),
    [
        (status("off"), None, Grade.OK, "freezes no file systems"),
        (status("ready", guardian_pid=7), True, Grade.OK, "the guardian is process 7, and is kept in memory"),
        (status("holding", guardian_pid=7), None, Grade.OK, "the guardian is process 7"),
        (status("ready", guardian_pid=7), False, Grade.WARNING, "process 7, may be swapped out"),
        (status("lost", detail="it did not start"), None, Grade.PROBLEM, "the guardian is gone: it did not start"),
        (status("hanging", hanging=("/srv",)), True, Grade.PROBLEM, "a call of /srv does not come back"),
        (status("hanging"), True, Grade.PROBLEM, "a call does not come back"),
    ],
)
def test_each_condition_of_the_freezer_has_its_grade(
    status: FreezerStatus, is_locked: bool | None, grade: Grade, part: str
) -> None:
    (found,) = filesystems.freezer(status, is_locked)
    assert (found.grade, part in found.sentence) == (grade, True), found
    assert (found.hint == "") is (grade is Grade.OK)


def test_a_plan_that_leaves_out_nothing_that_lowers_is_well() -> None:
    (found,) = filesystems.survey(FilesystemSurvey(Scope.ALL, planned=(ROOT,), left=(EFI,)), is_wanted=True)
    assert (found.grade, found.sentence.startswith("1 file system would be frozen for a host")) == (Grade.OK, True)
    (found,) = filesystems.survey(FilesystemSurvey(Scope.DECLARED), is_wanted=False)
    assert (found.grade, found.sentence.startswith("0 file systems would be")) == (Grade.OK, True)


@pytest.mark.parametrize(("is_wanted", "grade"), [(True, Grade.PROBLEM), (False, Grade.WARNING)])
def test_what_lowers_or_refuses_is_worse_where_a_host_asks_for_it(is_wanted: bool, grade: Grade) -> None:
    value = FilesystemSurvey(Scope.ALL, left=(STICK, EFI), veto="/media/stick cannot be frozen")
    refused, lowered = filesystems.survey(value, is_wanted)
    assert (refused.grade, lowered.grade) == (grade, grade)
    assert refused.sentence.endswith("is refused: /media/stick cannot be frozen")
    assert "/media/stick (exfat) would not be frozen" in lowered.sentence


def test_an_app_with_files_that_would_not_be_in_the_freeze_is_warned_of() -> None:
    apps = (
        FilesystemApp("orders-db", paths=("/efi/db: /efi: the configuration excludes /efi",), lowers=True),
        FilesystemApp("cache", paths=("/run/a: /run: it lies in memory",)),
    )
    value = FilesystemSurvey(Scope.DECLARED, (ROOT,), apps=apps)
    found = list(filesystems.survey(value, is_wanted=False))
    assert [one.grade for one in found] == [Grade.WARNING, Grade.OK]
    assert found[0].sentence == (
        "orders-db has files that would not be in the freeze, and its copy would be worth less: "
        "/efi/db: /efi: the configuration excludes /efi"
    )
    assert "filesystems.exclude" in found[0].hint


def test_what_may_hang_somebody_else_is_said_and_the_rest_is_not() -> None:
    hangs = FilesystemWarning("swap", "/", "a swap file lies on /", dead_locks=True)
    notes = FilesystemWarning("own", "/", "the state directory lies on /")
    found = list(filesystems.survey(FilesystemSurvey(Scope.ALL, (ROOT,), warnings=(hangs, notes)), is_wanted=True))
    assert [one.grade for one in found] == [Grade.WARNING, Grade.OK]
    assert found[0].sentence == "a swap file lies on /"
