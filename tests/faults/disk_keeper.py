"""Freezes and thaws one mounted file system, as a process that depends on nobody.

    python -I -S disk_keeper.py MOUNT_POINT SECONDS

It reads lines: `freeze` and `thaw`, and answers each with the same word, or with `error ERRNO`. It thaws by itself when
a freeze has lasted for SECONDS, and answers `expired` to the thaw that comes later. When its standard input ends (its
caller is dead, or done), it thaws and unmounts. A second process, its child, does both too when the first one is gone.
Neither belongs to the caller's session, and neither ends on a signal that can be caught.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import sys
import time

FIFREEZE = 0xC0045877  # linux/fs.h
FITHAW = 0xC0045878
MNT_DETACH = 2
UNMOUNT_LIMIT = 10.0
"""Seconds in which the last user of the file system must be gone, before it is only detached."""


def thaw(mount_point: str) -> None:
    """Thaw, if it is frozen and if it is there."""
    with contextlib.suppress(OSError):
        descriptor = os.open(mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FITHAW, 0)
        finally:
            os.close(descriptor)


def unmount(mount_point: str) -> None:
    """Unmount; what is still in use after a while is detached, and goes with its last user."""
    library = ctypes.CDLL(None, use_errno=True)
    deadline = time.monotonic() + UNMOUNT_LIMIT
    while library.umount2(mount_point.encode(), 0) and ctypes.get_errno() == errno.EBUSY:
        if time.monotonic() > deadline:
            library.umount2(mount_point.encode(), MNT_DETACH)
            return
        time.sleep(0.02)  # there is no event for "not busy any more"


def stand_by(keeper_is_gone: int, mount_point: str) -> None:
    """The second process: nothing as long as the first one lives."""
    with contextlib.suppress(OSError):
        os.read(keeper_is_gone, 1)
    thaw(mount_point)
    unmount(mount_point)


def keep(mount_point: str, limit: float) -> None:
    """The first process."""
    due: float | None = None
    expired = False
    while True:
        wait = None if due is None else max(0.0, due - time.monotonic())
        if not select.select([0], [], [], wait)[0]:
            thaw(mount_point)
            due, expired = None, True
            continue
        command = os.read(0, 64).decode().strip()
        if not command:
            return
        answer = command
        descriptor = os.open(mount_point, os.O_RDONLY)
        try:
            if command == "freeze":
                # The time runs from before the freeze, which itself may hang.
                due, expired = time.monotonic() + limit, False
                fcntl.ioctl(descriptor, FIFREEZE, 0)
            elif expired:
                answer, expired = "expired", False
            else:
                due = None
                fcntl.ioctl(descriptor, FITHAW, 0)
        except OSError as error:
            answer = f"error {error.errno}"
        finally:
            os.close(descriptor)
        os.write(1, f"{answer}\n".encode())


def main() -> None:
    """Split in two, then keep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    mount_point, limit = sys.argv[1], float(sys.argv[2])
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.close(writing)
        os.close(0)
        os.close(1)
        stand_by(reading, mount_point)
        os._exit(0)
    os.close(reading)
    try:
        keep(mount_point, limit)
    finally:
        thaw(mount_point)
        unmount(mount_point)
        os.close(writing)
        os.wait()


if __name__ == "__main__":
    main()
