"""How a cycle ended: for each app, and for whoever asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from appvss.model.app import AppId, Requirement
from appvss.model.filesystem import FilesystemPart


class Level(StrEnum):
    """What the snapshot of a cycle is worth."""

    APPLICATION = "application"
    """Every required app held, unbroken, over the whole hold, by its own word and by the broker's."""
    FILESYSTEM = "filesystem"
    """File systems were frozen; at least one app was not, or nobody took part."""
    CRASH = "crash"
    """A snapshot may have been taken of a running machine."""
    FAILED = "failed"
    """The requester was told no: there should be no snapshot."""


class Outcome(StrEnum):
    """What one app did in a cycle."""

    HELD = "held"
    """Frozen from its ack to its thaw, unbroken."""
    VETOED = "vetoed"
    TIMED_OUT = "timed_out"
    """It was asked and did not answer in its time. Silence is never consent."""
    DISCONNECTED = "disconnected"
    """Its stream broke before it had answered."""
    HOLD_LOST = "hold_lost"
    """It was frozen and went on before the thaw, or nobody can prove that it did not."""
    ABSENT = "absent"
    """It should have taken part and was not registered when the freeze began."""
    SKIPPED = "skipped"
    """It was not asked, because the cycle ended before its turn or something else had failed."""


@dataclass(frozen=True, slots=True)
class AppOutcome:
    """One app's part in a cycle."""

    app: AppId
    outcome: Outcome
    requirement: Requirement
    order: int
    reason: str = ""
    """Why, when the outcome is not `held`."""
    retryable: bool = False
    """Whether trying again soon may help. Only a veto can say so."""
    time_to_freeze: timedelta | None = None
    """From the question to the ack, by the broker's clock."""
    hold: timedelta | None = None
    """From the ack to the thaw, by the broker's clock."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """What the app gave with its ack, such as a log position."""

    @property
    def is_failure(self) -> bool:
        """Whether this outcome counts against the app."""
        return self.outcome is not Outcome.HELD


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a cycle tells its requester: level, reasons, and every app's outcome."""

    cycle: str
    level: Level
    outcomes: tuple[AppOutcome, ...]
    """In the order in which the apps were, or would have been, frozen."""
    reasons: tuple[str, ...]
    """One sentence for each doubt, the gravest first. Empty only for `application` without any failure and with
    its certificate written."""
    hold: timedelta | None = None
    """From the last ack to the thaw; None when nothing was held."""
    filesystems: tuple[FilesystemPart, ...] = ()
    """What became of each file system that this broker was to freeze, first frozen first."""
