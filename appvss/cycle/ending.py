"""The steps from the end of the hold to the verdict: thaw, abort, everything undone in reverse, the answers that are
owed.
"""

from __future__ import annotations

from collections.abc import Sequence

from appvss.cycle.effects import EndCycle, ThawFilesystems
from appvss.cycle.inputs import (
    AppLostHold,
    AppThawed,
    DeadlinePassed,
    FilesystemsThawed,
    SourceLost,
    ThawForced,
    ThawRequested,
)
from appvss.cycle.policy import judge, sentence_of
from appvss.cycle.state import AppState, Closed, Cycle, Participant, State, answer_by
from appvss.model.cycle import CycleRecord
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from appvss.model.verdict import Outcome, Verdict

OWED_LIMIT = 8
"""How many requests may wait for the end of one cycle; a further thaw is told no at once."""
_UNSEEN = Closed("", False, "this broker has not seen the freeze that this thaw ends", None)
"""A thaw without a freeze. It may end one that an earlier broker acknowledged: nobody here can vouch for that hold."""
_STILL_FAILING = frozenset(
    {Phase.PREPARING, Phase.PREPARED, Phase.FREEZING_APPS, Phase.FREEZING_FILESYSTEMS, Phase.HOLDING}
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
    cycle.pending.clear()
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


def _thaw_filesystems(state: State) -> None:
    cycle = state.running
    cycle.stage_deadline = state.now + state.settings.thaw_limit
    state.outbox.append(ThawFilesystems(cycle.id))


def thaw(state: State, input: ThawRequested) -> None:
    """The requester ends the hold."""
    cycle = state.running
    if _is_foreign(state, input):
        return
    cycle.owed.append(input.request)
    cycle.hold_ended = state.now
    cycle.wave = len(cycle.waves)
    state.enter(Phase.THAWING_FILESYSTEMS)
    _thaw_filesystems(state)


def give_up(state: State, input: ThawRequested) -> None:
    """The requester wants the thaw before it was told that everything is held."""
    if not _is_foreign(state, input):
        state.running.owed.append(input.request)
        abort(state, f"{input.request.requester} asked for the thaw before everything was held")


def thaw_again(state: State, input: ThawRequested) -> None:
    """A thaw while everything is being thawed: it gets the same answer when that is done."""
    if _is_foreign(state, input):
        return
    refuse_pending(state, f"{input.request.requester} asked for the thaw before it could begin")
    if len(state.running.owed) < OWED_LIMIT:
        state.running.owed.append(input.request)
    else:
        state.answer(input.request, False, "too many thaws wait for the end of this cycle")


def _is_foreign(state: State, input: ThawRequested) -> bool:
    """Whether the thaw comes from a source that does not own the running cycle. Then it is answered, and thaws
    nothing.
    """
    if input.request.source == state.running.source:
        return False
    thaw_in_rest(state, input)
    return True


def thaw_in_rest(state: State, input: ThawRequested) -> None:
    """A thaw of a source that holds nothing: harmless, and answered with what is known of its last freeze."""
    request = input.request
    closed = state.closed.get(request.source, _UNSEEN)
    state.answer(request, closed.thaw_is_fine, closed.reason, closed.verdict, cycle=closed.cycle)


def filesystems_thawed(state: State, input: FilesystemsThawed) -> None:
    """The freezer has thawed."""
    cycle = state.running
    if input.cycle != cycle.id or not cycle.filesystems_touched:
        state.refuse("other_cycle", f"the freezer has thawed for cycle {input.cycle}: nothing was waiting for that")
        return
    cycle.filesystems_touched = False
    if cycle.filesystems_frozen:
        state.say(EventKind.FILESYSTEMS_THAWED, detail=input.reason)
        if not input.unbroken:
            cycle.filesystems_doubt = f"the file systems went on before the thaw: {input.reason or 'no reason given'}"
    _thaw_apps(state)


def _thaw_apps(state: State) -> None:
    if state.phase is Phase.THAWING_FILESYSTEMS:
        state.enter(Phase.THAWING_APPS)
    thaw_next(state)


def thaw_next(state: State) -> None:
    """Thaw the next wave, in reverse, once the file systems are thawed and nobody of the last wave is awaited."""
    cycle = state.running
    if cycle.filesystems_touched or cycle.pending or state.phase is Phase.THAWING_FILESYSTEMS:
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
    """Somebody does not confirm the thaw. The others must not stay frozen for that."""
    cycle = state.running
    if cycle.filesystems_touched:
        cycle.filesystems_touched = False
        if cycle.filesystems_frozen:
            cycle.filesystems_doubt = "the freezer did not confirm the thaw of the file systems in time"
        state.say(EventKind.FILESYSTEMS_THAWED, detail="the freezer did not confirm the thaw in time")
        _thaw_apps(state)
        return
    cycle.pending.clear()
    thaw_next(state)


def thawed_in_rest(state: State, input: AppThawed) -> None:
    """A late confirmation, or the answer of an app that held for a cycle that was over."""
    state.say(EventKind.APP_THAWED, input.app, f"for cycle {input.cycle}")


def lost_in_rest(state: State, input: AppLostHold) -> None:
    """An app tells late that its hold ended by itself."""
    state.say(EventKind.APP_FAILED, input.app, f"{Outcome.HOLD_LOST} for cycle {input.cycle}: {input.reason}")


def force_thaw(state: State, input: ThawForced) -> None:
    """End the cycle on somebody's word."""
    abort(state, input.reason or "the thaw was forced, without a reason")


def force_thaw_again(state: State, input: ThawForced) -> None:
    """Everything is on its way; a request that waits for that would freeze again."""
    refuse_pending(state, input.reason or "the thaw was forced, without a reason")


def nothing_to_do(state: State, input: object) -> None:
    """What has been asked for is so already."""


def refuse_pending(state: State, reason: str) -> None:
    """Tell the request that waits for the end of the running cycle, if there is one, that it will not begin."""
    if state.pending is not None:
        state.answer(state.pending.request, False, reason, cycle="")
        state.pending = None


def lose_source(state: State, input: SourceLost) -> None:
    """A requester is gone: nobody will ever ask for the thaw."""
    cycle = state.running
    if input.source == cycle.source:
        cycle.request = None
        abort(state, f"{cycle.requester} is gone: {input.reason}")


def forget_requests(state: State, input: SourceLost) -> None:
    """Nobody waits any more for the answers to a lost source's requests."""
    if state.pending is not None and state.pending.request.source == input.source:
        state.pending = None
    if input.source == state.running.source:
        state.running.owed.clear()


def answer_owed(state: State) -> None:
    """Answer the requests whose time is over while apps are still being thawed."""
    cycle = state.running
    if state.pending is not None and answer_by(state.pending.request) <= state.now:
        refuse_pending(state, f"cycle {cycle.id} was not thawed in time for it")
    for request in [request for request in cycle.owed if answer_by(request) <= state.now]:
        cycle.owed.remove(request)
        state.answer(request, False, cycle.ended_by or "apps have not confirmed their thaw yet")


def _finish(state: State) -> None:
    """Everything that could be undone is: decide the verdict and give the answers that are owed."""
    cycle = state.running
    for part in cycle.candidates():
        if part.acked_at is not None:
            part.outcome, part.reason = Outcome.HOLD_LOST, "it did not confirm its thaw"
        else:
            part.outcome = Outcome.SKIPPED
    verdict = cycle.verdict = state.last_verdict = _verdict(cycle)
    closed = state.closed[cycle.source] = _closed(state, verdict)
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
    record = CycleRecord(cycle.id, cycle.source, cycle.requester, cycle.began, took, state.phase, verdict)
    state.outbox.append(EndCycle(record))


def _verdict(cycle: Cycle) -> Verdict:
    places = {app: number for number, wave in enumerate(cycle.waves) for app in wave}
    last = len(places)
    parts = sorted(cycle.participants.values(), key=lambda part: places.get(part.registration.app, last))
    last_ack = cycle.last_ack()
    return judge(
        cycle.id,
        [part.result() for part in parts],
        told_go_on=cycle.told_go_on,
        ended_by=cycle.ended_by,
        filesystems_frozen=cycle.filesystems_frozen,
        filesystems_doubt=cycle.filesystems_doubt,
        hold=cycle.hold_ended - last_ack if cycle.told_go_on and cycle.hold_ended and last_ack else None,
    )


def _closed(state: State, verdict: Verdict) -> Closed:
    """What a thaw of this source is told from now on: whether the promise that it was given has been kept."""
    cycle = state.running
    if cycle.is_check:
        return state.closed.get(cycle.source, _UNSEEN)  # no freeze has followed it: a thaw ends the freeze before it
    lost = [part for part in cycle.participants.values() if part.is_required and part.outcome is not Outcome.HELD]
    is_fine = not cycle.told_go_on or not (lost or cycle.ended_by or cycle.filesystems_doubt)
    return Closed(cycle.id, is_fine, "" if is_fine else verdict.reasons[0], verdict)
