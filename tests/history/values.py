"""Journal entries and cycles as the broker would make them, and strategies for odd ones."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from appvss.history import History, HistoryState, Opened, open_state
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.certificate import issue
from appvss.model.instant import Instant
from appvss.model.journal import JournalApp, JournalEntry, Stage
from appvss.model.past import PastCycle, PastEvent
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict

BOOT = "0b0efb2c-3c8d-4b0b-8f5c-8a1a6e5f0001"
OTHER_BOOT = "0b0efb2c-3c8d-4b0b-8f5c-8a1a6e5f0002"
BOUND = 20.0
"""Seconds after which a wait of a test has failed."""
LIMIT = timedelta(seconds=BOUND)
NOW = timedelta(days=20_777, hours=15)
SECOND = timedelta(seconds=1)


def opened(directory: Path, boot: str = BOOT, keep: int = 100, **rest: Any) -> Opened:
    return open_state(directory, keep=keep, boot=boot, wall=lambda: NOW, **rest)


def at(seconds: float) -> Instant:
    return Instant(timedelta(seconds=seconds))


def entry(cycle: str = "c1", stage: Stage = Stage.HELD, apps: int = 2, source: str = "freebsd") -> JournalEntry:
    held = stage is Stage.HELD
    parts = tuple(
        JournalApp(
            Registration(AppId(f"app-{number}"), order=number, incarnation="ab" * 16),
            hold_limit=timedelta(minutes=1),
            asked_at=at(5) if held else None,
            acked_at=at(6) if held else None,
            evidence={"lsn": f"0/{number}"} if held else {},
        )
        for number in range(apps)
    )
    waves = tuple((part.registration.app,) for part in parts) if held else ()
    return JournalEntry(cycle, source, "hyper-v host", stage, at(4), at(7), parts, waves, at(19), timedelta(minutes=1))


def certificate(cycle: str = "c1") -> str:
    return issue(entry(cycle), version="0.1.0", boot=BOOT, host="db1", time=NOW, policy=()).text()


def past(cycle: str = "c1", number: int = 0, certificate: str = "", events: int = 3) -> PastCycle:
    outcome = AppOutcome(AppId("app-0"), Outcome.HELD, Requirement.REQUIRED, 50, evidence={"lsn": "0/0"})
    return PastCycle(
        cycle,
        "freebsd",
        "hyper-v host",
        NOW + number * SECOND,
        2 * SECOND,
        Phase.COMPLETED,
        Verdict(cycle, Level.APPLICATION, (outcome,), (), SECOND),
        tuple(PastEvent("app_froze", NOW, SECOND, "app-0", "freezing_apps", took=SECOND) for _ in range(events)),
        certificate,
        BOOT,
    )


def wait_for(history: History, condition: str, waiting: int | None = None) -> HistoryState:
    """The state, once it has that condition, and that many cycles wait. Each turn waits for an answer of the thread."""
    end = time.monotonic() + BOUND
    while (state := history.state).condition != condition or waiting not in (None, state.waiting):
        assert time.monotonic() < end, state
        history.cycles(1).exception(BOUND)
    return state


lengths = st.timedeltas() | st.integers(-(10**9), 10**9).map(lambda number: timedelta(microseconds=number))
instants = lengths.map(Instant)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,20}", fullmatch=True)
apps = st.builds(AppId, names, names | st.just(""))
texts = st.text(st.characters(exclude_categories=()), max_size=40)
evidence = st.dictionaries(texts, texts, max_size=4)
registrations = st.builds(
    Registration,
    app=apps,
    order=st.integers(),
    after=st.lists(names, max_size=3).map(tuple),
    requirement=st.sampled_from(Requirement),
    prepares=st.booleans(),
    freeze_timeout=st.none() | lengths,
    hold_limit=lengths,
    claim=st.none() | st.builds(HoldClaim, texts, lengths),
    incarnation=texts,
    watch_paths=st.booleans(),
    set_aside=texts,
)
journal_apps = st.builds(
    JournalApp,
    registration=registrations,
    hold_limit=lengths,
    asked_at=st.none() | instants,
    acked_at=st.none() | instants,
    evidence=evidence,
    outcome=st.none() | st.sampled_from(Outcome),
    reason=texts,
    retryable=st.booleans(),
)
entries = st.builds(
    JournalEntry,
    cycle=texts,
    source=texts,
    requester=texts,
    stage=st.sampled_from(Stage),
    began=instants,
    written=instants,
    apps=st.lists(journal_apps, max_size=4).map(tuple),
    waves=st.lists(st.lists(apps, max_size=3).map(tuple), max_size=3).map(tuple),
    answer_by=instants,
    hold_limit=lengths,
    rehearses=st.booleans(),
)
outcomes = st.builds(
    AppOutcome,
    app=apps,
    outcome=st.sampled_from(Outcome),
    requirement=st.sampled_from(Requirement),
    order=st.integers(),
    reason=texts,
    retryable=st.booleans(),
    time_to_freeze=st.none() | lengths,
    hold=st.none() | lengths,
    evidence=evidence,
)
verdicts = st.builds(
    Verdict,
    cycle=texts,
    level=st.sampled_from(Level),
    outcomes=st.lists(outcomes, max_size=4).map(tuple),
    reasons=st.lists(texts, max_size=3).map(tuple),
    hold=st.none() | lengths,
)
events = st.builds(
    PastEvent,
    kind=texts,
    time=lengths,
    since_request=lengths,
    app=texts,
    phase=texts,
    detail=texts,
    took=st.none() | lengths,
)
pasts = st.builds(
    PastCycle,
    cycle=texts,
    source=texts,
    requester=texts,
    time=lengths,
    took=lengths,
    phase=st.sampled_from([Phase.COMPLETED, Phase.ABORTED]),
    verdict=verdicts,
    events=st.lists(events, max_size=4).map(tuple),
    certificate=texts,
    boot=texts,
    rehearses=st.booleans(),
)
