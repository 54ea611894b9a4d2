"""What lies at the path of a SQLite database, and whether it can be held: in words, from what a look has seen.

The look itself is made by a process of `sqlite_holder`; nothing here opens a database.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from appvss.adapters.base import Finding, Severity
from appvss.adapters.errors import AdapterError, HoldRefused, PrivilegeMissing, ServerUnfit

NETWORK_KINDS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "gfs2", "ocfs2", "lustre", "vboxsf", "prl_fs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "virtiofs"}
)
"""Kinds of file systems (proc(5), mountinfo) on which a lock of another machine may not be seen."""
_MEBIBYTE: Final = 1024 * 1024
_DAMAGED: Final = "Restore it from a copy that is not, or save what can be read with the command .recover of sqlite3."


def refused(path: str, answer: Mapping[str, Any]) -> AdapterError:
    """What the holder could not do, in our words; its names are SQLite's own result codes."""
    name, sentence = str(answer.get("refused", "")), str(answer.get("sentence", ""))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return HoldRefused(
            f"{path} is locked by another process",
            "Let its transaction end; a connection with locking_mode=EXCLUSIVE never lets go.",
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM")) or sentence == "Permission denied":
        return PrivilegeMissing(
            f"this account may not write {path} or to its folder: {sentence}", _permission_hint(path)
        )
    if name.startswith("SQLITE_NOTADB"):
        return ServerUnfit(f"{path} is no SQLite database, or it is encrypted", "Name a database file in `files`.")
    if name.startswith("SQLITE_CORRUPT"):
        return ServerUnfit(f"{path} is damaged: {sentence}", _DAMAGED)
    return HoldRefused(f"{path} cannot be held: {sentence}", "Run `appvss agent check`, which looks at it.")


def on_network(path: str) -> Finding | None:
    """What is wrong with the file system of a path, if it is a network's."""
    kind = network_kind(path, mount_table())
    if not kind:
        return None
    sentence = f"{path} lies on {kind}: a lock is not seen by other machines there"
    hint = "Hold it on the machine whose disk it lies on, or not at all."
    return Finding(Severity.PROBLEM, "network_file_system", sentence, hint)


def _permission_hint(path: str) -> str:
    return f"Run the agent as the owner of {path}, or give its account the right to write the file and to its folder."


def findings(path: str, answer: Mapping[str, Any], digest_limit: int) -> list[Finding]:
    """What a look at one file has found."""

    def problem(name: str, sentence: str, hint: str) -> list[Finding]:
        return [Finding(Severity.PROBLEM, name, sentence, hint)]

    if found := on_network(path):
        return [found]
    seen = answer.get("seen")
    if seen is None:
        if answer.get("sentence") == "Permission denied":
            return problem("no_permission", f"this account may not read {path}", _permission_hint(path))
        return problem("not_there", f"{path} cannot be read: {answer.get('sentence')}", "Correct `files`.")
    if seen["is_empty"]:
        return problem("not_a_database", f"{path} is empty", "Let the application make its database first.")
    if not seen["is_database"]:
        return problem("not_a_database", f"{path} is no SQLite database, or it is encrypted", "Correct `files`.")
    if not seen["writable"] or not seen["folder_writable"]:
        return problem("no_permission", f"this account may not write {path} or to its folder", _permission_hint(path))
    if found := _unreadable(path, seen["locked"]):
        return [found]
    return cautions(path, seen, digest_limit)


def _unreadable(path: str, told: str) -> Finding | None:
    """What is wrong with a database that cannot be read, by SQLite's name and words; a hold may cure other errors."""
    name, _, sentence = told.partition(": ")
    if name.startswith("SQLITE_NOTADB"):
        wrong = f"{path} is no SQLite database, or it is encrypted"
        return Finding(Severity.PROBLEM, "not_a_database", wrong, "Correct `files`.")
    if name.startswith("SQLITE_CORRUPT"):
        return Finding(Severity.PROBLEM, "damaged", f"{path} is damaged: {sentence}", _DAMAGED)
    if "locked" not in sentence:
        return None
    return Finding(
        Severity.PROBLEM,
        "locked",
        f"{path} is locked against readers: a connection has locking_mode=EXCLUSIVE, or writes right now",
        "Set locking_mode=NORMAL in the application, or look again.",
    )


def cautions(path: str, seen: Mapping[str, Any], digest_limit: int) -> list[Finding]:
    """What makes a hold worth less."""
    found = []

    def warning(name: str, sentence: str, hint: str) -> None:
        found.append(Finding(Severity.WARNING, name, sentence, hint))

    if seen["size"] > digest_limit:
        warning(
            "no_digest",
            f"{path} has {seen['size'] / _MEBIBYTE:.0f} MiB: no digest is taken, and nothing will show of a copy that "
            "it was taken in the hold",
            "Raise `digest_limit`; writers wait a second for each 500 MB, about.",
        )
    if seen["wal_size"] > 64 * _MEBIBYTE:
        warning(
            "large_log",
            f"the log of {path} has {seen['wal_size'] / _MEBIBYTE:.0f} MiB",
            "Look for a reader that never ends; PRAGMA wal_checkpoint(TRUNCATE) empties the log.",
        )
    if seen["hot_journal"]:
        warning("hot_journal", f"{path} has a journal: a writer is at work, or has died", "Let it end, or recover.")
    if seen["owner"] != os.geteuid() != 0:
        warning(
            "owner_differs",
            f"{path} belongs to the user {seen['owner']}, and this is {os.geteuid()}: files that SQLite makes beside "
            "it may not be writable for the application",
            _permission_hint(path),
        )
    return found


def network_kind(path: str, table: str) -> str:
    """The kind of the file system of a path, if it is one on which locks cannot be relied on; else empty.

    Args:
        path: absolute, with links resolved.
        table: /proc/self/mountinfo (proc(5)); later lines lie on top of earlier ones.
    """
    found, longest = "", -1
    for line in table.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split()
        if not separator or len(fields) < 5:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= longest:
            found, longest = right.split()[0], len(point)
    return found if found in NETWORK_KINDS else ""


def mount_table() -> str:
    """/proc/self/mountinfo; empty where there is none."""
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""  # not Linux
