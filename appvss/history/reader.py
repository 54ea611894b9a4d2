"""The history of another machine or another time, for administrators: a mounted image, a copied state directory."""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from appvss.history import directory, schema
from appvss.history.copies import Copy, open_copy
from appvss.history.documents import DocumentInvalid
from appvss.history.rows import lines_of, whole_of
from appvss.history.state import reason_of
from appvss.model.errors import HistoryUnreadable
from appvss.model.journal import JournalEntry
from appvss.model.past import PastCycle

_HINT = "Name a state directory or its history.sqlite, copied together with its history.sqlite-wal, and readable."


class Reader(AbstractContextManager["Reader"]):
    """A history that is read and never changed. Whoever gets one owes a `close`, or uses it as a context. Blocking."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy

    @property
    def path(self) -> Path:
        """The file that it reads."""
        return self._copy.path

    def cycles(self, limit: int, since: timedelta | None = None) -> tuple[PastCycle, ...]:
        """The newest cycles, newest first, without their events and certificates.

        Args:
            limit: how many at most.
            since: only those that were asked for at or after this time, since 1970-01-01 UTC; None: all.

        Raises:
            HistoryUnreadable: the file is damaged.
        """
        try:
            return tuple(lines_of(self._copy.rows.newest(limit, since)))
        except sqlite3.Error as error:
            raise _unreadable(self.path, reason_of(error)) from error

    def cycle(self, cycle: str) -> PastCycle | None:
        """The cycle of that id with its events and its certificate; None: there is none.

        Raises:
            HistoryUnreadable: the file is damaged.
        """
        try:
            row = self._copy.rows.get(cycle)
            return whole_of(row) if row is not None else None
        except sqlite3.Error as error:
            raise _unreadable(self.path, reason_of(error)) from error
        except DocumentInvalid as error:
            raise _unreadable(self.path, f"the record of cycle {cycle} is damaged") from error

    def open_cycle(self) -> tuple[JournalEntry, str] | None:
        """The cycle that the journal has open, and the boot in which it was written; None: there is none.

        Raises:
            HistoryUnreadable: the file is damaged.
        """
        try:
            return self._copy.rows.journal()
        except sqlite3.Error as error:
            raise _unreadable(self.path, reason_of(error)) from error
        except DocumentInvalid as error:
            raise _unreadable(self.path, "the journal is damaged") from error

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._copy.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_history(path: Path) -> Reader:
    """The history at `path`, which is left exactly as it is.

    Args:
        path: a state directory, copied or mounted, or the file in it.

    Raises:
        HistoryUnreadable: nothing is there, it is no history, it cannot be read, or a broker has it open.
        HistoryTooNew: a newer version wrote it.
    """
    file = path / schema.FILE if os.path.isdir(path) else path
    if directory.is_locked(file.parent):
        raise HistoryUnreadable(
            f"a broker has the history {file} open",
            "Leave out the path: the command then asks the broker. Or copy the whole directory and name the copy.",
        )
    try:
        return Reader(open_copy(file))
    except FileNotFoundError as error:
        raise HistoryUnreadable(f"there is no history at {path}", _HINT) from error
    except (OSError, sqlite3.Error) as error:
        raise _unreadable(file, reason_of(error)) from error
    except schema.Damaged as error:
        raise _unreadable(file, str(error)) from error


def _unreadable(path: Path, reason: str) -> HistoryUnreadable:
    return HistoryUnreadable(f"the history {path} cannot be read: {reason}", _HINT)
