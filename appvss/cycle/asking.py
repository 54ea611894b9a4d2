"""The steps from a request to the hold: check, prepare, freeze wave by wave, the file systems, the answer."""

from __future__ import annotations

from datetime import timedelta

from appvss.cycle.effects import AskAbort, AskFreeze, AskPrepare, FreezeFilesystems
from appvss.cycle.ending import abort, fail, fail_all, refuse_pending
from appvss.cycle.inputs import (
    AppFroze,
    AppReady,
    AppRegistered,
    AppVetoed,
    CheckRequested,
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FreezeRequested,
)
from appvss.cycle.order import waves_of
from appvss.cycle.policy import sentence_of
from appvss.cycle.state import AppState, Closed, Cycle, Participant, State, answer_by
from appvss.model.app import AppId, Registration
from appvss.model.budget import LEAST_GRANT, share_budget
from appvss.model.duration import format_duration
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.request import Request, RequestKind
from appvss.model.verdict import Outcome

ZERO = timedelta(0)


def begin(state: State, asked: CheckRequested | FreezeRequested) -> None:
    """A request in rest: a new cycle."""
    request = asked.request
    state.cycle = cycle = Cycle(
        id=asked.cycle,
        source=request.source,
        requester=request.requester,
        began=state.now,
        is_check=isinstance(asked, CheckRequested),
        request=request,
        hold_limit=request.hold_limit,
    )
    state.enter(Phase.REQUESTED)
    state.say(EventKind.CYCLE_BEGAN, detail=f"{request.kind} by {request.requester} through {request.source}")
    for registration in state.roster.values():
        _join(state, registration)
    problem = _plan(state)
    if problem:
        abort(state, problem)
        return
    askable = [part for part in cycle.candidates() if part.registration.prepares]
    budget = _prepare_budget(cycle)
    if not askable or budget < LEAST_GRANT:
        if cycle.is_check:
            _wait_for_freeze(state)
        else:
            _freeze(state)
        return
    state.enter(Phase.PREPARING)
    cycle.stage_deadline = state.now + budget
    for part in askable:
        _ask_prepare(state, part, budget)


def begin_freeze_after_check(state: State, asked: FreezeRequested) -> None:
    """A freeze in `prepared`. From the same source it goes on with what was prepared."""
    cycle, request = state.running, asked.request
    if request.source != cycle.source:
        begin_instead(state, asked)
        return
    cycle.request, cycle.is_check, cycle.hold_limit = request, False, request.hold_limit
    cycle.requester = request.requester
    _start_freezing(state)


def begin_instead(state: State, asked: CheckRequested | FreezeRequested) -> None:
    """A request while a cycle runs: refused, or it takes the place of the running one (`Request.supersedes`)."""
    cycle, request = state.running, asked.request
    takes_over = state.phase is Phase.PREPARED or (request.supersedes and request.source == cycle.source)
    if not takes_over:
        if request.kind is RequestKind.FREEZE and request.source != cycle.source:
            # Its requester may send a thaw all the same, and that is no failure: nothing was promised.
            state.closed[request.source] = Closed("", True, "", None)
        state.answer(request, False, f"cycle {cycle.id} of {cycle.requester} is under way ({state.phase})", cycle="")
        return
    refuse_pending(state, "a newer request has taken its place")
    state.pending = asked
    if state.phase not in (Phase.ABORTING, Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS):
        abort(state, f"{request.requester} asked for a new {request.kind} before the thaw of this cycle came")


def _join(state: State, registration: Registration) -> Participant:
    part = Participant(registration, AppState.REGISTERED, state.now)
    state.running.participants[registration.app] = part
    return part


def _plan(state: State) -> str:
    """Find the waves and their grants, or say in one sentence why the freeze cannot succeed. Nothing is asked of
    anybody.
    """
    cycle = state.running
    names = {part.registration.app.name for part in cycle.participants.values()}
    for name in state.settings.expected:
        if name not in names:
            part = _join(state, Registration(AppId(name)))
            part.is_connected = False
            part.outcome, part.state, part.reason = Outcome.ABSENT, AppState.ABSENT, "the configuration expects it"
    missing = [part for part in cycle.participants.values() if part.outcome is not None and part.is_required]
    if missing:
        return sentence_of(missing[0].result())
    _set_the_slow_aside(state)
    registrations = [part.registration for part in cycle.candidates()]
    cycle.waves, circle = waves_of(registrations)
    if circle:
        return f"the apps {', '.join(sorted(circle))} wait for each other through `after`"
    return _grant(state, registrations)


def _set_the_slow_aside(state: State) -> None:
    """An app that needs more time than there is takes no part, unless it is required: it must not fail the others."""
    cycle = state.running
    if cycle.request is None:
        raise AssertionError(f"cycle {cycle.id} plans without a request")
    budget = _time_for_apps(state, cycle.request)
    for part in cycle.candidates():
        need = part.registration.freeze_timeout
        if need is not None and need > budget and not part.is_required:
            given = f"{cycle.request.source} gives {format_duration(max(budget, ZERO))} for all apps together"
            part.outcome, part.state, part.since = Outcome.SKIPPED, AppState.FAILED, state.now
            part.reason = f"it needs {format_duration(need)} to freeze, and {given}"
            state.say(EventKind.APP_FAILED, part.registration.app, f"{part.outcome}: {part.reason}")


def _grant(state: State, registrations: list[Registration]) -> str:
    """Share the request's time out over the waves, or say who needs more than there is."""
    cycle = state.running
    request = cycle.request
    if request is None:
        raise AssertionError(f"cycle {cycle.id} plans without a request")
    cycle.budget, cycle.grants = _time_for_apps(state, request), ()
    if cycle.budget <= ZERO:
        return f"{request.source} gives no time for the apps: the request's time is over, or all of it is reserved"
    known = {registration.app: registration for registration in registrations}
    declared = [[known[app].freeze_timeout for app in wave] for wave in cycle.waves]
    needs = [max((need for need in wave if need is not None), default=None) for wave in declared]
    grants = share_budget(cycle.budget, needs)
    if grants is not None:
        cycle.grants = grants
        return ""
    given = f"{request.source} gives {format_duration(cycle.budget)} for all apps together"
    for part in cycle.candidates():
        need = part.registration.freeze_timeout
        if need is not None and need > cycle.budget:
            part.reason = f"it needs {format_duration(need)} to freeze, {given}"
            return f"{part.registration.app} needs {format_duration(need)} to freeze, and {given}"
    return f"the apps need more time to freeze, one order after the other, than there is: {given}"


def _time_for_apps(state: State, request: Request) -> timedelta:
    return answer_by(request) - state.now - request.reserve


def _prepare_budget(cycle: Cycle) -> timedelta:
    """A check's whole time; ahead of a freeze half of what the freeze does not need itself.

    Prepare only shortens the freeze, so an app that gets no time for it is not asked, and does the work when it
    freezes.
    """
    if cycle.is_check:
        return cycle.budget
    parts = cycle.participants
    longest = (max(parts[app].registration.freeze_timeout or ZERO for app in wave) for wave in cycle.waves)
    return (cycle.budget - sum((max(LEAST_GRANT, need) for need in longest), ZERO)) / 2


def _ask_prepare(state: State, part: Participant, budget: timedelta) -> None:
    cycle, app = state.running, part.registration.app
    part.state, part.since = AppState.PREPARING, state.now
    cycle.pending.add(app)
    state.outbox.append(AskPrepare(app, cycle.id, cycle.requester, budget))
    state.say(EventKind.PREPARE_ASKED, app)


def join_while_preparing(state: State, input: AppRegistered) -> None:
    """An app registers before anything is frozen: it takes part. One that comes back begins anew."""
    register(state, input)
    part = _join(state, input.registration)
    cycle = state.running
    if state.phase is Phase.PREPARING and part.registration.prepares and cycle.stage_deadline is not None:
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
    advance(state)


def _prepared(state: State) -> None:
    if state.running.is_check:
        _wait_for_freeze(state)
    else:
        _start_freezing(state)


def _wait_for_freeze(state: State) -> None:
    """Answer the check."""
    cycle = state.running
    if cycle.request is None:
        raise AssertionError(f"cycle {cycle.id} is a check without a request")
    state.enter(Phase.PREPARED)
    state.answer(cycle.request, True)
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
            part.outcome, part.state, part.reason = Outcome.DISCONNECTED, AppState.FAILED, "it left after the check"
    problem = _plan(state)
    if problem:
        abort(state, problem)
        return
    _freeze(state)


def _freeze(state: State) -> None:
    state.enter(Phase.FREEZING_APPS)
    _ask_wave(state, 0)


def _ask_wave(state: State, number: int) -> None:
    """Send the freeze to the next wave that has anybody in it; after the last, go on to the file systems."""
    cycle = state.running
    request = cycle.request
    if request is None:
        raise AssertionError(f"cycle {cycle.id} freezes without a request")
    while number < len(cycle.waves):
        parts = [part for app in cycle.waves[number] if (part := cycle.participants[app]).outcome is None]
        if parts:
            break
        number += 1
    else:
        _freeze_filesystems(state)
        return
    # A late timer may have eaten into the time of this wave.
    cycle.wave, budget = number, min(cycle.grants[number], _time_for_apps(state, request))
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
    if cycle.pending or cycle.away:
        return
    if state.phase is Phase.PREPARING:
        _prepared(state)
    elif state.phase is Phase.FREEZING_APPS:
        _ask_wave(state, cycle.wave + 1)
    elif state.phase is Phase.FREEZING_FILESYSTEMS and cycle.filesystems_done:
        _hold(state)


def _freeze_filesystems(state: State) -> None:
    cycle = state.running
    if cycle.request is None:
        raise AssertionError(f"cycle {cycle.id} freezes file systems without a request")
    deadline = answer_by(cycle.request)
    if deadline <= state.now:
        abort(state, "the time was over before the file systems could be frozen")
        return
    state.enter(Phase.FREEZING_FILESYSTEMS)
    cycle.stage_deadline = deadline
    cycle.filesystems_touched = True
    state.outbox.append(FreezeFilesystems(cycle.id, cycle.stage_deadline - state.now))


def filesystems_frozen(state: State, input: FilesystemsFrozen) -> None:
    """The freezer has done its part."""
    cycle = state.running
    if input.cycle != cycle.id:
        state.refuse("other_cycle", f"the freezer speaks of cycle {input.cycle}, not of {cycle.id}")
        return
    if cycle.filesystems_done:
        state.refuse("ack_twice", "the freezer has said before that it is done")
        return
    cycle.filesystems_done, cycle.filesystems_frozen = True, input.frozen
    if input.frozen:
        state.say(EventKind.FILESYSTEMS_FROZE)
    advance(state)


def filesystems_failed(state: State, input: FilesystemsFailed) -> None:
    """The freezer could not freeze."""
    if input.cycle != state.running.id:
        state.refuse("other_cycle", f"the freezer speaks of cycle {input.cycle}, not of {state.running.id}")
        return
    abort(state, f"the file systems could not be frozen: {input.reason}")


def filesystems_deadline(state: State, input: DeadlinePassed) -> None:
    """The file systems, or an app that is away, took all the time that was left."""
    cycle = state.running
    if cycle.filesystems_done:
        gone = ", ".join(map(str, sorted(cycle.away)))
        abort(state, f"the stream of {gone} broke and the time was over before it came back")
    else:
        abort(state, "the file systems were not frozen in the time that was left")


def _hold(state: State) -> None:
    cycle = state.running
    if cycle.request is None:
        raise AssertionError(f"cycle {cycle.id} holds without a request")
    cycle.told_go_on = True
    state.enter(Phase.HOLDING)
    cycle.stage_deadline = state.now + cycle.hold_limit
    state.answer(cycle.request, True)
    cycle.request = None


def stray_ack(state: State, input: AppFroze) -> None:
    """An ack in rest: the app holds for a cycle that is over."""
    state.refuse("ack_too_late", f"{input.app} froze for cycle {input.cycle}, which is over", input.app)
    let_go_of_stray(state, input.app, input.cycle)


def late_answer(state: State, input: AppReady | AppVetoed) -> None:
    """An answer in rest that holds nothing, such as the veto of an app that had hung: it comes too late to matter."""
    state.refuse("ack_too_late", f"{input.app} answered for cycle {input.cycle}, which is over", input.app)


def let_go_of_stray(state: State, app: AppId, cycle: str) -> None:
    """Tell an app that holds for a cycle which is not running to let go: nothing stays frozen."""
    reason = f"no hold is wanted for cycle {cycle}"
    state.outbox.append(AskAbort(app, cycle, reason))
    state.say(EventKind.THAW_ASKED, app, reason)


def register(state: State, input: AppRegistered) -> None:
    """An app is there. If it still holds for a cycle that is not running, it is told to let go."""
    registration = input.registration
    state.roster[registration.app] = registration
    state.say(EventKind.APP_REGISTERED, registration.app)
    if registration.claim is not None:
        let_go_of_stray(state, registration.app, registration.claim.cycle)


def part_of(state: State, app: AppId, cycle_id: str) -> Participant | None:
    """The app's part in the running cycle; None, with a refusal, when what it says is not about this cycle."""
    cycle = state.running
    part = cycle.participants.get(app)
    if cycle_id != cycle.id:
        state.refuse("ack_for_other_cycle", f"{app} answers for cycle {cycle_id}, not for {cycle.id}", app)
        return None
    if part is None or not part.is_connected:
        state.refuse("not_asked", f"{app} takes no part in cycle {cycle.id}", app)
        return None
    return part


_REFUSALS = {
    AppState.REGISTERED: "ack_before_asked",
    AppState.PREPARING: "ack_before_asked",
    AppState.READY: "ack_before_asked",
    AppState.HELD: "ack_twice",
    AppState.FREEZING: "ack_of_other_kind",
}


def refuse_answer(state: State, part: Participant, said: str) -> None:
    """Refuse an answer that the app's state does not allow."""
    name = _REFUSALS.get(part.state, "ack_too_late")
    state.refuse(name, f"{part.registration.app} said {said} while {part.state}", part.registration.app)
