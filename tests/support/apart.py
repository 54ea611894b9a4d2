"""Runs a program in a mount namespace of its own, in which nothing of other tests is mounted.

    python -I -S -B apart.py FOLDER COMMAND...

The namespace is a slave of the caller's: what is mounted or unmounted below a shared mount there is so here, too, and
nothing that is done here is seen there. What other tests have mounted beside FOLDER is detached, so that this namespace
does not keep it, and its loop device, alive. Then the command takes the place of this process.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys

CLONE_NEWNS = 0x00020000  # linux/sched.h
MS_REC = 0x4000  # linux/mount.h
MS_SLAVE = 0x80000
MNT_DETACH = 2


def mount_points() -> list[bytes]:
    """Everything that is mounted, the oldest first."""
    with open("/proc/self/mountinfo", "rb") as table:
        escaped = [line.split(b" ")[4] for line in table]
    return [re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), point) for point in escaped]


def main() -> None:
    """Leave the caller's namespace, then be the command."""
    folder, *command = sys.argv[1:]
    library = ctypes.CDLL(None, use_errno=True)
    for failed in (
        library.unshare(CLONE_NEWNS),
        library.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None),
    ):
        if failed:
            sys.exit(f"no mount namespace can be made: {os.strerror(ctypes.get_errno())}")
    beside, ours = os.fsencode(os.path.dirname(folder)) + b"/", os.fsencode(folder)
    for point in reversed(mount_points()):
        if point.startswith(beside) and point != ours and not point.startswith(ours + b"/"):
            library.umount2(point, MNT_DETACH)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
