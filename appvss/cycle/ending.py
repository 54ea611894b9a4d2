"""The steps from the end of the hold to the verdict: everything is undone in reverse, each app says whether it held,
and the answers that are owed are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from appvss.cycle.effects import EndCycle, InspectPaths, ThawFilesystems
from appvss.cycle.grading import graded
from appvss.cycle.inputs import AppLostHold, AppThawed, DeadlinePassed, FilesystemsThawed, PathsInspected
from appvss.cycle.journaling import note_end
from appvss.cycle.policy import judge, sentence_of
from appvss.cycle.state import UNSEEN, AppState, Closed, Cycle, Participant, State
from appvss.model.cycle import CycleRecord
from appvss.model.event import EventKind
from appvss.model.filesystem import FilesystemOutcome
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from appvss.model.verdict import Outcome, Verdict

INSPECTION_LIMIT = timedelta(seconds=1)
"""How long the apps' thaw waits for the look at the watched paths: nobody shall stay frozen for it."""
_STILL_FAILING = frozenset(
    {
        Phase.REQUESTED,
        Phase.PREPARING,
        Phase.PREPARED,
        Phase.FREEZING_APPS,
        Phase.CERTIFYING,
        Phase.FREEZING_FILESYSTEMS,
        Phase.HOLDING,
    }
)
"""The phases that a required app's failure ends. Once the thaw has begun it only lowers the verdict."""


def fail(state: State, part: Participant, outcome: Outcome, reason: str) -> None:
    """Decide that an app has failed: let it go at once, and end the cycle if it is required."""
    fail_all(state, [(part, outcome, reason)])


def fail_all(state: State, failures: Sequence[tuple[Participant, Outcome, str]]) -> None:
    """Decide that apps have failed at the same instant: each gets its outcome before the first required one ends the
    cycle.
    """
    for part, outcome, reason in failures:
        _decide(state, part, outcome, reason)
    required = [part for part, _, _ in failures if part.is_required]
    if required and state.phase in _STILL_FAILING:
        abort(state, sentence_of(required[0].result()))


def _decide(state: State, part: Participant, outcome: Outcome, reason: str) -> None:
    cycle, app = state.running, part.registration.app
    cycle.pending.discard(app)
    cycle.away.discard(app)
    was_asked = part.asked_at is not None or part.state is AppState.PREPARING
    part.outcome, part.reason, part.away_until = outcome, reason, None
    part.state, part.since = AppState.ABSENT if outcome is Outcome.ABSENT else AppState.FAILED, state.now
    state.say(EventKind.APP_FAILED, app, f"{outcome}: {reason}")
    if was_asked:
        state.let_go(part, reason)


def abort(state: State, reason: str) -> None:
    """End the cycle early: everything that may be frozen is thawed, file systems first, then the apps in reverse."""
    cycle = state.running
    cycle.ended_by = cycle.ended_by or reason
    if cycle.request is not None:
        cycle.owed.append(cycle.request)
        cycle.request = None
    cycle.owed += [joined.request for joined in cycle.joined.values() if joined.request is not None]
    cycle.joined.clear()
    cycle.pending.clear()
    cycle.is_preparing_filesystems = False
    cycle.hold_ended = state.now
    state.enter(Phase.ABORTING)
    for part in cycle.participants.values():
        if part.asked_at is None and part.state in (AppState.PREPARING, AppState.READY):
            state.let_go(part, cycle.ended_by)  # it holds nothing; it may drop what it prepared
    cycle.wave = len(cycle.waves)
    if cycle.filesystems_touched:
        _thaw_filesystems(state)
    else:
        thaw_next(state)
    if state.phase is Phase.ABORTING:
        note_end(state)


def begin_thaw(state: State) -> None:
    """Nobody wants the hold any longer. File systems and paths come first, the apps when both are done with."""
    cycle = state.running
    cycle.hold_ended, cycle.wave = state.now, len(cycle.waves)
    state.enter(Phase.THAWING_FILESYSTEMS)
    if any(_is_watched(part) for part in cycle.candidates()):
        cycle.is_inspecting = True
        state.outbox.append(InspectPaths(cycle.id, INSPECTION_LIMIT))
    if cycle.filesystems_touched:
        _thaw_filesystems(state)
    else:
        _thaw_apps(state)


def _is_watched(part: Participant) -> bool:
    """Whether somebody looks for changes of the app's paths; of one that is in doubt nobody needs to."""
    return part.registration.watch_paths and part.acked_at is not None and not part.doubt


def _thaw_filesystems(state: State) -> None:
    cycle = state.running
    cycle.stage_deadline = state.now + state.settings.thaw_limit
    state.outbox.append(ThawFilesystems(cycle.id))


def filesystems_thawed(state: State, input: FilesystemsThawed) -> None:
    """The freezer has thawed."""
    cycle = state.running
    if input.cycle != cycle.id or not cycle.filesystems_touched:
        state.refuse("other_cycle", f"the freezer has thawed for cycle {input.cycle}: nothing was waiting for that")
        return
    cycle.filesystems_touched = False
    if cycle.filesystems_frozen:
        state.say(EventKind.FILESYSTEMS_THAWED, detail=input.reason)
    cycle.note_filesystems(
        replace(part, outcome=FilesystemOutcome.HOLD_LOST, reason=input.reason)
        for part in cycle.filesystem_parts.values()
        if part.path in input.lost and part.outcome is FilesystemOutcome.HELD
    )
    if not input.unbroken and (cycle.filesystems_frozen or cycle.is_adopted):
        cycle.filesystems_doubt = f"the file systems went on before the thaw: {input.reason or 'no reason given'}"
    _thaw_apps(state)


def paths_inspected(state: State, input: PathsInspected) -> None:
    """The watched paths were looked at. What speaks against an app counts when it says that its hold was unbroken."""
    cycle = state.running
    if input.cycle != cycle.id or not cycle.is_inspecting:
        state.refuse("other_cycle", f"paths were inspected for cycle {input.cycle}: nothing was waiting for that")
        return
    cycle.is_inspecting = False
    for app, sentence in input.changed.items():
        part = cycle.participants.get(app)
        if part is not None:
            part.doubt = sentence
    state.say(EventKind.PATHS_INSPECTED, detail="; ".join(f"{app}: {why}" for app, why in input.changed.items()))
    _thaw_apps(state)


def _thaw_apps(state: State) -> None:
    """The apps' turn, once the file systems are thawed and the paths have been looked at."""
    cycle = state.running
    if cycle.filesystems_touched:
        return
    if cycle.is_inspecting:
        cycle.stage_deadline = state.phase_since + INSPECTION_LIMIT
        return
    if state.phase is Phase.THAWING_FILESYSTEMS:
        state.enter(Phase.THAWING_APPS)
    thaw_next(state)


def thaw_next(state: State) -> None:
    """Thaw the next wave, in reverse, once the file systems are thawed and nobody of the last wave is awaited."""
    cycle = state.running
    waits = cycle.filesystems_touched or cycle.pending
    if waits or state.phase is Phase.THAWING_FILESYSTEMS:
        return
    while cycle.wave > 0:
        cycle.wave -= 1
        asked = [part for app in cycle.waves[cycle.wave] if (part := cycle.participants[app]).asked_at is not None]
        for part in asked:
            state.let_go(part, cycle.ended_by)
        # One that has failed is not awaited: it has been told, and the others must not stay frozen for its silence.
        # One that is away may come back for its thaw.
        cycle.pending.update(part.registration.app for part in asked if part.outcome is None and not part.confirmed)
        if cycle.pending:
            cycle.stage_deadline = state.now + state.settings.thaw_limit
            return
    _finish(state)


def thaw_deadline(state: State, input: DeadlinePassed) -> None:
    """Somebody does not confirm the thaw, or does not say how the paths look. The others must not stay frozen for
    that.
    """
    cycle = state.running
    if cycle.is_inspecting:
        cycle.is_inspecting = False
        for part in cycle.candidates():
            if _is_watched(part):
                part.doubt = "nobody could look in time whether its paths had changed in the hold"
    elif not cycle.filesystems_touched:
        cycle.pending.clear()
        thaw_next(state)
        return
    if cycle.filesystems_touched:
        cycle.filesystems_touched = False
        if cycle.filesystems_frozen or cycle.is_adopted:
            cycle.filesystems_doubt = "the freezer did not confirm the thaw of the file systems in time"
        state.say(EventKind.FILESYSTEMS_THAWED, detail="the freezer did not confirm the thaw in time")
    _thaw_apps(state)


def thawed_in_rest(state: State, input: AppThawed) -> None:
    """A late confirmation, or the answer of an app that held for a cycle that was over."""
    state.say(EventKind.APP_THAWED, input.app, f"for cycle {input.cycle}")


def lost_in_rest(state: State, input: AppLostHold) -> None:
    """An app tells late that its hold ended by itself."""
    state.say(EventKind.APP_FAILED, input.app, f"{Outcome.HOLD_LOST} for cycle {input.cycle}: {input.reason}")


def _finish(state: State) -> None:
    """Everything that could be undone is: decide the verdict and give the answers that are owed."""
    cycle = state.running
    for part in cycle.candidates():
        if part.acked_at is not None:
            part.outcome, part.reason = Outcome.HOLD_LOST, "it did not confirm its thaw"
        else:
            part.outcome = Outcome.SKIPPED
    verdict = cycle.verdict = state.last_verdict = _verdict(cycle)
    closed = _closed(state, verdict)
    for source in (cycle.source, *cycle.sources):
        state.closed[source] = closed
    state.say(
        EventKind.CYCLE_ENDED, detail=": ".join((verdict.level, *verdict.reasons[:1])), took=state.now - cycle.began
    )
    for request in cycle.owed:
        is_thaw = request.kind is RequestKind.THAW
        state.answer(request, is_thaw and closed.thaw_is_fine, closed.reason if is_thaw else cycle.ended_by, verdict)
    cycle.owed.clear()
    cycle.stage_deadline = cycle.hold_expiry = None
    state.enter(Phase.ABORTED if cycle.ended_by else Phase.COMPLETED)
    took = state.now - cycle.began
    record = CycleRecord(
        cycle.id, cycle.source, cycle.requester, cycle.began, took, state.phase, verdict, cycle.rehearses
    )
    state.outbox.append(EndCycle(record))


def _verdict(cycle: Cycle) -> Verdict:
    places = {app: number for number, wave in enumerate(cycle.waves) for app in wave}
    last = len(places)
    parts = sorted(cycle.participants.values(), key=lambda part: places.get(part.registration.app, last))
    last_ack = cycle.last_ack()
    return judge(
        cycle.id,
        [graded(cycle, part) for part in parts],
        told_go_on=cycle.told_go_on,
        ended_by=cycle.ended_by,
        filesystems_frozen=cycle.filesystems_frozen,
        filesystems_doubt=cycle.filesystems_doubt,
        filesystems_missing=cycle.filesystems_missing,
        filesystems=tuple(cycle.filesystem_parts.values()),
        journal_notes=cycle.journal_notes,
        hold=cycle.hold_ended - last_ack if cycle.told_go_on and cycle.hold_ended and last_ack else None,
    )


def _closed(state: State, verdict: Verdict) -> Closed:
    """What a thaw of this source is told from now on: whether the promise that it was given has been kept."""
    cycle = state.running
    if cycle.is_check:
        return state.closed.get(cycle.source, UNSEEN)  # no freeze has followed it: a thaw ends the freeze before it
    concerned = [part for part in cycle.participants.values() if part.is_required and not part.is_apart]
    lost = [part for part in concerned if part.outcome is not Outcome.HELD]
    is_promised = cycle.told_go_on or cycle.is_adopted
    is_fine = not is_promised or not (lost or cycle.ended_by or cycle.filesystems_doubt)
    return Closed(cycle.id, is_fine, "" if is_fine else verdict.reasons[0], verdict)
