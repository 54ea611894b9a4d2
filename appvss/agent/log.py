"""The agent's log: its own records and those of all apps, through a bounded ring in memory to standard error.

Nothing is written while any app holds: the log may lie on a file system that is being frozen (ARCHITECTURE section 5).
The event loop only ever appends to the ring; a thread writes, and rests while the gate is closed.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from appvss.agent.options import LogFormat, LogLevel
from appvss.model.names import printable

RING_LIMIT: Final = 5_000
"""Records that may wait. When more come, the oldest are dropped and counted."""
_STOP_LIMIT: Final = 5.0
"""Seconds that writing the rest may take at the end."""
_MESSAGE_LIMIT: Final = 2_000
_WEIGHTS: Final = {level: getattr(logging, level.upper()) for level in LogLevel} | {"critical": logging.CRITICAL}


class Log(logging.Handler):
    """Where every record of the agent goes.

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
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="appvss-agent-log", daemon=True)
        self.format_of_lines = LogFormat.TEXT
        self.least = LogLevel.INFO

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of this process."""
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a record of any library that cannot be formatted must end nothing
            text = f"a log record of {record.name} cannot be formatted: {error!r}"
        app = getattr(record, "app", "")
        self._add({"time": record.created, "level": record.levelname.lower(), "app": app, "message": text})

    def take(self, app: str, record: Mapping[str, Any]) -> None:
        """Take a record of an app's process: whatever it says, it is one printable line."""
        level = str(record.get("level", "info"))
        if _WEIGHTS.get(level, logging.INFO) >= _WEIGHTS[self.least]:
            self._add({**record, "app": app})

    def _add(self, record: Mapping[str, Any]) -> None:
        line = self._line(record)
        with self._changed:
            self._dropped += len(self._ring) == self._ring.maxlen
            self._ring.append(line)
            self._changed.notify_all()

    def _line(self, record: Mapping[str, Any]) -> str:
        created = record.get("time")
        try:
            instant = datetime.fromtimestamp(created if isinstance(created, int | float) else 0, UTC)
        except (ValueError, OverflowError, OSError):  # infinite, or no year that there is
            instant = datetime.fromtimestamp(0, UTC)
        time = instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        level, app, cycle, message = (
            printable(str(record.get(name, "")), _MESSAGE_LIMIT) for name in ("level", "app", "cycle", "message")
        )
        if self.format_of_lines is LogFormat.JSON:
            fields = {"time": time, "level": level, "app": app or None, "cycle": cycle or None, "message": message}
            return json.dumps(fields)
        place = f" {app}" if app else ""
        return f"{time} {level.upper()}{place}{f' [{cycle}]' if cycle else ''}: {message}"

    def set_gate(self, *, is_open: bool) -> None:
        """Close the gate while anything is held: no further line is begun until it is opened again."""
        with self._changed:
            self._is_open = is_open
            self._changed.notify_all()

    def stop(self) -> None:
        """Write the rest, for a bounded time, and end the thread."""
        with self._changed:
            self._is_stopping = self._is_open = True
            self._changed.notify_all()
        self._thread.join(_STOP_LIMIT)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def _next(self) -> tuple[str, int]:
        """The next text, as soon as one may be written, and for how many records it stands; 0: this is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_open and (self._is_stopping or self._ring))
            if not self._ring:
                return "", 0
            line, dropped = self._ring.popleft(), self._dropped
            self._dropped = 0
        if dropped:
            message = f"{dropped} log records were dropped: more came than could be written"
            now = datetime.now(UTC).timestamp()
            line = self._line({"time": now, "level": "warning", "message": message}) + "\n" + line
        return line + "\n", dropped + 1

    def _write_all(self) -> None:
        while True:
            text, records = self._next()
            if not records:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                return  # nobody reads any more: a log must not end the agent
            except OSError:
                with self._changed:
                    self._dropped += records  # a full disk may have room again


@contextmanager
def logging_to(log: Log) -> Iterator[None]:
    """Inside this block everything that is logged goes to `log`; of libraries, from a warning on."""
    root, ours = logging.getLogger(), logging.getLogger("appvss")
    before = root.level, root.handlers[:], ours.level
    root.handlers[:] = [log]
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)  # or they would be written at once, in a hold as well
    log.start()
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        ours.setLevel(before[2])
        log.stop()


def configure(log: Log, level: LogLevel, line_format: LogFormat) -> None:
    """What is logged from now on, and how."""
    log.least, log.format_of_lines = level, line_format
    logging.getLogger("appvss").setLevel(level.upper())
