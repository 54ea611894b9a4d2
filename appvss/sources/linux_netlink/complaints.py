"""What is said of datagrams that are not believed: not a line for each, since anybody may send as many as he likes."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from appvss.model.instant import Instant

INTERVAL: Final = timedelta(minutes=1)
"""How much time lies between two sentences at least."""


class Complaints:
    """Counts, and says so at once the first time, then once in a while. Pure."""

    def __init__(self) -> None:
        self.total = 0
        """How many there were."""
        self._unsaid = 0
        self._last = ""
        self._next: Instant | None = None

    def add(self, portid: int, reason: str, now: Instant) -> str:
        """One more; the sentence that is due now, or an empty text.

        Args:
            portid: of its sender.
            reason: what is wrong with it.
            now: by the monotonic clock.
        """
        self.total += 1
        self._unsaid += 1
        self._last = f"port id {portid}: {reason}"
        return self.due(now)

    def due(self, now: Instant) -> str:
        """The sentence about what has not been said, if it is time; else an empty text."""
        if not self._unsaid or (self._next is not None and now < self._next):
            return ""
        count, self._unsaid, self._next = self._unsaid, 0, now + INTERVAL
        what = "1 datagram is" if count == 1 else f"{count} datagrams are"
        return f"{what} not believed, {self.total} since the start, the last from {self._last}"
