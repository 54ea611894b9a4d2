"""What of the running cycle goes to disk, so that a broker that is started in mid-hold can go on with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from appvss.cycle.effects import WriteJournal
from appvss.cycle.inputs import JournalFailed, JournalWritten
from appvss.cycle.state import Cycle, Participant, State, answer_by
from appvss.model.event import EventKind
from appvss.model.journal import JournalApp, JournalEntry, Stage

JOURNAL_LIMIT = timedelta(seconds=1)
"""How long a cycle waits for the disk. A commit takes well under a millisecond (facts/libraries.md section 5); a disk
that needs a second would cost the hold more than the journal is worth."""


def write_journal(state: State, stage: Stage) -> None:
    """Have the cycle written as it is now, and wait for it as long as the request's time allows."""
    cycle, request = state.running, state.running.request
    if request is None:
        raise AssertionError(f"cycle {cycle.id} is journaled without a request")
    deadline = min(state.now + JOURNAL_LIMIT, max(state.now, answer_by(request)))
    cycle.answer_by, cycle.stage_deadline, cycle.is_journaled = request.deadline, deadline, False
    cycle.is_held_on_disk = stage is Stage.HELD
    state.outbox.append(WriteJournal(_entry(state, cycle, stage), deadline - state.now))


def note_end(state: State) -> None:
    """Have it written that the hold is given up, so that no other broker takes it up as good. Nobody waits for that:
    first of all, everything is let go.
    """
    cycle = state.running
    if cycle.is_held_on_disk:
        cycle.is_held_on_disk = False
        state.outbox.append(WriteJournal(_entry(state, cycle, Stage.ENDING), JOURNAL_LIMIT))


def late_journal(state: State, input: JournalWritten | JournalFailed) -> None:
    """An answer of the disk for which nobody waits any more, or never did."""
    if isinstance(input, JournalFailed):
        state.say(EventKind.JOURNAL_FAILED, detail=f"{input.stage} of cycle {input.cycle}: {input.reason}")


def _entry(state: State, cycle: Cycle, stage: Stage) -> JournalEntry:
    places = {app: number for number, app in enumerate(app for wave in cycle.waves for app in wave)}
    parts = sorted(cycle.participants.values(), key=lambda part: places.get(part.registration.app, len(places)))
    if cycle.answer_by is None:
        raise AssertionError(f"cycle {cycle.id} is journaled without a freeze")
    return JournalEntry(
        cycle=cycle.id,
        source=cycle.source,
        requester=cycle.requester,
        stage=stage,
        began=cycle.began,
        written=state.now,
        apps=tuple(_app(part) for part in parts),
        waves=() if stage is Stage.FREEZING else cycle.waves,
        answer_by=cycle.answer_by,
        hold_limit=cycle.hold_limit,
        rehearses=cycle.rehearses,
    )


def _app(part: Participant) -> JournalApp:
    registration = part.registration
    return JournalApp(
        registration=registration if registration.claim is None else replace(registration, claim=None),
        hold_limit=part.hold_limit,
        asked_at=part.asked_at,
        acked_at=part.acked_at,
        evidence=part.evidence,
        outcome=part.outcome,
        reason=part.reason,
        retryable=part.retryable,
    )
