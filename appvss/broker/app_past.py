"""Each app's part in the cycles of the past, in memory and bounded: what administrators see, and who is set aside."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple

from appvss.broker.clock import SystemClock
from appvss.model.app import AppId
from appvss.model.names import printable
from appvss.model.past import PastCycle
from appvss.model.verdict import AppOutcome, Outcome
from appvss.sources.base import Clock

PARTS_LIMIT: Final = 20
"""Cycles that are kept of one app, the newest."""
APPS_LIMIT: Final = 5_000
"""Apps that are kept. Of more, those are dropped that took part least recently."""


class Part(NamedTuple):
    """One app's part in one cycle."""

    cycle: str
    time: timedelta
    """When the cycle was asked for, since 1970-01-01 UTC, by the wall clock."""
    outcome: AppOutcome


class Failure(NamedTuple):
    """How an app failed last."""

    time: timedelta
    """When the cycle was asked for, since 1970-01-01 UTC, by the wall clock."""
    sentence: str


@dataclass(slots=True)
class _Record:
    """What is kept of one app."""

    parts: deque[Part] = field(default_factory=lambda: deque(maxlen=PARTS_LIMIT))
    """Oldest first."""
    failures: int = 0
    """In a row. It outlives the parts: an app that is set aside for long is not asked again for that reason."""
    last_failure: Part | None = None
    incarnation: str = ""
    """The process that registered last."""
    since: timedelta = timedelta(0)
    """When it registered first, by the wall clock."""
    former: str = ""
    """The process that was registered before it."""
    failed_as: str = ""
    """The process that failed last; empty: one of a former broker's time."""
    has_existed: bool = False
    """Whether it has been in any cycle otherwise than as absent, or has registered."""


class AppPast:
    """Remembers what each app did.

    Fed with the history at the broker's start, oldest first, then with each cycle that ends.

    Args:
        clock: tells which process it was that failed, when one has taken the place of another.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._records: OrderedDict[AppId, _Record] = OrderedDict()

    def ended(self, past: PastCycle) -> None:
        """A cycle has ended. Rehearsals count as all others do: in them, too, an app holds or fails."""
        for outcome in past.verdict.outcomes:
            record = self._record(outcome.app)
            part = Part(past.cycle, past.time, outcome)
            record.parts.append(part)
            if outcome.outcome is Outcome.HELD:
                record.failures = 0
            elif _is_its_own(outcome, record):
                record.failures += 1
                record.last_failure = part
                record.failed_as = record.incarnation if record.since <= past.time else record.former
            record.has_existed = record.has_existed or outcome.outcome is not Outcome.ABSENT

    def _record(self, app: AppId) -> _Record:
        record = self._records.get(app)
        if record is None:
            record = self._records[app] = _Record()
            if len(self._records) > APPS_LIMIT:
                self._records.popitem(last=False)
        else:
            self._records.move_to_end(app)
        return record

    def of(self, app: AppId) -> tuple[Part, ...]:
        """Its part in the last cycles, newest first, `PARTS_LIMIT` at most."""
        record = self._records.get(app)
        return tuple(reversed(record.parts)) if record is not None else ()

    def failures_in_row(self, app: AppId) -> int:
        """How many freezes it has failed since it held last.

        Passed over are cycles that say nothing about the app: those in which it was skipped, because it was not asked
        (the cycle ended before its turn, or it was set aside), and those in which it was absent before it had ever been
        there. A veto counts also when it is retryable: that the next try may help is a hope, and an app whose every
        freeze ends with it has had its tries.
        """
        record = self._records.get(app)
        return record.failures if record is not None else 0

    def last_failure(self, app: AppId) -> Failure | None:
        """When it failed last and how; None: it has not. It stays known when the app has held since."""
        record = self._records.get(app)
        if record is None or record.last_failure is None:
            return None
        return Failure(record.last_failure.time, _sentence(record.last_failure))

    def set_aside(self, app: AppId, incarnation: str, after: int) -> str:
        """Why an app is not to be asked to freeze; empty: it is to be asked.

        To be called for every app that registers, since the answer also depends on which process it was that failed. An
        app is set aside when its last `after` freezes failed, and asked again as another process, or when it has held,
        which it can in a rehearsal alone. If that process fails, too, it is set aside again at once. Failures from
        before this broker's start set nobody aside until there is one more: which process they were is not known.

        Args:
            app: who registers.
            incarnation: which process it is; empty counts as another one each time.
            after: how many failures it takes; 0: nobody is set aside.
        """
        record = self._record(app)
        if incarnation != record.incarnation:
            record.former, record.incarnation, record.since = record.incarnation, incarnation, self._clock.wall()
        record.has_existed = True
        if not after or record.failures < after or not incarnation or record.failed_as != incarnation:
            return ""
        last = _sentence(record.last_failure) if record.last_failure is not None else ""
        return printable(f"set aside by policy after {record.failures} failures in a row, the last: {last}")


def _is_its_own(outcome: AppOutcome, record: _Record) -> bool:
    """Whether what is not `held` is a failure of the app itself."""
    if outcome.outcome is Outcome.ABSENT:
        return record.has_existed
    return outcome.outcome is not Outcome.SKIPPED


def _sentence(part: Part) -> str:
    outcome = part.outcome
    why = f": {outcome.reason}" if outcome.reason else ""
    return f"{outcome.outcome} in cycle {part.cycle}{why}"
