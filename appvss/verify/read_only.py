"""Makes the machine's files read-only for a verifier, whatever path leads to them: by a link, by a tablespace, or by a
path that a server has written into its own files.

Each mount of this process's own mount namespace gets the flag, and no file system does: `MS_REMOUNT` without `MS_BIND`
would change the super block, which is the live server's as well. Nobody else's mounts have part in such a flag, and who
has a file open for writing through one of those goes on. Linux alone.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appvss.model.errors import VerifierUnavailable
from appvss.model.names import printable

_MS_RDONLY: Final = 0x1  # linux/mount.h
_MS_REMOUNT: Final = 0x20
_MS_BIND: Final = 0x1000
_KEPT: Final = {"nosuid": 0x2, "nodev": 0x4, "noexec": 0x8, "nosymfollow": 0x100}
"""What a mount has must be said again: else it is taken away, or, where it is locked (a container's), refused. What it
has of access times the kernel keeps where none is said, and there alone."""
_NOBODYS: Final = frozenset(
    ("autofs", "cgroup", "cgroup2", "devpts", "devtmpfs", "hugetlbfs", "mqueue", "nsfs", "proc", "sysfs")
)
"""Kinds in which no database can lie: the kernel's own views, and what stands for a mount that is not there yet."""
_DEVICES: Final = Path("/dev")
"""In memory that is mounted here servers have what they share (`/dev/shm`)."""
_ROUNDS: Final = 20
"""How often all mounts are looked at: what the machine mounts meanwhile is mounted here, too."""
_HINT: Final = "Verify it on a machine of its own, or in a container in which file systems may be mounted."
_libc: Final = ctypes.CDLL(None, use_errno=True)


def namespace() -> str:
    """Which mount namespace this process is in; empty: nobody can tell."""
    try:
        return os.readlink("/proc/self/ns/mnt")
    except OSError:
        return ""


def leave_writable(folders: Sequence[Path], machine: str) -> None:
    """Let this process and all that it starts write to some folders, and to no other file of a disk. What is mounted
    from now on is not touched.

    Args:
        folders: they become mounts of their own.
        machine: the mount namespace of the machine (`namespace`): in that one nothing is ever changed.

    Raises:
        VerifierUnavailable: there is no namespace to do it in, or a mount stays writable.
    """
    if not machine or namespace() in ("", machine):
        raise VerifierUnavailable("the verifier has no mount namespace of its own", _HINT)
    ours = {_bound(folder) for folder in folders}
    for _ in range(_ROUNDS):
        if not [mount for mount in _mounts() if mount.number not in ours and _is_made_read_only(mount)]:
            break
    else:
        raise VerifierUnavailable("file systems are mounted faster than they can be made read-only", "Try it again.")
    if not os.statvfs("/").f_flag & os.ST_RDONLY:  # it is below the root of a mount, and so not among those seen
        raise VerifierUnavailable("the root directory cannot be made read-only for the verifier", _HINT)


@dataclass(frozen=True, slots=True)
class _Mount:
    number: int
    point: bytes
    options: frozenset[str]
    kind: str

    def is_writable_disk(self) -> bool:
        """Whether a live server may have files in it that can be written to through it."""
        if "ro" in self.options or self.kind in _NOBODYS:
            return False
        return self.kind != "tmpfs" or not Path(os.fsdecode(self.point)).is_relative_to(_DEVICES)


def _mounts() -> Iterator[_Mount]:
    """All of this namespace (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
        kind = fields[fields.index(b"-") + 1]
        yield _Mount(int(fields[0]), point, frozenset(fields[5].decode().split(",")), kind.decode())


def _bound(folder: Path) -> int:
    """Make a folder a mount of its own; its number."""
    if error := _mount(os.fsencode(folder), os.fsencode(folder), _MS_BIND):
        raise VerifierUnavailable(
            f"{printable(str(folder), 1024)} cannot be made a mount of its own: {os.strerror(error).lower()}", _HINT
        )
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        return _number_of(descriptor)
    finally:
        os.close(descriptor)


def _is_made_read_only(mount: _Mount) -> bool:
    """Whether it was writable, and is no more. One that lies below another is reached by no path, and left alone."""
    if not mount.is_writable_disk():
        return False
    with suppress(FileNotFoundError, NotADirectoryError):  # gone since, or hidden
        descriptor = os.open(mount.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if _number_of(descriptor) == mount.number:
                return _remounted(mount, descriptor)
        finally:
            os.close(descriptor)
    return False


def _remounted(mount: _Mount, descriptor: int) -> bool:
    kept = sum(flag for name, flag in _KEPT.items() if name in mount.options)
    error = _mount(None, b"/proc/self/fd/%d" % descriptor, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)
    if error and any(one.number == mount.number for one in _mounts()):
        shown = printable(os.fsdecode(mount.point), 1024)
        raise VerifierUnavailable(
            f"{shown} ({mount.kind}) cannot be made read-only for the verifier: {os.strerror(error).lower()}", _HINT
        )
    return not error


def _mount(source: bytes | None, target: bytes, flags: int) -> int:
    """mount(2); its error number, or 0."""
    failed = _libc.mount(source, target, None, ctypes.c_ulong(flags), None)
    return ctypes.get_errno() if failed else 0


def _number_of(descriptor: int) -> int:
    """Of the mount through which a file was opened."""
    words = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
    return int(words[words.index("mnt_id:") + 1])
