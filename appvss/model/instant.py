"""Instants on the monotonic clock, as values.

The core never reads a clock: whoever calls it passes the instant in. An `Instant` has no meaning outside the process
that made it, so it never goes over the wire: there, every time is a length (ARCHITECTURE section 4, "two clocks").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import overload


@dataclass(frozen=True, slots=True, order=True)
class Instant:
    """A point on one process's monotonic clock, given as the length of time since that clock's origin."""

    since_origin: timedelta

    def __add__(self, length: timedelta) -> Instant:
        """The instant that lies `length` later."""
        return Instant(self.since_origin + length)

    @overload
    def __sub__(self, other: Instant) -> timedelta: ...
    @overload
    def __sub__(self, other: timedelta) -> Instant: ...
    def __sub__(self, other: Instant | timedelta) -> timedelta | Instant:
        """The length between two instants, or the instant that lies a length earlier."""
        if isinstance(other, Instant):
            return self.since_origin - other.since_origin
        return Instant(self.since_origin - other)
