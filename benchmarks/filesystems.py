"""Freezing file systems: ours, by the guardian's hand, against fsfreeze(8) of util-linux one after the other.

Both freeze the same ext4 file systems on loop devices, in turns. A round of either finds the same dirty data: `EARLY`
bytes were written to each file system before it, and `LATE` bytes right before the freeze itself, as by an app that
writes on while ours prepares. fsfreeze is called by a shell that is started once, so that neither side pays for one.
An independent process thaws and unmounts everything whatever happens (`tests/support/loop_keeper.py`).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median

from appvss.freezer.linux import LinuxFreezer
from appvss.freezer.plan import FilesystemSettings
from appvss.freezer.survey import survey
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.model.instant import Instant
from tests.support.loop_disks import LoopDisks
from tests.support.running_broker import short_directory

EARLY, LATE = 1024 * 1024, 256 * 1024
BUDGET, HOLD = timedelta(seconds=30), timedelta(seconds=30)
ROUNDS, WARM_UP = 20, 2
PAUSE = 0.25
"""Seconds before each freeze: right after a thaw the kernel spares the next freeze of that file system a wait
(rcu_sync_enter() within a grace period of rcu_sync_exit()), and whoever came second would have had the advantage.
"""


@dataclass(frozen=True, slots=True)
class Freezes:
    """Milliseconds of one freeze of so many file systems; medians."""

    filesystems: int
    prepare: float
    """Ours: find, open, sync. Apps go on meanwhile."""
    freeze: float
    """Ours: the freeze itself, which apps wait for."""
    fsfreeze: float
    """fsfreeze -f, one after the other."""
    ratio: float
    """`freeze` to `fsfreeze`."""
    whole_ratio: float
    """`prepare` and `freeze` together, to `fsfreeze`."""


@dataclass(frozen=True, slots=True)
class GuardianMemory:
    """MiB, while so many file systems are held."""

    filesystems: int
    resident: float
    """VmRSS of the guardian."""
    child: float
    """VmRSS of the largest of its children, one for each file system."""
    together: float
    """PSS of all of them: what they share is counted once."""


@contextmanager
def ext4_disks(count: int) -> Iterator[list[Path]]:
    """So many mounted file systems of our own; their mount points."""
    disks = LoopDisks(short_directory())
    try:
        yield [disks.make(f"disk{number}", "ext4").path for number in range(count)]
    finally:
        disks.close()


class Writer:
    """Leaves dirty data on file systems: in a file of each that is written over and over, and a new small one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._number = 0

    def write(self, size: int) -> None:
        """So many bytes to each, which nobody syncs."""
        self._number += 1
        for path in self._paths:
            with (path / "data").open("r+b" if (path / "data").exists() else "wb") as file:
                file.write(os.urandom(size))
            (path / f"new-{self._number % 8}").write_text(str(self._number))


class Shell:
    """A shell that freezes with fsfreeze, and thaws in reverse."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._forth = " ".join(map(str, paths))
        self._back = " ".join(map(str, reversed(paths)))
        self._process = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def freeze(self) -> float:
        """Seconds from the word to the end of the last freeze."""
        began = time.perf_counter()
        self._run(f"for path in {self._forth}; do fsfreeze --freeze $path || exit; done")
        return time.perf_counter() - began

    def thaw(self) -> None:
        """All of them."""
        self._run(f"for path in {self._back}; do fsfreeze --unfreeze $path || exit; done")

    def _run(self, command: str) -> None:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("there are pipes")
        self._process.stdin.write(f"{command}; echo done\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise SystemExit("fsfreeze has failed")

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def measure(counts: Sequence[int] = (1, 3, 10), rounds: int = ROUNDS) -> list[Freezes]:
    """Each number of file systems, with file systems of its own."""
    return [asyncio.run(_freezes(count, rounds)) for count in counts]


async def _freezes(count: int, rounds: int) -> Freezes:
    with ext4_disks(count) as paths:
        writer, shell, freezer = Writer(paths), Shell(paths), _freezer(paths[0].parent)
        await freezer.start()
        try:
            ours, theirs = [], []
            for number in range(WARM_UP + rounds):
                ours.append(await _ours(freezer, f"r{number}", paths, writer))
                theirs.append(_theirs(shell, writer))
        finally:
            await freezer.close()
            shell.close()
    prepare, freeze = (median(each[part] for each in ours[WARM_UP:]) * 1000 for part in (0, 1))
    fsfreeze = median(theirs[WARM_UP:]) * 1000
    return Freezes(
        count,
        round(prepare, 2),
        round(freeze, 2),
        round(fsfreeze, 2),
        round(freeze / fsfreeze, 2),
        round((prepare + freeze) / fsfreeze, 2),
    )


async def _ours(freezer: LinuxFreezer, cycle: str, paths: Sequence[Path], writer: Writer) -> tuple[float, float]:
    """Seconds of prepare, and of freeze."""
    await asyncio.sleep(PAUSE)
    writer.write(EARLY)
    began = time.perf_counter()
    await freezer.prepare(cycle, _choice(paths), (), BUDGET)
    prepared = time.perf_counter() - began
    writer.write(LATE)
    began = time.perf_counter()
    parts = (await freezer.freeze(cycle, BUDGET, HOLD)).parts
    frozen = time.perf_counter() - began
    thawed = await freezer.thaw(cycle)
    if len(parts) != len(paths) or not thawed.unbroken:
        raise SystemExit(f"the freeze did not hold: {thawed.reason}")
    return prepared, frozen


def _theirs(shell: Shell, writer: Writer) -> float:
    time.sleep(PAUSE)
    writer.write(EARLY)
    writer.write(LATE)
    took = shell.freeze()
    shell.thaw()
    return took


def guardian_memory(count: int = 10) -> GuardianMemory:
    """The guardian and its children while so many are held."""
    return asyncio.run(_memory(count))


async def _memory(count: int) -> GuardianMemory:
    with ext4_disks(count) as paths:
        freezer = _freezer(paths[0].parent)
        await freezer.start()
        try:
            await freezer.prepare("memory", _choice(paths), (), BUDGET)
            await freezer.freeze("memory", BUDGET, HOLD)
            return _of_guardian(freezer.state.guardian_pid or 0, count)
        finally:
            await freezer.close()


def _of_guardian(guardian: int, count: int) -> GuardianMemory:
    children = list(map(int, Path(f"/proc/{guardian}/task/{guardian}/children").read_text().split()))
    own, *largest = (_kibibytes(pid, "status", "VmRSS:") for pid in (guardian, *children))
    shares = sum(_kibibytes(pid, "smaps_rollup", "Pss:") for pid in (guardian, *children))
    return GuardianMemory(count, own / 1024, max(largest) / 1024, shares / 1024)


def _kibibytes(pid: int, file: str, key: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _freezer(home: Path) -> LinuxFreezer:
    """One whose record lies beside the file systems, not on them."""
    directory = home / "run"
    directory.mkdir()
    planner = partial(survey, own={}, settings=FilesystemSettings())
    return LinuxFreezer(planner, directory, lambda: Instant(timedelta(seconds=time.monotonic())))


def _choice(paths: Sequence[Path]) -> FilesystemChoice:
    return FilesystemChoice(Scope.NAMED, tuple(map(str, paths)))
