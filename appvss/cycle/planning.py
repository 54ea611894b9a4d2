"""Who takes part, in which order, with how much time: decided before anything is frozen, without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from appvss.cycle.order import waves_of
from appvss.cycle.policy import sentence_of
from appvss.cycle.state import AppState, Participant, State, answer_by
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.budget import LEAST_GRANT, share_budget
from appvss.model.duration import format_duration
from appvss.model.event import EventKind
from appvss.model.request import Request
from appvss.model.verdict import APART, Outcome

ZERO = timedelta(0)


def join(state: State, registration: Registration) -> Participant:
    """Make an app a part of the running cycle."""
    part = Participant(registration, AppState.REGISTERED, state.now)
    state.running.participants[registration.app] = part
    return part


def plan(state: State) -> str:
    """Find the waves and their grants, or say in one sentence why the freeze cannot succeed. Nothing is asked of
    anybody.
    """
    cycle = state.running
    names = {part.registration.app.name for part in cycle.participants.values()}
    for name in state.settings.expected:
        if name not in names:
            _miss(state, Registration(AppId(name)), "the configuration expects it")
    if state.now < state.awaited_until:
        for registration in state.awaited.values():
            if registration.app not in cycle.participants:
                _miss(state, registration, "a former broker had it, and it has not come back to this one yet")
    set_apart(state)
    failed = [part for part in cycle.participants.values() if part.outcome is not None and not part.is_apart]
    missing = [part for part in failed if part.is_required]
    if missing:
        return sentence_of(missing[0].result())
    _set_aside_by_policy(state)
    _set_the_slow_aside(state)
    cycle.waves, circle = waves_of(part.registration for part in cycle.candidates())
    if circle:
        problem = f"the apps {', '.join(sorted(circle))} wait for each other through `after`"
        members = [part for part in cycle.candidates() if part.registration.app.name in circle]
        if any(part.is_required for part in members):
            return problem
        _skip(state, members, problem)
        cycle.waves, _ = waves_of(part.registration for part in cycle.candidates())
    registrations = [part.registration for part in cycle.candidates()]
    return _grant(state, registrations)


def _miss(state: State, registration: Registration, reason: str) -> None:
    """Somebody should be there who is not."""
    part = join(state, registration)
    part.is_connected = False
    part.outcome, part.state, part.reason = Outcome.ABSENT, AppState.ABSENT, reason


def _skip(state: State, parts: Iterable[Participant], reason: str) -> None:
    """Leave apps out that must not fail the others; the verdict names them."""
    for part in parts:
        has_prepared = part.state is AppState.READY
        part.outcome, part.state, part.since, part.reason = Outcome.SKIPPED, AppState.FAILED, state.now, reason
        state.say(EventKind.APP_FAILED, part.registration.app, f"{part.outcome}: {reason}")
        if has_prepared:
            state.let_go(part, reason)  # it may drop what it prepared


def set_apart(state: State) -> None:
    """Leave out what a freeze of named file systems does not concern. Nothing is wrong with such an app."""
    cycle = state.running
    for part in cycle.candidates():
        if part.registration.app in cycle.apart:
            has_prepared = part.state is AppState.READY
            part.outcome, part.state, part.reason = Outcome.SKIPPED, AppState.REGISTERED, APART
            state.say(EventKind.APP_APART, part.registration.app, APART)
            if has_prepared:
                state.let_go(part, APART)  # for a check; it may drop what it prepared


def _set_aside_by_policy(state: State) -> None:
    """Leave out what the administrator's policy sets aside. By the same policy such an app counts as tolerated: it is
    named in the verdict, and fails nothing. A rehearsal asks it all the same: that is how it proves itself.
    """
    aside = [part for part in state.running.candidates() if part.registration.set_aside]
    for part in aside:
        if part.is_required:
            part.registration = replace(part.registration, requirement=Requirement.TOLERATED)
        if not state.running.rehearses:
            _skip(state, [part], part.registration.set_aside)


def _set_the_slow_aside(state: State) -> None:
    """An app that needs more time than there is takes no part, unless it is required: it must not fail the others."""
    cycle = state.running
    if cycle.request is None:
        raise AssertionError(f"cycle {cycle.id} plans without a request")
    budget = time_for_apps(state, cycle.request)
    given = f"{cycle.request.source} gives {format_duration(max(budget, ZERO))} for all apps together"
    for part in list(cycle.candidates()):
        need = part.registration.freeze_timeout
        if need is not None and need > budget and not part.is_required:
            _skip(state, [part], f"it needs {format_duration(need)} to freeze, and {given}")


def _grant(state: State, registrations: list[Registration]) -> str:
    """Share the request's time out over the waves, or say who needs more than there is."""
    cycle = state.running
    request = cycle.request
    if request is None:
        raise AssertionError(f"cycle {cycle.id} plans without a request")
    cycle.budget, cycle.grants = time_for_apps(state, request), ()
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


def time_for_apps(state: State, request: Request) -> timedelta:
    """What of the request's time is left for the apps."""
    return answer_by(request) - state.now - request.reserve


def prepare_budget(state: State, request: Request) -> timedelta:
    """A check's whole time; ahead of a freeze half of what the freeze does not need itself.

    Prepare only shortens the freeze, so an app that gets no time for it is not asked, and does the work when it
    freezes.
    """
    cycle, parts = state.running, state.running.participants
    budget = time_for_apps(state, request)  # since the plan was made, the journal may have taken some
    if cycle.is_check:
        return budget
    longest = (max(parts[app].registration.freeze_timeout or ZERO for app in wave) for wave in cycle.waves)
    return (budget - sum((max(LEAST_GRANT, need) for need in longest), ZERO)) / 2
