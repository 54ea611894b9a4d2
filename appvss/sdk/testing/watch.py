"""Waiting for something to become so, with a bound, in threads and on event loops alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Watch:
    """A lock, and those who wait for what it guards to change."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._waiting: list[tuple[Callable[[], Any], Future[Any]]] = []

    def when(self, find: Callable[[], T | None]) -> Future[T]:
        """A future of the first value of `find` that is not None. `find` is called with the lock held.

        An exception that `find` raises goes to the future too.
        """
        future: Future[T] = Future()
        with self.lock:
            self._waiting.append((find, future))
            self.changed()
        return future

    def changed(self) -> None:
        """Look again, for everybody. To be called after every change, with the lock held."""
        waiting, self._waiting = self._waiting, []
        for find, future in waiting:
            if not _settle(find, future):
                self._waiting.append((find, future))


def _settle(find: Callable[[], Any], future: Future[Any]) -> bool:
    if future.cancelled():
        return True
    try:
        value = find()
    except (TimeoutError, ConnectionError) as error:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
        return True
    if value is None:
        return False
    if future.set_running_or_notify_cancel():
        future.set_result(value)
    return True
