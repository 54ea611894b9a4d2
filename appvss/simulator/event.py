"""What the simulated device and everybody around it did, as values, and the bounded record of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from appvss.simulator.clock import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD_LIMIT: Final = 10_000
"""How many events are kept; the oldest go first."""
WATCHER_LIMIT: Final = 1_000
"""How many events may wait for one watcher; a watcher that is slower loses the oldest."""


class Side(StrEnum):
    """The two devices of the driver (facts/freebsd-vss.md section 1)."""

    APP = "app"
    """hv_appvss_dev: one application or broker."""
    FS = "fs"
    """hv_fsvss_dev: the file-system side, `hv_vss_daemon(8)`."""


class EventKind(StrEnum):
    """What happened. The words are stable: they are printed and written as JSON."""

    ATTACHED = "attached"
    """The driver attached: the nodes are there."""
    LEAVING = "leaving"
    """Linux: the device is being removed, and the kernel waits for whoever has it open."""
    DETACHED = "detached"
    """The driver detached: the nodes are gone."""
    HIBERNATED = "hibernated"
    """Linux: the machine has hibernated and come back."""
    OPENED = "opened"
    OPEN_REFUSED = "open_refused"
    CLOSED = "closed"
    """The last descriptor of the opening was closed, by its owner's death too."""
    WAITS = "waits"
    """Somebody sleeps in poll until this side is woken; told once for each sleep that a request can end."""
    WOKEN = "woken"
    """A request waits on this side; whoever polls is woken."""
    REGISTERED = "registered"
    """Linux: somebody has written a registration; the driver answers it, or it is one of the old kind."""
    READ = "read"
    READ_EMPTY = "read_empty"
    """READ with nothing waiting: return value 0, status 1."""
    READ_REFUSED = "read_refused"
    """Linux: the buffer is smaller than the message, or the driver goes."""
    WROTE = "wrote"
    WRITE_IGNORED = "write_ignored"
    """WRITE that the driver does not act on; the caller sees success all the same."""
    WRITE_REFUSED = "write_refused"
    """Linux: a message that the driver does not take; the caller sees the error."""
    UNKNOWN_IOCTL = "unknown_ioctl"
    """An ioctl that the driver does not know; the caller sees success all the same."""
    WAIT_IN_VAIN = "wait_in_vain"
    """The opener waits with select or epoll, which never works on FreeBSD's driver."""
    HOST_SENT = "host_sent"
    """The host put a message into the ring."""
    RECEIVED = "received"
    """The driver made a request of the host's message; its time has begun."""
    DROPPED = "dropped"
    """The driver read the host's message and will never answer it."""
    REPLIED = "replied"
    """The driver answered the host."""
    TIMED_OUT = "timed_out"
    """The driver's time for a request ran out."""
    LOST = "lost"
    """A request is in no queue any more and not answered; only its timer will end it."""
    RACED = "raced"
    """An answer met the timer: undefined in FreeBSD's driver, which may panic; in Linux's it is not heard."""
    PANICKED = "panicked"
    """An assertion of a debug kernel failed: the machine is gone."""
    KILLED = "killed"
    """The driver sent SIGKILL to a process that opened the device, at its detaching."""
    SPARED = "spared"
    """The process to be killed is the simulator's own; it was not."""
    UNMOUNTED = "unmounted"
    """Somebody else unmounted the simulator's folder."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Fields that do not apply are None or empty."""

    kind: EventKind
    at: Moment
    side: Side | None = None
    operation: str = ""
    """`check`, `freeze`, `thaw`, `dm_info`, `negotiate`, or `operation 7`."""
    status: int | None = None
    """READ and WRITE: the message's status. REPLIED: the status that the host received."""
    msgid: int | None = None
    process: int | None = None
    """Process id of who did it, 0 where the simulator itself plays that side."""
    vmbus_id: int | None = None
    """The VMBus transaction id of the host's message."""
    reply: bytes | None = None
    """REPLIED: the whole message that the host received."""
    detail: str = ""
    number: int = 0
    """Counted from 1 by the record that keeps it."""


class EventRecord:
    """The last `RECORD_LIMIT` events, and whoever waits for new ones. For the event loop's thread only."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=RECORD_LIMIT)
        self._count = 0
        self._watchers: set[asyncio.Queue[Event]] = set()

    def add(self, event: Event) -> Event:
        """Keep `event` under the next number and show it to the watchers. Returns it with its number."""
        self._count += 1
        numbered = replace(event, number=self._count)
        self._events.append(numbered)
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(numbered)
        return numbered

    @property
    def count(self) -> int:
        """The number of the newest event, 0 when there was none."""
        return self._count

    def events(self) -> tuple[Event, ...]:
        """What is kept, oldest first."""
        return tuple(self._events)

    async def watch(self) -> AsyncIterator[Event]:
        """Every event from now on, without end."""
        with self._subscribed() as queue:
            while True:
                yield await queue.get()

    async def wait_for(self, wanted: Callable[[Event], bool], *, after: int, timeout: timedelta) -> Event:
        """The first event with a number above `after` that is `wanted`, among those kept and those to come.

        Raises:
            TimeoutError: none came within `timeout`.
        """
        with self._subscribed() as queue:
            for event in self._events:
                if event.number > after and wanted(event):
                    return event
            async with asyncio.timeout(timeout.total_seconds()):
                while True:
                    event = await queue.get()
                    if event.number > after and wanted(event):
                        return event

    @contextmanager
    def _subscribed(self) -> Iterator[asyncio.Queue[Event]]:
        queue: asyncio.Queue[Event] = asyncio.Queue(WATCHER_LIMIT)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)
