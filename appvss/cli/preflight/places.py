"""The broker's places: runtime directory, sockets, lock, group; state directory, its disk, its history."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appvss import contract
from appvss.cli.preflight.finding import Daemon, Finding, Plan, ok, problem, warning
from appvss.cli.preflight.mounts import mount_of
from appvss.model.names import printable

_LEAST_SPACE: Final = 1 << 20
"""Bytes: below that the journal of a cycle with many apps has no room."""
_FEW_SPACE: Final = 64 << 20
_STATE_MODE: Final = 0o700
_APPS_MODE: Final = 0o660
_ADMIN_MODE: Final = 0o600
_PID_LIMIT: Final = 32
_LOCKS: Final = Path("/proc/locks")
_AS_ROOT: Final = "Run this as the broker's user, usually root."
_RESTART: Final = "Restart the broker: it makes its sockets anew."


def runtime_directory(plan: Plan, daemon: Daemon | None) -> Iterator[Finding]:
    """The directory, and in it the sockets and the lock."""
    check, path = "runtime_directory", plan.runtime_directory
    try:
        found = path.stat()
    except FileNotFoundError:
        yield _to_be_made(check, "the runtime directory", path)
        return
    except OSError as error:
        yield problem(check, f"the runtime directory {path} cannot be looked at: {_reason(error)}", _AS_ROOT)
        return
    if not stat.S_ISDIR(found.st_mode):
        yield problem(check, f"{path} is no directory", "Name another one in `broker.runtime_directory`.")
        return
    if found.st_uid not in (0, _user(daemon)) or found.st_mode & stat.S_IWOTH:
        yield problem(
            check,
            f"the runtime directory {path} belongs to user {found.st_uid} with mode {_mode(found)}: others could "
            "replace the sockets",
            "Let only the broker's user own it and write in it, or name another in `broker.runtime_directory`.",
        )
    else:
        yield ok(check, f"{path} belongs to user {found.st_uid}, mode {_mode(found)}")
    yield lock(path / contract.LOCK_FILE, daemon)
    if daemon is not None:
        yield from sockets(plan, daemon)


def sockets(plan: Plan, daemon: Daemon) -> Iterator[Finding]:
    """Whether each socket of a running broker is there, and open to those that it is for and to nobody else."""
    group = _group_id(plan.socket_group)
    for name in (contract.APPS_SOCKET, contract.PEER_SOCKET, contract.ADMIN_SOCKET):
        path = plan.runtime_directory / name
        try:
            found = path.lstat()
        except OSError as error:
            yield problem("sockets", f"the socket {path} is not there: {_reason(error)}", _RESTART)
            continue
        mode = stat.S_IMODE(found.st_mode)
        wanted = _ADMIN_MODE if name == contract.ADMIN_SOCKET else _APPS_MODE
        if not stat.S_ISSOCK(found.st_mode):
            yield problem("sockets", f"{path} is no socket", _RESTART)
        elif mode & ~wanted:
            yield problem("sockets", f"the socket {path} has mode {_mode(found)}: more than {wanted:o}", _RESTART)
        elif found.st_uid != _user(daemon):
            yield problem("sockets", f"the socket {path} belongs to user {found.st_uid}, not the broker's", _RESTART)
        elif name != contract.ADMIN_SOCKET and group is not None and (found.st_gid, mode) != (group, wanted):
            yield problem(
                "sockets",
                f"the socket {path} has group {found.st_gid} and mode {_mode(found)}: members of {plan.socket_group} "
                "cannot take part",
                _RESTART,
            )
        else:
            yield ok("sockets", f"{path} has user {found.st_uid}, group {found.st_gid}, mode {_mode(found)}")


def lock(path: Path, daemon: Daemon | None) -> Finding:
    """Whether the lock is the running broker's, or nobody's. It is not tried: that could keep a broker from
    starting.
    """
    try:
        holder = path.read_text(encoding="ascii", errors="replace")[:_PID_LIMIT].strip()
    except FileNotFoundError:
        return ok("lock", f"nobody holds {path}")
    except OSError as error:
        return warning("lock", f"the lock file {path} cannot be read: {_reason(error)}", _AS_ROOT)
    pid = int(holder) if holder.isascii() and holder.isdigit() else 0
    if daemon is not None and pid == daemon.pid:
        return ok("lock", f"{path} is held by the broker, process {pid}")
    is_held = _is_held(path)
    if is_held is None:
        is_held = pid > 0 and _is_there(pid)
    if is_held:
        return problem(
            "lock",
            f"{path} is held by process {pid or 'unknown'}, which is not the broker that answers here",
            f"See what it is (`ps -p {pid}`) and stop it, or give this broker a directory of its own.",
        )
    if daemon is not None:
        return problem("lock", f"the running broker, process {daemon.pid}, does not hold {path}", _RESTART)
    return ok("lock", f"nobody holds {path}")


def _is_held(path: Path) -> bool | None:
    """Whether anybody has a flock on it, without a try to get one (proc_locks(5)). None: nobody can tell."""
    try:
        inode = str(path.stat().st_ino)
        lines = _LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    rows = [line.split() for line in lines]
    return any(len(row) > 5 and row[1] == "FLOCK" and row[5].rpartition(":")[2] == inode for row in rows)


def socket_group(plan: Plan) -> Finding:
    """Whether anybody but the broker's own user may take part."""
    name = plan.socket_group
    if not name:
        return ok("socket_group", "only the broker's own user may take part, as configured")
    group = _group_id(name)
    if group is None:
        return warning(
            "socket_group",
            f"there is no group {name}: only the broker's own user may take part as an app",
            f"Make it (`groupadd --system {name}`, on FreeBSD `pw groupadd {name}`), add the apps' users, restart the "
            "broker; or name another in `broker.socket_group`.",
        )
    members = ", ".join(grp.getgrgid(group).gr_mem[:8])
    return ok("socket_group", f"the group {name} is there" + (f", with {members}" if members else ""))


def state_directory(path: Path, daemon: Daemon | None) -> Iterator[Finding]:
    """The directory of journal, history and certificate, and the disk that it is on."""
    check = "state_directory"
    try:
        found = path.lstat()
    except FileNotFoundError:
        yield _to_be_made(check, "the state directory", path)
        yield from _disk(path)
        return
    except OSError as error:
        yield problem(check, f"the state directory {path} cannot be looked at: {_reason(error)}", _AS_ROOT)
        return
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0
    if not path.is_dir():
        yield problem(check, f"{path} is no directory", "Name another one in `broker.state_directory`.")
        return
    if found.st_uid not in (0, _user(daemon)) or mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield problem(
            check,
            f"the state directory {path} belongs to user {found.st_uid} with mode {mode:o}: others could change the "
            "journal",
            f"Let only the broker's user own it: `chown root {path} && chmod 700 {path}`.",
        )
    elif mode & ~_STATE_MODE:
        yield warning(
            check,
            f"the state directory {path} has mode {mode:o}: others may read what apps give as evidence",
            f"Close it: `chmod 700 {path}`.",
        )
    elif not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        yield problem(check, f"user {os.geteuid()} may not write in the state directory {path}", _AS_ROOT)
    else:
        yield ok(check, f"{path} belongs to user {found.st_uid}, mode {mode:o}")
    yield from _disk(path)


def _disk(path: Path) -> Iterator[Finding]:
    """Room, and whether the disk takes writes at all; and whether an image of this machine's disks would have it."""
    place = next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))
    free = os.statvfs(place)
    room = free.f_bavail * free.f_frsize
    check = "state_space"
    if free.f_flag & os.ST_RDONLY:
        yield problem(
            check, f"the disk of {path} is read-only", "Mount it for writing, or name another `broker.state_directory`."
        )
    elif room < _LEAST_SPACE or (free.f_files and not free.f_favail):
        yield problem(check, f"the disk of {path} is full: {_size(room)} free", "Make room on it.")
    elif room < _FEW_SPACE:
        yield warning(check, f"the disk of {path} is nearly full: {_size(room)} free", "Make room on it.")
    else:
        yield ok(check, f"{_size(room)} are free on the disk of {path}")
    yield _file_system(path)


def _file_system(path: Path) -> Finding:
    check, mount = "state_file_system", mount_of(path)
    if mount is None:
        return warning(check, f"nobody can tell which file system {path} is on", "See `df` and `mount`.")
    if mount.is_in_memory:
        return warning(
            check,
            f"{path} lies in memory ({mount}): the history ends with the machine, and no snapshot carries its "
            "certificate",
            "Name a directory on a disk in `broker.state_directory`, such as /var/lib/appvss.",
        )
    if mount.is_remote:
        return warning(
            check,
            f"{path} lies on another machine ({mount}): no snapshot of this one carries its certificate",
            "Name a directory on a local disk in `broker.state_directory`.",
        )
    return ok(check, f"{path} lies on {mount}; a snapshot carries it, and nothing is written there in a hold")


def _to_be_made(check: str, what: str, path: Path) -> Finding:
    parent = next((parent for parent in path.parents if parent.exists()), Path("/"))
    if os.geteuid() != 0 and not os.access(parent, os.W_OK):
        return warning(check, f"{what} {path} is not there yet, and user {os.geteuid()} cannot make it", _AS_ROOT)
    return ok(check, f"{what} {path} is not there yet; the broker makes it")


def _user(daemon: Daemon | None) -> int:
    return os.geteuid() if daemon is None or daemon.uid is None else daemon.uid


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):o}"


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _reason(error: OSError) -> str:
    return printable((error.strerror or str(error)).lower())
