"""Which boot of the machine this is. An open cycle of this boot may still be held; one of another cannot be."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

_LINUX: Final = Path("/proc/sys/kernel/random/boot_id")
_SYSCTL: Final = "/sbin/sysctl"
_SYSCTL_LIMIT: Final = 5.0
"""Seconds."""
_LENGTH: Final = 16
"""Bytes of FreeBSD's identity."""
_UNKNOWN: Final = "unknown-"


def boot_identity(platform: str = sys.platform, linux: Path = _LINUX, sysctl: str = _SYSCTL) -> str:
    """A word that is the same for all processes of this boot, and of no other boot of this or another machine.

    Linux has a random one in `/proc/sys/kernel/random/boot_id` (random(4)). FreeBSD 13 and newer have one in the sysctl
    `kern.boot_id`, sixteen random bytes (sys/kern/kern_mib.c). `kern.boottime` of older ones is no identity: it is
    worked out again each time the wall clock is set (time(9)), so a broker that was started again after such a step
    would take its own boot for another. It is not used; there the boot is unknown.

    An unknown boot is another at each call, and `is_known` tells it: nothing is claimed of it, neither that a cycle may
    be adopted nor that the machine was restored.

    May start a short process and wait for it: call it before anything is held, not on the event loop.
    """
    found = ""
    if platform.startswith("linux"):
        found = _read(linux)
    elif platform.startswith("freebsd"):
        found = _ask(sysctl)
    return found or _UNKNOWN + secrets.token_hex(_LENGTH)


def is_known(boot: str) -> bool:
    """Whether `boot` is the identity of a boot at all."""
    return bool(boot) and not boot.startswith(_UNKNOWN)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _ask(sysctl: str) -> str:
    """FreeBSD's identity; empty before its random device has been seeded (ENXIO), and where there is none."""
    try:
        asked = subprocess.run(
            (sysctl, "-b", "kern.boot_id"), capture_output=True, check=True, timeout=_SYSCTL_LIMIT, close_fds=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.hex() if len(asked.stdout) == _LENGTH else ""
