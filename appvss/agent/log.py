"""The agent's log: its own records and those of all apps, as lines of text or JSON.

Nothing is written while any app holds (`service/log.py`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from appvss.agent.options import LogFormat, LogLevel
from appvss.model.names import printable
from appvss.service.log import RingHandler

_MESSAGE_LIMIT: Final = 2_000
_WEIGHTS: Final = {level: getattr(logging, level.upper()) for level in LogLevel} | {"critical": logging.CRITICAL}


class Log(RingHandler):
    """Where every record of the agent goes."""

    format_of_lines = LogFormat.TEXT
    least = LogLevel.INFO

    def format(self, record: logging.LogRecord) -> str:
        """A record of this process as a line."""
        level, app = record.levelname.lower(), getattr(record, "app", "")
        return self._written({"time": record.created, "level": level, "app": app, "message": record.getMessage()})

    def take(self, app: str, record: Mapping[str, Any]) -> None:
        """Take a record of an app's process: whatever it says, it is one printable line."""
        level = str(record.get("level", "info"))
        if _WEIGHTS.get(level, logging.INFO) >= _WEIGHTS[self.least]:
            self.append(self._written({**record, "app": app}))

    def _written(self, record: Mapping[str, Any]) -> str:
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


def configure(log: Log, level: LogLevel, line_format: LogFormat) -> None:
    """What is logged from now on, and how."""
    log.least, log.format_of_lines = level, line_format
    logging.getLogger("appvss").setLevel(level.upper())
