"""What the agent's processes say to each other: JSON objects, one a line, over pipes. Saying something never waits.

    agent -> child: `{"agent": ..., "key": ..., "table": ...}` once, on its standard input; the end of that means: leave
    child -> agent: `{"alive": 1}`, `{"phase": ..., "cycle": ..., "limit": seconds}`, `{"log": ...}`
    agent -> guardian: `{"app": key, "order": ..., "runs_as": ...}`, `{"child": key, "pid": ...}`, `{"gone": key}`,
        `{"hold": key, "limit": seconds}`, `{"rest": key}`

A process that does not read (it is stopped) must not stop the one that writes, least of all in a hold: what does not
fit into the pipe waits in memory, and what can be spared is dropped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

PIPE_SIZE: Final = 1024 * 1024
"""Bytes that a pipe may hold, where the kernel allows it (fcntl(2), F_SETPIPE_SZ)."""
WAITING_MOST: Final = 1_000
"""Lines that may wait; of those that can be spared, none is added then."""
LINE_MOST: Final = 64 * 1024
"""Bytes of a line; a longer one ends where it is, and what follows is a line of its own."""


class LineWriter:
    """The writing end of a pipe. May be used from any thread.

    Args:
        descriptor: the pipe; made non-blocking here.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()
        self.dropped = 0
        """Lines that were spared."""
        self._is_broken = False

    def say(self, message: Mapping[str, Any], *, can_be_spared: bool = False) -> None:
        """Write a message, or keep it until `flush` can."""
        self.say_line(json.dumps(message), can_be_spared=can_be_spared)

    def say_line(self, text: str, *, can_be_spared: bool = False) -> None:
        """The same for a line that is written already, without its line break."""
        line = text.encode() + b"\n"
        with self._lock:
            if can_be_spared and len(self._waiting) >= WAITING_MOST:
                self.dropped += 1
                return
            self._waiting.append(line)
            self._write()

    def flush(self) -> None:
        """Write as much as fits of what waits."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Close the pipe; what waits is given up. May be called twice."""
        with self._lock:
            if not self._is_broken:
                self._is_broken = True
                os.close(self._descriptor)

    def _write(self) -> None:
        while self._waiting and not self._is_broken:
            line = self._waiting[0]
            try:
                written = os.write(self._descriptor, line)
            except BlockingIOError:
                return
            except OSError:  # nobody reads any more
                self._waiting.clear()
                return
            if written < len(line):
                self._waiting[0] = line[written:]
                return
            self._waiting.popleft()


class LineReader:
    """The reading end of a pipe: bytes in, whole lines out.

    Args:
        most: bytes of a line; a longer one is cut.
    """

    def __init__(self, most: int = LINE_MOST) -> None:
        self._most = most
        self._rest = b""

    def take(self, content: bytes) -> Iterator[str]:
        """The lines that end in `content`. What is longer than it may be is cut into pieces."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > self._most:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            yield line[: self._most].decode(errors="replace")

    def rest(self) -> str:
        """What stands after the last line break, at the end of the pipe."""
        rest, self._rest = self._rest, b""
        return rest.decode(errors="replace")


def message_of(line: str) -> Mapping[str, Any]:
    """The message in a line; an empty one for a line that is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, Mapping) else {}


def make_room(descriptor: int) -> None:
    """Let a pipe hold more, where the kernel allows it."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
