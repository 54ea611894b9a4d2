"""Where an app is between two freezes. The app's code runs in every state but `Idle` and `Held`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from appvss.model.instant import Instant
from appvss.sdk.inputs import Failure


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing is asked and nothing is held."""

    def __str__(self) -> str:
        return "idle"


@dataclass(frozen=True, slots=True)
class Preparing:
    """The app's prepare function runs."""

    cycle: str
    budget: timedelta
    deadline: Instant
    answered: bool = False
    """True: the answer has been given, or nobody waits for it any more."""

    def __str__(self) -> str:
        return f"still preparing for cycle {self.cycle}"


@dataclass(frozen=True, slots=True)
class Entering:
    """The app's context is being entered; frozen has not been sent."""

    cycle: str
    budget: timedelta
    hold_limit: timedelta
    deadline: Instant
    ended: str | None = None
    """Why the freeze ended before its ack."""
    veto_owed: bool = True
    """False: the stream on which the freeze was asked is gone, and so is the question."""
    thaws_owed: int = 0

    def __str__(self) -> str:
        return f"still getting quiet for cycle {self.cycle}"


@dataclass(frozen=True, slots=True)
class Held:
    """The app's context is entered; frozen has been sent."""

    cycle: str
    since: Instant
    limit: timedelta
    evidence: Mapping[str, str]

    @property
    def deadline(self) -> Instant:
        """When the app goes on by itself."""
        return self.since + self.limit

    def __str__(self) -> str:
        return f"frozen for cycle {self.cycle}"


@dataclass(frozen=True, slots=True)
class Leaving:
    """The app's context is being left."""

    cycle: str
    ended: str | None
    """Why there is no hold that stands; None: a thaw or an abort ended it."""
    veto: Failure | None = None
    """What the freeze is still to be answered with."""
    thaws_owed: int = 0

    def __str__(self) -> str:
        return f"still letting go of cycle {self.cycle}"


State: TypeAlias = Idle | Preparing | Entering | Held | Leaving
