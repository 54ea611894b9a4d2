"""What the app's machine wants done. Each of `RunPrepare` and `Enter` ends as exactly one input."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from appvss.model.app import HoldClaim
from appvss.v1 import app_pb2


@dataclass(frozen=True, slots=True)
class Greet:
    """Send the hello, with what is still held from before."""

    claim: HoldClaim | None


@dataclass(frozen=True, slots=True)
class DropStream:
    """End the call; another one is made later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to the broker. Only wanted while the app is registered on the present stream."""

    message: app_pb2.AttachRequest


@dataclass(frozen=True, slots=True)
class RunPrepare:
    """Call the app's prepare function. Ends as `PrepareEnded`."""

    cycle: str
    requester: str
    budget: timedelta


@dataclass(frozen=True, slots=True)
class EndPrepare:
    """Nobody waits for the prepare any more: interrupt it where that can be done. Its `PrepareEnded` still comes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Enter:
    """Enter the app's context. Ends as `EnterFailed`, or as `Entered` and, later, `Left`."""

    cycle: str
    requester: str
    budget: timedelta
    hold_limit: timedelta


@dataclass(frozen=True, slots=True)
class EndEntering:
    """The freeze has ended before its ack: interrupt the entering. Its `EnterFailed` or `Entered` still comes."""

    reason: str


@dataclass(frozen=True, slots=True)
class TellFilesystemFreeze:
    """Let the app's context know that the file systems are about to be frozen."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Leave the app's context. `ended`: why the hold ends before its time; None: it is thawed. Ends as `Left`."""

    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Say something to the app's log, at a level of the `logging` module."""

    level: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Finish:
    """After `CloseAsked`: nothing is held and nothing runs any more."""


Effect: TypeAlias = (
    Greet
    | DropStream
    | Send
    | RunPrepare
    | EndPrepare
    | Enter
    | EndEntering
    | TellFilesystemFreeze
    | Leave
    | Note
    | Finish
)
