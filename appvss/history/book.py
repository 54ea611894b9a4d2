"""The state on disk as one thing: database and certificate together, each change whole or not at all. Blocking; one
thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from appvss.history import schema
from appvss.history.copies import open_copy
from appvss.history.directory import StateDirectory
from appvss.history.documents import DocumentInvalid
from appvss.history.rows import Row, Rows
from appvss.history.state import DAMAGED, JournalFailed, primary, reason_of
from appvss.model.errors import AppvssError
from appvss.model.journal import JournalEntry

_NO_CYCLE = "?"
"""Whose certificate it is that should not be on disk at all."""

_logger = logging.getLogger("appvss.history.book")


def open_rows(directory: StateDirectory) -> tuple[Rows, str]:
    """The tables on disk, and a sentence when a damaged file was set aside for them.

    Raises:
        HistoryTooNew: a newer version wrote the file.
        sqlite3.Error: the disk does not let it be opened or made.
        OSError: the same.
    """
    path = directory.path / schema.FILE
    try:
        return Rows(schema.connect(path)), ""
    except schema.Damaged as error:
        reason = str(error)
    except sqlite3.DatabaseError as error:
        # With statements that are always the same, it is the file that makes one of them an error.
        if primary(error) not in DAMAGED | {sqlite3.SQLITE_ERROR}:
            raise
        reason = reason_of(error)
    return _begin_anew(directory, reason)


def _begin_anew(directory: StateDirectory, reason: str) -> tuple[Rows, str]:
    path = directory.path / schema.FILE
    aside = directory.set_aside()
    rows = Rows(schema.connect(path))
    saved = " its open cycle was saved," if _salvage(aside, rows) else ""
    note = f"the history {path} cannot be used: {reason}; it lies aside as {aside.name},{saved} a new one is begun"
    return rows, note


def _salvage(aside: Path, rows: Rows) -> bool:
    """Take over from a damaged file what somebody may be waiting for: the open cycle, and what was restored."""
    saved = False
    try:
        copy = open_copy(aside, is_checked=False)
    except (AppvssError, OSError, sqlite3.Error):
        return False
    with contextlib.closing(copy):
        with contextlib.suppress(DocumentInvalid, sqlite3.Error):
            if (journal := copy.rows.journal()) is not None:
                rows.write_journal(*journal)
                saved = True
        with contextlib.suppress(DocumentInvalid, sqlite3.Error):
            if (restored := copy.rows.restored()) is not None:
                rows.write_restored(*restored)
    return saved


class Book:
    """Journal, history and certificate.

    Args:
        directory: locked by this broker. The book closes it.
        rows: the tables, on disk or in memory.
        boot: identity of this boot.
        keep: how many ended cycles are kept.
        trouble: why nothing can be kept on disk; empty: it can.
    """

    def __init__(self, directory: StateDirectory, rows: Rows, *, boot: str, keep: int, trouble: str = "") -> None:
        self.directory = directory
        self.trouble = trouble
        self.certified = ""
        """The cycle whose certificate lies on disk; empty: none does."""
        self.is_untidy = False
        """Whether there is something to clear up although no cycle waits: a closed row, an old certificate."""
        self._rows: Rows | None = rows
        self._boot = boot
        self._keep = keep

    @property
    def rows(self) -> Rows:
        """The tables.

        Raises:
            OSError, sqlite3.Error: they had to be set aside, and the disk does not let new ones be made.
        """
        if self._rows is None:
            self._rows, _ = open_rows(self.directory)
        return self._rows

    def write_journal(self, entry: JournalEntry, certificate: str) -> None:
        """Make `entry` the open cycle, after its certificate is on disk, where it has one.

        Raises:
            JournalFailed: neither is on disk; what was there before still is.
        """
        if self.trouble:
            raise JournalFailed(f"the journal cannot be written: {self.trouble}")
        what = "certificate" if certificate else "journal"
        try:
            if certificate:
                self.certified = entry.cycle
                self.directory.write_certificate(certificate)
                what = "journal"
            self._write(lambda rows: rows.write_journal(entry, self._boot))
        except (OSError, sqlite3.Error, schema.Damaged) as error:
            if certificate:
                self._withdraw()
            raise self._failed(what, error) from error

    def end(self, rows: Sequence[Row], running: str) -> None:
        """Keep ended cycles, close the journal and remove the certificate, unless they are of the `running` cycle.

        Raises:
            JournalFailed: not all of that is done; it may be tried again.
        """
        try:
            self._write(lambda tables: tables.end(rows, running, self._keep))
            if self.certified and self.certified != running and not self.trouble:
                # After the journal: a start that finds a certificate without a row knows that its cycle had ended.
                self.directory.remove_certificate()
                self.certified = ""
        except (OSError, sqlite3.Error, schema.Damaged) as error:
            self.is_untidy = True
            raise self._failed("history", error) from error
        self.is_untidy = False

    def leave_for_later(self) -> None:
        """Something of an earlier cycle could not be cleared up: the next `end` does it."""
        self.certified, self.is_untidy = _NO_CYCLE, True

    def close(self) -> None:
        """Close the file and let go of the directory."""
        if self._rows is not None:
            with contextlib.suppress(sqlite3.Error):
                self._rows.close()
        self.directory.close()

    def _write(self, change: Callable[[Rows], None]) -> None:
        """Make a change; when the file turns out to be damaged, set it aside and make the change in a new one."""
        rows = self.rows
        try:
            change(rows)
        except sqlite3.DatabaseError as error:
            if primary(error) not in DAMAGED or self.trouble:
                raise
            self._rows = None
            with contextlib.suppress(sqlite3.Error):
                rows.close()
            self._rows, note = _begin_anew(self.directory, reason_of(error))
            _logger.error("%s", note)
            change(self._rows)

    def _withdraw(self) -> None:
        """The verdict will say that there is no certificate: one that lies there all the same would contradict it."""
        try:
            self.directory.remove_certificate()
            self.certified = ""
        except OSError:
            self.leave_for_later()

    def _failed(self, what: str, error: OSError | sqlite3.Error | schema.Damaged) -> JournalFailed:
        reason = str(error) if isinstance(error, schema.Damaged) else reason_of(error)
        return JournalFailed(f"the {what} cannot be written to {self.directory.path}: {reason}")


def count_of(book: Book) -> int:
    """How many cycles are kept, as far as the disk says."""
    try:
        return book.rows.count()
    except (OSError, sqlite3.Error, schema.Damaged):
        return 0


def newest_of(book: Book, waiting: Sequence[Row], limit: int, since: timedelta | None) -> list[Row]:
    """The newest cycles, newest first, those that wait to be written among them.

    Args:
        book: what is written.
        waiting: what is not, oldest first.
        limit: how many at most.
        since: as `Rows.newest`.

    Raises:
        OSError, sqlite3.Error: the disk or the file fails.
    """
    newer = [row for row in reversed(waiting) if since is None or row.is_since(since)]
    known = {row.cycle for row in newer}
    kept = [row for row in book.rows.newest(limit + len(known), since) if row.cycle not in known]
    return (newer + kept)[:limit]
