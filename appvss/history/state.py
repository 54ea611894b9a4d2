"""How journal, history and certificate are doing, and what it is called when the disk does not take a write."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from enum import StrEnum

DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
"""Primary result codes that say that the file itself is wrong, not the disk below it (sqlite.org, rescode.html)."""

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the disk is read-only",
    sqlite3.SQLITE_BUSY: "another process has it open",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_NOTADB: "it is no database",
}


class JournalFailed(Exception):
    """The journal or the certificate is not on disk. Its text is one lower-case sentence."""


class ReadFailed(Exception):
    """A question about the past cannot be answered now. Its text is one lower-case sentence."""


class HistoryCondition(StrEnum):
    """How it is doing."""

    KEEPING = "keeping"
    """All is well."""
    FAILING = "failing"
    """The last write failed, or the disk does not answer. Ended cycles wait in memory and are tried again."""
    IN_MEMORY = "in_memory"
    """Nothing can be kept in the state directory; the history ends with the broker, and there is no journal."""


@dataclass(frozen=True, slots=True)
class HistoryState:
    """Journal, history and certificate at this moment."""

    directory: str
    condition: HistoryCondition
    detail: str = ""
    """One sentence: what is wrong and what to do; empty: nothing is wrong."""
    cycles: int = 0
    """How many cycles are kept."""
    waiting: int = 0
    """How many cycles wait to be written."""


def primary(error: BaseException) -> int:
    """SQLite's primary result code of an error; -1 for an error that has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1


def reason_of(error: OSError | sqlite3.Error) -> str:
    """What is wrong, for people, in lower case and without a full stop."""
    if isinstance(error, OSError):
        return (os.strerror(error.errno) if error.errno else str(error)).lower()
    code = primary(error)
    if code == sqlite3.SQLITE_IOERR:
        return f"the disk fails ({error.sqlite_errorname})"
    return _REASONS.get(code, str(error))
