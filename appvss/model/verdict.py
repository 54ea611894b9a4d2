"""How a cycle ended: for each app, and for whoever asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final

from appvss.model.app import AppId, Requirement
from appvss.model.filesystem import FilesystemPart
from appvss.model.grade import Grade


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


APART: Final = "none of its paths is on a named file system"
"""Why an app is `skipped` that a freeze of named file systems does not concern, or has no grade if it was asked all the
same. It counts as no failure, and does not vouch for the snapshot."""


@dataclass(frozen=True, slots=True)
class AppOutcome:
    """One app's part in a cycle."""

    app: AppId
    outcome: Outcome
    requirement: Requirement
    order: int
    reason: str = ""
    """Why, when the outcome is not `held`, or the grade below `app` for a reason that is the app's own."""
    retryable: bool = False
    """Whether trying again soon may help. Only a veto can say so."""
    time_to_freeze: timedelta | None = None
    """From the question to the ack, by the broker's clock."""
    hold: timedelta | None = None
    """From the ack to the thaw, by the broker's clock."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """What the app gave with its ack, such as a log position."""
    grade: Grade | None = None
    """What the copy of its files is worth; None: nobody knows."""

    @property
    def is_failure(self) -> bool:
        """Whether this outcome counts against the app."""
        return self.outcome is not Outcome.HELD and not self.is_apart

    @property
    def is_apart(self) -> bool:
        """Whether it was not asked because the freeze does not concern it."""
        return self.outcome is Outcome.SKIPPED and self.reason == APART

    @property
    def is_concerned(self) -> bool:
        """Whether it may have files on what was frozen: it was not found to have none there."""
        return self.reason != APART

    @property
    def is_lessened(self) -> bool:
        """Whether it held, and its copy is worth less than its hold for a reason that is the app's own."""
        return self.outcome is Outcome.HELD and self.grade in (Grade.RAW, Grade.FS) and bool(self.reason)


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
