"""The record of one cycle that has ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.verdict import Verdict


@dataclass(frozen=True, slots=True)
class CycleRecord:
    """One cycle in a line."""

    cycle: str
    source: str
    requester: str
    began: Instant
    took: timedelta
    phase: Phase
    """`completed` or `aborted`."""
    verdict: Verdict
    rehearses: bool = False
    """Whether it was a rehearsal: no file system was frozen, and there was no snapshot."""
