"""The tree of cgroups of version 2, and what in it must not be frozen (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.adapters.errors import PrivilegeMissing, ServerUnfit

_MOUNTS: Final = Path("/proc/self/mountinfo")
_PROC: Final = Path("/proc")
_NOTICE: Final = timedelta(milliseconds=25)
"""The kernel tells of changes every hundredth of a second at most, and later of those in between
(CGROUP_FILE_NOTIFY_MIN_INTV, kernel/cgroup/cgroup.c). A thaw within this time after a freeze stays unseen."""
_NEEDED: Final = frozenset(
    {
        *(
            "sshd",
            "sshd-session",
            "systemd",
            "init",
            "systemd-journald",
            "systemd-logind",
            "dbus-daemon",
            "dbus-broker",
        ),
        *("qemu-ga", "vmtoolsd", "hv_vss_daemon", "hv_kvp_daemon", "waagent", "google_guest_agent", "amazon-ssm-agent"),
        *("hypervvssd", "hypervkvpd"),  # what Red Hat calls them
    }
)
"""What lets a person in, what the machine cannot do without, and what brings the word that the snapshot is done."""
_OURS: Final = re.compile(r"(.*/)?appvss([./].*)?")
"""An argument of a process that is part of AppVSS: the broker, its guardian, the agent."""
_INTERPRETER: Final = re.compile(r"python[0-9.]*")


@dataclass(frozen=True, slots=True)
class Group:
    """A cgroup, opened."""

    name: str
    """Below the mount point, with a slash in front."""
    path: Path
    descriptor: int
    inode: int

    def read(self, file: str) -> str:
        """What one of its files says.

        Raises:
            OSError: it is gone.
        """
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.descriptor)
        with open(descriptor, encoding="ascii") as opened:
            return opened.read()

    def set_frozen(self, frozen: bool) -> None:
        """Begin to freeze or thaw it.

        Raises:
            OSError: it is gone, or this user may not.
        """
        descriptor = os.open("cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.descriptor)
        try:
            os.write(descriptor, b"1" if frozen else b"0")
        finally:
            os.close(descriptor)

    @property
    def is_wanted_frozen(self) -> bool:
        """Whether `cgroup.freeze` is 1."""
        return self.read("cgroup.freeze").strip() == "1"

    def processes(self) -> frozenset[int]:
        """All of it and of the cgroups below it."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):  # it has just gone
                found |= {int(line) for line in (Path(folder) / "cgroup.procs").read_text("ascii").split()}
        return frozenset(found - {0})  # 0: of another namespace


class Watch:
    """Tells of changes of `cgroup.events`, the kernel's word on whether all of a cgroup stands still."""

    def __init__(self, group: Group) -> None:
        self._file = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=group.descriptor)
        # The file tells by POLLPRI, which an event loop does not know. An epoll(7) that has it in it is readable then.
        self._poll = select.epoll()
        self._poll.register(self._file, select.EPOLLPRI)
        self._settled: asyncio.Task[None] | None = None

    def is_frozen(self) -> bool:
        """What it says now; changes count from here on.

        Raises:
            OSError: the cgroup is gone.
        """
        return b"frozen 1" in os.pread(self._file, 4096, 0)

    def begin(self) -> None:
        """From now on nothing is to change. What the kernel has not told yet is told soon."""
        self._settled = asyncio.create_task(self._settle(), name="cgroup settle")

    async def _settle(self) -> None:
        await asyncio.sleep(_NOTICE.total_seconds())
        with contextlib.suppress(OSError):  # it is gone: that is noticed later
            self.is_frozen()

    async def has_changed(self) -> bool:
        """Whether anything has changed since `begin`."""
        if self._settled is not None:
            await self._settled
            await asyncio.sleep(_NOTICE.total_seconds())
        return bool(self._poll.poll(0))

    async def wait(self, frozen: bool, limit: timedelta) -> bool:
        """Wait until it is frozen, or not; whether it is, in the end.

        Raises:
            OSError: the cgroup is gone.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._poll.fileno(), changed.set)
        try:
            async with asyncio.timeout(limit.total_seconds()):
                while self.is_frozen() is not frozen:
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._poll.fileno())
        return True

    def close(self) -> None:
        """Give back its descriptors."""
        if self._settled is not None:
            self._settled.cancel()
        self._poll.close()
        os.close(self._file)


def below(cgroup: str) -> str:
    """The name of a cgroup below the mount point; a whole path is taken as well."""
    root = str(mount())
    name = os.path.normpath(cgroup)
    return name.removeprefix(root) if name.startswith(f"{root}/") else name


def mount() -> Path:
    """Where cgroups of version 2 are mounted, also beside those of version 1.

    Raises:
        ServerUnfit: nowhere.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if rest.split()[:1] == ["cgroup2"]:
            return Path(fields.split()[4])
    raise ServerUnfit(
        "no cgroup2 file system is mounted", "Mount one, or boot with systemd.unified_cgroup_hierarchy=1."
    )


@contextlib.contextmanager
def opened(name: str) -> Iterator[Group]:
    """A cgroup, by its name.

    Raises:
        ServerUnfit: there is none, or it is the root of all.
    """
    root = mount()
    path = Path(os.path.normpath(f"{root}/{name}"))
    if path == root or root not in path.parents:
        raise ServerUnfit("the root of all cgroups cannot be frozen", "Name the service's own.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ServerUnfit(
            f"there is no cgroup {name} in {root}: {error.strerror}",
            "systemd 246 or newer with the unified hierarchy has one for each running unit.",
        ) from error
    group = Group(f"/{path.relative_to(root)}", path, descriptor, os.fstat(descriptor).st_ino)
    try:
        yield group
    finally:
        os.close(descriptor)


def refuse_needed(group: Group) -> None:
    """Refuse to freeze what would freeze the hand that thaws.

    Raises:
        ServerUnfit: something is in it that must go on.
    """
    processes = group.processes()
    if not processes:
        raise ServerUnfit(f"{group.name} has no processes", "Start the service, or leave it out.")
    family = set(_ancestors(os.getpid())) | {1}
    for pid in sorted(processes):
        if pid in family or _is_needed(pid):
            raise ServerUnfit(
                f"{group.name} has {named(pid)} in it, which must go on",
                "Name the service's own cgroup: what freezes, thaws or lets people in cannot be in it.",
            )


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0


def _is_needed(pid: int) -> bool:
    """Whether a process is one of those that must go on: by its name, its program, its script or its arguments."""
    try:
        name = (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        arguments = (_PROC / str(pid) / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return False  # it has just ended
    program = ""
    with contextlib.suppress(OSError):
        program = os.path.basename(os.readlink(_PROC / str(pid) / "exe").removesuffix(" (deleted)"))
    script = ""
    if _INTERPRETER.fullmatch(program):  # `python3 -u /usr/sbin/waagent -daemon`, as Azure's unit has it
        script = os.path.basename(next((each for each in arguments[1:] if not each.startswith("-")), ""))
    return bool({name, program, script} & _NEEDED) or any(_OURS.fullmatch(each) for each in arguments)


def _stat(pid: int) -> list[str]:
    try:
        return (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def state(pid: int) -> str:
    """The letter of proc_pid_stat(5) for what a process does: `D`, it waits for a disk; empty: it is gone."""
    return next(iter(_stat(pid)), "")


def named(pid: int) -> str:
    """A process, for a sentence."""
    try:
        name = (_PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "?"
    return f"{''.join(each if each.isprintable() else '?' for each in name)} ({pid})"


def forbidden(name: str) -> PrivilegeMissing:
    """The refusal where the kernel says that this user may not."""
    return PrivilegeMissing(
        f"this user may not freeze {name}", "Run the agent as root, or have the cgroup delegated to its user."
    )
