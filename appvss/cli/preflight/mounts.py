"""Which file system a path lies on, and whether a freeze would reach it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appvss.model.names import printable

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_MOUNT: Final = ("/sbin/mount", "-p")
_LIMIT: Final = 5.0
"""Seconds."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "mfs"})
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs"})


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    point: str
    kind: str
    """Its type, such as `ext4`."""

    @property
    def is_in_memory(self) -> bool:
        """Whether it is gone after a restart, and in no image of a disk."""
        return self.kind in _IN_MEMORY

    @property
    def is_remote(self) -> bool:
        """Whether it lies on another machine, whose disks are not those that are snapshotted."""
        return self.kind in _NETWORK

    def __str__(self) -> str:
        return f"{self.kind} on {self.point}"


def mount_of(path: Path) -> Mount | None:
    """The file system of a path, or of its nearest parent that exists; None: nobody can tell. Of several mounts at one
    place the last one counts, as for the kernel.
    """
    real = os.path.realpath(path)
    best: Mount | None = None
    for mount in _mounts():
        point = mount.point.rstrip("/")
        if (real == point or real.startswith(f"{point}/")) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _mounts(platform: str = sys.platform) -> list[Mount]:
    return _from_mountinfo() if platform.startswith("linux") else _from_mount()


def _from_mountinfo() -> list[Mount]:
    """The fifth field is the place, and the first after the lone dash the type (proc_pid_mountinfo(5))."""
    found = []
    with contextlib.suppress(OSError):
        for line in _MOUNTINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            fields, rest = before.split(), after.split()
            if len(fields) > 4 and rest:
                found.append(Mount(printable(_unescaped(fields[4])), printable(rest[0])))
    return found


def _unescaped(text: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text


def _from_mount() -> list[Mount]:
    try:
        done = subprocess.run(_MOUNT, capture_output=True, text=True, timeout=_LIMIT, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return in_mount(done.stdout)


def in_mount(text: str) -> list[Mount]:
    """The mounts in what `mount -p` writes: lines as in fstab(5), with device, place and type (mount(8) of FreeBSD)."""
    rows = [line.split() for line in text.splitlines()]
    return [Mount(printable(row[1]), printable(row[2])) for row in rows if len(row) > 2]
