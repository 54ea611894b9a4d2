"""Mounts loop file systems, and thaws and unmounts them whatever happens, as a process that depends on nobody.

    python -I -S loop_keeper.py HOME SECONDS

It reads lines, words parted by tabs, and answers each with `ok` or with `error` and what was said: `mount` and the
arguments of mount(8), the last of which is the mount point; `umount POINT`; `freeze POINT` and `thaw POINT`, by another
hand than the tested one. When its standard input ends (its caller is done, or dead), it thaws all that is mounted below
HOME, each in a process of its own since one may lie on another, and unmounts it, the last first. When no line has come
for SECONDS it thaws once in every second, until one comes. A second process, its child, does the same when the first
one is gone. Neither belongs to the caller's session, and neither ends on a signal that can be caught.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import time

FIFREEZE = 0xC0045877  # linux/fs.h
FITHAW = 0xC0045878
MNT_DETACH = 2
UNMOUNT_LIMIT = 10.0
"""Seconds in which the last user of a file system must be gone, before it is only detached."""


def mount_points(home: str) -> list[str]:
    """What is mounted below `home`, the oldest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            escaped = line.split(" ")[4]
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped)
            if point.startswith(home + "/"):
                found.append(point)
    return found


def on(point: str, number: int) -> None:
    """One ioctl on the file system that is mounted at `point`."""
    descriptor = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, number, 0)
    finally:
        os.close(descriptor)


def thaw_all(home: str) -> None:
    """Thaw what is frozen. Nobody waits for it: the thaw of one may need that of another."""
    for point in mount_points(home):
        if os.fork() == 0:
            with contextlib.suppress(OSError):
                on(point, FITHAW)
            os._exit(0)


def reap() -> None:
    """Forget the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def unmount_all(home: str) -> None:
    """Unmount, the last first; what is still in use after a while is detached, and goes with its last user."""
    library = ctypes.CDLL(None, use_errno=True)
    deadline = time.monotonic() + UNMOUNT_LIMIT
    while left := mount_points(home):
        thaw_all(home)
        flags = MNT_DETACH if time.monotonic() > deadline else 0
        for point in reversed(left):
            if library.umount2(os.fsencode(point), flags) and ctypes.get_errno() not in (errno.EBUSY, errno.EINVAL):
                return
        time.sleep(0.02)  # there is no event for "not busy any more"
        reap()


def carry_out(words: list[str]) -> str:
    """One command's answer."""
    command, point = words[0], words[-1]
    try:
        if command in ("mount", "umount"):
            done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
            return "ok" if done.returncode == 0 else f"error {done.stderr.strip()!r}"
        on(point, FIFREEZE if command == "freeze" else FITHAW)
    except (OSError, subprocess.SubprocessError) as error:
        return f"error {error}"
    return "ok"


def keep(home: str, limit: float) -> None:
    """The first process, until its caller is gone."""
    due = time.monotonic() + limit
    pending = b""
    while True:
        if not select.select([0], [], [], max(0.0, due - time.monotonic()))[0]:
            thaw_all(home)
            reap()
            due = time.monotonic() + 1.0
            continue
        read = os.read(0, 65536)
        if not read:
            return
        due = time.monotonic() + limit
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            os.write(1, os.fsencode(carry_out(os.fsdecode(line).split("\t")) + "\n"))


def main() -> None:
    """Split in two, then keep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    home, limit = sys.argv[1], float(sys.argv[2])
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.close(writing)
        os.close(0)
        os.close(1)
        with contextlib.suppress(OSError):
            os.read(reading, 1)
        unmount_all(home)
        os._exit(0)
    os.close(reading)
    try:
        keep(home, limit)
    finally:
        unmount_all(home)
        os._exit(0)


if __name__ == "__main__":
    main()
