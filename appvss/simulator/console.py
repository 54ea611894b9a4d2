"""Standard input and output for a program that must never wait for either on its event loop.

A thread each, as daemon threads on the bare descriptors: a read that never ends, or a reader that has stopped reading,
cannot keep the program from ending.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import threading
from datetime import timedelta
from typing import Final

_WAITING_LINES: Final = 10_000
_READ_SIZE: Final = 4096
_SECONDS_BETWEEN_LOOKS: Final = 1


class LineWriter:
    """Writes lines to a descriptor. When its reader is slower than the program, lines are dropped and counted.

    Args:
        descriptor: stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
        self.dropped = 0
        """How many lines were not written because too many waited."""
        self._thread = threading.Thread(target=self._write_all, name="simulator-output", daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Write a line soon. Never waits."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.dropped += 1

    def finish(self, patience: timedelta) -> None:
        """Wait until everything is written, at most so long. Blocks: call it in a thread or at the very end."""
        try:
            self._lines.put(None, timeout=patience.total_seconds())
        except queue.Full:
            return
        self._thread.join(patience.total_seconds())

    def _write_all(self) -> None:
        usable = True
        while (text := self._lines.get()) is not None:
            if usable:
                usable = self._write(text.encode(errors="backslashreplace") + b"\n")

    def _write(self, data: bytes) -> bool:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError:  # nobody reads any more: the simulator goes on without
                return False
        return True


class LineReader:
    """Reads lines from a descriptor into a queue; None ends them. For the event loop that it is made on.

    Args:
        descriptor: stays the caller's.
        limit: the longest line in bytes; what is longer comes as that many bytes and one more.
    """

    def __init__(self, descriptor: int, limit: int) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self.lines: asyncio.Queue[str | None] = asyncio.Queue(16)
        threading.Thread(target=self._read_all, name="simulator-input", daemon=True).start()

    def _read_all(self) -> None:
        rest = b""
        while chunk := self._read():
            *complete, rest = (rest + chunk).split(b"\n")
            rest = rest[: self._limit + 1]
            if not all(self._hand_over(line) for line in complete):
                return
        if rest and not self._hand_over(rest):
            return
        self._put(None)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_SIZE)
        except OSError:  # closed, or not ours to read: there is no input
            return b""

    def _hand_over(self, line: bytes) -> bool:
        return self._put(line[: self._limit + 1].decode(errors="replace"))

    def _put(self, line: str | None) -> bool:
        """Wait for room in the queue; False when nobody will make any."""
        put = self.lines.put(line)
        try:
            done = asyncio.run_coroutine_threadsafe(put, self._loop)
            while not self._loop.is_closed():
                with contextlib.suppress(TimeoutError):
                    done.result(_SECONDS_BETWEEN_LOOKS)
                    return True
        except (RuntimeError, concurrent.futures.CancelledError):
            pass  # the event loop has ended, and nobody will take the line
        put.close()
        return False
