"""What of a command lies on file systems that would be frozen."""

from __future__ import annotations

import asyncio
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.cli.held_command import HeldCommand
from appvss.cli.held_files import HeldFiles
from appvss.freezer.mountinfo import MountTable, parse, read
from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemSurvey, FilesystemWarning, PlannedFilesystem, Scope
from tests.faults.frozen_disk import FrozenDisk, disk
from tests.sdk.broker_peer import BOUND

__all__ = ["disk"]


def survey(*planned: tuple[str, str], warnings: tuple[FilesystemWarning, ...] = ()) -> FilesystemSurvey:
    return FilesystemSurvey(
        Scope.ALL, tuple(PlannedFilesystem(path, device, "ext4", "", 1) for path, device in planned), (), warnings
    )


def here(path: str) -> tuple[str, str]:
    """Mount point and device of the file system that carries a path."""
    mount = read().carrying(os.fsencode(os.path.realpath(path)))
    assert mount is not None
    return os.fsdecode(mount.path), mount.device


def as_overlay(path: str, upper: Path) -> MountTable:
    """The mount table, in which the mount that carries `path` is an overlay."""
    mount = read().carrying(os.fsencode(os.path.realpath(path)))
    assert mount is not None
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    line = f"{mount.mount_id} {mount.parent_id} 999:1 / {os.fsdecode(mount.path)} rw - overlay o rw,upperdir={upper}"
    others = [line for line in lines if not line.startswith(b"%d " % mount.mount_id)]
    return parse(b"\n".join([line.encode(), *others]))


def test_nothing_is_below_what_is_not_frozen(tmp_path: Path) -> None:
    files = HeldFiles(survey(("/mnt", "990:0")))
    assert (files.below_path("/"), files.below_path(str(tmp_path)), files.below_path("/nowhere")) == ("", "", "")
    files.check(may_take_root=False)
    assert list(files.notes()) == []


def test_what_carries_a_path_is_named(tmp_path: Path) -> None:
    place, device = here(str(tmp_path))
    assert HeldFiles(survey((place, device))).below_path(str(tmp_path)) == place


@pytest.mark.skipif(here("/proc")[1] == here("/")[1], reason="/proc is no mount of its own")
def test_what_is_written_to_an_overlay_goes_to_its_upper_directory() -> None:
    upper, device = here("/")
    files = HeldFiles(survey((upper, device)), as_overlay("/proc", Path("/")))
    assert files.below_path("/proc") == upper
    assert HeldFiles(survey((upper, device))).below_path("/proc") == ""


def test_what_lies_in_an_image_on_a_frozen_one_hangs_too(tmp_path: Path) -> None:
    place, _ = here(str(tmp_path))
    left = FilesystemWarning("image_left", place, "its image lies there", dead_locks=True)
    assert HeldFiles(survey(("/mnt", "990:0"), warnings=(left,))).below_path(str(tmp_path)) == place


def test_a_root_that_would_be_frozen_is_refused_by_its_own_name() -> None:
    place, device = here("/")
    files = HeldFiles(survey((place, device)))
    with pytest.raises(UsageError, match="/ would be frozen, which carries the root file system"):
        files.check(may_take_root=False)


async def test_a_program_on_a_frozen_file_system_runs(disk: FrozenDisk) -> None:
    program = disk.path / "program"
    shutil.copy("/bin/sh", program)
    command = HeldCommand(str(program), ["program", "-c", "exit 7"], {})
    try:
        assert command.wait_loaded(timedelta(seconds=BOUND))
        async with disk.frozen():
            command.let_through("c-1")
            assert await asyncio.to_thread(command._process.wait, BOUND) == 7
    finally:
        command.kill()
