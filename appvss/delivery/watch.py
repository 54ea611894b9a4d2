"""Watchers: everybody who wants to see what happens, each with a bounded queue."""

from __future__ import annotations

import asyncio
from typing import Final

from appvss.v1 import types_pb2

QUEUE_LIMIT: Final = 10_000
"""Events that may wait for one watcher; more, and it is told that it reads too slowly (`admin.proto`, WatchEvents)."""
WATCHERS_LIMIT: Final = 32


class Watcher:
    """One watcher's queue. After `overflowed` it misses events and should be told so."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[types_pb2.Event | None] = asyncio.Queue(QUEUE_LIMIT + 1)
        self.overflowed = False

    def put(self, event: types_pb2.Event) -> None:
        """Queue an event; the first that does not fit marks the watcher as overflowed."""
        if self._queue.qsize() >= QUEUE_LIMIT:
            self.overflowed = True
        else:
            self._queue.put_nowait(event)

    def close(self) -> None:
        """Nothing more comes after what is queued."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    async def get(self) -> types_pb2.Event | None:
        """The next event, in order; None: there are no more."""
        return await self._queue.get()


class Watchers:
    """All watchers."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._watchers)

    @property
    def is_full(self) -> bool:
        """Whether no further watcher is taken."""
        return len(self._watchers) >= WATCHERS_LIMIT

    def add(self) -> Watcher:
        """A new watcher; whoever adds it also removes it."""
        watcher = Watcher()
        if self._is_closed:
            watcher.close()
        self._watchers.add(watcher)
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher."""
        self._watchers.discard(watcher)

    def publish(self, event: types_pb2.Event) -> None:
        """Give an event to everybody who watches."""
        for watcher in self._watchers:
            watcher.put(event)

    def close(self) -> None:
        """The broker stops: nothing more happens."""
        self._is_closed = True
        for watcher in self._watchers:
            watcher.close()
