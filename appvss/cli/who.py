"""Who is behind an app: user, process and service, by their names. Looked up on this machine, where the broker runs."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from pathlib import Path
from typing import Final

from appvss.model.app import Peer
from appvss.model.names import printable

_UNIT: Final = re.compile(r"/([^/\n]+\.service)\b")
_CGROUP_LIMIT: Final = 4096
"""Characters of a process's cgroup that are looked at."""


def user_name(uid: int) -> str:
    """A user's name; the number where the machine knows none."""
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return str(uid)


def is_alive(peer: Peer) -> bool:
    """Whether the process that registered is still there, as far as can be told: same id, same user."""
    try:
        return os.stat(f"/proc/{peer.pid}").st_uid == peer.uid
    except OSError:
        return False


def unit_of(peer: Peer) -> str:
    """The systemd service that the process belongs to; empty: to none, or nobody can tell.

    It is in the path of the process's control group (cgroups(7), systemd.service(5)).
    """
    with contextlib.suppress(OSError):
        if is_alive(peer):
            text = Path(f"/proc/{peer.pid}/cgroup").read_text(encoding="utf-8", errors="replace")[:_CGROUP_LIMIT]
            return unit_in(text)
    return ""


def unit_in(cgroup: str) -> str:
    """The innermost service in the text of a process's control groups; empty: there is none."""
    found = _UNIT.findall(cgroup)
    return printable(found[-1]) if found else ""


def who(peer: Peer | None) -> str:
    """All that is known: `user postgres, process 4711, postgresql.service`; for an app without identity a word."""
    if peer is None:
        return "unidentified"
    unit = unit_of(peer)
    return f"user {user_name(peer.uid)}, process {peer.pid}" + (f", {unit}" if unit else "")


def look(peer: Peer) -> str:
    """A sentence with the command that shows what a process is doing. The columns are known to Linux and FreeBSD alike
    (ps(1) of both).
    """
    return f"See whether its process hangs: `ps -o pid,stat,wchan,etime,args -p {peer.pid}`."
