"""What the kernel does, on which the guardian is built (facts/linux-hv-vss.md section 7.4, F1 to F9)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.loop_disks import (
    FIFREEZE,
    FITHAW,
    TYPES,
    LoopDisks,
    is_frozen,
    takes_a_write,
)


def refusal(point: Path, number: int) -> int:
    """The errno of an ioctl on the file system at `point`; 0: it went well."""
    descriptor = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, number, 0)
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(descriptor)
    return 0


@pytest.mark.parametrize("kind", ["ext2", *TYPES])
def test_f1_neither_freeze_nor_thaw_nests(loop_disks: LoopDisks, kind: str) -> None:
    path = loop_disks.make("data", kind).path
    assert [refusal(path, number) for number in (FIFREEZE, FIFREEZE, FITHAW, FITHAW)] == [
        0,
        errno.EBUSY,
        0,
        errno.EINVAL,
    ]


@pytest.mark.parametrize("path", ["/dev/shm", "/proc"])
def test_f2_what_has_no_freeze_says_so(loop_disks: LoopDisks, path: str) -> None:
    assert refusal(Path(path), FIFREEZE) == errno.EOPNOTSUPP
    assert refusal(Path(path), FITHAW) == errno.EINVAL


def test_f2_an_overlay_has_no_freeze_of_its_own(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("data")
    for name in ("lower", "upper", "work"):
        (disk.path / name).mkdir()
    point = loop_disks.home / "overlay"
    point.mkdir()
    layers = ",".join(f"{name}dir={disk.path / name}" for name in ("lower", "upper", "work"))
    loop_disks.mount_other("-t", "overlay", "overlay", "-o", layers, str(point))
    assert refusal(point, FIFREEZE) == errno.EOPNOTSUPP
    assert refusal(point, FITHAW) == errno.EINVAL
    loop_disks.freeze(disk.path)
    assert not takes_a_write(point, 0.3)
    loop_disks.thaw(disk.path)
    assert takes_a_write(point)


def test_f3_one_thaw_by_any_mount_point_thaws_all(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("data")
    bound = loop_disks.bind(disk, "bound")
    read_only = loop_disks.bind(disk, "read-only", read_only=True)
    assert refusal(disk.path, FIFREEZE) == 0
    assert refusal(bound, FIFREEZE) == refusal(read_only, FIFREEZE) == errno.EBUSY
    assert refusal(read_only, FITHAW) == 0
    assert takes_a_write(disk.path)


def test_f3_btrfs_freezes_all_subvolumes_at_once(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("data", "btrfs")
    subprocess.run(["btrfs", "subvolume", "create", str(disk.path / "sub")], check=True, capture_output=True)
    assert refusal(disk.path, FIFREEZE) == 0
    assert refusal(disk.path / "sub", FIFREEZE) == errno.EBUSY
    assert refusal(disk.path / "sub", FITHAW) == 0
    assert takes_a_write(disk.path)


def test_f4_others_than_root_may_do_neither(loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data").path
    program = (
        "import fcntl,os,sys\nos.setuid(65534)\nfd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "try: fcntl.ioctl(fd, int(sys.argv[2]), 0)\nexcept OSError as error: print(error.errno)\n"
    )
    loop_disks.home.chmod(0o755)
    for number in (FIFREEZE, FITHAW):
        said = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program, str(path), str(number)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == str(errno.EPERM)


def calling(point: Path, number: int) -> subprocess.Popen[bytes]:
    """A process that does one ioctl; it ends with 0 when that went well."""
    program = "import fcntl,os,sys\nfcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2]), 0)\n"
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", program, str(point), str(number)])


def hangs(process: subprocess.Popen[bytes]) -> bool:
    """Whether it hangs in the kernel, as soon as it does; False: it has ended."""
    while process.poll() is None:
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "D":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)  # a call that does not hang waits for the kernel, too, but not as long
            return process.poll() is None
        time.sleep(0.005)
    return False


def test_f5_a_stack_goes_from_the_top_down_and_from_the_ground_up(loop_disks: LoopDisks) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", on=ground)
    assert refusal(upper.path, FIFREEZE) == refusal(ground.path, FIFREEZE) == 0
    assert refusal(ground.path, FITHAW) == refusal(upper.path, FITHAW) == 0


def test_f5_the_thaw_of_the_top_waits_for_that_of_the_ground(loop_disks: LoopDisks) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", on=ground)
    assert refusal(upper.path, FIFREEZE) == refusal(ground.path, FIFREEZE) == 0
    thaw = calling(upper.path, FITHAW)
    assert hangs(thaw)
    assert refusal(ground.path, FITHAW) == 0
    assert thaw.wait(10) == 0
    assert takes_a_write(upper.path)


def test_f5_a_freeze_that_hangs_cannot_be_killed_and_ends_frozen(loop_disks: LoopDisks) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", on=ground)
    assert refusal(ground.path, FIFREEZE) == 0
    freeze = calling(upper.path, FIFREEZE)
    assert hangs(freeze)
    freeze.kill()
    assert hangs(freeze)
    assert refusal(ground.path, FITHAW) == 0
    assert freeze.wait(10) == -9
    assert is_frozen(upper.path)
    assert refusal(upper.path, FITHAW) == 0


def test_f9_a_thaw_waits_behind_a_freeze_that_hangs_and_then_succeeds(loop_disks: LoopDisks) -> None:
    ground = loop_disks.make("ground", "xfs")
    upper = loop_disks.make("upper", on=ground)
    assert refusal(ground.path, FIFREEZE) == 0
    freeze = calling(upper.path, FIFREEZE)
    assert hangs(freeze)
    thaw = calling(upper.path, FITHAW)
    assert hangs(thaw)
    assert refusal(ground.path, FITHAW) == 0
    assert freeze.wait(10) == thaw.wait(10) == 0
    assert takes_a_write(upper.path)


def test_f6_the_freeze_outlives_the_freezer(loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data").path
    loop_disks.freeze(path)
    assert not takes_a_write(path, 0.3)
    assert refusal(path, FITHAW) == 0
    assert takes_a_write(path)


def test_f7_unmounted_frozen_and_mounted_again_it_can_be_thawed(loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("data")
    loop_disks.freeze(disk.path)
    loop_disks.unmount(disk.path)
    device = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME", "--associated", str(disk.image)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[0]
    loop_disks.mount_other(device, str(disk.path))
    assert is_frozen(disk.path)
    loop_disks.thaw(disk.path)
    assert takes_a_write(disk.path)


def test_f8_a_read_only_super_block_takes_a_freeze_and_no_remount_then(loop_disks: LoopDisks) -> None:
    path = loop_disks.make("data", read_only=True).path
    assert refusal(path, FIFREEZE) == 0
    with pytest.raises(AssertionError, match="mount"):
        loop_disks.mount_other("-o", "remount,rw", str(path))
    assert refusal(path, FITHAW) == 0
