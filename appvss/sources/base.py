"""What a source is to the broker, and what the broker is to a source.

A source turns one requester's protocol into `Request`s and takes back one `Answer` for each. It knows neither the cycle
nor the apps.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from appvss.model.cycle import CycleRecord
from appvss.model.instant import Instant
from appvss.model.request import Answer, Request
from appvss.model.source import SourceState


class Clock(Protocol):
    """The two clocks of a machine, passed in so that a test can hold them."""

    def now(self) -> Instant:
        """The monotonic clock, for everything that is a length of time."""

    def wall(self) -> timedelta:
        """Time since 1970-01-01 UTC by the wall clock, which may jump: only to read foreign time stamps and to
        print.
        """


class Requests(Protocol):
    """Where a source takes its news. All three may be called on the event loop's thread only, and never block."""

    def ask(self, request: Request) -> None:
        """Bring a request. Exactly one `Source.answer` follows, at the latest at its deadline."""

    def lost(self, source: str, reason: str, request: str = "") -> None:
        """A requester is gone (device detached, process died): what it has asked needs no answer any more.

        Args:
            source: the source's name.
            reason: why, for people.
            request: the id of the freeze whose requester it is; empty: it is about everything that is open.
        """

    def changed(self, state: SourceState) -> None:
        """The source's condition has changed."""


class Source(Protocol):
    """One kind of requester."""

    @property
    def state(self) -> SourceState:
        """Mode and condition at this moment."""

    async def run(self, requests: Requests) -> None:
        """Serve until cancelled, through every loss and return of the device. Cancelling closes what is open.

        Raises:
            SourceError: the mode is `required` and the device cannot be opened at start.
        """

    def set_gate(self, *, is_open: bool) -> None:
        """Closed: file systems may be frozen from now on, so that no process is started and no file is written."""

    def answer(self, answer: Answer) -> None:
        """Give the answer to the requester. Called on the event loop's thread; does not block.

        An answer that comes after the request's deadline, or to a request that is not open, is not sent.
        """

    def ended(self, record: CycleRecord) -> None:
        """A cycle has ended, whoever asked for it. Comes after the last answer of that cycle."""
