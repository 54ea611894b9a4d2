"""What an app's own functions are called with: `Freeze` for `quiesce`, `Prepare` for `prepare`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta

from appvss.model.errors import FreezeEnded
from appvss.model.instant import Instant
from appvss.sdk.clock import now

_NOTHING = timedelta(0)


class Ending(threading.Event):
    """An event that is set with a reason."""

    reason = ""

    def end(self, reason: str) -> None:
        """Set the event; the first reason stands."""
        if not self.is_set():
            self.reason = reason
            self.set()


@dataclass(frozen=True, slots=True)
class Freeze:
    """One freeze, as the app's `quiesce` gets it. Make one by hand to use a `quiesce` without any broker.

    Attributes:
        cycle: the id of the cycle, as it stands in the broker's log, in `appvss status` and in the certificate.
        requester: who wants the snapshot, for people.
        budget: the time to get quiet, counted from `asked_at`.
        hold_limit: the time to stay quiet, counted from the moment in which the context was entered.
        asked_at: when the question came, on this process's monotonic clock.
        ended: set when the freeze ends early: the budget ran out before the context was entered, the hold limit
            passed, the cycle was aborted before the ack, or the app is being closed. It is not set by a thaw.
        filesystem_freeze: set when the broker says, after the ack, that the file systems are about to be frozen. From
            then until the thaw nobody may be waited for whose files may lie on one of them: no call to the database
            (facts/database-quiesce.md section 1). A hold that ends early while it is set is let go of without a
            question, such as by closing the session.
    """

    cycle: str
    requester: str
    budget: timedelta
    hold_limit: timedelta
    asked_at: Instant = field(default_factory=now, repr=False, compare=False)
    ended: threading.Event = field(default_factory=Ending, repr=False, compare=False)
    filesystem_freeze: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def budget_left(self) -> timedelta:
        """What is left of the time to get quiet, never below zero: the time-out to give to a lock or a statement."""
        return max(_NOTHING, self.budget - (now() - self.asked_at))

    def check(self) -> None:
        """Raise if the freeze has ended. For code in threads, which nobody can interrupt: call it between slow steps.

        Raises:
            FreezeEnded: the freeze has ended; release what is held and let the error out.
        """
        if self.ended.is_set():
            reason = self.ended.reason if isinstance(self.ended, Ending) else ""
            raise FreezeEnded(reason or "the freeze has ended")


@dataclass(frozen=True, slots=True)
class Prepare:
    """One prepare, as the app's `prepare` gets it: do the slow work, hold nothing.

    Attributes:
        cycle: the id of the cycle. Not every prepare is followed by a freeze.
        requester: who wants the snapshot, for people.
        budget: the time to do the work in, counted from `asked_at`.
        asked_at: when the question came, on this process's monotonic clock.
    """

    cycle: str
    requester: str
    budget: timedelta
    asked_at: Instant = field(default_factory=now, repr=False, compare=False)

    def budget_left(self) -> timedelta:
        """What is left of the time, never below zero."""
        return max(_NOTHING, self.budget - (now() - self.asked_at))
