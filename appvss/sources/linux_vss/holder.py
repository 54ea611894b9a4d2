"""Who else serves the driver. Everything here reads /proc: call it in a thread."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

STOCK: Final = "hv_vss_daemon"
"""The program that comes with Linux for this driver; proc(5) shows 15 characters of a name, which it has."""
STOCK_HINT: Final = (
    "The broker takes that daemon's place: `systemctl mask --now hv-vss-daemon` (Debian, Ubuntu) or "
    "`systemctl mask --now hypervvssd` (Red Hat; SUSE: hv_vss_daemon). Disabled, a rule of udev starts it again."
)


def holder_of(path: str) -> tuple[int, str] | None:
    """The process, other than this one, that has `path` open, and its program's name; None: none that can be seen."""
    return holder_of_link(os.path.realpath(path))


def holder_of_link(target: str) -> tuple[int, str] | None:
    """The same for what a descriptor's link shows: a path without links, or `socket:[INODE]`.

    Reads links in /proc and nothing behind them, so that no dead network file system holds it up.
    """
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended, or it is not ours to look into
            if any(_shows(link, target) for link in (process / "fd").iterdir()):
                return int(process.name), (process / "comm").read_text(errors="replace").strip()
    return None


def _shows(link: Path, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except OSError:  # closed meanwhile
        return False
