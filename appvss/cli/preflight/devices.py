"""The device of each source: there, the right kind, with the right to open it, and held by nobody else.

It is never opened: that alone has effects on the driver (facts: opening registers an app, and makes the driver remember
the process).
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appvss.cli.preflight.finding import Daemon, Finding, Plan, ok, problem, warning
from appvss.model.names import printable

_PROCESSES: Final = Path("/proc")
_FSTAT: Final = "/usr/bin/fstat"
_LIMIT: Final = 10.0
"""Seconds."""
_ABSENT_HINT: Final = (
    'See that this is a Hyper-V guest, that the host offers it the service "Backup (volume checkpoint)", and that the '
    'driver is loaded: hv_vss(4). If it is none: `sources.freebsd.mode = "off"`.'
)


def device(plan: Plan, daemon: Daemon | None) -> Finding:
    """The FreeBSD app device."""
    check, path = "device_freebsd", plan.device
    if plan.device_mode == "off":
        return ok(check, "sources.freebsd is off, as configured")
    if daemon is not None and daemon.device:
        return ok(check, f"the broker has {daemon.device} open and serves it")
    try:
        found = path.stat()
    except FileNotFoundError:
        return _absent(check, plan)
    except OSError as error:
        return problem(check, f"{path} cannot be looked at: {printable(str(error.strerror).lower())}", _ABSENT_HINT)
    if stat.S_ISDIR(found.st_mode) or (_is_freebsd() and not stat.S_ISCHR(found.st_mode)):
        return problem(check, f"{path} is no device", "Name the device in `sources.freebsd.device`.")
    if not os.access(path, os.R_OK):
        return problem(
            check,
            f"user {os.geteuid()} may not open {path}, which has user {found.st_uid}, group {found.st_gid} and mode "
            f"{stat.S_IMODE(found.st_mode):o}",
            "Run the broker as root, or as a member of the device's group (devfs.rules).",
        )
    others = [name for pid, name in holders(path) if daemon is None or not is_of(pid, daemon.pid)]
    if others:
        return problem(
            check,
            f"{path} is held by {', '.join(others)}, and it admits only one",
            "Stop that process, or set this source to `off`.",
        )
    return ok(check, f"{path} is there, may be opened, and is held by nobody else")


def _absent(check: str, plan: Plan) -> Finding:
    sentence = f"{plan.device} is not there"
    if plan.device_mode == "required":
        return problem(
            check, f"{sentence}, and sources.freebsd.mode is required: the broker does not start", _ABSENT_HINT
        )
    if _is_freebsd():
        return warning(check, f"{sentence}: no freeze of the host reaches the broker", _ABSENT_HINT)
    return ok(check, f"{sentence}, as on every machine but a FreeBSD guest of Hyper-V; its source waits for it")


def holders(path: Path) -> Iterator[tuple[int, str]]:
    """The processes that have a file open, as far as this user may see: process id, and `process 7 (name)`."""
    if _is_freebsd():
        yield from _by_fstat(path)
        return
    with contextlib.suppress(OSError):
        for entry in os.listdir(_PROCESSES):
            if entry.isdigit() and int(entry) != os.getpid() and _has_open(_PROCESSES / entry / "fd", str(path)):
                yield int(entry), f"process {entry} ({_name(int(entry))})"


def _has_open(descriptors: Path, path: str) -> bool:
    with contextlib.suppress(OSError):
        for number in os.listdir(descriptors):
            with contextlib.suppress(OSError):
                if os.readlink(descriptors / number) == path:
                    return True
    return False


def _name(pid: int) -> str:
    try:
        return printable((_PROCESSES / str(pid) / "comm").read_text(encoding="utf-8", errors="replace"), 32)
    except OSError:
        return "unknown"


def _by_fstat(path: Path) -> Iterator[tuple[int, str]]:
    try:
        done = subprocess.run((_FSTAT, str(path)), capture_output=True, text=True, timeout=_LIMIT, check=False)
    except (OSError, subprocess.SubprocessError):
        return
    yield from in_fstat(done.stdout)


def in_fstat(text: str) -> Iterator[tuple[int, str]]:
    """The processes in what fstat(1) writes: below a head, lines that begin with user, command and process id."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 2 and fields[2].isdigit():
            yield int(fields[2]), f"process {fields[2]} ({printable(fields[1], 32)})"


def is_of(pid: int, broker: int) -> bool:
    """Whether a process is the broker, or the child that opens its devices."""
    if pid == broker:
        return True
    try:
        text = (_PROCESSES / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[1]) == broker
    except (OSError, ValueError, IndexError):
        return False


def _is_freebsd() -> bool:
    return sys.platform.startswith("freebsd")
