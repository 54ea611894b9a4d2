"""What rehearsals say together: how long each app takes, and whether each source's limits would be met. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from appvss.model.app import AppId
from appvss.model.verdict import Level, Outcome

if TYPE_CHECKING:
    from appvss.sdk.admin_cycles import Rehearsal
    from appvss.sdk.admin_values import AppStatus, SourceStatus

ANSWER_MARGIN: Final = timedelta(milliseconds=100)
"""How long before a requester's limit a cycle decides, so that its answer is in time (`appvss/cycle/state.py`)."""
_ZERO: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Figures:
    """The distribution of some lengths of time."""

    count: int
    p50: timedelta
    p99: timedelta
    most: timedelta


@dataclass(frozen=True, slots=True)
class AppFigures:
    """One app over all rounds."""

    app: AppId
    outcomes: Mapping[Outcome, int]
    """How often each."""
    time_to_freeze: Figures | None
    """None: it never froze."""
    reason: str
    """The last of its failures in words; empty: it had none."""


@dataclass(frozen=True, slots=True)
class SourceFit:
    """Whether the apps would meet the limits of one source."""

    source: str
    counts: bool
    """Whether its limits matter now: it serves, or it should."""
    limit: timedelta | None
    """What it gives the apps; None: the broker does not say."""
    margin: timedelta | None
    """What is left of that at the p99; negative: it is too short. None: not known."""
    hold_limit: timedelta | None
    """The longest hold that it may ask for."""
    safe_hold: timedelta | None
    """The longest hold that no app's own limit cuts short; None: no app held."""
    shortest: AppId | None
    """The app whose limit that is."""

    @property
    def fits(self) -> bool:
        """Whether a freeze of this source would succeed, and could be held for any time at all."""
        return (self.margin is None or self.margin >= _ZERO) and (self.safe_hold is None or self.safe_hold > _ZERO)


@dataclass(frozen=True, slots=True)
class RehearsalReport:
    """All rounds together."""

    rounds: tuple[Rehearsal, ...]
    apps: tuple[AppFigures, ...]
    """In the order of the freeze of the last round."""
    time_to_prepare: Figures | None
    time_to_freeze: Figures | None
    """Of all apps together; None: no app ever froze."""
    sources: tuple[SourceFit, ...]

    @property
    def all_held(self) -> bool:
        """Whether every round would have been application-consistent."""
        return all(one.summary.verdict.level is Level.APPLICATION for one in self.rounds)

    @property
    def fits(self) -> bool:
        """Whether the limits of all sources that count would be met."""
        return all(source.fits for source in self.sources if source.counts)


def figures(lengths: Sequence[timedelta]) -> Figures | None:
    """p50, p99 and the longest, by nearest rank: each is a length that was measured. None for no lengths."""
    if not lengths:
        return None
    ordered = sorted(lengths)
    return Figures(len(ordered), _rank(ordered, 50), _rank(ordered, 99), ordered[-1])


def _rank(ordered: Sequence[timedelta], percent: int) -> timedelta:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def report(rounds: Sequence[Rehearsal], apps: Iterable[AppStatus], sources: Iterable[SourceStatus]) -> RehearsalReport:
    """Put rounds together.

    Args:
        rounds: at least one, in their order.
        apps: those that are registered, for their hold limits.
        sources: the broker's, for theirs.
    """
    whole = figures([one.time_to_freeze for one in rounds if _has_frozen(one)])
    limits = {value.app: value.hold_limit for value in apps if value.hold_limit}
    return RehearsalReport(
        rounds=tuple(rounds),
        apps=tuple(_apps(rounds)),
        time_to_prepare=figures([one.time_to_prepare for one in rounds if one.time_to_prepare is not None]),
        time_to_freeze=whole,
        sources=tuple(_fit(source, whole, rounds, limits) for source in sources if source.condition != "off"),
    )


def _has_frozen(one: Rehearsal) -> bool:
    return any(part.time_to_freeze is not None for part in one.summary.verdict.outcomes)


def _apps(rounds: Sequence[Rehearsal]) -> Iterator[AppFigures]:
    parts = [part for one in reversed(rounds) for part in one.summary.verdict.outcomes]
    for app in dict.fromkeys(part.app for part in parts):
        own = [part for part in parts if part.app == app]
        yield AppFigures(
            app=app,
            outcomes=Counter(part.outcome for part in own),
            time_to_freeze=figures([part.time_to_freeze for part in own if part.time_to_freeze is not None]),
            reason=next((part.reason for part in own if part.is_failure and part.reason), ""),
        )


def _fit(
    source: SourceStatus, whole: Figures | None, rounds: Sequence[Rehearsal], limits: Mapping[AppId, timedelta]
) -> SourceFit:
    limit = None if source.budget is None else source.budget - source.reserve - ANSWER_MARGIN
    safe, shortest = _safe_hold(rounds, limits, source.reserve)
    return SourceFit(
        source=source.name,
        counts=not (source.condition == "waiting" and source.mode == "automatic"),
        limit=limit,
        margin=None if limit is None or whole is None else limit - whole.p99,
        hold_limit=source.hold_limit,
        safe_hold=safe,
        shortest=shortest,
    )


def _safe_hold(
    rounds: Sequence[Rehearsal], limits: Mapping[AppId, timedelta], reserve: timedelta
) -> tuple[timedelta | None, AppId | None]:
    """How long the hold may last before the first app's own limit passes. An app is quiet from its own ack on: it waits
    for those that freeze after it, which the rehearsals have measured, and for the file systems.
    """
    waits: dict[AppId, timedelta] = {}
    for one in rounds:
        verdict = one.summary.verdict
        for part in verdict.outcomes:
            if part.hold is not None and part.app in limits:
                wait = max(_ZERO, part.hold - (verdict.hold or _ZERO))
                waits[part.app] = max(waits.get(part.app, _ZERO), wait)
    if not waits:
        return None, None
    return min((limits[app] - wait - reserve, app) for app, wait in waits.items())
