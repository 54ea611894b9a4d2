"""The record of what may be frozen, for whoever comes after."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.freezer import record
from appvss.freezer.plan import Target
from tests.freezer.held_disks import target_at
from tests.support.loop_disks import LoopDisks, is_frozen, takes_a_write

SOON = timedelta(milliseconds=300)
TARGET = Target(b"/a \xff", 77, "8:1", "ext4", "/dev/sda1")


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record.write(tmp_path, "c", [TARGET])
    found = record.read(tmp_path)
    assert found is not None
    assert (found.cycle, found.pid) == ("c", os.getpid())
    assert found.filesystems == (record.Recorded("/a \udcff", "8:1", 77, "ext4"),)
    assert os.listdir(tmp_path) == ["frozen.json"]
    assert (tmp_path / "frozen.json").stat().st_mode & 0o777 == 0o600
    record.remove(tmp_path)
    record.remove(tmp_path)
    assert record.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "no json", "[]", "{}", '{"cycle": 1, "boot": 2, "pid": "x"}'])
def test_what_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "frozen.json").write_text(content)
    assert record.read(tmp_path) is None
    assert record.thaw_recorded(tmp_path) == ()


def test_that_of_another_boot_is_none(tmp_path: Path) -> None:
    record.write(tmp_path, "c", [TARGET])
    content = json.loads((tmp_path / "frozen.json").read_text())
    (tmp_path / "frozen.json").write_text(json.dumps({**content, "boot": "another"}))
    assert record.read(tmp_path) is None


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "frozen.json.new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        record.write(tmp_path, "c", [TARGET])
    assert not (tmp_path / "elsewhere").exists()


def test_what_it_names_is_thawed_and_the_rest_is_not(loop_disks: LoopDisks, tmp_path: Path) -> None:
    frozen, free, foreign = (loop_disks.make(name).path for name in ("frozen", "free", "foreign"))
    loop_disks.freeze(frozen)
    loop_disks.freeze(foreign)
    record.write(tmp_path, "c", [target_at(frozen), target_at(free)])
    assert record.thaw_recorded(tmp_path) == (
        record.Released(str(frozen), was_frozen=True),
        record.Released(str(free), was_frozen=False),
    )
    assert takes_a_write(frozen)
    assert is_frozen(foreign)
    assert record.thaw_recorded(tmp_path) == ()
    loop_disks.thaw(foreign)


def test_it_is_found_by_another_mount_point_and_kept_when_there_is_none(loop_disks: LoopDisks, tmp_path: Path) -> None:
    disk = loop_disks.make("data")
    target = target_at(disk.path)
    bound = loop_disks.bind(disk, "bound")
    loop_disks.freeze(disk.path)
    loop_disks.unmount(disk.path)
    record.write(tmp_path, "c", [target])
    assert [each.was_frozen for each in record.thaw_recorded(tmp_path)] == [True]
    assert takes_a_write(bound)
    loop_disks.unmount(bound)
    record.write(tmp_path, "c", [target])
    (released,) = record.thaw_recorded(tmp_path)
    assert "not mounted any more" in released.failure
    assert record.read(tmp_path) is not None


def test_a_guardian_at_work_is_waited_for_and_not_for_ever(loop_disks: LoopDisks, tmp_path: Path) -> None:
    path = loop_disks.make("data").path
    loop_disks.freeze(path)
    record.write(tmp_path, "c", [target_at(path)])
    lock = record.lock(tmp_path)
    with pytest.raises(BlockingIOError):
        record.lock_within(tmp_path, SOON)
    assert [each.was_frozen for each in record.thaw_recorded(tmp_path, guardian_limit=SOON)] == [True]
    os.close(lock)
    os.close(record.lock_within(tmp_path, SOON))


def test_a_thaw_that_hangs_is_said_and_the_record_stays(loop_disks: LoopDisks, tmp_path: Path) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", on=ground)
    loop_disks.freeze(upper.path)
    loop_disks.freeze(ground.path)
    record.write(tmp_path, "c", [target_at(upper.path)])
    (released,) = record.thaw_recorded(tmp_path, limit=SOON)
    assert released.failure == "its thaw does not come back"
    assert record.read(tmp_path) is not None
    loop_disks.thaw(ground.path)
    assert takes_a_write(upper.path)


def test_a_stack_is_thawed_whatever_the_order(loop_disks: LoopDisks, tmp_path: Path) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", on=ground)
    record.write(tmp_path, "c", [target_at(upper.path), target_at(ground.path)])
    loop_disks.freeze(upper.path)
    loop_disks.freeze(ground.path)
    assert [each.was_frozen for each in record.thaw_recorded(tmp_path)] == [True, True]
    assert takes_a_write(upper.path)
