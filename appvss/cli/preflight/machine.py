"""The machine below the broker: descriptors, priority, clocks, boot, and where the log goes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from appvss.cli.preflight.finding import Daemon, Finding, Plan, ok, problem, warning
from appvss.cli.preflight.mounts import mount_of
from appvss.model.names import printable

DESCRIPTORS_AN_APP: Final = 3
"""What the broker needs for each app: its stream, its side connection, the handle on its process."""
DESCRIPTORS_BESIDE: Final = 200
"""What it needs besides: log, sockets, administrators, the device."""
PRIORITY: Final = -10
"""The nice value that it wants."""
_YEARS: Final = range(2024, 2100)
_STEP_LIMIT: Final = timedelta(milliseconds=500)
_CLOCK_UNSYNCHRONISED: Final = 5
"""TIME_ERROR of ntp_adjtime(3), on Linux and FreeBSD alike."""
_TIMEX_ROOM: Final = 512
"""Bytes: more than `struct timex` has anywhere."""


def user() -> Iterator[Finding]:
    """Whether this command sees what it has to look at."""
    if os.geteuid() != 0:
        yield warning(
            "user",
            f"this runs as user {os.geteuid()}: what only root may see is not looked at",
            "Run it as root, or as the broker's user.",
        )


def descriptors(plan: Plan, daemon: Daemon | None) -> Finding:
    """Whether all apps that are allowed could be there at once."""
    check = "descriptors"
    wanted = plan.app_limit * DESCRIPTORS_AN_APP + DESCRIPTORS_BESIDE
    hard = _hard_limit(daemon)
    who = "this shell" if daemon is None else "the broker"
    if hard is None:
        return ok(check, f"{who} may open as many files as it likes")
    if hard < wanted:
        return warning(
            check,
            f"{who} may open {hard} files, and {plan.app_limit} apps may need {wanted}",
            f"Raise the limit (`LimitNOFILE={wanted}` in its unit, `ulimit -n {wanted}`), or lower `apps.limit`.",
        )
    return ok(check, f"{who} may open {hard} files; {plan.app_limit} apps need {wanted} at most")


def _hard_limit(daemon: Daemon | None) -> int | None:
    """None: there is none."""
    if daemon is not None:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{daemon.pid}/limits").read_text(encoding="ascii", errors="replace")
            found = re.search(r"^Max open files\s+\S+\s+(\S+)", text, re.MULTILINE)
            if found:
                return int(found[1]) if found[1].isdigit() else None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def priority(daemon: Daemon | None) -> Iterator[Finding]:
    """Whether the broker goes ahead of the apps on a busy machine."""
    if daemon is None:
        return
    try:
        nice = os.getpriority(os.PRIO_PROCESS, daemon.pid)
    except OSError:
        return
    if nice > PRIORITY:
        yield warning(
            "priority",
            f"the broker runs at priority {nice}, not {PRIORITY}: on a busy machine freezes take longer",
            f"Give it the right: `Nice={PRIORITY}` in its unit, or run it as root.",
        )
    else:
        yield ok("priority", f"the broker runs at priority {nice}, ahead of the apps")


def log(daemon: Daemon | None) -> Iterator[Finding]:
    """Where the broker's standard error goes, which is its log."""
    check = "log"
    if daemon is None:
        return
    try:
        place = os.readlink(f"/proc/{daemon.pid}/fd/2")
        found = os.stat(f"/proc/{daemon.pid}/fd/2")
    except OSError:
        return  # another user's process, or a system without such links
    shown = printable(place)
    if place == os.devnull:
        yield warning(check, "the broker's log goes to /dev/null: nobody can read it", "Start it with a log.")
    elif stat.S_ISREG(found.st_mode):
        mount = mount_of(Path(place))
        if place.endswith(" (deleted)"):
            yield warning(check, f"the broker's log {shown} was removed", "Restart it, so that it begins a new one.")
        elif mount is not None and mount.is_in_memory:
            yield warning(check, f"the broker's log {shown} lies in memory ({mount})", "Keep it on a disk.")
        else:
            yield ok(check, f"the log goes to {shown} ({mount or 'unknown'}); nothing is written to it in a hold")
    elif stat.S_ISSOCK(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        yield ok(check, "the log goes to the service manager's journal, or to another process; not in a hold")
    elif stat.S_ISCHR(found.st_mode):
        yield warning(
            check, f"the log goes to the terminal {shown}: nobody keeps it", "Start it from a service manager."
        )


def wall_clock(now: datetime, newest_cycle: datetime | None) -> Finding:
    """Whether the time of the wall clock can be true. Limits do not depend on it; history and certificates name it."""
    if now.year not in _YEARS:
        return problem("clock", f"the wall clock says {now:%Y-%m-%d}, which cannot be", "Set it, and synchronise it.")
    if newest_cycle is not None and newest_cycle > now + _STEP_LIMIT:
        return warning(
            "clock",
            f"the newest cycle is of {newest_cycle:%Y-%m-%d %H:%M:%S}, in the future: the clock was set back",
            "See that the time is synchronised: `timedatectl`, or `ntpq -p`.",
        )
    return ok("clock", f"the wall clock says {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")


def clock_steps(wall: timedelta, monotonic: timedelta) -> Finding:
    """Whether the wall clock was set while this command ran.

    Args:
        wall: how long it ran by the wall clock.
        monotonic: the same by the clock that nobody can set.
    """
    if abs(wall - monotonic) > _STEP_LIMIT:
        return warning(
            "clock_steps",
            f"the wall clock went {(wall - monotonic).total_seconds():+.1f}s against the monotonic one just now",
            "See who sets it. Limits do not depend on it; the times in the history do.",
        )
    return ok("clock_steps", "the wall clock and the monotonic clock go alike")


def synchronised() -> Iterator[Finding]:
    """Whether the kernel takes its time for synchronised (ntp_adjtime(3), asked with no change). Where it cannot be
    asked, nothing is said.
    """
    room = ctypes.create_string_buffer(_TIMEX_ROOM)
    try:
        state = int(ctypes.CDLL(None).ntp_adjtime(room))
    except (OSError, AttributeError):
        return
    if state == _CLOCK_UNSYNCHRONISED:
        yield warning(
            "time_synchronised",
            "the kernel does not take its time for synchronised",
            "Run a time service, such as chrony or ntpd. Limits do not depend on it; the times in the history do.",
        )
    elif state >= 0:
        yield ok("time_synchronised", "the time is synchronised")


def boot(is_known: bool) -> Finding:
    """Whether a broker that is started in a hold can tell its own boot from another."""
    if is_known:
        return ok("boot", "the identity of this boot is known")
    return warning(
        "boot",
        "the identity of this boot is not known: a broker that dies in a hold cannot be followed by another",
        "On FreeBSD it takes version 13 or newer (`sysctl -b kern.boot_id`), on Linux /proc.",
    )
