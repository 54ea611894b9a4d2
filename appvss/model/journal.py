"""The journal: what must be on disk before anything is frozen, so that a broker that is started in mid-hold can go on.

`Instant`s of an entry are readings of `CLOCK_MONOTONIC`, which all processes of one boot share (clock_gettime(2)). An
entry is therefore kept together with the identity of its boot, and of another boot it is only a memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from appvss.model.app import AppId, Registration
from appvss.model.instant import Instant
from appvss.model.verdict import Outcome


class Stage(StrEnum):
    """How far the cycle had come when the entry was written."""

    FREEZING = "freezing"
    """Nothing was frozen yet; from now on apps may be. The requester has not been told "go on"."""
    HELD = "held"
    """Every app that takes part had acked. The requester may have been told "go on"."""
    ENDING = "ending"
    """Every app had acked, and the cycle was given up before its requester asked for the thaw: what has been held since
    then is nobody's hold."""


@dataclass(frozen=True, slots=True)
class JournalApp:
    """One app's part in a cycle, as far as it was known."""

    registration: Registration
    """As in force; never with a claim."""
    hold_limit: timedelta = timedelta(0)
    """What it was granted to stay quiet; zero: it had not been asked."""
    asked_at: Instant | None = None
    acked_at: Instant | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    outcome: Outcome | None = None
    """Decided already when it had failed before; None: it was good so far."""
    reason: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The running cycle. There is one at most, and none outside of a cycle that freezes."""

    cycle: str
    source: str
    requester: str
    stage: Stage
    began: Instant
    written: Instant
    apps: tuple[JournalApp, ...]
    """In the order of the freeze; at `Stage.FREEZING` all that are registered, whether or not they will be asked."""
    waves: tuple[tuple[AppId, ...], ...]
    """Who freezes together, first frozen first. Empty at `Stage.FREEZING`."""
    answer_by: Instant
    """The deadline of the requester's freeze."""
    hold_limit: timedelta
    """How long the hold may last at most from the answer on."""
    rehearses: bool = False
    """Whether it is a rehearsal: no file system is frozen, and no snapshot is taken."""
