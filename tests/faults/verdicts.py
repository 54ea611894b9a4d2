"""The independent observer: what the apps' own write logs say about everything that anybody was told.

It knows nothing of the broker but the verdicts, and nothing of the apps but their logs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.end_to_end.support.write_log import MARGIN, SECOND, Quiet, WriteLog
from tests.faults.requesting import Told

APPLICATION = "application"


@dataclass(frozen=True)
class Past:
    """What a broker says of one cycle of the past."""

    cycle: str
    source: str
    level: str


class Observer:
    """Judges one run.

    Args:
        logs: of every app that had to hold.
        unable: when the test itself kept an app from writing.
    """

    def __init__(self, logs: Sequence[WriteLog], unable: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        self._logs = logs
        self._unable = unable

    def lies(self, told: Sequence[Told], past: Sequence[Past]) -> Iterator[str]:
        """Every `application` that the logs belie, whoever was told it."""
        for each in told:
            if each.level == APPLICATION:
                yield from (f"{each.source} was told {APPLICATION}: {line}" for line in self._against(each))
        good = {each.cycle for each in told if each.cycle and not list(self._against(each))}
        holds = [each for each in told if not each.cycle and not list(self._against(each))]
        for cycle in past:
            if cycle.level != APPLICATION:
                continue
            if cycle.source == "local":
                if cycle.cycle not in good:
                    yield f"the history calls {cycle.cycle} {APPLICATION}, and no requester had a good hold of it"
            elif not holds:
                yield f"the history calls {cycle.cycle} {APPLICATION}, and the host had no good hold"
            else:
                holds.pop()

    def _against(self, told: Told) -> Iterator[str]:
        """What speaks against one hold."""
        if not told.acked or not told.thaw_asked:
            yield "it had no whole hold"
            return
        for log in self._logs:
            if sentence := log.written_in_hold(told.acked, told.thaw_asked):
                yield sentence

    def overstays(self) -> Iterator[str]:
        """Each time that an app was quiet for longer than it may be, and nobody but AppVSS kept it so."""
        for log, quiet, late in self._lateness():
            if late > MARGIN:
                yield f"{log.name} wrote again {late / SECOND:.2f} s after its limit: {quiet}"

    def longest(self) -> int:
        """The longest time from an app's limit to its next write: nanoseconds, 0 when none came to its limit."""
        return max((late for _, _, late in self._lateness()), default=0)

    def _lateness(self) -> Iterator[tuple[WriteLog, Quiet, int]]:
        now = time.monotonic_ns()
        for log in self._logs:
            begins = [write.began for write in log.writes]
            for quiet in log.quiets:
                wrote = min((began for began in begins if began > quiet.since), default=now)
                limit = quiet.limit - MARGIN
                for since, until in self._unable.get(log.name, ()):
                    if since <= wrote and until >= quiet.since:  # it could not have written before `until`
                        limit = max(limit, until)
                yield log, quiet, wrote - limit
