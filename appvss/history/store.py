"""Journal and history behind one thread: nobody who asks ever waits for the disk, and while the gate is closed nothing
of it is written.

The thread serves questions first, then the journal, then what has ended. A cycle that has ended waits in memory until
the disk has taken it; a hundred may, then the oldest is dropped and counted.

It begins outside: as long as the gate is closed, or the disk takes no write, it answers from what could be read, and
only then it enters (`entrance.py`). From there on book and disk are one.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from appvss.history import schema
from appvss.history.book import Book, count_of, newest_of
from appvss.history.documents import DocumentInvalid
from appvss.history.entrance import Entrance
from appvss.history.finding import Found
from appvss.history.jobs import Read, Write, attempt, settle
from appvss.history.rows import Row, lines_of, row_of, whole_of
from appvss.history.state import HistoryCondition, HistoryState, JournalFailed, ReadFailed, reason_of
from appvss.model.errors import AppvssError
from appvss.model.journal import JournalEntry
from appvss.model.past import PastCycle, Restored

WAITING_LIMIT: Final = 100
"""Ended cycles that may wait for the disk."""
WRITES_LIMIT: Final = 16
"""Journal entries that may wait for the gate or the disk."""
READS_LIMIT: Final = 64
"""Questions that may wait for an answer."""
RETRY_INTERVAL: Final = timedelta(seconds=5)
"""How long after a failed write what waits is tried again."""
STUCK_LIMIT: Final = timedelta(seconds=1)
"""How long the disk may take for anything before it is said that it does not answer."""
_GRACE: Final = 0.5
"""Seconds beyond its limit that a close waits for the thread to come to its own end."""
_NEVER: Final = float("inf")
_ADVICE: Final = "; what has ended waits in memory and is tried again: make room there, or mend the disk"

_logger = logging.getLogger("appvss.history.store")
_T = TypeVar("_T")


class History:
    """Journal, history and certificate of one broker. Every method may be called on any thread, and none blocks but
    `settle` and `close`. It is a `Gate` of the broker (`broker/gates.py`). `opening.open_state` makes one that runs.

    Args:
        entrance: the way to the disk; used by the history's thread alone from `start` on, which closes what is behind.
        is_open: whether the gate is open. If not, nothing is written before it is opened.
        restored: what this machine was restored from, found in this boot.
        running: the open cycle that was found, which goes on until `end_cycle`; empty: there is none.
        on_change: told, on the history's thread, when the condition has changed.
        retry: how long after a failed write what waits is tried again.
        stuck_after: how long the disk may take for anything before the condition says so.
    """

    def __init__(
        self,
        entrance: Entrance,
        *,
        is_open: bool = True,
        restored: Restored | None = None,
        running: str = "",
        on_change: Callable[[HistoryState], None] | None = None,
        retry: timedelta = RETRY_INTERVAL,
        stuck_after: timedelta = STUCK_LIMIT,
    ) -> None:
        self.on_change = on_change
        self._entrance: Entrance | None = entrance
        """None from the moment on at which it is entered."""
        self._entered: Future[Found] = Future()
        """Whoever has cancelled it goes on with what could be read, and hears nothing of the rest."""
        self._book = entrance.stand_in()
        self._restored = restored
        self._adopted = self._running = running
        self._retry = retry.total_seconds()
        self._stuck_after = stuck_after.total_seconds()
        self._changed = threading.Condition()
        self._is_open = is_open
        self._is_writing = False
        self._began = 0.0
        """When the write that is under way was begun, by the monotonic clock."""
        self._end_by = _NEVER
        """When the thread ends although something waits; `_NEVER` as long as nobody has called `close`."""
        self._reads: deque[Read] = deque()
        self._writes: deque[Write] = deque()
        self._ended: deque[PastCycle] = deque()
        self._waiting: OrderedDict[str, Row] = OrderedDict()
        self._due = _NEVER
        """When the next attempt to write what has ended is due, by the monotonic clock."""
        self._dropped = 0
        directory = str(self._book.directory.path)
        self._state = HistoryState(directory, HistoryCondition.KEEPING, "", count_of(self._book))
        self._hangs = f"the disk of {directory} does not answer; what has ended waits in memory until it does"
        self._thread = threading.Thread(target=self._work, name="appvss-history", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def entered(self, limit: timedelta) -> Found | None:
        """Wait until the state on disk is open: what was found there. None: that takes longer than `limit`, or the
        gate is closed; it then happens later, without a word to the caller. Call it once, after `start`.

        Raises:
            LockHeld, HistoryTooNew, StateDirectoryUnusable: it cannot be opened. `close` is still to follow.
        """
        with contextlib.suppress(TimeoutError):
            return self._entered.result(limit.total_seconds())
        if not self._entered.cancel():
            return self._entered.result()
        with self._changed:
            if self._is_open:
                self._state = replace(self._state, condition=HistoryCondition.FAILING, detail=self._hangs)
        return None

    @property
    def state(self) -> HistoryState:
        """How it is doing at this moment. A disk that hangs is seen here, before anybody is told of it."""
        with self._changed:
            state = self._state
            if state.condition is HistoryCondition.KEEPING and time.monotonic() >= self._stuck_at():
                state = replace(state, condition=HistoryCondition.FAILING, detail=self._hangs)
            lost = f"{self._dropped} ended cycles found no room in memory and are lost" if self._dropped else ""
            detail = "; ".join(filter(None, (state.detail, lost)))
            return replace(state, detail=detail, waiting=len(self._ended) + len(self._waiting))

    def _stuck_at(self) -> float:
        """When that which is under way on the disk takes too long."""
        entrance = self._entrance
        if self._is_writing:
            return self._began + self._stuck_after
        if entrance is None or entrance.asked_at is None or entrance.has_answered:
            return _NEVER
        return entrance.asked_at + self._stuck_after

    @property
    def restored(self) -> Restored | None:
        """What this machine was restored from, as found in this boot by this broker or one before; None: nothing."""
        return self._restored

    def write_journal(self, entry: JournalEntry, certificate: str = "") -> Future[None]:
        """Put the running cycle on disk, and its certificate before it, where one is given.

        The future has a result once both are there for good. It fails with JournalFailed, whose text is one sentence,
        when the disk does not take them, when the cycle has ended first, or when too many wait. A future that is
        cancelled before its turn is not written.
        """
        written: Future[None] = Future()
        with self._changed:
            refusal = ""
            if self._end_by < _NEVER:
                refusal = "the journal cannot be written: the broker stops"
            elif len(self._writes) >= WRITES_LIMIT:
                refusal = f"the journal cannot be written: {WRITES_LIMIT} entries wait for the disk"
            else:
                self._running = entry.cycle
                self._writes.append(Write(entry, certificate, written))
                self._changed.notify_all()
        if refusal:
            written.set_exception(JournalFailed(refusal))
        return written

    def end_cycle(self, past: PastCycle) -> None:
        """Keep a cycle that has ended, close its journal and remove its certificate, as soon as the disk takes it.
        Never fails its caller.
        """
        with self._changed:
            if self._running == past.cycle:
                self._running = ""
            late = [write for write in self._writes if write.entry.cycle == past.cycle]
            for write in late:
                self._writes.remove(write)
            self._ended.append(past)
            if len(self._ended) + len(self._waiting) > WAITING_LIMIT:
                self._drop_oldest()
            self._due = 0.0
            self._changed.notify_all()
        for write in late:
            settle(write.written, JournalFailed(f"the journal was not written before cycle {past.cycle} had ended"))

    def cycles(self, limit: int = 0, since: timedelta | None = None) -> Future[tuple[PastCycle, ...]]:
        """The newest cycles, newest first, without events and certificates; those that wait to be written among them.

        Args:
            limit: how many at most; 0: all.
            since: only those that were asked for at or after this time, since 1970-01-01 UTC; None: all.

        The future fails with ReadFailed, whose text is one sentence.
        """
        most = limit if limit > 0 else 2**31
        return self._ask(lambda: tuple(lines_of(newest_of(self._book, self._unwritten(), most, since))))

    def cycle(self, cycle: str) -> Future[PastCycle | None]:
        """One cycle with its events and its certificate; None: it is not known. It fails as `cycles` does."""

        def find() -> PastCycle | None:
            waiting = {row.cycle: row for row in self._unwritten()}
            row = waiting[cycle] if cycle in waiting else self._book.rows.get(cycle)
            return whole_of(row) if row is not None else None

        return self._ask(find)

    def set_gate(self, *, is_open: bool) -> None:
        """Close the gate while any file system may be frozen: no further write is begun until it is opened again."""
        with self._changed:
            self._is_open = is_open
            self._changed.notify_all()

    def is_settled(self) -> bool:
        """Whether nothing is being written."""
        with self._changed:
            return not self._is_writing

    def settle(self, limit: timedelta) -> bool:
        """Wait until the write that was begun before the gate was closed is done; False if that takes too long.

        Blocks for `limit` at most: not on the event loop.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing, limit.total_seconds())

    def close(self, limit: timedelta) -> None:
        """Write what waits, once more at most, and end the thread; then the state directory is free. Blocks for
        `limit` and a moment at most: a disk that does not answer keeps its thread, and nobody else. May be called
        twice.
        """
        with self._changed:
            if self._end_by == _NEVER:
                self._end_by = time.monotonic() + limit.total_seconds()
                self._due = 0.0 if self._due < _NEVER else _NEVER  # once more, now
                self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(limit.total_seconds() + _GRACE)
        if (entrance := self._entrance) is not None:
            entrance.join(timedelta(seconds=_GRACE))
        if self._thread.is_alive():
            _logger.warning("the history in %s did not end in time: its disk does not answer", self._state.directory)
        if lost := self.state.waiting:
            _logger.warning("%d ended cycles could not be written to %s and are lost", lost, self._state.directory)
        self._refuse_all()

    def _ask(self, question: Callable[[], _T]) -> Future[_T]:
        answer: Future[_T] = Future()

        def work() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    found = question()
                except (OSError, sqlite3.Error) as error:
                    settle(answer, ReadFailed(f"the history cannot be read: {reason_of(error)}"))
                except Exception as error:  # whoever asks must hear of a defect, too
                    if not isinstance(error, DocumentInvalid | schema.Damaged):
                        _logger.exception("a question to the history has met a defect")
                    settle(answer, ReadFailed(f"the history cannot be read: {error}"))
                else:
                    settle(answer, found)

        with self._changed:
            if self._end_by == _NEVER and len(self._reads) < READS_LIMIT:
                self._reads.append(Read(work, lambda error: settle(answer, error)))
                self._changed.notify_all()
                return answer
        answer.set_exception(ReadFailed("the history cannot be read: the broker stops, or its disk does not answer"))
        return answer

    # From here on: the history's thread.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except Exception:  # a defect of one job must not end the thread that all others wait for
                _logger.exception("the history's thread has met a defect")
        with self._changed:
            may_write = self._is_open or self._entrance is not None
        if may_write:
            self._book.close()  # SQLite's own end of a file writes to it
        else:
            self._book.directory.close()

    def _next(self) -> Callable[[], None] | None:
        """What to do next, once there is something that may be done; None: this is the end."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            while True:
                now = time.monotonic()
                if self._ended:  # before any question, which sees what waits
                    return partial(self._pack, self._ended[0])
                if self._reads:
                    return self._reads.popleft().work
                if self._is_open and (job := self._next_write(now)) is not None:
                    self._is_writing, self._began = True, now
                    return job
                is_idle = not self._writes and self._due == _NEVER
                if self._end_by < _NEVER and (is_idle or now >= self._end_by):
                    return None
                until = min(self._wake_at(), self._end_by)
                self._changed.wait(max(until - now, 0.0) if until < _NEVER else None)

    def _next_write(self, now: float) -> Callable[[], None] | None:
        """What to write next with the gate open; None: nothing yet."""
        entrance = self._entrance
        if entrance is None:
            if self._writes:
                return partial(self._write, self._writes.popleft())
            return self._write_ended if now >= self._due else None
        if entrance.has_answered:
            return partial(self._enter, entrance)
        if entrance.asked_at is None:
            entrance.ask(self._wake)
        if self._writes and now >= self._stuck_at():
            return partial(self._write, self._writes.popleft())  # to the stand-in, which refuses: nobody waits in vain
        return None

    def _wake_at(self) -> float:
        """When there may be something to write without anybody's word."""
        if not self._is_open:
            return _NEVER
        if self._entrance is None:
            return self._due
        return self._stuck_at() if self._writes else _NEVER

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _enter(self, entrance: Entrance) -> None:
        """The disk takes writes: from now on what is written there counts. Whoever has not waited for this has gone on
        with what could be read before, so that nothing is adopted here which is not running already.
        """
        with self._changed:
            self._entrance = None  # whatever comes of it, it is not tried again
        failure: Exception | None = None
        try:
            book, found = entrance.enter()
        except Exception as error:
            if not isinstance(error, AppvssError):
                _logger.exception("the opening of the history has met a defect")
            failure = error
        is_awaited = self._entered.set_running_or_notify_cancel()
        if failure is not None and is_awaited:
            with self._changed:
                self._end_by = 0.0
            self._entered.set_exception(failure)
            return
        if failure is not None:
            book = entrance.stay_out(failure)
            found = Found(notes=[book.trouble])
        self._use(book, found, is_awaited=is_awaited)
        if is_awaited:
            self._entered.set_result(found)

    def _use(self, book: Book, found: Found, *, is_awaited: bool) -> None:
        """From now on this book counts. Nobody else says what was found, unless it is awaited."""
        condition = HistoryCondition.IN_MEMORY if book.trouble else HistoryCondition.KEEPING
        cycle, cycles = found.open_cycle.cycle if found.open_cycle is not None else "", count_of(book)
        notes = list(found.notes)
        with self._changed:
            self._book = book
            if is_awaited:
                self._adopted = self._running = cycle
                self._state = replace(self._state, condition=condition, detail=book.trouble, cycles=cycles)
            if cycle not in ("", self._adopted):
                notes.append(f"cycle {cycle} was open; that was not known in time, and nothing is claimed of it")
            if found.restored is not None and self._restored is None:
                notes.append(
                    f"this machine was restored from cycle {found.restored.cycle}, which was not known in time"
                )
            self._restored = self._restored or found.restored or found.remembered
            is_behind = bool(self._waiting) or book.is_untidy or cycle != self._running
            self._due = 0.0 if is_behind else self._due
        if is_awaited:
            return
        for note in notes:
            _logger.warning("%s", note)
        if book.trouble or not is_behind:
            self._tell(condition, book.trouble)

    def _pack(self, past: PastCycle) -> None:
        """Put the oldest of the ended cycles, packed, among those that wait; unless it was dropped meanwhile."""
        row: Row | None = None
        try:
            row = row_of(past)
        finally:
            with self._changed:
                if self._ended and self._ended[0] is past:
                    self._ended.popleft()
                    if row is not None:
                        self._waiting.pop(row.cycle, None)
                        self._waiting[row.cycle] = row

    def _unwritten(self) -> list[Row]:
        """All that waits, oldest first."""
        with self._changed:
            return list(self._waiting.values())

    def _write(self, write: Write) -> None:
        if not write.written.set_running_or_notify_cancel():
            return
        if failure := attempt(lambda: self._book.write_journal(write.entry, write.certificate)):
            self._failed(failure)
            if self._book.is_untidy:
                self._try_later()
            settle(write.written, JournalFailed(failure))
            return
        settle(write.written, None)
        with self._changed:
            is_behind = bool(self._waiting) or self._book.is_untidy
            if is_behind:
                self._due = 0.0  # the disk takes writes again: do not wait for the next attempt
        if not is_behind:
            self._tell(HistoryCondition.KEEPING)

    def _write_ended(self) -> None:
        with self._changed:
            rows, running = list(self._waiting.values()), self._running
            self._due = _NEVER
        if failure := attempt(lambda: self._book.end(rows, running)):
            self._failed(failure)
            self._try_later()
            return
        with self._changed:
            for row in rows:
                if self._waiting.get(row.cycle) is row:
                    del self._waiting[row.cycle]
        self._tell(HistoryCondition.KEEPING)

    def _try_later(self) -> None:
        with self._changed:
            if self._end_by == _NEVER:
                self._due = min(self._due, time.monotonic() + self._retry)

    def _failed(self, sentence: str) -> None:
        _logger.warning("%s", sentence)
        self._tell(HistoryCondition.FAILING, sentence + _ADVICE)

    def _tell(self, condition: HistoryCondition, detail: str = "") -> None:
        """Keep the new state, and say so when the condition is another."""
        cycles = count_of(self._book)
        with self._changed:
            was = self._state
            if was.condition is HistoryCondition.IN_MEMORY:
                condition, detail = was.condition, was.detail
            self._state = replace(was, condition=condition, detail=detail, cycles=cycles)
        if condition is not was.condition and self.on_change is not None:
            try:
                self.on_change(self.state)
            except Exception:  # a defect of whoever listens must not cost anybody a journal
                _logger.exception("the history's change was not taken")

    # On any thread.

    def _drop_oldest(self) -> None:
        if self._waiting:
            self._waiting.popitem(last=False)
        else:
            self._ended.popleft()
        self._dropped += 1

    def _refuse_all(self) -> None:
        """Let nobody wait for a thread that does nothing any more."""
        with self._changed:
            reads, writes = list(self._reads), list(self._writes)
            self._reads.clear()
            self._writes.clear()
        for read in reads:
            read.refuse(ReadFailed("the history cannot be read: the broker stops"))
        for write in writes:
            settle(write.written, JournalFailed("the journal was not written before the broker stopped"))
