"""File systems of a test's own, on loop devices: made, mounted, and gone at the end whatever happens.

    def test_it(loop_disks: LoopDisks) -> None:
        data = loop_disks.make("data", "xfs")
        inner = loop_disks.make("inner", "ext4", on=data)     # its image lies on `data`

Everything is below one short directory. Who mounts is an independent process (`loop_keeper.py`) that thaws and unmounts
when the test is done or dead. The conftest.py of a room takes the fixture by importing it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.running_broker import short_directory

LIMIT = 90.0
"""Seconds from the last thing that was asked of it on after which the keeper thaws everything in every second."""
BOUND = 30.0
"""Seconds for each thing that is done here."""
SIZES = {"ext2": 16, "ext4": 48, "xfs": 320, "btrfs": 128, "vfat": 16}
"""MiB of the images, which are sparse: about the least that each kind's mkfs(8) takes."""
TYPES = ("ext4", "xfs", "btrfs")
FIFREEZE = 0xC0045877  # linux/fs.h
FITHAW = 0xC0045878
_KEEPER = Path(__file__).with_name("loop_keeper.py")
_MKFS = {
    "ext2": ("mkfs.ext2", "-q", "-F"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
    "vfat": ("mkfs.vfat",),
}


@dataclass(frozen=True)
class LoopDisk:
    """One mounted file system."""

    path: Path
    """Its mount point."""
    kind: str
    image: Path


class LoopDisks:
    """The file systems of one test.

    Args:
        home: an empty directory for images and mount points; gone after `close`.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "images").mkdir()
        self.made: list[LoopDisk] = []
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_KEEPER), str(home), str(LIMIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def make(
        self,
        name: str,
        kind: str = "ext4",
        *,
        on: LoopDisk | None = None,
        read_only: bool = False,
        mebibytes: int | None = None,
    ) -> LoopDisk:
        """Make a file system and mount it at `home / name`.

        Args:
            name: one word; it may have spaces.
            kind: one of `SIZES`.
            on: where the image lies; None: in `home`.
            read_only: mount it with a read-only super block.
            mebibytes: the size of the image; None: that of `SIZES`.
        """
        image = (on.path if on else self.home / "images") / f"{name}.img"
        with image.open("wb") as file:
            file.truncate((mebibytes or SIZES[kind]) * 1024 * 1024)
        run(*_MKFS[kind], str(image))
        disk = LoopDisk(self.home / name, kind, image)
        self.made.append(disk)
        return self.mount(disk, read_only=read_only)

    def mount(self, disk: LoopDisk, *, read_only: bool = False) -> LoopDisk:
        """Mount one that was unmounted."""
        disk.path.mkdir(exist_ok=True)
        self._tell("mount", "-o", "loop,ro" if read_only else "loop", str(disk.image), str(disk.path))
        return disk

    def bind(self, disk: LoopDisk, name: str, *, read_only: bool = False) -> Path:
        """Another mount point of the same file system."""
        point = self.home / name
        point.mkdir()
        self._tell("mount", "--bind", *(("-o", "ro") if read_only else ()), str(disk.path), str(point))
        return point

    def mount_other(self, *arguments: str) -> None:
        """mount(8), with a mount point below `home` as its last argument."""
        self._tell("mount", *arguments)

    def unmount(self, point: Path) -> None:
        """umount(8)."""
        self._tell("umount", str(point))

    def freeze(self, point: Path) -> None:
        """Freeze by somebody else's hand."""
        self._tell("freeze", str(point))

    def thaw(self, point: Path) -> None:
        """Thaw by somebody else's hand."""
        self._tell("thaw", str(point))

    def close(self) -> None:
        """Thaw, unmount, and wait until nothing is left of it."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(BOUND)
        self._keeper.stdout.close()
        # A mount namespace that another test has made meanwhile has copies of these mounts, and would keep their loop
        # devices for as long as it lives. A directory that is removed is no mount point in any namespace any more.
        for point in self.home.iterdir():
            with contextlib.suppress(OSError):  # a file, not empty, or mounted: then that is said below
                point.rmdir()
        deadline = time.monotonic() + BOUND
        while left := self._left():  # the kernel works on after the unmount
            assert time.monotonic() < deadline, left
            time.sleep(0.01)
        shutil.rmtree(self.home)

    def _left(self) -> str:
        table = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        if f" {self.home}/" in table:
            return f"something is still mounted below {self.home}"
        devices = run("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
        return next((f"{disk.image} still has a loop device" for disk in self.made if str(disk.image) in devices), "")

    def _tell(self, *words: str) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write("\t".join(words) + "\n")
        self._keeper.stdin.flush()
        answer = self._keeper.stdout.readline().strip()
        assert answer == "ok", (words, answer)


def run(*command: str) -> str:
    """A program of the system that must succeed; what it has said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def why_not(*kinds: str) -> str:
    """Why this machine cannot have such file systems; empty: it can."""
    if not sys.platform.startswith("linux"):
        return "file systems are frozen with Linux's ioctls here"
    if os.geteuid() != 0:
        return "only root can mount and freeze a file system"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "there is no loop device (/dev/loop-control)"
    programs = ["mount", "umount", "losetup", *(_MKFS[kind][0] for kind in kinds or TYPES)]
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (sh scripts/setup tools)"
    unknown = [kind for kind in kinds if not _is_known(kind)]
    return f"this kernel knows no {', '.join(unknown)}" if unknown else ""


def _is_known(kind: str) -> bool:
    """Whether the kernel has such file systems, if need be as a module."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", kind], capture_output=True, timeout=BOUND, check=False)
    return any(line.split()[-1] == kind for line in Path("/proc/filesystems").read_text().splitlines())


def is_frozen(point: Path) -> bool:
    """Whether user space has frozen it. One that is not is frozen and thawed again for a moment: ask only when nobody
    else is about to do either.
    """
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def takes_a_write(point: Path, within: float = 10.0) -> bool:
    """Whether a new file can be written there and synced, by a process of its own, before `within` seconds have
    passed. The file is gone afterwards; the process, too, as soon as the file system lets it go.

    The default is long, since the process must start on a busy machine, and shorter than any hold limit of the tests.
    """
    program = (
        "import os,sys\n"
        "name = f'{sys.argv[1]}/written-{os.getpid()}'\n"
        "descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)\n"
        "os.write(descriptor, b'x')\nos.fsync(descriptor)\nos.unlink(name)\n"
    )
    writer = subprocess.Popen([sys.executable, "-I", "-S", "-B", "-c", program, str(point)], start_new_session=True)
    try:
        return writer.wait(within) == 0
    except subprocess.TimeoutExpired:
        writer.kill()
        # It hangs in the kernel until the thaw, which may come after this: nobody else waits for it.
        threading.Thread(target=writer.wait, name="reap a writer", daemon=True).start()
        return False


@pytest.fixture
def loop_disks() -> Iterator[LoopDisks]:
    """Makes file systems. Skips, with the reason, where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    disks = LoopDisks(short_directory())
    try:
        yield disks
    finally:
        disks.close()


@pytest.fixture(scope="session")
def requires_loop_disks() -> None:
    """Skips, with the reason, where there can be none."""
    if reason := why_not("ext4"):
        pytest.skip(reason)
