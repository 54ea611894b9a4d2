"""The simulated machine around a driver: its clocks, its processes, and the spreading of what happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from appvss.model.instant import Instant
from appvss.simulator.clock import Alarms, Clock, Moment
from appvss.simulator.event import Event, EventKind, EventRecord

PLAYED: Final = 0
"""The process id in events where the simulator itself plays a side."""

_BY_A_PROCESS: Final = frozenset(
    {
        EventKind.OPENED,
        EventKind.OPEN_REFUSED,
        EventKind.CLOSED,
        EventKind.REGISTERED,
        EventKind.READ,
        EventKind.READ_EMPTY,
        EventKind.READ_REFUSED,
        EventKind.WROTE,
        EventKind.WRITE_IGNORED,
        EventKind.WRITE_REFUSED,
    }
)


class Guest:
    """A machine with clocks and processes, on which something happens.

    Every act ends with its events recorded and shown to the listeners, who may act in turn. For the event loop's thread
    only; nothing here blocks.

    Args:
        clock: the machine's clocks.
        alarms: of the same clock.
        record: where the events go.
    """

    def __init__(self, clock: Clock, alarms: Alarms, record: EventRecord) -> None:
        self._clock = clock
        self._alarms = alarms
        self._record = record
        self._wall_shift = timedelta(0)
        self._alarm: int | None = None
        self._outbox: deque[Event] = deque()
        self._spreading = False
        self.listeners: list[Callable[[Event], None]] = []
        """Who is shown every event, in this order."""

    def shift_wall(self, by: timedelta) -> None:
        """Let the machine's wall clock jump."""
        self._wall_shift += by

    def moment(self) -> Moment:
        """Both clocks, now."""
        return Moment(self._clock.now(), self._clock.wall() + self._wall_shift)

    def note(self, event: Event) -> None:
        """Record something that happened outside of the driver."""
        self._outbox.append(event)
        self._spread()

    def _collect(self, events: Iterable[Event], process: int) -> None:
        """Take what a process, or `PLAYED`, made the driver do; `_spread` shows it."""
        for event in events:
            self._outbox.append(replace(event, process=process) if event.kind in _BY_A_PROCESS else event)

    def _arm(self, deadline: Instant | None, advance: Callable[[], None]) -> None:
        """Set the alarm for the driver's next timer, in place of the one before."""
        if self._alarm is not None:
            self._alarms.cancel(self._alarm)
            self._alarm = None
        if deadline is not None:
            self._alarm = self._alarms.ring(deadline, advance)

    def _spread(self) -> None:
        """Record and show what happened, in order; what the listeners do about it is spread after it."""
        if self._spreading:
            return
        self._spreading = True
        try:
            while self._outbox:
                event = self._record.add(self._outbox.popleft())
                for listener in self.listeners:
                    listener(event)
        finally:
            self._spreading = False
