"""What a block device lies on is followed down to disks and files, and what cannot be followed is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appvss.freezer.blocks import BackingFile, Ground, btrfs_devices, device_of_node, ground_of, loop_status, numbers
from tests.freezer.sysfs import Sysfs


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def test_a_disk_lies_on_nothing(sysfs: Sysfs) -> None:
    sysfs.add("vda", "254:0", under="pci0/virtio0")
    sysfs.add("vda1", "254:1", under="vda")
    assert ground_of(["254:0", "254:1", "254:0"], sysfs.path) == Ground()


def test_a_partition_lies_on_its_disk_and_that_on_a_file(sysfs: Sysfs) -> None:
    sysfs.add_loop(0, b"/srv/disk image")
    sysfs.add("loop0p1", "259:0", under="loop0")
    assert ground_of(["259:0"], sysfs.path).files == (BackingFile(b"/srv/disk image", loop="loop0"),)


@pytest.mark.parametrize("name", ["dm-2", "md0", "bcache0"])
def test_a_device_of_slaves_lies_on_all_of_them(sysfs: Sysfs, name: str) -> None:
    sysfs.add("sda", "8:0")
    sysfs.add_loop(0, b"/a")
    sysfs.add_loop(1, b"/b (deleted)")
    sysfs.add("dm-0", "253:0", slaves=("loop0", "sda"))
    sysfs.add("dm-1", "253:1", slaves=("loop1", "dm-0"))
    sysfs.add(name, "251:5", slaves=("dm-1", "dm-0"))
    found = ground_of(["251:5"], sysfs.path)
    assert set(found.files) == {BackingFile(b"/a", loop="loop0"), BackingFile(b"/b", is_deleted=True, loop="loop1")}
    assert len(found.files) == 2
    assert found.untold == ()


def test_a_circle_of_devices_ends(sysfs: Sysfs) -> None:
    first = sysfs.add("dm-0", "253:0")
    second = sysfs.add("dm-1", "253:1", slaves=("dm-0",))
    (first / "slaves" / "dm-1").symlink_to(second)
    assert ground_of(["253:0"], sysfs.path) == Ground()


def test_a_device_that_sysfs_does_not_have_is_told(sysfs: Sysfs, tmp_path: Path) -> None:
    assert ground_of(["8:99"], sysfs.path).untold == ("sysfs has no block device 8:99",)
    assert ground_of(["8:99"], tmp_path / "not mounted").untold == ("sysfs has no block device 8:99",)


def test_a_loop_device_that_has_just_let_go_of_its_file_lies_on_nothing(sysfs: Sysfs) -> None:
    (sysfs.add("loop0", "7:0") / "loop").mkdir()
    assert ground_of(["7:0"], sysfs.path) == Ground()


@pytest.mark.parametrize(("name", "under"), [("nbd3", ""), ("ublkb0", ""), ("sdz", "tcm_loop_0/tcm_loop_adapter_0")])
def test_what_a_program_serves_is_told(sysfs: Sysfs, tmp_path: Path, name: str, under: str) -> None:
    sysfs.add(name, "43:3", under=under)
    found = ground_of(["43:3"], sysfs.path, tmp_path)
    assert found == Ground(untold=(f"a program of this machine serves {name}",))


def test_the_files_that_the_server_of_a_network_block_device_writes_to_are_found(sysfs: Sysfs, tmp_path: Path) -> None:
    (sysfs.add("nbd0", "43:0") / "pid").write_text(f"{os.getpid()}\n")
    image, read = tmp_path / "image", tmp_path / "read"
    read.write_bytes(b"")
    with image.open("w+b"), read.open("rb"):
        files = [file.path for file in ground_of(["43:0"], sysfs.path).files]
    assert os.fsencode(image) in files
    assert os.fsencode(read) not in files


@pytest.mark.parametrize("pid", ["", "nobody", "4194305"])
def test_a_server_that_is_not_there_has_no_files(sysfs: Sysfs, pid: str) -> None:
    (sysfs.add("nbd0", "43:0") / "pid").write_text(pid)
    assert ground_of(["43:0"], sysfs.path).files == ()


def test_the_numbers_of_a_node(sysfs: Sysfs) -> None:
    sysfs.add("sda1", "8:1")
    sysfs.add("cciss!c0d0", "104:0")
    assert device_of_node(b"/dev/sda1-is-not-there", sysfs.path) == ""
    assert device_of_node(b"/dev/cciss/c0d0", sysfs.path) == "104:0", "by its name, where there is no node"
    assert device_of_node(b"/dev/null", sysfs.path) == "", "a character device"
    assert device_of_node(b"/dev/", sysfs.path) == ""
    assert numbers(os.makedev(259, 300)) == "259:300"


def test_what_is_no_loop_device_and_no_btrfs_says_nothing(tmp_path: Path) -> None:
    assert loop_status("null") is None
    assert loop_status("loop-of-nobody") is None
    assert btrfs_devices(os.fsencode(tmp_path / "missing")) == ()
    assert btrfs_devices(b"/proc") == ()
