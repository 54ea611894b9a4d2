"""The way into the state on disk: first a look, for which the disk need only be readable, then a wait until it takes
writes, then the opening itself.

On a frozen file system the first one answers (measured with ext4), and the second one hangs, uninterruptibly. So each
runs in a thread of its own that holds nothing and that nobody has to wait for.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.history import schema
from appvss.history.book import Book, open_rows
from appvss.history.copies import open_copy
from appvss.history.directory import StateDirectory
from appvss.history.finding import Found, look_into, tidy
from appvss.history.rows import Rows
from appvss.history.state import reason_of
from appvss.model.errors import AppvssError

COPY_LIMIT: Final = 256 * 1024 * 1024
"""Bytes of a history that a look copies at most, into what may be memory. What a longer one says is known only once it
is open."""
_CLEARED: Final = "make the directory writable for the broker and start it again"

_Wall = Callable[[], timedelta]


@dataclass(slots=True)
class Look:
    """What can be known of the state while the disk takes no write."""

    place: StateDirectory
    """Locked, if the lock file of before was there."""
    rows: Rows
    """A copy of what lies there, or the file itself as immutable: they are closed before it is opened. In memory and
    empty when it could not be read."""
    found: Found = field(default_factory=Found)

    def close(self) -> None:
        """Let go of it all. Whoever has a look owes this."""
        self.rows.close()
        self.place.close()


def look(directory: Path, boot: str, wall: _Wall, copies: Path | None, limit: timedelta) -> Look:
    """Look at the state in `directory`. When that takes too long, nothing is known of it.

    Args:
        directory: the state directory.
        boot: identity of this boot.
        wall: the wall clock.
        copies: where a copy may be made for a moment; None: where temporary files go.
        limit: how long to wait for the disk.

    Raises:
        LockHeld, HistoryTooNew, StateDirectoryUnusable: as `opening.open_state`.
    """
    answer: Future[Look] = Future()

    def work() -> None:
        try:
            seen = _look(directory, boot, wall, copies)
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to whoever asked
            with contextlib.suppress(InvalidStateError):
                answer.set_exception(error)
            return
        try:
            answer.set_result(seen)
        except InvalidStateError:  # nobody waits any more
            seen.close()

    threading.Thread(target=work, name="appvss-history-look", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        return answer.result(limit.total_seconds())
    if answer.cancel():
        return Look(StateDirectory(directory), Rows(schema.in_memory()))
    return answer.result()


def _look(directory: Path, boot: str, wall: _Wall, copies: Path | None) -> Look:
    place = StateDirectory(directory)
    try:
        with contextlib.suppress(OSError, sqlite3.Error, schema.Damaged):  # what is wrong is said by the opening
            if place.is_there():
                place.lock_as_it_is()
                copy = open_copy(directory / schema.FILE, is_checked=False, place=copies, limit=COPY_LIMIT)
                return Look(place, copy.rows, look_into(place, copy.rows, boot, wall))
        return Look(place, Rows(schema.in_memory()))
    except BaseException:
        place.close()
        raise


class Entrance:
    """The way from a look to the state on disk. Made on any thread, then for the history's thread alone.

    Args:
        seen: whose place and rows become the entrance's to close.
        boot: identity of this boot.
        keep: how many ended cycles are kept.
        wall: the wall clock.
    """

    def __init__(self, seen: Look, *, boot: str, keep: int, wall: _Wall) -> None:
        self.has_answered = False
        """Whether the disk takes writes, or has said why not."""
        self.asked_at: float | None = None
        """When it was asked, by the monotonic clock, in seconds; None: not yet."""
        self._seen = seen
        self._boot = boot
        self._keep = keep
        self._wall = wall
        self._thread: threading.Thread | None = None

    def stand_in(self) -> Book:
        """What the broker has until it has entered: everything is read from the look, and no journal is written."""
        place = self._seen.place
        trouble = f"the disk of {place.path} does not answer"
        return Book(place, self._seen.rows, boot=self._boot, keep=self._keep, trouble=trouble)

    def ask(self, answered: Callable[[], None]) -> None:
        """Ask the disk whether it takes writes. `answered` is called on another thread, maybe never."""
        place = StateDirectory(self._seen.place.path)  # of its own: this thread may outlive all others

        def work() -> None:
            with contextlib.suppress(OSError, AppvssError):  # the opening meets it again
                place.reach()
            self.has_answered = True
            answered()

        self.asked_at = time.monotonic()
        self._thread = threading.Thread(target=work, name="appvss-history-disk", daemon=True)
        self._thread.start()

    def join(self, limit: timedelta) -> None:
        """Wait for the thread that asks, for `limit` at most."""
        if self._thread is not None:
            self._thread.join(limit.total_seconds())

    def enter(self) -> tuple[Book, Found]:
        """Open the state on disk, or what stands for it in memory, and clear what no cycle needs. The look is closed
        then. Blocks for as long as the disk does.

        Raises:
            LockHeld, HistoryTooNew, StateDirectoryUnusable: as `opening.open_state`.
        """
        place, notes = self._seen.place, list[str]()
        # First: to close it later would take SQLite's locks away (sqlite.org, howtocorrupt.html, section 2.2).
        self._seen.rows.close()
        rows, trouble = _open(place, notes)
        book = Book(place, rows, boot=self._boot, keep=self._keep, trouble=trouble)
        try:
            found = look_into(place, rows, self._boot, self._wall)
            tidy(book, found, self._boot)
        except BaseException:
            rows.close()
            raise
        found.notes[:0] = notes
        return book, found

    def stay_out(self, error: Exception) -> Book:
        """What the broker has for good when it cannot enter: nothing of the past, and nothing on disk."""
        place = self._seen.place
        place.close()
        reason, advice = (error.sentence, error.hint) if isinstance(error, AppvssError) else (repr(error), "")
        trouble = _trouble(place, reason, f"{advice[:1].lower()}{advice[1:]}".rstrip(".") or _CLEARED)
        return Book(place, Rows(schema.in_memory()), boot=self._boot, keep=self._keep, trouble=trouble)


def _open(place: StateDirectory, notes: list[str]) -> tuple[Rows, str]:
    """The tables, and why they are in memory alone; empty: they are on disk."""
    try:
        place.make()
        place.lock()
        rows, note = open_rows(place)
    except (OSError, sqlite3.Error) as error:
        reason = reason_of(error)
    except schema.Damaged as error:
        reason = str(error)
    else:
        notes += [note] if note else []
        return rows, ""
    trouble = _trouble(place, reason, _CLEARED)
    notes.append(trouble)
    return Rows(_memory(place.path / schema.FILE)), trouble


def _trouble(place: StateDirectory, reason: str, advice: str) -> str:
    return (
        f"nothing can be kept in {place.path}: {reason}; the history ends with this broker, and no cycle has a journal "
        f"or a certificate: {advice}"
    )


def _memory(path: Path) -> sqlite3.Connection:
    """Tables in memory, with what can be read of the file."""
    with contextlib.suppress(OSError, sqlite3.Error, schema.Damaged), contextlib.closing(open_copy(path)) as copy:
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            copy.rows.connection.backup(connection)
            schema.prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection
    return schema.in_memory()
