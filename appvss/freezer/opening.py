"""Opens a mount point, and makes sure that it is the mount that was listed.

Between the listing and the open a mount may vanish, and then the path leads into the file system below it: frozen in
its place, that would be the wrong one (facts/linux-hv-vss.md section 6, "fsfreeze path race"). So every descriptor is
asked which mount it belongs to, before anything else is done with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

from appvss.freezer.mountinfo import shown
from appvss.freezer.plan import Target

_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_PATH") else 0
"""Looks without opening: a mount point may be a FIFO or a device, whose open does things."""
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Reading is right enough for FIFREEZE; O_PATH is not (section 5.1)."""


class Changed(Exception):
    """The mount at a path is not the one that was listed there. Its text is one lower-case sentence."""


def mount_of(descriptor: int) -> int:
    """The id of the mount to which a descriptor belongs, as in proc_pid_mountinfo(5).

    Raises:
        OSError: there is no /proc.
        Changed: it does not say.
    """
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name == "mnt_id":
                return int(value)
    raise Changed("the kernel does not say to which mount a descriptor belongs (mnt_id in /proc/self/fdinfo)")


def open_mount(path: bytes, mount_id: int) -> int:
    """A descriptor of the directory or plain file at `path`, for reading.

    Args:
        path: a mount point.
        mount_id: of the mount that must be there.

    Raises:
        Changed: another one is there, or none.
        OSError: the path cannot be opened.
    """
    found = os.open(path, _LOOK)
    try:
        if mount_of(found) != mount_id:
            raise Changed(f"the mount at {shown(path)} changed between listing and freeze")
        mode = os.fstat(found).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise Changed(f"{shown(path)} is neither a directory nor a plain file")
        return os.open(f"/proc/self/fd/{found}", _OPEN)
    finally:
        os.close(found)


def open_target(target: Target) -> int:
    """A descriptor of the file system that is to be frozen.

    Raises:
        Changed: another one is mounted there by now.
        OSError: the path cannot be opened.
    """
    descriptor = open_mount(target.path, target.mount_id)
    try:
        # The id of a mount that is gone is given to the next one. btrfs has a device number for each subvolume.
        device = os.fstat(descriptor).st_dev
        is_same = target.device == f"{os.major(device)}:{os.minor(device)}" or target.type == "btrfs"
        if not is_same:
            raise Changed(f"the mount at {shown(target.path)} changed between listing and freeze")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_all(targets: Iterable[Target]) -> tuple[int, ...]:
    """Descriptors of all of them, or of none.

    Raises:
        Changed: another one is mounted there by now.
        OSError: a path cannot be opened; `filename` is printable and is the mount point.
    """
    descriptors: list[int] = []
    try:
        for target in targets:
            try:
                descriptors.append(open_target(target))
            except OSError as error:
                raise OSError(error.errno, error.strerror, shown(target.path)) from error
    except BaseException:
        close_all(descriptors)
        raise
    return tuple(descriptors)


def close_all(descriptors: Iterable[int]) -> None:
    """Close them."""
    for descriptor in descriptors:
        os.close(descriptor)
