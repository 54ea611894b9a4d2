"""Which part of a machine a volume is: the longest end of a known path that it has.

A volume that was mounted at `/srv/db` has `data` at its root when the data directory was `/srv/db/data`; the tree of a
whole machine has `srv/db/data`; a copied data directory has nothing of that path, and is it.
"""

from __future__ import annotations

import os
from pathlib import Path


def mount_point_of(root: Path, wanted: Path) -> Path | None:
    """The path of the machine that `root` stands for, so that `wanted` lies below it; None: it is not there.

    Args:
        root: a folder with a volume's files.
        wanted: an absolute path of the machine.
    """
    for place in reversed((wanted, *wanted.parents)):
        inside = root / wanted.relative_to(place)
        if inside != root and _is_there(root, inside):
            return place
    return None


def is_folder_itself(root: Path) -> bool:
    """Whether a folder may be a copied data directory: it has files."""
    try:
        return any(entry.is_file(follow_symlinks=False) for entry in _entries(root))
    except OSError:
        return False


def _entries(root: Path) -> list[os.DirEntry[str]]:
    with os.scandir(root) as entries:
        return list(entries)


def _is_there(root: Path, inside: Path) -> bool:
    """Whether it is there without a link on the way: one may lead out of the copy, to the live machine."""
    try:
        path = root
        for part in inside.relative_to(root).parts:
            path /= part
            if path.is_symlink():
                return False
        return path.exists()
    except OSError:
        return False
