"""What a block device lies on, from sysfs: disks at the end, or files in which it is an image.

A partition lies on its disk; dm, md and bcache on their slaves; a loop device on its backing file, or on the device
whose node that is; nbd, ublk and a SCSI target of this machine on what a program does with them, which is told as far
as its open files tell it.

Only sysfs, procfs and the loop device itself are asked. What cannot be told is said, never passed over. Not found out:
an external journal of ext4, a DRBD or iSCSI disk that this very machine serves to itself from a file.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

SYSFS: Final = Path("/sys")
PROCFS: Final = Path("/proc")
_DELETED: Final = b" (deleted)"
_LOOP_GET_STATUS64: Final = 0x4C05  # linux/loop.h
_LOOP_INFO64: Final = struct.Struct("=QQQ208x")
"""The first three of struct loop_info64: `st_dev`, `st_ino` and `st_rdev` of the backing file; 232 bytes in all."""
_BTRFS_IOC_FS_INFO: Final = 0x8400941F  # linux/btrfs.h
_BTRFS_FS_INFO: Final = struct.Struct("=QQ16s992x")
"""Of struct btrfs_ioctl_fs_info_args: highest id, number of devices, fsid; 1024 bytes in all."""
_SERVED: Final = ("nbd", "ublkb")
"""Names of block devices that a program of this machine serves."""
_OPEN_FILES: Final = 1000
"""How many open files of such a program are looked at."""


@dataclass(frozen=True, slots=True)
class BackingFile:
    """A file in which a block device is an image."""

    path: bytes
    """As the kernel spells it, without the mark of a deleted one. It may be the path of another mount namespace."""
    is_deleted: bool = False
    loop: str = ""
    """The name of the loop device, such as `loop0`; empty: a program has the file open."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What some block devices lie on, besides disks."""

    files: tuple[BackingFile, ...] = ()
    untold: tuple[str, ...] = ()
    """What could not be found out, one lower-case sentence each."""


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """What a loop device says of its backing file."""

    device: str
    """`st_dev` as `major:minor`; of a btrfs it is the subvolume's and not that of the mount table."""
    inode: int
    node: str
    """The device itself when the file is a block device's node; empty: it is a plain file."""


def ground_of(devices: Iterable[str], sysfs: Path = SYSFS, procfs: Path = PROCFS) -> Ground:
    """What these block devices (`major:minor`) lie on, through all that lies between.

    May take some milliseconds: not on the event loop. Never fails: what cannot be read is in `untold`.
    """
    waiting = list(devices)
    seen: set[str] = set()
    files: dict[BackingFile, None] = {}
    untold: list[str] = []
    while waiting:
        device = waiting.pop()
        if device in seen:
            continue
        seen.add(device)
        here = Path(os.path.realpath(sysfs / "dev" / "block" / device))
        if not here.is_dir():
            untold.append(f"sysfs has no block device {device}")
            continue
        waiting.extend(_below(here))
        files.update(dict.fromkeys(_backing_file(here)))
        if here.name.startswith(_SERVED) or "/tcm_loop_" in str(here):
            untold.append(f"a program of this machine serves {here.name}")
            files.update(dict.fromkeys(_files_of_server(here, procfs)))
    return Ground(tuple(files), tuple(untold))


def loop_status(loop: str) -> LoopStatus | None:
    """What a loop device says of its backing file; None: it says nothing (it is gone, or there is no node in /dev).

    The kernel looks the file up again, so the file system on which it lies must be one that answers.

    Args:
        loop: the device's name, such as `loop0`.
    """
    try:
        descriptor = os.open(f"/dev/{loop}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        answer = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_LOOP_INFO64.size))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    device, inode, node = _LOOP_INFO64.unpack(answer)
    return LoopStatus(numbers(device), inode, numbers(node) if node else "")


def btrfs_devices(directory: bytes, sysfs: Path = SYSFS) -> tuple[str, ...]:
    """All block devices of a btrfs; empty: they cannot be told.

    Args:
        directory: one of its mount points, which must be one that answers.
        sysfs: where sysfs is mounted.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ()
    try:
        answer = fcntl.ioctl(descriptor, _BTRFS_IOC_FS_INFO, bytes(_BTRFS_FS_INFO.size))
    except OSError:
        return ()
    finally:
        os.close(descriptor)
    identity = str(UUID(bytes=_BTRFS_FS_INFO.unpack(answer)[2]))
    return tuple(_numbers_below(sysfs / "fs" / "btrfs" / identity / "devices"))


def device_of_node(node: bytes, sysfs: Path = SYSFS) -> str:
    """The numbers of a block device's node, or, where /dev has none, of the device of that name; empty: unknown."""
    with suppress(OSError):
        status = os.stat(node)
        return numbers(status.st_rdev) if stat.S_ISBLK(status.st_mode) else ""
    name = os.fsdecode(node.removeprefix(b"/dev/").replace(b"/", b"!"))
    return _read(sysfs / "class" / "block" / name / "dev") if name not in ("", ".", "..") else ""


def numbers(device: int) -> str:
    """`major:minor` of a `st_dev` or `st_rdev`."""
    return f"{os.major(device)}:{os.minor(device)}"


def _below(here: Path) -> Iterator[str]:
    """The block devices on which the one in this directory of sysfs lies."""
    if (here / "partition").exists() and (disk := _read(here.parent / "dev")):
        yield disk
    yield from _numbers_below(here / "slaves")


def _numbers_below(folder: Path) -> Iterator[str]:
    """The numbers of all devices that a folder of sysfs links to."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if device := _read(folder / name / "dev"):
                yield device


def _backing_file(here: Path) -> Iterator[BackingFile]:
    try:
        path = (here / "loop" / "backing_file").read_bytes().removesuffix(b"\n")
    except OSError:  # no loop device, or one that has just let go of its file
        return
    yield BackingFile(path.removesuffix(_DELETED), path.endswith(_DELETED), here.name)


def _files_of_server(here: Path, procfs: Path) -> Iterator[BackingFile]:
    """The files to which the program behind a network block device writes; none where the kernel does not name it."""
    pid = _read(here / "pid")
    if not pid.isdecimal():
        return
    folder = procfs / pid
    with suppress(OSError):
        for number in sorted(os.listdir(folder / "fd"))[:_OPEN_FILES]:
            with suppress(OSError):
                path = os.readlink(os.fsencode(folder / "fd" / number))
                if path.startswith(b"/") and _is_written(folder / "fdinfo" / number):
                    yield BackingFile(path.removesuffix(_DELETED), path.endswith(_DELETED))


def _is_written(information: Path) -> bool:
    """Whether a descriptor is open for writing, by its line `flags:` in octal (proc_pid_fdinfo(5))."""
    flags = re.search(r"^flags:\s*([0-7]+)$", _read(information), re.MULTILINE)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY


def _read(path: Path) -> str:
    """What a small file of the kernel says; empty: it is not there."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
