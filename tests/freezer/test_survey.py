"""One look at this very machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from appvss.freezer.plan import FilesystemSettings, Plan, PlanRefused
from appvss.freezer.survey import survey
from appvss.model.filesystem import FilesystemChoice, Scope

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no mount table of Linux here")
SETTINGS = FilesystemSettings()


def test_all_that_is_mounted_is_frozen_once_or_left_with_a_reason() -> None:
    found = survey(FilesystemChoice(Scope.ALL), (), own={"log": "/"}, settings=SETTINGS)
    devices = [target.device for target in found.targets] + [left.device for left in found.left]
    assert len(devices) == len(set(devices))
    assert all(left.reason for left in found.left)
    root = [target for target in found.targets if target.path == b"/"]
    assert not root or root[0].lies_on or root == list(found.waves[-1])


def test_nothing_is_looked_at_when_nothing_is_wanted() -> None:
    assert survey(FilesystemChoice(), ("/",), own={}, settings=SETTINGS) == Plan()


def test_a_path_that_is_no_mount_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="no mount point"):
        survey(FilesystemChoice(Scope.NAMED, (str(tmp_path),)), (), own={}, settings=SETTINGS)


def test_a_declared_path_is_planned_for_wherever_it_lies() -> None:
    found = survey(FilesystemChoice(Scope.DECLARED), ("/etc",), own={}, settings=SETTINGS)
    assert len(found.targets) + len(found.left) == 1
