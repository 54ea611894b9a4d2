"""One opening of a device, in a thread of its own: what every such thread has in common.

A thread, because the system calls of a device may block and so do not belong on the event loop. Nobody waits for it:
answers are put into a queue and a byte into a pipe that wakes it; news go to the loop through a callback.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from appvss.model.errors import SourceError
from appvss.model.request import Request

MOST_ANSWERS = 16
"""How many answers may wait to be written. There are never more than the requests that are open; the rest are
mistakes."""


@dataclass(frozen=True, slots=True)
class Opened:
    """News: the device is open and has proved to be the right one."""

    detail: str
    """What the source's state says while it serves: the device's path, and whatever else is worth knowing."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """News: a request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Unasked:
    """News: a message that is not made a request, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lapsed:
    """News: the requester has given a request up, while the device goes on."""

    request: Request
    reason: str


News: TypeAlias = Opened | Arrived | Unasked | Lapsed


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing is asked, or nothing is answered, and why."""

    reason: str


class DeviceThread(abc.ABC):
    """From one open of a device to its close.

    Args:
        path: the device.
        name: the thread's.
        tell: takes the news, in the thread, in order; the first is `Opened`. Must not block.
        logger: for answers that are not sent.
    """

    def __init__(self, path: str, name: str, tell: Callable[[News], None], logger: logging.Logger) -> None:
        self.path = path
        self.finished: Future[str | None] = Future()
        """Set when everything is closed. The result is why the device was lost, or None after `stop`.

        Raises:
            SourceError: the device could not be opened, or is not what it should be.
        """
        self._tell = tell
        self._logger = logger
        self._answers: queue.Queue[tuple[str, bool]] = queue.Queue(MOST_ANSWERS)
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._wake_read, self._wake_write = -1, -1

    @abc.abstractmethod
    def _serve(self) -> str | None:
        """Open the device, relay, close it: in the thread. The result and the errors are those of `finished`.

        `_wake_read` becomes readable when answers wait, and reports its end after `stop`; see `_woken`.
        """

    def start(self) -> None:
        """Begin to open the device.

        Raises:
            SourceError: the machine has no descriptors or threads left.
        """
        try:
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)
            self.finished.set_running_or_notify_cancel()  # so that nobody can cancel it while the thread runs
            self._thread.start()
        except (OSError, RuntimeError) as error:
            for descriptor in (self._wake_read, self._wake_write):
                if descriptor >= 0:
                    os.close(descriptor)
            raise SourceError(
                f"no thread can be started for {self.path}: {error}",
                "Look at this process's limits for descriptors and threads.",
            ) from error

    def answer(self, identity: str, *, go_on: bool) -> None:
        """Have an answer written. Does not block; called in the thread that also calls `stop`, and not after it."""
        try:
            self._answers.put_nowait((identity, go_on))
            # A full pipe wakes the thread as well as one more byte would.
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"a")
        except queue.Full:
            self._logger.error("the answer to request %s is not sent: %d others wait", identity, MOST_ANSWERS)
        except BrokenPipeError:
            self._discard_answers()

    def stop(self) -> None:
        """Have the device closed, after the answers that wait. Does not block; `finished` tells when it is done."""
        if self._wake_write >= 0:
            os.close(self._wake_write)
            self._wake_write = -1

    def join(self, limit: timedelta) -> bool:
        """Wait for the thread's end; False if `limit` has passed before. At once, when `finished` is done."""
        self._thread.join(limit.total_seconds())
        return not self._thread.is_alive()

    def _woken(self) -> bool:
        """Take what is in the pipe, before the answers are taken: one that is put later wakes the thread again.

        Returns:
            Whether it goes on; False: `stop` was called.
        """
        return bool(os.read(self._wake_read, 4096))

    def _take_answers(self) -> Iterator[tuple[str, bool]]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._answers.get_nowait()

    def _unsent(self, identity: str, silence: Silence) -> None:
        self._logger.warning("the answer to request %s is not sent: %s", identity, silence.reason)

    def _discard_answers(self) -> None:
        for identity, _ in self._take_answers():
            self._unsent(identity, Silence("the device is closed"))

    def _main(self) -> None:
        try:
            try:
                reason = self._serve()
            finally:
                os.close(self._wake_read)
                self._discard_answers()
        except BaseException as error:  # noqa: BLE001 - not swallowed: it is raised where `finished` is awaited
            self.finished.set_exception(error)
        else:
            self.finished.set_result(reason)
