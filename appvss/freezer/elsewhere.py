"""File systems that are out of reach because they are mounted in other mount namespaces alone.

Containers have such, and services with an image of their own. Whoever freezes all others must not say that it was all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appvss.freezer.dependency import Elsewhere
from appvss.freezer.kinds import Kind, kind_of
from appvss.freezer.mountinfo import MountTable, parse


def mounted_elsewhere(mounts: MountTable, procfs: Path) -> tuple[Elsewhere, ...]:
    """The super blocks on disks that can be written to and are in no mount of `mounts`, each once.

    One process of each mount namespace is asked (`/proc/PID/mountinfo`). What no process has in its namespace any more,
    such as a file system that was detached while it was in use, is not found; nor is what this user may not read.
    """
    known = {mount.device for mount in mounts.mounts}
    found: dict[str, Elsewhere] = {}
    for pid, table in _tables(procfs):
        for mount in table.mounts:
            is_written = kind_of(mount) in (Kind.FREEZABLE, Kind.NO_FREEZE) and not mount.is_read_only
            if is_written and mount.device not in known:
                found.setdefault(mount.device, Elsewhere(mount.device, mount.type, mount.path, pid))
    return tuple(found.values())


def _tables(procfs: Path) -> Iterator[tuple[int, MountTable]]:
    """A process of each other mount namespace, with its mount table. A process may be gone at any moment."""
    seen = set()
    with suppress(OSError):
        seen.add(os.readlink(procfs / "self" / "ns" / "mnt"))
        pids = sorted(int(name) for name in os.listdir(procfs) if name.isdecimal())
        for pid in pids:
            with suppress(OSError):
                namespace = os.readlink(procfs / str(pid) / "ns" / "mnt")
                if namespace not in seen:
                    content = (procfs / str(pid) / "mountinfo").read_bytes()
                    seen.add(namespace)
                    yield pid, parse(content)
