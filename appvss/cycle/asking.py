"""The steps from a request to the hold: journal, prepare, freeze wave by wave, certificate, file systems, answer."""

from __future__ import annotations

from datetime import timedelta

from appvss.cycle.apps import is_same_process, let_go_of_stray, part_of, refuse_answer, register
from appvss.cycle.effects import AskFreeze, AskPrepare, FreezeFilesystems, PrepareFilesystems, WatchPaths
from appvss.cycle.ending import abort, fail, fail_all
from appvss.cycle.inputs import (
    AppFroze,
    AppReady,
    AppRegistered,
    AppVetoed,
    CheckRequested,
    DeadlinePassed,
    FreezeRequested,
    JournalFailed,
    JournalWritten,
)
from appvss.cycle.journaling import late_journal, write_journal
from appvss.cycle.overlap import agree_with_joined, begin_instead
from appvss.cycle.planning import join, plan, prepare_budget, set_apart, time_for_apps
from appvss.cycle.state import AppState, Cycle, Participant, State, answer_by
from appvss.model.budget import LEAST_GRANT
from appvss.model.duration import format_duration
from appvss.model.event import EventKind
from appvss.model.filesystem import NO_FILESYSTEMS, Scope
from appvss.model.journal import Stage
from appvss.model.phase import Phase
from appvss.model.request import Request
from appvss.model.verdict import Outcome

ZERO = timedelta(0)


def begin(state: State, asked: CheckRequested | FreezeRequested) -> None:
    """A request in rest: a new cycle. Before a freeze the journal is written."""
    request = asked.request
    state.cycle = Cycle(
        id=asked.cycle,
        source=request.source,
        requester=request.requester,
        began=state.now,
        is_check=isinstance(asked, CheckRequested),
        request=request,
        freeze=request.id,
        hold_limit=request.hold_limit,
        rehearses=request.rehearses,
        filesystems=NO_FILESYSTEMS if request.rehearses else request.filesystems,
        apart=set() if request.rehearses else set(request.apart),
    )
    state.enter(Phase.REQUESTED)
    state.say(EventKind.CYCLE_BEGAN, detail=f"{request.kind} by {request.requester} through {request.source}")
    for registration in state.roster.values():
        join(state, registration)
    problem = plan(state)
    if problem:
        abort(state, problem)
    elif state.running.is_check:
        _prepare(state)
    else:
        write_journal(state, Stage.FREEZING)


def begin_freeze_after_check(state: State, asked: FreezeRequested) -> None:
    """A freeze in `prepared`. From the same source it goes on with what was prepared."""
    cycle, request = state.running, asked.request
    if request.source != cycle.source:
        begin_instead(state, asked)
        return
    cycle.request, cycle.is_check, cycle.hold_limit, cycle.freeze = request, False, request.hold_limit, request.id
    cycle.requester, cycle.is_prepared, cycle.filesystems = request.requester, True, request.filesystems
    cycle.apart = set(request.apart)
    state.enter(Phase.REQUESTED)
    problem = plan(state)
    if problem:
        abort(state, problem)
    else:
        write_journal(state, Stage.FREEZING)


def journal_written(state: State, input: JournalWritten) -> None:
    """The journal is on disk: from now on another broker could take the cycle up."""
    if not _is_awaited(state, input):
        return
    is_held = input.stage is Stage.HELD
    state.say(EventKind.CERTIFICATE_WRITTEN if is_held else EventKind.JOURNAL_WRITTEN)
    _after_journal(state)


def journal_failed(state: State, input: JournalFailed) -> None:
    """The journal cannot be written. The freeze goes on without it, unless the administrator wants it otherwise."""
    if _is_awaited(state, input):
        _go_on_without_journal(state, input.reason)


def journal_deadline(state: State, input: DeadlinePassed) -> None:
    """The disk does not answer, or an app that is away took all the time that was left."""
    cycle = state.running
    if cycle.is_journaled:
        gone = ", ".join(map(str, sorted(cycle.away)))
        abort(state, f"the stream of {gone} broke and the time was over before it came back")
    else:
        _go_on_without_journal(state, f"the disk did not answer in {format_duration(state.now - state.phase_since)}")


def _go_on_without_journal(state: State, reason: str) -> None:
    cycle = state.running
    what = "the journal" if state.phase is Phase.REQUESTED else "the certificate"
    sentence = f"{what} could not be written: {reason}"
    state.say(EventKind.JOURNAL_FAILED, detail=sentence)
    if state.settings.is_journal_required:
        abort(state, sentence)
        return
    cycle.journal_notes.append(sentence)
    _after_journal(state)


def _is_awaited(state: State, input: JournalWritten | JournalFailed) -> bool:
    """Whether the cycle waits for just this answer of the journal."""
    cycle = state.running
    stage = Stage.FREEZING if state.phase is Phase.REQUESTED else Stage.HELD
    if (input.cycle, input.stage) == (cycle.id, stage) and not cycle.is_journaled:
        return True
    if input.stage is Stage.ENDING:
        late_journal(state, input)  # of the cycle before
        return False
    state.refuse("other_cycle", f"the journal speaks of {input.stage} of cycle {input.cycle}: that is not awaited")
    return False


def _after_journal(state: State) -> None:
    cycle = state.running
    cycle.is_journaled = True
    if state.phase is Phase.CERTIFYING:
        cycle.stage_deadline = answer_by(_request_of(cycle))
        advance(state)
    else:
        _prepare(state)


def _prepare(state: State) -> None:
    """Ask those to prepare that want to be, if there is time for it and they have not done so for a check, and have the
    file systems prepared that are to be frozen.
    """
    cycle, request = state.running, _request_of(state.running)
    budget = prepare_budget(state, request)
    has_time = budget >= LEAST_GRANT and not cycle.is_prepared
    askable = [part for part in cycle.candidates() if has_time and part.registration.prepares and part.is_connected]
    wants_filesystems = cycle.filesystems.scope is not Scope.NONE
    if not (askable or wants_filesystems):
        _prepared(state)
        return
    state.enter(Phase.PREPARING)
    if wants_filesystems:
        # Without it nothing can be frozen, so it gets its time in any case: what the apps can spare, or some of what is
        # reserved for the file systems; but never more than there is.
        budget = min(max(budget, LEAST_GRANT, request.reserve / 2), max(answer_by(request) - state.now, ZERO))
        apps = tuple(part.registration.app for part in cycle.candidates())
        for part in cycle.candidates():
            part.is_looked_up = True
        cycle.filesystems_touched = cycle.is_preparing_filesystems = True
        state.outbox.append(PrepareFilesystems(cycle.id, cycle.filesystems, apps, budget))
    cycle.stage_deadline = state.now + budget
    for part in askable:
        _ask_prepare(state, part, budget)


def _ask_prepare(state: State, part: Participant, budget: timedelta) -> None:
    cycle, app = state.running, part.registration.app
    part.state, part.since = AppState.PREPARING, state.now
    cycle.pending.add(app)
    state.outbox.append(AskPrepare(app, cycle.id, cycle.requester, budget))
    state.say(EventKind.PREPARE_ASKED, app)


def join_while_preparing(state: State, input: AppRegistered) -> None:
    """An app registers before anything is frozen: it takes part. One that comes back begins anew."""
    cycle, registration = state.running, input.registration
    before = cycle.participants.get(registration.app)
    register(state, input)
    part = join(state, registration)
    if before is not None and is_same_process(before.registration, registration):
        part.is_looked_up, part.paths = before.is_looked_up, before.paths
        set_apart(state)  # it is still not concerned, and not asked to prepare either
    else:
        cycle.apart.discard(registration.app)  # it may declare other paths than were looked at
    prepares = part.registration.prepares and part.outcome is None and not cycle.is_prepared
    if state.phase is Phase.PREPARING and prepares and cycle.stage_deadline is not None:
        _ask_prepare(state, part, cycle.stage_deadline - state.now)


def app_ready(state: State, input: AppReady) -> None:
    """An app has prepared."""
    part = part_of(state, input.app, input.cycle)
    if part is None:
        return
    if part.state is not AppState.PREPARING:
        refuse_answer(state, part, "ready")
        return
    state.say(EventKind.APP_READY, input.app, took=state.now - part.since)
    part.state, part.since = AppState.READY, state.now
    state.running.pending.discard(input.app)
    advance(state)


def prepare_deadline(state: State, input: DeadlinePassed) -> None:
    """The time to prepare is over."""
    silent = [state.running.participants[app] for app in sorted(state.running.pending)]
    fail_all(state, [(part, Outcome.TIMED_OUT, "it did not prepare in its time") for part in silent])
    if state.phase is Phase.PREPARING and state.running.is_preparing_filesystems:
        abort(state, "the file systems were not ready to be frozen in the time that was left")
    advance(state)


def _prepared(state: State) -> None:
    if state.running.is_check:
        _wait_for_freeze(state)
    else:
        _start_freezing(state)


def _wait_for_freeze(state: State) -> None:
    """Answer the check."""
    cycle, request = state.running, _request_of(state.running)
    state.enter(Phase.PREPARED)
    state.answer(request, True)
    cycle.request = None
    cycle.stage_deadline = state.now + state.settings.prepared_limit


def prepared_deadline(state: State, input: DeadlinePassed) -> None:
    """No freeze has followed the check."""
    abort(state, f"no freeze followed the check within {format_duration(state.settings.prepared_limit)}")


def _start_freezing(state: State) -> None:
    """Plan once more, with the apps and the time that there are now, and freeze."""
    cycle = state.running
    for part in cycle.candidates():
        if not part.is_connected:
            part.outcome, part.state, part.reason = Outcome.DISCONNECTED, AppState.FAILED, "it left before the freeze"
    problem = plan(state)
    if problem:
        abort(state, problem)
        return
    _freeze(state)


def _freeze(state: State) -> None:
    state.enter(Phase.FREEZING_APPS)
    _ask_wave(state, 0)


def _ask_wave(state: State, number: int) -> None:
    """Send the freeze to the next wave that has anybody in it; after the last, go on to the file systems."""
    cycle, request = state.running, _request_of(state.running)
    while number < len(cycle.waves):
        parts = [part for app in cycle.waves[number] if (part := cycle.participants[app]).outcome is None]
        if parts:
            break
        number += 1
    else:
        _certify(state)
        return
    # A late timer may have eaten into the time of this wave.
    cycle.wave, budget = number, min(cycle.grants[number], time_for_apps(state, request))
    if budget <= ZERO:
        abort(state, "the time for the apps was over before all were asked")
        return
    cycle.stage_deadline = state.now + budget
    # An app of this wave is quiet while the later waves freeze, too; the limit must cover that, the file systems and
    # the hold.
    longest = request.deadline - state.now + cycle.hold_limit
    for part in parts:
        app = part.registration.app
        part.hold_limit = min(part.registration.hold_limit, longest)
        part.asked_at, part.state, part.since = state.now, AppState.FREEZING, state.now
        cycle.pending.add(app)
        state.outbox.append(AskFreeze(app, cycle.id, cycle.requester, budget, part.hold_limit))
        state.say(EventKind.FREEZE_ASKED, app)


def app_froze(state: State, input: AppFroze) -> None:
    """An ack."""
    part = part_of(state, input.app, input.cycle)
    if part is not None and part.state is not AppState.FREEZING:
        refuse_answer(state, part, "frozen")
    if part is None or part.state not in (AppState.FREEZING, AppState.HELD):
        # Whatever it was sent before its ack, it says that it is frozen now.
        let_go_of_stray(state, input.app, input.cycle)
    if part is None or part.state is not AppState.FREEZING or part.asked_at is None:
        return
    cycle = state.running
    part.acked_at, part.state, part.since, part.evidence = state.now, AppState.HELD, state.now, input.evidence
    cycle.watch(part)
    if part.registration.watch_paths:
        state.outbox.append(WatchPaths(input.app, cycle.id))
    cycle.pending.discard(input.app)
    state.say(EventKind.APP_FROZE, input.app, took=state.now - part.asked_at)
    advance(state)


def app_vetoed(state: State, input: AppVetoed) -> None:
    """An app refuses to prepare or to freeze."""
    part = part_of(state, input.app, input.cycle)
    if part is None:
        return
    if part.state not in (AppState.PREPARING, AppState.FREEZING):
        refuse_answer(state, part, "veto")
        return
    part.retryable = input.retryable
    part.confirmed = True  # by the contract an app that vetoes holds nothing
    fail(state, part, Outcome.VETOED, input.reason or "it gave no reason")
    advance(state)


def freeze_deadline(state: State, input: DeadlinePassed) -> None:
    """The time of a wave is over: silence is never consent."""
    cycle = state.running
    silent = (Outcome.TIMED_OUT, f"no ack within {format_duration(cycle.grants[cycle.wave])}")
    away = (Outcome.HOLD_LOST, "its stream broke in its hold and it did not come back in time")
    late = [(app, silent) for app in sorted(cycle.pending)] + [(app, away) for app in sorted(cycle.away)]
    fail_all(state, [(cycle.participants[app], *why) for app, why in late])
    advance(state)


def advance(state: State) -> None:
    """Go on if everybody that the phase waits for has answered and nobody is away."""
    cycle = state.running
    if cycle.pending or cycle.away or cycle.is_preparing_filesystems:
        return
    if state.phase is Phase.PREPARING:
        _prepared(state)
    elif state.phase is Phase.FREEZING_APPS:
        _ask_wave(state, cycle.wave + 1)
    elif state.phase is Phase.CERTIFYING and cycle.is_journaled:
        _freeze_filesystems(state)
    elif state.phase is Phase.FREEZING_FILESYSTEMS and cycle.filesystems_done:
        _hold(state)


def _certify(state: State) -> None:
    """All are held: have the certificate written before the file systems are frozen, so that the snapshot carries it,
    and tell the apps meanwhile. A rehearsal has no snapshot and freezes no file system.
    """
    if not state.running.rehearses:
        state.enter(Phase.CERTIFYING)
        write_journal(state, Stage.HELD)
        # While the disk works, so that it costs no time of its own; also where the requester freezes after its answer.
        state.running.tells_filesystem_freeze = True
        for part in state.running.candidates():
            state.tell_filesystem_freeze(part)
    elif answer_by(_request_of(state.running)) <= state.now:
        abort(state, "the time was over when all apps were held")
    else:
        _hold(state)


def _freeze_filesystems(state: State) -> None:
    cycle = state.running
    deadline = answer_by(_request_of(cycle))
    if deadline <= state.now:
        abort(state, "the time was over before the file systems could be frozen")
        return
    state.enter(Phase.FREEZING_FILESYSTEMS)
    cycle.stage_deadline = deadline
    cycle.filesystems_touched = True
    state.outbox.append(FreezeFilesystems(cycle.id, deadline - state.now, cycle.hold_limit))


def _hold(state: State) -> None:
    cycle, request = state.running, _request_of(state.running)
    cycle.told_go_on = True
    state.enter(Phase.HOLDING)
    cycle.stage_deadline = state.now + cycle.hold_limit
    state.answer(request, True, hold_limit=cycle.hold_limit)
    cycle.request = None
    agree_with_joined(state)


def _request_of(cycle: Cycle) -> Request:
    """What the cycle is being carried out for. Only until it is answered."""
    if cycle.request is None:
        raise AssertionError(f"cycle {cycle.id} has no request")
    return cycle.request
