"""What is opened is what was listed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from appvss.freezer.opening import Changed, close_all, mount_of, open_all, open_mount, open_target
from tests.freezer.held_disks import open_descriptors, target_at
from tests.support.loop_disks import LoopDisks


def test_the_right_mount_is_opened_for_reading(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("data")
    bound = loop_disks.bind(disk, "bound")
    for path in (disk.path, bound):
        target = target_at(path)
        descriptor = open_target(target)
        assert mount_of(descriptor) == target.mount_id
        assert os.get_inheritable(descriptor) is False
        os.close(descriptor)


def test_another_mount_at_the_path_is_refused_and_nothing_stays_open(loop_disks: LoopDisks) -> None:
    first, second = loop_disks.make("first"), loop_disks.make("second", "btrfs")
    targets = [target_at(first.path), target_at(second.path)]
    loop_disks.unmount(second.path)
    before = open_descriptors()
    with pytest.raises(Changed, match="second changed between listing and freeze"):
        open_all(targets)
    assert open_descriptors() == before


def test_a_mount_id_that_was_given_to_another_device_is_refused(loop_disks: LoopDisks) -> None:
    target = target_at(loop_disks.make("data").path)
    with pytest.raises(Changed):
        open_target(replace(target, device="8:1"))


def test_one_subvolume_of_btrfs_has_another_device_number_and_is_right(loop_disks: LoopDisks) -> None:
    target = target_at(loop_disks.make("data", "btrfs").path)
    descriptor = open_target(target)
    device = os.fstat(descriptor).st_dev
    assert os.major(device) == 0
    close_all([descriptor])


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_is_neither_a_directory_nor_a_plain_file_is_refused(loop_disks: LoopDisks, kind: str) -> None:
    path = loop_disks.make("data").path
    odd = path / "odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to(path)
    with pytest.raises(Changed, match="neither a directory nor a plain file"):
        open_mount(os.fsencode(odd), target_at(path).mount_id)


def test_a_path_that_is_gone_is_named(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("data")
    target = target_at(disk.path)
    loop_disks.unmount(disk.path)
    disk.path.rmdir()
    with pytest.raises(FileNotFoundError) as failure:
        open_all([target])
    assert failure.value.filename == str(disk.path)


def test_without_a_mount_id_nothing_is_believed() -> None:
    with pytest.raises(OSError, match="No such file"):
        mount_of(999_999)


def test_a_path_with_a_space_and_a_newline(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("with space")
    os.close(open_target(target_at(Path(disk.path))))
