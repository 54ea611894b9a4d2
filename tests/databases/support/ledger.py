"""Who wrote what, and when it was acknowledged: the measure of what a copy has lost.

    with writing("tests.databases.support.commits:postgresql", {"dsn": server.dsn}, writers=4) as ledger:
        ledger.wait_for(200)                      # acknowledgements, of all writers together
        taken = await take(Way.FS, pool, volumes)
    ledger.lost(rows_of_the_copy, taken.instant)  # acknowledged before that, and not in the copy

Writers are processes of their own (`writer.py`): a volume that is frozen stops them and nobody else. Each row is one
whole number, of which nothing is used twice: `WRITER * PER_WRITER + NUMBER`, with numbers that count from 1. Times are
those of `time.monotonic()`, one clock for all processes, taken by the writer when the server's answer was there.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from tests.databases.support.writer import NOTE, PER_WRITER
from tests.support.running_broker import ROOT

BOUND = 30.0
"""Seconds for each wait."""


@dataclass(frozen=True, slots=True)
class Note:
    """One acknowledged write."""

    row: int
    began: float
    acknowledged: float


class Ledger:
    """What has been acknowledged so far. A thread reads what the writers say; any thread may ask."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._news = threading.Condition()
        self._processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        self._threads: list[threading.Thread] = []
        self._is_stopped = False

    def start(self, commit: str, arguments: Mapping[str, object], number: int, *, pause: float) -> None:
        """Start writer `number`; `writing` does it."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 # closed in stop
        command = (sys.executable, "-m", "tests.databases.support.writer", commit, str(number), str(pause))
        process = subprocess.Popen(
            [*command, json.dumps(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=ROOT,
            start_new_session=True,
        )
        assert process.stdout is not None
        thread = threading.Thread(target=self._read, args=(process.stdout,), name=f"writer {number}", daemon=True)
        self._processes.append((process, errors))
        self._threads.append(thread)
        thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        pending = b""
        while read := pipe.read1(65536):  # type: ignore[attr-defined] # a buffered reader has it
            pending += read
            whole = len(pending) // NOTE.size * NOTE.size
            notes = [Note(*fields) for fields in NOTE.iter_unpack(pending[:whole])]
            pending = pending[whole:]
            with self._news:
                self._notes.extend(notes)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def notes(self) -> list[Note]:
        """All acknowledged writes so far."""
        with self._news:
            return list(self._notes)

    def wait_for(self, count: int, *, since: float | None = None, bound: float = BOUND) -> None:
        """Wait until so many writes were acknowledged.

        Args:
            count: of all writers together.
            since: count only those that began after this moment; None: all.
            bound: seconds after which this has failed.
        """
        deadline = time.monotonic() + bound
        with self._news:
            while True:
                got = len(self._notes) if since is None else sum(note.began >= since for note in self._notes)
                if got >= count:
                    return
                left = deadline - time.monotonic()
                assert left > 0, f"{got} of {count} writes acknowledged in {bound} s: {self.errors()}"
                assert any(thread.is_alive() for thread in self._threads), f"all writers ended: {self.errors()}"
                self._news.wait(min(left, 1.0))

    def acknowledged_before(self, instant: float) -> set[int]:
        """The rows whose acknowledgement was there before that moment."""
        return {note.row for note in self.notes if note.acknowledged < instant}

    def lost(self, rows: Iterable[int], instant: float) -> set[int]:
        """The rows that were acknowledged before that moment and are not among those of the copy."""
        return self.acknowledged_before(instant) - set(rows)

    def longest_wait(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """The longest that a client waited for its answer, in seconds, of those whose wait touches that time."""
        waits = (
            note.acknowledged - note.began for note in self.notes if note.acknowledged >= begin and note.began < end
        )
        return max(waits, default=0.0)

    def errors(self) -> str:
        """What writers have said before they ended; empty: nothing."""
        said = []
        for process, errors in self._processes:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()
            if text:
                said.append(f"writer {process.pid}: {text[-500:]}")
        return "\n".join(said)

    def stop(self) -> None:
        """End the writers, by their process ids, and wait until all that they said is read. May be called again."""
        if self._is_stopped:
            return
        self._is_stopped = True
        for process, _ in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process, _ in self._processes:
            try:
                process.wait(BOUND)
            except subprocess.TimeoutExpired:
                process.kill()  # it hangs on a frozen volume; the keeper's thaw ends it
        for thread in self._threads:
            thread.join(BOUND)

    def close(self) -> None:
        """Stop, and close what is open."""
        self.stop()
        for process, errors in self._processes:
            assert process.stdout is not None
            process.stdout.close()
            errors.close()


@contextmanager
def writing(commit: str, arguments: Mapping[str, object], *, writers: int = 2, pause: float = 0.0) -> Iterator[Ledger]:
    """Writers that write until the end of the block, or until `ledger.stop()`.

    Args:
        commit: `MODULE:FUNCTION`; the function takes the writer's number and `arguments` by name, and gives a function
            that writes and commits one row, whose number it is called with.
        arguments: what it needs to connect, as JSON can say it.
        writers: how many processes.
        pause: seconds between two writes of one writer.
    """
    ledger = Ledger()
    try:
        for number in range(1, writers + 1):
            ledger.start(commit, arguments, number, pause=pause)
        yield ledger
    finally:
        ledger.close()


def holes(rows: Iterable[int]) -> set[int]:
    """The rows that are missing before the last one of their writer: a copy of one moment has none."""
    found: dict[int, set[int]] = {}
    for row in rows:
        found.setdefault(row // PER_WRITER, set()).add(row % PER_WRITER)
    return {
        writer * PER_WRITER + number
        for writer, numbers in found.items()
        for number in range(1, max(numbers))
        if number not in numbers
    }
