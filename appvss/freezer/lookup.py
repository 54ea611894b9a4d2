"""Where a path leads, without fear that the look-up hangs."""

from __future__ import annotations

import os

from appvss.freezer.kinds import answers_at_once
from appvss.freezer.mountinfo import MountTable

_LINKS = 40
"""How many symbolic links one path may have, as in path_resolution(7)."""


def answers(path: bytes, mounts: MountTable) -> bool:
    """Whether a look-up of this path, which has no symbolic links, is answered by this kernel alone."""
    way = mounts.way_to(path)
    return bool(way) and all(answers_at_once(mount) for mount in way)


def is_missing(path: bytes, mounts: MountTable) -> bool:
    """Whether nothing lies at a path, which has no symbolic links; not when a look-up may hang, or is not allowed."""
    if not answers(path, mounts):
        return False
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def resolve(path: bytes, mounts: MountTable) -> bytes:
    """An absolute path without symbolic links, `.`, `..` and double slashes; it need not exist.

    What lies in a file system that may hang is taken as it is written, and so is what comes after the 40th link.
    """
    waiting = _parts(path)
    done = b""
    links = 0
    while waiting:
        part = waiting.pop()
        if part == b"..":
            done = done.rpartition(b"/")[0]
            continue
        here = done + b"/" + part
        target = _link(here, done or b"/", mounts) if links < _LINKS else b""
        if target:
            links += 1
            waiting.extend(_parts(target))
            done = b"" if target.startswith(b"/") else done
        else:
            done = here
    return done or b"/"


def _parts(path: bytes) -> list[bytes]:
    """The names on the way, the first one last."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


def _link(path: bytes, parent: bytes, mounts: MountTable) -> bytes:
    """Where a symbolic link leads; empty: it is none, or nobody may look."""
    carrier = mounts.carrying(path)
    if carrier is None or carrier.path == path or not answers(parent, mounts):  # nothing is mounted on a link
        return b""
    try:
        return os.readlink(path)
    except (OSError, ValueError):  # no link, not there, not allowed, or a zero byte in the path
        return b""
