"""Calls that may hang in the kernel, each in a thread of its own, so that they hang nobody else.

Not the loop's pool: it waits for its threads when the loop ends, and a few that hang would use it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """One call in a thread, awaited on the event loop.

    Args:
        work: the call.
        name: the thread's name.
        discard: takes the result when nobody waits for it any more. Called in the thread.

    Raises:
        OSError: no thread can be started.
    """

    def __init__(self, work: Callable[[], T], name: str, discard: Callable[[T], None] | None = None) -> None:
        self._work = work
        self._discard = discard
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self._loop.create_future()
        self._is_wanted = True
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, "no thread can be started") from error

    @property
    def is_over(self) -> bool:
        """Whether the thread has come back. Before that it may hang."""
        return not self._thread.is_alive()

    async def result(self) -> T:
        """Wait for it. Cancelling leaves the thread behind; what it brings is then discarded.

        Raises:
            Exception: whatever the call has raised.
        """
        try:
            return await asyncio.shield(self._future)
        except asyncio.CancelledError:
            self._leave_behind()
            raise

    def _leave_behind(self) -> None:
        with self._lock:
            self._is_wanted = False
        if self._future.done() and not self._future.cancelled() and self._future.exception() is None:
            self._throw_away(self._future.result())

    def _main(self) -> None:
        try:
            result = self._work()
        except BaseException as error:  # noqa: BLE001 - not swallowed: it is raised where the result is awaited
            self._deliver(self._fail, error)
            return
        with self._lock:
            is_wanted = self._is_wanted
        if not (is_wanted and self._deliver(self._succeed, result)):
            self._throw_away(result)

    def _deliver(self, call: Callable[..., None], argument: object) -> bool:
        """Whether the loop still takes it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, argument)
            return True
        return False

    def _succeed(self, result: T) -> None:
        if self._is_wanted:
            self._future.set_result(result)
        else:
            self._throw_away(result)

    def _fail(self, error: BaseException) -> None:
        if self._is_wanted:
            self._future.set_exception(error)

    def _throw_away(self, result: T) -> None:
        if self._discard is not None:
            self._discard(result)
