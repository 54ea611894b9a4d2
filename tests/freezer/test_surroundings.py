"""Swap, further devices and strange words of the kernel, on machines that are written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from appvss.freezer.dependency import Dependencies, Elsewhere, Image, OwnFiles, SwapArea
from appvss.freezer.elsewhere import mounted_elsewhere
from appvss.freezer.mountinfo import MountTable
from appvss.freezer.surroundings import look_around
from tests.freezer.sysfs import Sysfs
from tests.freezer.tables import ROOT, mounted, table


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    made = Sysfs(tmp_path)
    made.add("vda", "254:0")
    return made


def around(mounts: MountTable, sysfs: Sysfs, swaps: str = "", own: dict[str, str] | None = None) -> Dependencies:
    """What is found on a machine of this sysfs, with these lines of /proc/swaps."""
    procfs = sysfs.path.parent / "proc"
    procfs.mkdir()
    (procfs / "swaps").write_text(f"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n{swaps}")
    return look_around(mounts, ["/a/../b", "relative"], own or {}, sysfs.path, procfs)


def test_where_the_kernel_swaps_to(sysfs: Sysfs) -> None:
    sysfs.add("sdb1", "8:17")
    sysfs.add_loop(4089, b"/no-such-disk/swap image")
    sysfs.add("dm-0", "253:0", slaves=("loop4089",))
    mounts = table(ROOT, mounted(3, "8:1", "/no-such-disk"))
    sysfs.add("sda1", "8:1")
    found = around(
        mounts,
        sysfs,
        "/dev/no-such-node/../sdb1 partition 1 0 -2\n"
        "/dev/dm-0                 partition 1 0 -3\n"
        "/no-such-disk/swap\\040file\\040(deleted) file 1 0 -4\n"
        "odd\n",
    )
    assert found.swaps[1:] == (
        SwapArea(b"/dev/dm-0", ("8:1",), is_file=False),
        SwapArea(b"/no-such-disk/swap file", ("8:1",), is_file=True),
    )
    assert found.swaps[0].carriers == ()


def test_a_machine_without_swap_and_without_sysfs_is_still_told_of(tmp_path: Path) -> None:
    found = look_around(table(ROOT), [], {}, tmp_path / "sys", tmp_path / "proc")
    assert found.swaps == ()
    assert found.untold == {"254:0": "sysfs has no block device 254:0"}


def test_an_xfs_lies_on_its_log_and_its_realtime_device_too(sysfs: Sysfs) -> None:
    sysfs.add("sda1", "8:1")
    sysfs.add_loop(4090, b"/no-such-disk/log")
    mounts = table(
        ROOT,
        mounted(3, "8:1", "/no-such-disk"),
        mounted(4, "8:9", "/x", "xfs", "rw,logdev=/dev/no-such-disk-at-all,rtdev=/dev/loop4090"),
    )
    sysfs.add("no-such-disk-at-all", "8:10")
    sysfs.add("sdx", "8:9")
    found = around(mounts, sysfs)
    assert Image(b"/no-such-disk/log", "8:9", "8:1") in found.images


@pytest.mark.parametrize(("type_", "source"), [("btrfs", "/dev/root"), ("bcachefs", "/dev/no-such-a:/dev/no-such-b")])
def test_a_file_system_whose_devices_nobody_knows_is_told(sysfs: Sysfs, type_: str, source: str) -> None:
    found = around(table(ROOT, f"3 2 0:40 / /b rw - {type_} {source} rw"), sysfs)
    assert found.untold == {"0:40": "the block devices of which it consists are not known"}


def test_a_file_system_of_several_named_devices_lies_on_all(sysfs: Sysfs) -> None:
    sysfs.add("sda1", "8:1")
    sysfs.add_loop(4091, b"/no-such-disk/one")
    sysfs.add("no-such-b", "8:2")
    mounts = table(
        ROOT, mounted(3, "8:1", "/no-such-disk"), "4 2 0:40 / /b rw - bcachefs /dev/loop4091:/dev/no-such-b rw"
    )
    assert around(mounts, sysfs).images == (Image(b"/no-such-disk/one", "0:40", "8:1"),)


@pytest.mark.parametrize(
    ("type_", "untold"),
    [("nfs4", ""), ("tmpfs", ""), ("fuse.sshfs", "/m is served by a program"), ("new", "/m has no disk of its own")],
)
def test_an_image_on_what_is_no_disk(sysfs: Sysfs, type_: str, untold: str) -> None:
    sysfs.add_loop(4092, b"/m/image")
    found = around(table(ROOT, f"3 2 0:50 / /m rw - {type_} x rw", mounted(4, "7:4092", "/u")), sysfs)
    assert found.images == ()
    assert found.untold.get("7:4092", "").startswith(untold)
    assert bool(found.untold) is bool(untold)


def test_an_image_without_any_mount_that_carries_it_is_told(sysfs: Sysfs) -> None:
    sysfs.add_loop(4093, b"/m/image")
    found = around(table(mounted(4, "7:4093", "/u")), sysfs)
    assert found.untold == {"7:4093": "nobody can tell where /m/image lies"}


@pytest.mark.parametrize("upper", ["relative/up", "/no-such/up", "/"])
def test_an_upper_directory_of_another_place_is_not_taken_for_one_here(sysfs: Sysfs, upper: str) -> None:
    mounts = table(f"2 1 0:60 / / rw - overlay overlay rw,upperdir={upper}")
    assert around(mounts, sysfs).uppers == {}


def test_what_is_named_is_resolved_and_what_the_broker_has_is_placed(sysfs: Sysfs) -> None:
    mounts = table(ROOT, "3 2 0:50 / /no-such-memory rw - tmpfs x rw")
    found = around(mounts, sysfs, own={"log": "/no-such-log", "runtime directory": "/no-such-memory/x"})
    assert found.resolved == {"/a/../b": b"/b"}
    assert found.own == (OwnFiles("log", b"/no-such-log", "254:0"),)


def test_each_other_mount_namespace_is_asked_once(tmp_path: Path) -> None:
    procfs = tmp_path / "proc"
    for pid, namespace, lines in (
        ("self", "mnt:[1]", ""),
        ("1", "mnt:[1]", mounted(9, "8:1", "/ours")),
        (
            "20",
            "mnt:[2]",
            f"{mounted(9, '8:2', '/a')}\n{mounted(8, '254:0', '/b')}\n{mounted(7, '0:3', '/t', 'tmpfs')}",
        ),
        ("3", "mnt:[2]", f"{mounted(9, '8:2', '/first')}\n{mounted(8, '0:40', '/z', 'zfs')}"),
        ("40", "mnt:[3]", f"{mounted(9, '8:2', '/c')}\n{mounted(8, '8:3', '/d', 'ext4', 'ro')}"),
        ("41", "mnt:[4]", f"{mounted(8, '254:0', '/b')}\n{mounted(7, '0:3', '/t', 'tmpfs')}"),
    ):
        (procfs / pid / "ns").mkdir(parents=True)
        (procfs / pid / "ns" / "mnt").symlink_to(namespace)
        (procfs / pid / "mountinfo").write_text(f"{lines}\n")
    (procfs / "50").mkdir()  # it has just ended
    assert mounted_elsewhere(table(ROOT), procfs) == (
        Elsewhere("8:2", "ext4", b"/first", 3),
        Elsewhere("0:40", "zfs", b"/z", 3),
    )
    assert mounted_elsewhere(table(ROOT), tmp_path / "missing") == ()
