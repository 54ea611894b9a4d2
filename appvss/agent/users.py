"""The user whose rights an app has."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A user of this machine, with all of its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def user_of(name: str) -> User | None:
    """The user of that name; None for an empty name, and for the user whose process this is.

    Raises:
        LookupError: there is none, or this process may not become it. The first argument is a sentence.
    """
    if not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise LookupError(f"there is no user {name!r} on this machine") from None
    if entry.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise LookupError(f"only root can run an app as the user {name!r}; this is user {os.geteuid()}")
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)
