"""What is asked of the database and done to it, one transaction at a time. Blocking; one thread at a time."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from appvss.history.documents import DocumentInvalid, pack, pack_text, unpack, unpack_text
from appvss.model.journal import JournalEntry
from appvss.model.past import PastCycle, PastEvent, Restored

_logger = logging.getLogger("appvss.history.rows")
_MICROSECOND: Final = timedelta(microseconds=1)
_LAST: Final = 2**63 - 1
"""The largest number that SQLite keeps."""
_Execute = Callable[[str, tuple[object, ...]], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One ended cycle as it is kept: packed, so that a hundred that wait take little room."""

    cycle: str
    time: int
    """When it was asked for, in microseconds since 1970."""
    document: bytes
    """The cycle in a line."""
    events: bytes
    certificate: bytes

    def is_since(self, since: timedelta) -> bool:
        """Whether it was asked for at or after `since`."""
        return self.time >= _number(since)


def row_of(past: PastCycle) -> Row:
    """`past` as it is kept."""
    line = replace(past, events=(), certificate="")
    return Row(past.cycle, _number(past.time), pack(line), pack(past.events), pack_text(past.certificate))


def line_of(row: Row) -> PastCycle:
    """The cycle in a line, without events and certificate.

    Raises:
        DocumentInvalid: the row is damaged.
    """
    return unpack(PastCycle, row.document)


def whole_of(row: Row) -> PastCycle:
    """The cycle with its events and its certificate.

    Raises:
        DocumentInvalid: the row is damaged.
    """
    events = unpack(tuple[PastEvent, ...], row.events)
    return replace(line_of(row), events=events, certificate=unpack_text(row.certificate))


def lines_of(rows: Sequence[Row]) -> list[PastCycle]:
    """The cycles of rows, each in a line. A row that is damaged is passed over and said in the log: the others are
    good.
    """
    lines: list[PastCycle] = []
    for row in rows:
        try:
            lines.append(line_of(row))
        except DocumentInvalid as error:
            _logger.warning("cycle %s cannot be shown: %s", row.cycle, error)
    return lines


class Rows:
    """The tables.

    Every method raises sqlite3.Error when the disk or the file fails; a change is then wholly undone.

    Args:
        connection: with the tables made; `close` closes it.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def journal(self) -> tuple[JournalEntry, str] | None:
        """The open cycle, and the boot that it was written in.

        Raises:
            DocumentInvalid: there is one, and it cannot be read.
        """
        found = self.connection.execute("SELECT document, boot FROM journal").fetchone()
        return (unpack(JournalEntry, found[0]), str(found[1])) if found else None

    def write_journal(self, entry: JournalEntry, boot: str) -> None:
        """Make `entry` the open cycle."""
        with self._change() as change:
            change("INSERT OR REPLACE INTO journal VALUES (1, ?, ?, ?)", (entry.cycle, boot, pack(entry)))

    def restored(self) -> tuple[Restored, str] | None:
        """The last restored cycle that was found, and the boot in which it was.

        Raises:
            DocumentInvalid: there is one, and it cannot be read.
        """
        found = self.connection.execute("SELECT document, boot FROM restored").fetchone()
        return (unpack(Restored, found[0]), str(found[1])) if found else None

    def write_restored(self, restored: Restored, boot: str) -> None:
        """Keep what the machine was restored from, found in `boot`. Its cycle is not open any more."""
        with self._change() as change:
            change("INSERT OR REPLACE INTO restored VALUES (1, ?, ?)", (boot, pack(restored)))
            change("DELETE FROM journal WHERE cycle = ?", (restored.cycle,))

    def clear_journal(self) -> None:
        """No cycle is open any more."""
        with self._change() as change:
            change("DELETE FROM journal", ())

    def end(self, rows: Sequence[Row], running: str, keep: int) -> None:
        """Keep ended cycles, the newest `keep` of all, and close the journal unless it is of the `running` cycle."""
        with self._change() as change:
            for row in rows:
                change(
                    "INSERT OR REPLACE INTO cycles (cycle, time, document, events, certificate) VALUES (?, ?, ?, ?, ?)",
                    (row.cycle, row.time, row.document, row.events, row.certificate),
                )
            change("DELETE FROM journal WHERE cycle <> ?", (running,))
            change(
                "DELETE FROM cycles WHERE number <= (SELECT number FROM cycles ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (keep,),
            )

    def count(self) -> int:
        """How many cycles are kept."""
        return int(self.connection.execute("SELECT count(*) FROM cycles").fetchone()[0])

    def newest(self, limit: int, since: timedelta | None) -> list[Row]:
        """The newest cycles, newest first, in the order in which they ended: the wall clock may jump.

        Args:
            limit: how many at most.
            since: only those that were asked for at or after this time; None: all.
        """
        found = self.connection.execute(
            "SELECT cycle, time, document, x'', x'' FROM cycles WHERE time >= ? ORDER BY number DESC LIMIT ?",
            (_number(since) if since is not None else -_LAST, limit),
        )
        return [Row(*one) for one in found]

    def get(self, cycle: str) -> Row | None:
        """The cycle of that id."""
        found = self.connection.execute(
            "SELECT cycle, time, document, events, certificate FROM cycles WHERE cycle = ?", (cycle,)
        ).fetchone()
        return Row(*found) if found else None

    def close(self) -> None:
        """Close the file. What is in its write-ahead log goes into the file itself."""
        self.connection.close()

    @contextmanager
    def _change(self) -> Iterator[_Execute]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._execute
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk may have ended it already
                self.connection.execute("ROLLBACK")
            raise

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        self.connection.execute(statement, values)


def _number(time: timedelta) -> int:
    return max(-_LAST, min(time // _MICROSECOND, _LAST))
