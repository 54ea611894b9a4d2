"""The clocks that the simulator reads, and its alarms, both of which a test can hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Final, Protocol

from appvss.model.instant import Instant

_LONGEST_SLEEP: Final = timedelta(days=1)


class Clock(Protocol):
    """The two clocks of a machine."""

    def now(self) -> Instant:
        """The monotonic clock."""

    def wall(self) -> timedelta:
        """Time since 1970-01-01 UTC by the wall clock, which may jump."""


class SystemClock:
    """This machine's clocks."""

    def now(self) -> Instant:
        """CLOCK_MONOTONIC, to the microsecond."""
        return Instant(timedelta(microseconds=time.monotonic_ns() // 1000))

    def wall(self) -> timedelta:
        """CLOCK_REALTIME, to the microsecond."""
        return timedelta(microseconds=time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000)


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks read at once."""

    now: Instant
    wall: timedelta


class Alarms:
    """Callbacks at instants of a clock, on the event loop that runs when they are set.

    With a clock that a test moves by hand, the test calls `moved` after it; with a real clock the alarms ring by
    themselves.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = count()
        self._alarms: dict[int, tuple[Instant, Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ring(self, at: Instant, callback: Callable[[], None]) -> int:
        """Call `callback` once, on the event loop, when the clock has reached `at`. Returns a number for `cancel`."""
        number = next(self._numbers)
        self._alarms[number] = (at, callback)
        self._arm()
        return number

    def cancel(self, number: int) -> None:
        """Forget an alarm; one that has rung or was cancelled is passed over."""
        self._alarms.pop(number, None)
        self._arm()

    async def until(self, at: Instant) -> None:
        """Return when the clock has reached `at`."""
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        number = self.ring(at, lambda: None if reached.done() else reached.set_result(None))
        try:
            await reached
        finally:
            self.cancel(number)

    def moved(self) -> None:
        """Ring, in order, everything that is due by the clock."""
        now = self._clock.now()
        due = sorted((at, number) for number, (at, _) in self._alarms.items() if at <= now)
        for _, number in due:
            alarm = self._alarms.pop(number, None)
            if alarm is not None:
                alarm[1]()
        self._arm()

    def ring_all(self) -> None:
        """Ring everything now, due or not, so that nobody waits for a clock that will not be read any more."""
        alarms, self._alarms = self._alarms, {}
        self._arm()
        for _, callback in alarms.values():
            callback()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._alarms:
            left = min(at for at, _ in self._alarms.values()) - self._clock.now()
            seconds = min(max(left, timedelta(0)), _LONGEST_SLEEP).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(seconds, self.moved)
