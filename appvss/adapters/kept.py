"""What is kept from a prepare for the freeze that may follow: a program that runs, a connection that is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Generic, TypeVar

IDLE_LIMIT: Final = timedelta(minutes=5)
"""How long it is kept: not every prepare is followed by a freeze."""

_ThingT = TypeVar("_ThingT")


class Kept(Generic[_ThingT]):
    """At most one thing, for a while.

    Args:
        drop: lets go of it without waiting; called on the event loop on which it was put.
        abandon: does what can be done without an event loop, where that one is closed.
        limit: how long it is kept.
    """

    def __init__(
        self,
        drop: Callable[[_ThingT], None],
        abandon: Callable[[_ThingT], None] = lambda _: None,
        limit: timedelta = IDLE_LIMIT,
    ) -> None:
        self._drop = drop
        self._abandon = abandon
        self._limit = limit
        self._thing: _ThingT | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, thing: _ThingT) -> None:
        """Keep it, in place of what was there. Needs a running event loop."""
        self.clear()
        self._thing, self._loop = thing, asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._limit.total_seconds(), self.clear)

    def take(self) -> _ThingT | None:
        """What is kept; the caller has it from now on. None: nothing, or it belongs to another event loop, which lets
        go of it.
        """
        thing, self._thing = self._thing, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if thing is None or self._loop is None or self._loop is asyncio.get_running_loop():
            return thing
        try:
            self._loop.call_soon_threadsafe(self._drop, thing)
        except RuntimeError:  # that loop is closed
            self._abandon(thing)
        return None

    def clear(self) -> None:
        """Let go of what is kept, if anything is."""
        thing = self.take()
        if thing is not None:
            self._drop(thing)
