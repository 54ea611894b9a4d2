"""What the app's machine is told: all of it has happened, whether the machine likes it or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the app's own code did not do what it was asked."""

    reason: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """A call to the broker has begun; nothing has been said on it."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The broker has registered the app."""

    protocol_version: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The call is over, for whatever reason."""


@dataclass(frozen=True, slots=True)
class PrepareAsked:
    """The broker asks for the slow work."""

    cycle: str
    requester: str
    budget: timedelta


@dataclass(frozen=True, slots=True)
class FreezeAsked:
    """The broker asks the app to get quiet and stay quiet."""

    cycle: str
    requester: str
    budget: timedelta
    hold_limit: timedelta


@dataclass(frozen=True, slots=True)
class QuestionUnusable:
    """The broker sent a prepare or a freeze that lacks what `app.proto` requires."""

    cycle: str
    reason: str


@dataclass(frozen=True, slots=True)
class ThawAsked:
    """The broker says that the hold is over."""

    cycle: str


@dataclass(frozen=True, slots=True)
class AbortAsked:
    """The broker says that the cycle is over without a usable snapshot."""

    cycle: str
    reason: str


@dataclass(frozen=True, slots=True)
class FilesystemFreezeTold:
    """The broker says that the file systems are about to be frozen."""

    cycle: str


@dataclass(frozen=True, slots=True)
class PrepareEnded:
    """The app's prepare function has returned, or failed."""

    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Entered:
    """The app's context has been entered: it is quiet from here on."""

    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EnterFailed:
    """The app's context was not entered; nothing is held."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Left:
    """The app's context has been left; nothing is held. `failure`: leaving it, or being in it, went wrong."""

    failure: Failure | None


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The instant of `next_deadline` may have come. The machine looks at the clock itself."""


@dataclass(frozen=True, slots=True)
class CloseAsked:
    """The app's owner wants to end its part."""

    reason: str


Question: TypeAlias = PrepareAsked | FreezeAsked | QuestionUnusable | FilesystemFreezeTold | ThawAsked | AbortAsked
"""What only a broker can say, and only after its welcome."""
WorkEnded: TypeAlias = PrepareEnded | Entered | EnterFailed | Left
"""What only the app's own code can bring about."""
Input: TypeAlias = StreamOpened | Welcomed | StreamEnded | Question | WorkEnded | DeadlinePassed | CloseAsked
