"""The log of a service: through a bounded ring in memory to standard error, and nothing of it while anything is held.

A log may lie on a file system that is being frozen, and who writes there cannot even be killed (ARCHITECTURE section
5). So whoever logs only ever appends to the ring; another thread writes, and it rests as long as the gate is closed.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, TextIO

RING_LIMIT: Final = 5_000
"""Records that may wait. When more come, the oldest are dropped and counted."""
_STOP_LIMIT: Final = 5.0
"""Seconds that the writer may take to write the rest when the service ends."""
_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RingHandler(logging.Handler):
    """Keeps records in memory; a thread of its own writes them while the gate is open.

    Args:
        stream: where to; standard error by default.
        limit: how many records may wait.
    """

    def __init__(self, stream: TextIO | None = None, limit: int = RING_LIMIT) -> None:
        super().__init__()
        self._stream = stream if stream is not None else sys.stderr
        self._ring: deque[str] = deque(maxlen=limit)
        self._dropped = 0
        self._is_open = True
        self._is_writing = False
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="appvss-log", daemon=True)
        self.setFormatter(logging.Formatter(_FORMAT))

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record; never waits for a disk. It is formatted here: its arguments may change later."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a record of any library that cannot be formatted must end nothing
            line = self._line(record.levelno, f"a log record of {record.name} cannot be formatted: {error!r}")
        self.append(line)

    def append(self, line: str) -> None:
        """Append what is formatted already."""
        with self._changed:
            self._dropped += len(self._ring) == self._ring.maxlen
            self._ring.append(line)
            self._changed.notify_all()

    def _line(self, level: int, text: str) -> str:
        """What the log itself has to say, in the form of every other record."""
        return self.format(logging.LogRecord("appvss.log", level, __file__, 0, text, None, None))

    def set_gate(self, *, is_open: bool) -> None:
        """Close the gate while anything is held: no further line is begun until it is opened again."""
        with self._changed:
            self._is_open = is_open
            self._changed.notify_all()

    def is_settled(self) -> bool:
        """Whether no line is being written."""
        with self._changed:
            return not self._is_writing

    def settle(self, limit: timedelta) -> bool:
        """Wait until the line that was begun before the gate was closed is written; False if that takes too long.

        Blocks for `limit` at most: not on the event loop.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_writing, limit.total_seconds())

    def stop(self) -> None:
        """Write the rest, for a bounded time, and end the thread."""
        with self._changed:
            self._is_stopping = self._is_open = True
            self._changed.notify_all()
        self._thread.join(_STOP_LIMIT)

    def _next(self) -> tuple[str, int]:
        """The next text, as soon as one may be written, and for how many records it stands; 0: this is the end."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_open and (self._is_stopping or self._ring))
            if not self._ring:
                return "", 0
            line, dropped = self._ring.popleft(), self._dropped
            self._dropped = 0
            self._is_writing = True
        if dropped:
            said = f"{dropped} log records were dropped: the ring was full, or nothing could be written"
            line = f"{self._line(logging.WARNING, said)}\n{line}"
        return f"{line}\n", dropped + 1

    def _write_all(self) -> None:
        while True:
            text, records = self._next()
            if not records:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                self._give_up()
                return
            except OSError:
                with self._changed:
                    self._dropped += records  # a full disk may have room again

    def _give_up(self) -> None:
        """Nobody reads any more (a closed pipe): a log must not end the service."""
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()


@contextmanager
def logging_to(handler: RingHandler, level: str = "info") -> Iterator[None]:
    """Inside this block everything that is logged goes through `handler`: our own records from `level` on, those of
    libraries from a warning on, since what they write on their own could block the loop on a frozen file system.
    """
    root, ours = logging.getLogger(), logging.getLogger("appvss")
    before = root.level, root.handlers[:], ours.level
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    handler.start()
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        ours.setLevel(before[2])
        handler.stop()
