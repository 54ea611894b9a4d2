"""A broker that has just started takes up the open cycle of a former one, which died in it.

Both were processes of one boot, so the instants of the journal mean the same to both. What the former broker knew last
is believed; what happened since then must be proved: an app that held on comes back with its claim, as the same
process, and one that does not has lost its hold.
"""

from __future__ import annotations

from appvss.cycle.ending import abort
from appvss.cycle.inputs import CycleAdopted
from appvss.cycle.state import AppState, Cycle, Participant, State
from appvss.model.event import EventKind
from appvss.model.journal import JournalApp, JournalEntry, Stage
from appvss.model.phase import Phase
from appvss.model.verdict import Outcome

_DIED = "the broker was restarted"


def adopt(state: State, input: CycleAdopted) -> None:
    """Go on holding, if the requester can still ask for the thaw; let everything go, if it cannot.

    A local requester's call, and a rehearsal's, died with the former broker. A kernel device asks whoever has it open
    (facts/freebsd-vss.md section 10, vectors 41 to 44). When the former broker said "go on" is not known; the hold
    limit is counted from the entry, which is older, so that nobody is held for longer than was agreed.
    """
    entry = input.entry
    hold_ends = entry.written + entry.hold_limit
    state.cycle = cycle = _cycle_of(entry)
    for app in entry.apps:
        _take_up(state, app)
    cycle.stage_deadline = hold_ends
    state.enter(Phase.FREEZING_APPS if entry.stage is Stage.FREEZING else Phase.HOLDING)
    state.say(EventKind.CYCLE_ADOPTED, detail=f"{entry.stage}, asked for by {entry.requester} through {entry.source}")
    if entry.stage is Stage.FREEZING:
        abort(state, f"{_DIED} before it had noted that all apps were held")
    elif entry.stage is Stage.ENDING:
        abort(state, f"{_DIED} while the hold was being undone")
    elif entry.rehearses or entry.source not in state.settings.adoptable:
        abort(state, f"{_DIED} in the hold, and {entry.requester} cannot ask for the thaw any more")
    elif hold_ends <= state.now:
        abort(state, f"{_DIED} in the hold, and the hold limit passed before it was there again")


def _cycle_of(entry: JournalEntry) -> Cycle:
    return Cycle(
        id=entry.cycle,
        source=entry.source,
        requester=entry.requester,
        began=entry.began,
        is_check=False,
        request=None,
        hold_limit=entry.hold_limit,
        rehearses=entry.rehearses,
        is_adopted=True,
        waves=entry.waves,
        # Whether the former broker came to say "go on" is not known. Its requester may rely on it.
        told_go_on=entry.stage is not Stage.FREEZING,
        answer_by=entry.answer_by,
        is_held_on_disk=entry.stage is Stage.HELD,
        # File systems that it froze are thawed by whoever can; where there are none, that is harmless. It may have
        # gone on to them after an entry that it could not write.
        filesystems_touched=not entry.rehearses,
        tells_filesystem_freeze=not entry.rehearses and entry.stage is not Stage.FREEZING,
    )


def _take_up(state: State, app: JournalApp) -> None:
    cycle, registration = state.running, app.registration
    part = cycle.participants[registration.app] = Participant(
        registration,
        AppState.AWAY,
        state.now,
        asked_at=app.asked_at,
        acked_at=app.acked_at,
        hold_limit=app.hold_limit,
        is_connected=False,
        evidence=app.evidence,
        outcome=app.outcome,
        reason=app.reason,
        retryable=app.retryable,
    )
    if part.outcome is not None:
        part.state = AppState.ABSENT if part.outcome is Outcome.ABSENT else AppState.FAILED
    elif part.acked_at is None:
        part.outcome, part.state, part.reason = Outcome.DISCONNECTED, AppState.FAILED, f"{_DIED} before it had answered"
    else:
        part.away_until = state.now + state.settings.return_grace
        if registration.watch_paths:
            part.doubt = f"{_DIED} in the hold: nobody can tell whether its paths have changed"
        cycle.away.add(registration.app)
        cycle.watch(part)
