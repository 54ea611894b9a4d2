"""The steps about apps that come, go and return in a cycle, and about what they and the clock say of their hold."""

from __future__ import annotations

from datetime import timedelta

from appvss.cycle.apps import is_same_process, let_go_of_stray, part_of, refuse_answer, register
from appvss.cycle.asking import advance
from appvss.cycle.ending import abort, fail, fail_all, thaw_next
from appvss.cycle.inputs import AppLeft, AppLostHold, AppRegistered, AppThawed, DeadlinePassed
from appvss.cycle.state import AppState, Participant, State
from appvss.model.app import AppId, Registration
from appvss.model.duration import format_duration
from appvss.model.event import EventKind
from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.verdict import Outcome

CLAIM_TOLERANCE = timedelta(seconds=1)
"""How much later than the broker heard it an app may say its hold began: the two clocks tick alike, the message
travels."""
_UNDOING = frozenset({Phase.THAWING_APPS, Phase.ABORTING})
"""The phases in which apps are thawed, wave by wave."""


def return_or_join_late(state: State, input: AppRegistered) -> None:
    """An app registers after the freeze has begun: it comes back to its hold, or it is too late for this cycle."""
    participants, registration = state.running.participants, input.registration
    before = participants.get(registration.app)
    # One that the freeze does not concern may be another process now, which has its files elsewhere.
    is_another = before is not None and before.is_apart and not is_same_process(before.registration, registration)
    if before is not None and not is_another:
        return_or_watch(state, input)
        return
    register(state, input)
    part = participants[registration.app] = Participant(registration, AppState.REGISTERED, state.now)
    fail(state, part, Outcome.ABSENT, "it registered while the freeze was under way")


def return_or_watch(state: State, input: AppRegistered) -> None:
    """An app registers: it comes back to its hold or to its thaw, or it is merely there."""
    part = state.running.participants.get(input.registration.app)
    if part is not None and part.state is AppState.AWAY:
        state.roster[input.registration.app] = input.registration
        _return(state, part, input.registration)
    else:
        register(state, input)


def _return(state: State, part: Participant, registration: Registration) -> None:
    """An app that was away is back. Its hold stands only if it proves that it never let go."""
    cycle, claim = state.running, registration.claim
    cycle.away.discard(registration.app)
    part.is_connected, part.away_until = True, None
    doubt = _doubt(state, part, registration)
    if doubt:
        if claim is None or claim.cycle != cycle.id:
            part.let_go = part.confirmed = True  # it holds nothing of this cycle, and was not sent its freeze
        fail(state, part, Outcome.HOLD_LOST, doubt)
    else:
        part.state, part.since = AppState.HELD, state.now
        state.say(EventKind.APP_RETURNED, registration.app, "with its hold unbroken")
        may_be_frozen = cycle.filesystems_touched or state.phase is Phase.CERTIFYING
        if cycle.tells_filesystem_freeze and may_be_frozen:
            state.tell_filesystem_freeze(part)  # it may have been told into the broken stream
        if _has_been_thawed(state, registration.app):
            # Its thaw went into the broken stream.
            state.let_go(part, cycle.ended_by)
            cycle.pending.add(registration.app)
    if claim is not None and claim.cycle != cycle.id:
        let_go_of_stray(state, registration.app, claim.cycle)
    _go_on(state)


def _has_been_thawed(state: State, app: AppId) -> bool:
    """Whether the thaw has come to the app's wave, or is past it."""
    cycle = state.running
    return state.phase in _UNDOING and any(app in wave for wave in cycle.waves[cycle.wave :])


def _doubt(state: State, part: Participant, registration: Registration) -> str:
    """Why the claim of a returning app does not prove its hold; empty when it does."""
    claim, before = registration.claim, part.registration.incarnation
    if claim is None:
        return "it came back without its hold"
    if before and registration.incarnation != before:
        return "another process came back in its place"
    if claim.cycle != state.running.id:
        return f"it came back with a hold of cycle {claim.cycle}"
    if part.acked_at is not None and claim.held_for + CLAIM_TOLERANCE < state.now - part.acked_at:
        return f"it says that it has held for {format_duration(claim.held_for)} only: not since its ack"
    return ""


def _go_on(state: State) -> None:
    """After an app has come, gone or spoken: the phase may have waited for that alone."""
    if state.phase in _UNDOING:
        thaw_next(state)
    else:
        advance(state)


def leave(state: State, input: AppLeft) -> None:
    """An app's stream ends in rest."""
    if state.roster.pop(input.app, None) is not None:
        state.say(EventKind.APP_LEFT, input.app, input.reason)


def leave_prepared(state: State, input: AppLeft) -> None:
    """An app leaves between a check and its freeze: it may come back; if not, the freeze will miss it."""
    leave(state, input)
    part = state.running.participants.get(input.app)
    if part is not None:
        part.is_connected = False


def leave_in_cycle(state: State, input: AppLeft) -> None:
    """An app's stream ends while a cycle is asking, holding or thawing."""
    leave(state, input)
    part = state.running.participants.get(input.app)
    if part is None or not part.is_connected:
        return
    part.is_connected = False
    if part.confirmed or part.outcome is not None:
        state.running.pending.discard(input.app)
    elif part.acked_at is None:
        fail(state, part, Outcome.DISCONNECTED, input.reason)
    elif input.died:
        fail(state, part, Outcome.HOLD_LOST, f"its process died in its hold: {input.reason}")
    else:
        _go_away(state, part)
        return
    _go_on(state)


def _go_away(state: State, part: Participant) -> None:
    """A held app's stream broke: the hold may well go on, and it may come back to say so."""
    part.state, part.since = AppState.AWAY, state.now
    part.away_until = state.now + state.settings.return_grace
    # What was sent into the broken stream may not have arrived: the app gets it again when it is back.
    part.let_go = part.is_told = False
    state.running.watch(part)
    state.running.away.add(part.registration.app)


def lost_hold(state: State, input: AppLostHold) -> None:
    """An app says that its hold has ended before its thaw."""
    part = part_of(state, input.app, input.cycle)
    if part is None:
        return
    if part.acked_at is None:
        refuse_answer(state, part, "hold lost")
    elif part.outcome in (None, Outcome.HELD):  # its later word counts, also after a thaw that it called unbroken
        fail(state, part, Outcome.HOLD_LOST, input.reason or "it gave no reason")
        _go_on(state)


def app_thawed(state: State, input: AppThawed) -> None:
    """An app says that it holds nothing any more, and whether it held all the time."""
    cycle = state.running
    part = cycle.participants.get(input.app)
    if part is None or not part.is_connected or input.cycle != cycle.id or part.asked_at is None:
        return  # the answer to an abort for a cycle that is over, or that it had only prepared for: welcome
    if part.state is AppState.FREEZING:
        refuse_answer(state, part, "thawed")
        return
    if not part.let_go and part.outcome is None:
        fail(state, part, Outcome.HOLD_LOST, "it thawed before it was asked to")
    part.confirmed = True
    cycle.pending.discard(input.app)
    held = part.let_go_at - part.acked_at if part.let_go_at and part.acked_at else None
    if part.outcome is None and held is not None:
        _judge_hold(part, input, in_time=held <= part.hold_limit)
    part.state, part.since = AppState.THAWED if part.outcome is Outcome.HELD else part.state, state.now
    state.say(EventKind.APP_THAWED, input.app, input.reason if not input.unbroken else "", held)
    _go_on(state)


def _judge_hold(part: Participant, input: AppThawed, *, in_time: bool) -> None:
    """Held, if the app says so, and neither the broker's clock nor its paths contradict."""
    if input.unbroken and in_time and not part.doubt:
        part.outcome = Outcome.HELD
        return
    part.outcome, part.state = Outcome.HOLD_LOST, AppState.FAILED
    if not in_time:
        part.reason = f"its hold limit of {format_duration(part.hold_limit)} passed before the thaw"
    elif not input.unbroken:
        part.reason = input.reason or "it gave no reason"
    else:
        part.reason = part.doubt


def hold_deadline(state: State, input: DeadlinePassed) -> None:
    """The hold limit of the whole cycle has passed: nothing stays frozen."""
    cycle = state.running
    if cycle.has_finished:
        names = ", ".join(joined.requester for joined in cycle.joined.values())
        abort(state, f"the hold limit of {names} passed before the thaw of those that share the hold came")
    else:
        abort(state, f"the hold limit of {format_duration(cycle.hold_limit)} passed before the thaw came")


def expire_holds(state: State) -> None:
    """Fail the apps whose own hold limit, or whose time to come back, has passed. Called at any deadline."""
    cycle = state.running
    expired = [part for part in cycle.participants.values() if _has_expired(part, state.now)]
    cycle.hold_expiry = min(
        (end for part in cycle.candidates() if part not in expired and not part.let_go and (end := part.expires_at)),
        default=None,
    )
    fail_all(state, [(part, Outcome.HOLD_LOST, _why_expired(state, part)) for part in expired])
    _go_on(state)


def _why_expired(state: State, part: Participant) -> str:
    if part.away_until is not None and part.away_until <= state.now:
        return f"its stream broke and it did not come back within {format_duration(state.settings.return_grace)}"
    return f"its hold limit of {format_duration(part.hold_limit)} passed before the thaw"


def _has_expired(part: Participant, now: Instant) -> bool:
    if part.outcome is not None or part.acked_at is None:
        return False
    if part.away_until is not None and part.away_until <= now:
        return True
    return not part.let_go and part.acked_at + part.hold_limit <= now


def next_return(state: State) -> Instant | None:
    """When the first of the apps that are away counts as lost."""
    parts: dict[AppId, Participant] = state.running.participants
    return min((until for app in state.running.away if (until := parts[app].away_until)), default=None)
