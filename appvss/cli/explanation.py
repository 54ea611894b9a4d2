"""Why a verdict is what it is, in words: each doubt with who it is about and what to do next. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from appvss.cli.cycle_reasons import (
    ADOPTED,
    NOTE_CONSEQUENCES,
    NOTES,
    OVERLAP_REFUSED,
    RESTARTS,
    of_cycle,
)
from appvss.cli.filesystem_reasons import CycleRow
from appvss.cli.reasons import BUDGETS, CONSEQUENCES, LESSENED, LEVELS, REHEARSED, AppRow, next_steps, of_app
from appvss.cli.who import look, who
from appvss.model.app import AppId, Peer, Requirement
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict

if TYPE_CHECKING:
    from appvss.sdk.admin_cycles import BrokerEvent, CycleDetail, CycleSummary

_NAMED: Final = 20
"""How many apps that a freeze does not concern are named."""
_REHEARSAL: Final = "rehearsal"
_LOCAL: Final = "local"
"""The source whose limits a rehearsal has (`requester.proto`, RehearseRequest)."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that speaks, or seems to speak, against a snapshot."""

    kind: str
    """A stable word, for programs."""
    app: AppId | None
    """None: it is about no single app."""
    sentence: str
    """What happened."""
    consequence: str
    """What that did to the verdict; empty: the sentence says it."""
    who: str
    """Who the app is; empty: nobody knows, or it is about no app."""
    next_steps: tuple[str, ...]
    """What to do, a whole sentence each, the first thing first."""
    lowers: bool
    """Whether the verdict would be better without it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One cycle, explained."""

    meaning: str
    """What the verdict means."""
    advice: str
    """What to do with the snapshot; empty: there was none to be."""
    doubts: tuple[Doubt, ...]
    """The gravest first; then what lowers nothing."""


def explain(detail: CycleDetail, peers: Mapping[AppId, Peer | None], state_directory: str = "") -> Explanation:
    """Explain a cycle.

    Args:
        detail: the cycle.
        peers: who each app is that is registered now.
        state_directory: the broker's, for commands that name it.
    """
    summary = detail.summary
    verdict = summary.verdict
    source = _LOCAL if summary.rehearses or summary.source == _REHEARSAL else summary.source
    filling = {
        "source": source,
        "budget": BUDGETS.get(source, "freeze_budget"),
        "cycle": summary.cycle,
        "state_directory": state_directory or "DIRECTORY",
    }
    meaning, advice = LEVELS[verdict.level]
    if summary.rehearses:
        meaning, advice = REHEARSED[verdict.level], ""
    far = [str(part.app) for part in verdict.outcomes if part.is_apart]
    if far:
        more = f" and {len(far) - _NAMED} more" if len(far) > _NAMED else ""
        meaning = f"{meaning} Nothing of {', '.join(far[:_NAMED])}{more} is on the file systems that were named."
    doubts = [*_doubts(summary, peers, filling)]
    return Explanation(meaning, advice, (*doubts, *_beside(detail.events, doubts, filling)))


def _doubts(summary: CycleSummary, peers: Mapping[AppId, Peer | None], filling: Mapping[str, str]) -> Iterator[Doubt]:
    """In the order of the verdict's reasons; then the failures that it does not name."""
    verdict = summary.verdict
    failures = {_start(part): part for part in verdict.outcomes if part.is_failure or part.is_lessened}
    for reason in verdict.reasons:
        start = next((start for start in failures if reason.startswith(start)), None)
        if start is not None:
            yield _of_app(failures.pop(start), summary, peers, filling)
        else:
            yield _of_reason(reason, verdict, filling)
    unasked = [part for part in failures.values() if part.outcome is Outcome.SKIPPED and not part.reason]
    for part in failures.values():
        if part not in unasked:
            yield _of_app(part, summary, peers, filling)
    if unasked:
        yield _not_asked(unasked)


def _start(part: AppOutcome) -> str:
    """How the sentence about an app begins among a verdict's reasons (`appvss/cycle/policy.py`)."""
    return f"{part.app} ({part.requirement}) "


def _of_app(
    part: AppOutcome, summary: CycleSummary, peers: Mapping[AppId, Peer | None], filling: Mapping[str, str]
) -> Doubt:
    row, found = of_app(part)
    level = summary.verdict.level
    peer = peers.get(part.app)
    lowers = part.requirement is Requirement.REQUIRED and level is not Level.APPLICATION
    needs_another = lowers and not summary.rehearses
    steps = tuple(step.format_map({**filling, **found}) for step in next_steps(row, part, needs_another=needs_another))
    if row.hangs and peer is not None:
        steps = (look(peer), *steps)
    return Doubt(
        kind=row.kind,
        app=part.app,
        sentence=_sentence(row, {**filling, **found}),
        consequence=_consequence(part, level),
        who=who(peer) if part.app in peers else "",
        next_steps=steps,
        lowers=lowers,
    )


def _consequence(part: AppOutcome, level: Level) -> str:
    if part.is_lessened and part.requirement is Requirement.REQUIRED:
        return LESSENED
    return CONSEQUENCES[part.requirement][level is Level.FAILED]


def _of_reason(reason: str, verdict: Verdict, filling: Mapping[str, str]) -> Doubt:
    """A reason that is about no single app."""
    row, found = of_cycle(reason, is_anybody_there=bool(verdict.outcomes), filesystems=verdict.filesystems)
    is_end = verdict.level is Level.FAILED and reason == verdict.reasons[0]
    lowers = is_end if row.kind in NOTES else verdict.level is not Level.APPLICATION
    doubt = _of_cycle(row, {**filling, **found}, lowers=lowers)
    return replace(doubt, consequence=NOTE_CONSEQUENCES[lowers]) if row.kind in NOTES else doubt


def _of_cycle(row: CycleRow, filling: Mapping[str, str], *, lowers: bool) -> Doubt:
    steps = tuple(step.format_map(filling) for step in row.next_steps)
    return Doubt(row.kind, None, _sentence(row, filling), "", "", steps, lowers)


def _not_asked(parts: list[AppOutcome]) -> Doubt:
    """All that were never asked, in one: nothing is wrong with any of them."""
    row, _ = of_app(parts[0])
    names = ", ".join(str(part.app) for part in parts)
    app = parts[0].app if len(parts) == 1 else None
    sentence = _sentence(row, {"app": names})
    if len(parts) > 1:
        sentence = sentence.replace(" was not asked", " were not asked").replace("its turn", "their turn")
    steps = tuple(step if len(parts) == 1 else step.replace("with it:", "with them:") for step in row.next_steps)
    return Doubt(row.kind, app, sentence, "", "", steps, lowers=False)


def _sentence(row: AppRow | CycleRow, filling: Mapping[str, str]) -> str:
    text = row.said.format_map(filling).rstrip(".")
    begins_with_name = row.said.startswith(("{app}", "{who}"))  # which is kept as it is written
    return f"{text[:1] if begins_with_name else text[:1].upper()}{text[1:]}."


def _beside(events: Iterable[BrokerEvent], doubts: Iterable[Doubt], filling: Mapping[str, str]) -> Iterator[Doubt]:
    """What is no doubt about the cycle, and worth knowing: that it was adopted, and freezes of others that were refused
    for its sake, which have no cycle of their own to be found under. Each is said once.
    """
    known = {doubt.kind for doubt in doubts}
    for event in events:
        if event.kind == "cycle_adopted" and known.isdisjoint({ADOPTED.kind, *RESTARTS}):
            known.add(ADOPTED.kind)
            yield _of_cycle(ADOPTED, filling, lowers=False)
        found = re.match(OVERLAP_REFUSED.pattern, event.detail) if event.kind == "source_answered" else None
        if found is not None and OVERLAP_REFUSED.kind not in known:
            known.add(OVERLAP_REFUSED.kind)
            yield _of_cycle(OVERLAP_REFUSED, {**filling, **found.groupdict()}, lowers=False)
