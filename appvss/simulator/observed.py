"""What every simulator lets its user see: the record of what happened, and the clock that may be moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Final

from appvss.simulator.clock import Alarms
from appvss.simulator.event import Event, EventKind, EventRecord

SHORT_WAIT: Final = timedelta(seconds=10)
"""How long `wait_for` waits unless told otherwise."""


class Observed:
    """A simulator whose events can be looked at and waited for, on the event loop that it runs on.

    Args:
        alarms: of the simulated machine's clock.
        record: where the machine's events go.
    """

    def __init__(self, alarms: Alarms, record: EventRecord) -> None:
        self._alarms = alarms
        self._record = record

    def clock_moved(self) -> None:
        """Tell the simulator that the clock it was given has been moved by hand: whatever is due, happens now."""
        self._alarms.moved()

    @property
    def events(self) -> tuple[Event, ...]:
        """The last 10,000 events, oldest first."""
        return self._record.events()

    @property
    def event_count(self) -> int:
        """The number of the newest event; the place to `wait_for` something after."""
        return self._record.count

    def watch(self) -> AsyncIterator[Event]:
        """Every event from the first `anext` on, without end. A reader that is 1,000 behind loses the oldest."""
        return self._record.watch()

    async def wait_for(
        self, wanted: Callable[[Event], bool] | EventKind, *, after: int = 0, timeout: timedelta = SHORT_WAIT
    ) -> Event:
        """The first event numbered above `after` that is `wanted`, past or still to come.

        Args:
            wanted: a kind, or a question that says yes to the right event.
            after: an `event_count` of earlier.
            timeout: of real time, whatever clock the simulator was given.

        Raises:
            TimeoutError: none came in that time.
        """
        asked = (lambda event: event.kind is wanted) if isinstance(wanted, EventKind) else wanted
        return await self._record.wait_for(asked, after=after, timeout=timeout)
