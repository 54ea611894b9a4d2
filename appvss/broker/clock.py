"""The two clocks of this machine (`sources/base.py`, `Clock`), and the ids of cycles."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime, timedelta

from appvss.model.instant import Instant
from appvss.sources.base import Clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SystemClock:
    """The monotonic clock and the wall clock."""

    def now(self) -> Instant:
        """`CLOCK_MONOTONIC`. It stands still while the machine is suspended; a hold limit counts running time."""
        return Instant(timedelta(microseconds=time.monotonic_ns() // 1000))

    def wall(self) -> timedelta:
        """`CLOCK_REALTIME`."""
        return timedelta(microseconds=time.time_ns() // 1000)


def new_cycle_id(clock: Clock) -> str:
    """An id that sorts by time and tells people when: `20261120T150031Z-4f2a9c`."""
    return f"{_EPOCH + clock.wall():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
