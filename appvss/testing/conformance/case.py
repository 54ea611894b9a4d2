"""What a case is, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appvss.testing.conformance.stage import Stage


class Status(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It was not played, and the reason stands in the result: nothing is known."""


class Unmet(AssertionError):
    """The app did something else than what is expected.

    Args:
        seen: what it did.
        expected: what was expected; empty: what the case says.
        hint: what to do; empty: what the case says.
    """

    def __init__(self, seen: str, expected: str = "", hint: str = "") -> None:
        super().__init__(seen)
        self.seen = seen
        self.expected = expected
        self.hint = hint


class NotPlayed(Exception):
    """The case cannot be played here.

    Args:
        reason: why, one sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that an app must do: a state, an event, and the state after it."""

    name: str
    """A stable word with underscores."""
    expected: str
    """What the app does: one sentence."""
    hint: str
    """What its author does if it does not: one sentence."""
    play: Callable[[Stage], str]
    """Plays it, and returns what was seen. Raises `Unmet`, `NotPlayed`, TimeoutError or ConnectionError."""
    ends_process: bool = False
    """Whether the app's process ends in it; in every other case its end is a failure."""

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Result:
    """How one case ended."""

    case: Case
    status: Status
    seen: str
    """What the app did, or why the case was not played."""
    expected: str
    hint: str
    """What to do about a failure; empty: nothing."""
    took: timedelta
    output: str = ""
    """The last lines that the program wrote, of a case that failed; printable, one below the other."""

    def __str__(self) -> str:
        if self.status is not Status.FAILED:
            return f"{self.case.name}: {self.status}: {self.seen}"
        lines = [f"{self.case.name}: expected: {self.expected}", f"  seen: {self.seen}", f"  hint: {self.hint}"]
        return "\n".join([*lines, *(f"  | {line}" for line in self.output.splitlines())])

    def raise_if_failed(self) -> None:
        """For a test framework.

        Raises:
            AssertionError: the case failed; the text says all that is known.
        """
        if self.status is Status.FAILED:
            raise AssertionError(str(self))
