"""What all cases together say of an app."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appvss.testing.conformance.case import Result, Status


@dataclass(frozen=True, slots=True)
class Report:
    """The results, in the order in which the cases were played."""

    app: str
    """The app's name, with its instance if it has one."""
    library: str
    """Name and version of the library that it says it uses; empty: it does not say."""
    results: Sequence[Result]

    @property
    def fit(self) -> bool:
        """Whether no case failed. What was skipped is not known: see `of`."""
        return not self.of(Status.FAILED)

    def of(self, status: Status) -> tuple[Result, ...]:
        """The results of one kind."""
        return tuple(result for result in self.results if result.status is status)

    def __str__(self) -> str:
        return "\n".join(str(result) for result in self.results)
