"""The machine: the two doors of the core.

`handle(input, now)` is the only way to change it, and returns what must be done. `next_deadline()` says when to call it
with `DeadlinePassed` if nothing else happens before. It reads no clock, does no I/O and raises nothing on foreign
input: what does not fit is refused, as data.

One machine lives as long as its broker and runs one cycle after the other, because apps register, leave and come back
across the borders of cycles.
"""

from __future__ import annotations

from collections.abc import Iterable

from appvss.cycle.effects import Effect
from appvss.cycle.holding import expire_holds, next_return
from appvss.cycle.inputs import AppLeft, AppLostHold, AppReady, AppRegistered, AppVetoed, DeadlinePassed, Input
from appvss.cycle.invariants import check_step
from appvss.cycle.releasing import answer_owed
from appvss.cycle.state import AppState, CycleSettings, State, answer_by
from appvss.cycle.table import TABLE
from appvss.model.app import AppId, Registration
from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome

_SAID: dict[type[Input], str] = {AppReady: "ready", AppVetoed: "veto", AppLostHold: "hold_lost"}
"""The words of `app.proto` for what an app can say at a time when it means nothing."""


class Machine:
    """Every cycle of one broker, one at a time.

    Args:
        settings: the administrator's lengths and names. `replace_settings` changes them.
        now: this instant.
        checking: check the invariants after every step, and raise `InvariantBroken` when one does not hold. For tests
            and debugging: in production a broken invariant must not keep the thaw from being sent.
    """

    def __init__(self, settings: CycleSettings, now: Instant, *, checking: bool = False) -> None:
        self._state = State(settings, now)
        self._checking = checking
        self._due: Instant | None = None
        """The next deadline after the last step."""

    @property
    def phase(self) -> Phase:
        """Where the cycle is."""
        return self._state.phase

    @property
    def phase_since(self) -> Instant:
        """Since when."""
        return self._state.phase_since

    @property
    def cycle(self) -> str:
        """The running cycle's id; empty in rest."""
        return "" if self._state.phase.is_resting else self._state.running.id

    @property
    def hold_ends(self) -> Instant | None:
        """When the hold ends at the latest; None: nothing is held."""
        return self._state.running.stage_deadline if self._state.phase is Phase.HOLDING else None

    def app_state(self, app: AppId) -> tuple[AppState, Instant | None]:
        """What an app is doing in the running cycle, and since when; `registered` outside of one."""
        part = None if self._state.phase.is_resting else self._state.running.participants.get(app)
        return (AppState.REGISTERED, None) if part is None else (part.state, part.since)

    def away(self) -> tuple[tuple[Registration, Instant], ...]:
        """The apps whose stream broke in their hold and that may still come back with it, and since when."""
        if self._state.phase.is_resting:
            return ()
        cycle = self._state.running
        parts = [cycle.participants[app] for app in sorted(cycle.away)]
        return tuple((part.registration, part.since) for part in parts)

    def last_outcome(self, app: AppId) -> AppOutcome | None:
        """An app's part in the last cycle that has ended, if it had one."""
        verdict = self._state.last_verdict
        outcomes = verdict.outcomes if verdict is not None else ()
        return next((outcome for outcome in outcomes if outcome.app == app), None)

    def absent(self) -> tuple[str, ...]:
        """The names that the configuration expects and that are not registered."""
        names = {app.name for app in self._state.roster}
        return tuple(name for name in self._state.settings.expected if name not in names)

    def replace_settings(self, settings: CycleSettings) -> None:
        """Put new settings in force, from the next decision on."""
        self._state.settings = settings

    def await_return(self, apps: Iterable[Registration], until: Instant) -> None:
        """A former broker had these apps. Until this instant a freeze misses those that have not registered again: they
        may well run, and write.
        """
        state = self._state
        state.awaited = {one.app: one for one in apps if one.app not in state.roster}
        state.awaited_until = until

    def next_deadline(self) -> Instant | None:
        """The earliest instant at which something is due; None only in rest."""
        return self._due

    def _next_deadline(self) -> Instant | None:
        state = self._state
        if state.phase.is_resting:
            return None
        cycle = state.running
        due = cycle.stage_deadline
        if cycle.hold_expiry is not None and (due is None or cycle.hold_expiry < due):
            due = cycle.hold_expiry
        if cycle.away and (returns := next_return(state)) is not None and (due is None or returns < due):
            due = returns
        joined = (joined.request for joined in cycle.joined.values() if joined.request is not None)
        for request in (*cycle.owed, *joined, *(asked.request for asked in state.waiting)):
            if due is None or answer_by(request) < due:
                due = answer_by(request)
        return due

    def handle(self, input: Input, now: Instant) -> list[Effect]:
        """Take an input and return the effects, in the order in which they must be carried out.

        What is overdue at `now` is dealt with first: an ack that comes after its deadline is late also when the timer
        has not rung yet.
        """
        state = self._state
        if now > state.now:
            state.now = now
        if self._due is not None and self._due <= state.now:
            self._pass_deadlines()
        if isinstance(input, AppRegistered) and input.registration.app in state.roster:
            self._run(AppLeft(input.registration.app, "it registered again"))
        if not isinstance(input, DeadlinePassed):
            self._run(input)
        self._begin_waiting()
        self._due = self._next_deadline()
        effects, state.outbox = state.outbox, []
        return effects

    def _pass_deadlines(self) -> None:
        """Deal with everything that is due, as often as that makes something else due."""
        state = self._state
        while (due := self._next_deadline()) is not None and due <= state.now:
            cycle = state.running
            if cycle.stage_deadline is not None and cycle.stage_deadline <= state.now:
                self._run(DeadlinePassed())
            else:
                expire_holds(state)
                answer_owed(state)
                self._check(None)
            self._begin_waiting()

    def _begin_waiting(self) -> None:
        state = self._state
        while state.waiting and state.phase.is_resting:
            self._run(state.waiting.pop(0))

    def _run(self, input: Input) -> None:
        state = self._state
        row = TABLE.get((state.phase, type(input)))
        state.visited.clear()
        if row is None:
            app = getattr(input, "app", None)
            said = _SAID.get(type(input), type(input).__name__)
            state.refuse("not_now", f"{said} has no meaning while the cycle is {state.phase}", app)
        else:
            row.step(state, input)
        self._check(row.leads_to if row is not None else frozenset())

    def _check(self, leads_to: frozenset[Phase] | None) -> None:
        if self._checking:
            check_step(self._state, leads_to)
