"""How often somebody may do something: so many times at once, and again and again with time."""

from __future__ import annotations

from datetime import timedelta

from appvss.model.instant import Instant


class Allowance:
    """Takes until nothing is left; what is left grows with time.

    Args:
        most: what there is at the start, and never more.
        every: the time after which there is one more.
        now: when it begins.
    """

    __slots__ = ("_at", "_every", "_left", "most")

    def __init__(self, most: int, every: timedelta, now: Instant) -> None:
        self.most = most
        self._every = every
        self._left = float(most)
        self._at = now

    def _grow(self, now: Instant) -> None:
        if now > self._at:
            self._left = min(self._left + (now - self._at) / self._every, self.most)
            self._at = now

    def has_any(self, now: Instant) -> bool:
        """Whether `take` would be granted."""
        self._grow(now)
        return self._left >= 1

    def take(self, now: Instant) -> bool:
        """Take one; False: there is none, and nothing is taken."""
        if not self.has_any(now):
            return False
        self._left -= 1
        return True

    def grant(self, count: int) -> None:
        """Have so many more, up to `most`."""
        self._left = min(self._left + count, self.most)
