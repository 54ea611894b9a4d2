"""Cycles that have ended, as they are kept: with times of the wall clock, since a monotonic one ends with its boot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from appvss.model.phase import Phase
from appvss.model.verdict import Verdict


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One thing that happened in a cycle (`model/event.py`)."""

    kind: str
    """A word of `EventKind`, or one of a newer version."""
    time: timedelta
    """Since 1970-01-01 UTC, by the wall clock."""
    since_request: timedelta
    """By the monotonic clock."""
    app: str = ""
    phase: str = ""
    detail: str = ""
    took: timedelta | None = None


@dataclass(frozen=True, slots=True)
class PastCycle:
    """One cycle from request to verdict."""

    cycle: str
    source: str
    requester: str
    time: timedelta
    """When it was asked for, since 1970-01-01 UTC, by the wall clock."""
    took: timedelta
    phase: Phase
    """`completed` or `aborted`."""
    verdict: Verdict
    events: tuple[PastEvent, ...] = ()
    """Oldest first. Empty where only the line of the cycle was asked for."""
    certificate: str = ""
    """The text of the part that was written before the snapshot (`model/certificate.py`); empty: there is none."""
    boot: str = ""
    """The boot of the machine in which it ended."""
    rehearses: bool = False
    """Whether it was a rehearsal."""


@dataclass(frozen=True, slots=True)
class Restored:
    """This machine's disk is a copy that was made while a cycle held it, or the machine was cut off in that hold."""

    cycle: str
    source: str
    requester: str
    time: timedelta
    """When this was found, since 1970-01-01 UTC, by the wall clock."""
    stage: str
    """How far the cycle had come when the disk was copied: a word of `model/journal.py`, `Stage`."""
    certificate: str = ""
    """The text of the certificate that the disk carries; empty: it carries none."""
