"""What a plan must know beyond the mount table, looked up: what lies on what, and where paths lead.

Nothing is looked up in a file system that may wait for another machine or for a program: there a path is taken as it is
written (`lookup`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from appvss.freezer.blocks import PROCFS, SYSFS
from appvss.freezer.dependency import Dependencies, OwnFiles, SwapArea
from appvss.freezer.elsewhere import mounted_elsewhere
from appvss.freezer.images import Images
from appvss.freezer.kinds import Kind, kind_of
from appvss.freezer.lookup import answers, is_missing, resolve
from appvss.freezer.mountinfo import MountTable, unescaped
from appvss.freezer.superblocks import superblocks

_DELETED: Final = b" (deleted)"


def look_around(
    mounts: MountTable,
    paths: Iterable[str],
    own: Mapping[str, str],
    sysfs: Path = SYSFS,
    procfs: Path = PROCFS,
) -> Dependencies:
    """All that `plan` must know with this mount table. Never fails: what cannot be told is said.

    May take some milliseconds, and the answer of a disk: not on the event loop.

    Args:
        mounts: the mount table.
        paths: those that are named or declared. What is not absolute is passed over.
        own: what the broker has -> where it lies, as in `{"state directory": "/var/lib/appvss"}`.
        sysfs: where sysfs is mounted.
        procfs: where procfs is mounted.
    """
    elsewhere = mounted_elsewhere(mounts, procfs)
    images = Images(mounts, superblocks(mounts, ()), sysfs, procfs)
    images.find(other.device for other in elsewhere)
    resolved = {path: resolve(os.fsencode(path), mounts) for path in paths if path.startswith("/")}
    return Dependencies(
        images=tuple(images.found),
        untold=images.untold,
        uppers=images.uppers,
        swaps=tuple(_swaps(images, procfs)),
        own=tuple(_own(own, mounts, images)),
        elsewhere=elsewhere,
        resolved=resolved,
        missing=frozenset(path for path, plain in resolved.items() if is_missing(plain, mounts)),
        plain_files=frozenset(_plain_files(mounts)),
    )


def _swaps(images: Images, procfs: Path) -> Iterator[SwapArea]:
    """Where the kernel swaps to, from proc_swaps(5)."""
    lines: list[bytes] = []
    with suppress(OSError):  # a kernel without swap has no such file
        lines = (procfs / "swaps").read_bytes().split(b"\n")[1:]
    for fields in (line.split() for line in lines):
        if len(fields) < 2:
            continue
        path = unescaped(fields[0]).removesuffix(_DELETED)
        is_file = fields[1] == b"file"
        if is_file:
            carriers = [images.place_of(path).device]
        else:
            carriers = [carrier for _, carrier in images.carriers(filter(None, (images.device_of_node(path),)))[0]]
        yield SwapArea(path, tuple(dict.fromkeys(filter(None, carriers))), is_file)


def _own(own: Mapping[str, str], mounts: MountTable, images: Images) -> Iterator[OwnFiles]:
    """The broker's own files that lie on a disk."""
    for what, text in own.items():
        path = os.fsencode(text)
        if device := images.place_of(resolve(path, mounts)).device:
            yield OwnFiles(what, path, device)


def _plain_files(mounts: MountTable) -> Iterator[int]:
    """The mounts on something else than a directory. Only a part of a file system can be mounted so."""
    for mount in mounts.mounts:
        if kind_of(mount) is Kind.FREEZABLE and mount.root != b"/" and not mounts.is_hidden(mount):
            with suppress(OSError):
                if answers(mount.path, mounts) and not stat.S_ISDIR(os.stat(mount.path).st_mode):
                    yield mount.mount_id
