"""What the tests of the Linux freezer share: a freezer on file systems of the test's own, and looks from outside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from appvss.freezer import mountinfo
from appvss.freezer.linux import LinuxFreezer
from appvss.freezer.plan import Left, Plan, Target
from appvss.model.filesystem import FilesystemChoice, Scope, Unfreezable
from appvss.model.instant import Instant

BOUND = 20.0
"""Seconds after which a wait of a test has failed."""
ALL = FilesystemChoice(Scope.ALL)
BUDGET = timedelta(seconds=10)
HOLD = timedelta(seconds=30)

Planner = Callable[[FilesystemChoice, Sequence[str]], Plan]


def target_at(path: Path) -> Target:
    """What the mount table says of the mount at `path`."""
    mount = mountinfo.read().carrying(os.fsencode(path))
    assert mount is not None
    assert mount.path == os.fsencode(path), mount
    assert path.stat().st_dev != Path("/").stat().st_dev, "the root file system is never frozen in a test"
    return Target(mount.path, mount.mount_id, mount.device, mount.type, mountinfo.shown(mount.source))


def plan_of(*waves: Sequence[Path], left: tuple[Left, ...] = (), veto: str = "") -> Planner:
    """A planner that always plans these, as they are mounted now."""
    plan = Plan(tuple(tuple(target_at(path) for path in wave) for wave in waves), left, veto=veto)
    return lambda choice, declared: plan


def now() -> Instant:
    return Instant(timedelta(seconds=time.monotonic()))


class Losses:
    """Hears of holds that end by themselves."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.any = asyncio.Event()

    def __call__(self, cycle: str, reason: str) -> None:
        self.told.append((cycle, reason))
        self.any.set()


@asynccontextmanager
async def freezer_of(
    planner: Planner,
    directory: Path,
    unfreezable: Unfreezable = Unfreezable.LOWER,
    on_lost: Callable[[str, str], None] | None = None,
) -> AsyncIterator[LinuxFreezer]:
    """A freezer with its guardian. Afterwards nothing is left of either: no process, no descriptor, no record."""
    before = open_descriptors()
    directory.mkdir(exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    freezer = LinuxFreezer(planner, directory, now, unfreezable, on_lost)
    await freezer.start()
    pid = freezer.state.guardian_pid or 0
    try:
        yield freezer
    finally:
        await asyncio.wait_for(freezer.close(), BOUND)
    await until(lambda: not (pid and session_of(pid)))
    assert not (directory / "frozen.json").exists()
    assert open_descriptors() <= before


def open_descriptors() -> set[str]:
    """Those of this process, with what they are."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the one with which the directory was read
            continue
    return {each for each in found if "/proc/" not in each}


def session_of(leader: int) -> dict[int, str]:
    """The processes of a guardian's session, itself among them, and their states as in proc_pid_stat(5)."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, _, _, session = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == leader:
                found[int(name)] = state
    return found


def children_of(guardian: int) -> list[int]:
    """The guardian's living children, first forked first."""
    return sorted(pid for pid, state in session_of(guardian).items() if pid != guardian and state not in "ZX")


async def until(holds: Callable[[], bool], bound: float = BOUND) -> None:
    """Wait for what tells nobody of itself."""
    deadline = time.monotonic() + bound
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.005)
