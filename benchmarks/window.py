"""The window of a host's freeze: from the broker's read of FREEZE on Linux's Hyper-V device to the write of its reply.

In it lie the apps' prepare and freeze, journal and certificate on disk, and the search, sync and freeze of the file
systems. The device is the simulator's real file, and the simulator notes both moments.

The host wants every file system of the machine frozen. So this runs in a mount namespace of its own, where nobody else
mounts anything, all file systems but ours are excluded, and none is frozen before the broker has said that it would
freeze ours alone.
"""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import sleep

from appvss.freezer.plan import FilesystemSettings
from appvss.freezer.survey import survey
from appvss.model.event import EventKind
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, Scope
from appvss.model.phase import Phase
from appvss.sdk.admin import AdminClient
from appvss.sdk.admin_cycles import BrokerEvent
from benchmarks.ack_path import Host, time_of
from benchmarks.filesystems import EARLY, PAUSE, WARM_UP, Writer, ext4_disks
from benchmarks.processes import broker, idle_apps, wait_until

ALONE = ("unshare", "--mount", "--propagation", "private")
ALL = FilesystemChoice(Scope.ALL)
SECTIONS = """\
[filesystems]
exclude = {excluded}
[sources.linux_hv_vss]
mode = "required"
device = "{device}"
"""


@dataclass(frozen=True, slots=True)
class Window:
    """Milliseconds; medians, but for `longest`."""

    filesystems: int
    apps: int
    whole: float
    longest: float
    prepared: float
    """Of it, until all file systems were found, opened and synced. Apps prepare meanwhile, and nothing is held."""
    frozen: float
    """Of it, the freeze of the file systems alone."""


def measure(filesystems: Sequence[int] = (1, 3, 10), apps: Sequence[int] = (0, 10), rounds: int = 20) -> list[Window]:
    """Every number of file systems with every number of apps."""
    found = []
    for many in filesystems:
        for some in apps:
            command = (*ALONE, sys.executable, "-m", "benchmarks.window", str(many), str(some), str(rounds))
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found.append(Window(**json.loads(done.stdout)))
    return found


def _window(filesystems: int, apps: int, rounds: int) -> Window:
    with ext4_disks(filesystems) as paths, tempfile.TemporaryDirectory(prefix="win") as name:
        folder, writer = Path(name), Writer(paths)
        host = Host(folder, "linux")
        try:
            sections = SECTIONS.format(excluded=json.dumps(_all_but(paths)), device=host.device)
            with broker(folder, sections=sections) as (_, client), idle_apps(folder, client, apps, processes=2):
                wait_until(lambda: host.is_served(client), "the device")
                _see_that_only(paths, client)
                took = [_one(host, client, writer, paths) for _ in range(WARM_UP + rounds)][WARM_UP:]
        finally:
            host.close()
    whole, prepared, frozen = (sorted(values) for values in zip(*took, strict=True))
    return Window(
        filesystems, apps, *(round(each, 1) for each in (median(whole), whole[-1], median(prepared), median(frozen)))
    )


def _all_but(paths: Sequence[Path]) -> list[str]:
    """Patterns that exclude every other file system that there is."""
    plan = survey(ALL, (), own={}, settings=FilesystemSettings(exclude=()))
    others = {os.fsdecode(path) for wave in plan.waves for target in wave for path in (target.path, *target.others)}
    others |= {os.fsdecode(left.path) for left in plan.left if left.outcome is FilesystemOutcome.UNFREEZABLE}
    return sorted(glob.escape(path) for path in others - set(map(str, paths)))


def _see_that_only(paths: Sequence[Path], client: AdminClient) -> None:
    planned = {each.path for each in client.filesystems(ALL).planned}
    if planned != set(map(str, paths)):
        raise SystemExit(f"the broker would freeze {sorted(planned)}; nothing was frozen")


def _one(host: Host, client: AdminClient, writer: Writer, paths: Sequence[Path]) -> tuple[float, float, float]:
    """One freeze and thaw of the host."""
    sleep(PAUSE)
    writer.write(EARLY)
    events = [message for message in host.ask("freeze") if message["message_type"] == "device_event"]
    read, wrote = (next(time_of(each) for each in events if each["kind"] == kind) for kind in ("read", "wrote"))
    host.ask("thaw")
    cycle = client.cycles(limit=1)[0]
    held = [part for part in cycle.verdict.filesystems if part.outcome is FilesystemOutcome.HELD]
    if len(held) != len(paths):
        raise SystemExit(f"the freeze did not hold: {cycle.verdict.reasons}")
    parts = _parts(client.cycle(cycle.cycle).events)
    whole, prepared, frozen = (length.total_seconds() * 1000 for length in (wrote - read, *parts))
    return whole, prepared, frozen


def _parts(events: Sequence[BrokerEvent]) -> tuple[timedelta, timedelta]:
    """How long the prepare of the file systems took, and their freeze from the broker's word to its end."""
    prepared = next(event.took for event in events if event.kind == EventKind.FILESYSTEMS_PREPARED)
    begun = next(event.time for event in events if event.phase is Phase.FREEZING_FILESYSTEMS)
    frozen = next(event.time for event in events if event.kind == EventKind.FILESYSTEMS_FROZE)
    if prepared is None:
        raise AssertionError("it ends something")
    return prepared, frozen - begun


if __name__ == "__main__":
    print(json.dumps(asdict(_window(*map(int, sys.argv[1:])))))
