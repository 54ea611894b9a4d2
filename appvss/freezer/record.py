"""What may be frozen, for whoever comes after a broker and a guardian that are both dead.

It lies in the runtime directory, which is memory (tmpfs), from before the first FIFREEZE to the last thaw. Who finds it
there, and no guardian at work, thaws what it names: the next broker, `appvss thaw --filesystems`, or the service
manager after the broker's end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.freezer import mountinfo
from appvss.freezer.guardian import FITHAW, RECORD, call
from appvss.freezer.mountinfo import shown
from appvss.freezer.opening import Changed, open_mount
from appvss.freezer.plan import Target

GUARDIAN_LIMIT: Final = timedelta(seconds=5)
"""How long a guardian that is still at work is waited for."""
THAW_LIMIT: Final = timedelta(seconds=5)
"""How long the thaw of what a record names is waited for."""
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_PAUSE: Final = 0.02
_SIZE_LIMIT: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Recorded:
    """One file system that may be frozen."""

    path: str
    """Where it was mounted; surrogates for what is no UTF-8 (os.fsdecode)."""
    device: str
    mount_id: int
    type: str


@dataclass(frozen=True, slots=True)
class Record:
    """What may be frozen, and by whom."""

    cycle: str
    boot: str
    """`/proc/sys/kernel/random/boot_id`: after another boot nothing of it is frozen."""
    pid: int
    """The broker."""
    filesystems: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class Released:
    """What became of one file system that a record names."""

    path: str
    """Printable."""
    was_frozen: bool
    """Whether it was frozen, and goes on now."""
    failure: str = ""
    """Why nobody knows, one lower-case sentence; empty: it is not frozen."""


def write(directory: Path, cycle: str, targets: Iterable[Target]) -> None:
    """Say what may be frozen from now on.

    Raises:
        OSError: the directory takes no file.
    """
    filesystems = [
        {"path": os.fsdecode(target.path), "device": target.device, "mount_id": target.mount_id, "type": target.type}
        for target in targets
    ]
    content = {"cycle": cycle, "boot": _boot(), "pid": os.getpid(), "filesystems": filesystems}
    new = directory / f"{RECORD}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        json.dump(content, file)
    new.replace(directory / RECORD)


def remove(directory: Path) -> None:
    """Say that nothing is frozen. What cannot be removed is found later, and does no harm."""
    with contextlib.suppress(OSError):
        (directory / RECORD).unlink()


def read(directory: Path) -> Record | None:
    """What a broker of this boot has left there; None: nothing, or nothing that can be read."""
    try:
        with (directory / RECORD).open(encoding="ascii") as file:
            content = json.loads(file.read(_SIZE_LIMIT))
        record = Record(
            cycle=str(content["cycle"]),
            boot=str(content["boot"]),
            pid=int(content["pid"]),
            filesystems=tuple(
                Recorded(str(each["path"]), str(each["device"]), int(each["mount_id"]), str(each["type"]))
                for each in content["filesystems"]
            ),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if record.boot == _boot() else None


def lock(directory: Path) -> int:
    """Take the right to freeze; the descriptor carries it, in every process that has a copy of it.

    A guardian and its children have one until nothing of theirs can be frozen any more.

    Raises:
        BlockingIOError: others have it.
        OSError: the directory cannot be opened.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def lock_within(directory: Path, limit: timedelta) -> int:
    """As `lock`, and wait for it. Blocks: not on the event loop.

    Raises:
        BlockingIOError: others still have it after `limit`.
        OSError: the directory cannot be opened.
    """
    deadline = time.monotonic() + limit.total_seconds()
    while True:
        try:
            return lock(directory)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)  # the kernel tells nobody that a lock is free who does not wait for ever


def thaw_recorded(
    directory: Path, guardian_limit: timedelta = GUARDIAN_LIMIT, limit: timedelta = THAW_LIMIT
) -> tuple[Released, ...]:
    """Thaw what a record names, and remove it when nothing of that is frozen any more. Blocks, for both limits at most.

    A guardian that is still at work thaws better, in order: it is waited for. One that has not ended in its time is
    not trusted any more, and a broker that runs loses its hold by this.

    Args:
        directory: the runtime directory of the broker that is dead.
        guardian_limit: how long its guardian may still be at work.
        limit: how long the thaw may take.

    Returns:
        What became of each; empty: nothing is recorded, or the guardian has thawed it.
    """
    if read(directory) is None:
        return ()
    held = -1
    with contextlib.suppress(OSError):
        held = lock_within(directory, guardian_limit)
    try:
        return release(directory, limit)
    finally:
        if held >= 0:
            os.close(held)


def release(directory: Path, limit: timedelta = THAW_LIMIT) -> tuple[Released, ...]:
    """As `thaw_recorded`, by one who has the lock."""
    record = read(directory)
    released = _thaw_all(record.filesystems, limit) if record is not None else ()
    if not any(each.failure for each in released):
        remove(directory)
    return released


def _thaw_all(filesystems: Sequence[Recorded], limit: timedelta) -> tuple[Released, ...]:
    """Each in a thread, the last frozen first: one may hang until another has been thawed."""
    found: dict[int, Released] = {}

    def thaw(index: int, filesystem: Recorded) -> None:
        found[index] = _thaw(filesystem)

    threads = [
        threading.Thread(target=thaw, args=(index, each), name=f"thaw {shown(os.fsencode(each.path))}", daemon=True)
        for index, each in enumerate(filesystems)
    ]
    for thread in reversed(threads):
        thread.start()
    deadline = time.monotonic() + limit.total_seconds()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return tuple(
        found.get(index) or Released(shown(os.fsencode(each.path)), False, "its thaw does not come back")
        for index, each in enumerate(filesystems)
    )


def _thaw(filesystem: Recorded) -> Released:
    path = shown(os.fsencode(filesystem.path))
    try:
        descriptor = _open(filesystem)
    except Changed as error:
        return Released(path, was_frozen=False, failure=str(error))
    except OSError as error:
        return Released(path, was_frozen=False, failure=f"it cannot be opened: {error.strerror}")
    try:
        number = call(FITHAW, descriptor)
    finally:
        os.close(descriptor)
    if number in (0, errno.EINVAL):
        return Released(path, was_frozen=number == 0)
    return Released(path, was_frozen=False, failure=f"the kernel refuses to thaw it: {os.strerror(number)}")


def _open(filesystem: Recorded) -> int:
    """A descriptor of it, by any of its mount points: it may have been mounted again since.

    Raises:
        Changed: it is mounted nowhere that a path leads to.
        OSError: the mount table cannot be read, or its mount point cannot be opened.
    """
    mounts = [mount for mount in mountinfo.read().mounts if mount.device == filesystem.device]
    for mount in sorted(mounts, key=lambda mount: mount.mount_id != filesystem.mount_id):
        with contextlib.suppress(Changed):
            return open_mount(mount.path, mount.mount_id)
    raise Changed("it is not mounted any more: mount it again, and thaw it with fsfreeze --unfreeze")


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""
