"""What the steps share about single apps: who is there, whose answer it is, and what is done when one does not fit."""

from __future__ import annotations

from appvss.cycle.effects import AskAbort
from appvss.cycle.inputs import AppFroze, AppReady, AppRegistered, AppVetoed, RegistrationChanged
from appvss.cycle.state import AppState, Participant, State
from appvss.model.app import AppId, Registration
from appvss.model.event import EventKind


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
    state.awaited.pop(registration.app, None)
    state.say(EventKind.APP_REGISTERED, registration.app)
    if registration.claim is not None:
        let_go_of_stray(state, registration.app, registration.claim.cycle)


def is_same_process(before: Registration, now: Registration) -> bool:
    """Whether an app that registers is the process that it was: then it declares the same paths."""
    return bool(before.incarnation) and before.incarnation == now.incarnation


def change_registration(state: State, input: RegistrationChanged) -> None:
    """Another policy is in force for a registered app, from the next cycle on."""
    registration = input.registration
    before = state.roster.get(registration.app)
    if before is None:
        return
    state.roster[registration.app] = registration
    if registration.set_aside and not before.set_aside:
        state.say(EventKind.APP_SET_ASIDE, registration.app, registration.set_aside)


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
