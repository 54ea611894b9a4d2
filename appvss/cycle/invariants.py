"""What must be true after every step (ARCHITECTURE section 10), written so that it can be checked.

- every app that was sent a freeze is sent a thaw or an abort, exactly once per registration, whatever happens in
  between;
- no phase after the first freeze is left without a deadline armed;
- the verdict `application` implies: every required app that the freeze concerns was held, unbroken, over the whole
  hold, by its own word and by the broker's, and its copy is worth no less than that;
- the sum of granted budgets never exceeds what the source gave;
- a source gets exactly one answer per request, and none after its limit;
- no file system is frozen, and nobody is told "go on", before every app that is held was told that they are about to
  be, on its present stream; a rehearsal freezes none, and tells nobody;
- no thaw is sent while a requester that was told "go on" has not asked for it. What ends a hold before, such as its
  limit or a lost app, is sent as an abort.

The first and the last three are about what is sent, so they are checked over the effects by `Ledger`, which tests keep
beside a machine; the others are checked over the state by `check_step`.
"""

from __future__ import annotations

from datetime import timedelta

from appvss.cycle.effects import (
    AnswerSource,
    AskAbort,
    AskFreeze,
    AskPrepare,
    AskThaw,
    Effect,
    EndCycle,
    FreezeFilesystems,
    TellFilesystemFreeze,
)
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppRegistered,
    CheckRequested,
    FreezeRequested,
    Input,
    SourceLost,
    ThawRequested,
)
from appvss.cycle.state import Cycle, State
from appvss.model.app import AppId, Requirement
from appvss.model.grade import Grade
from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.verdict import Level, Outcome


class InvariantBroken(AssertionError):
    """The core is wrong. Never seen by users unless there is a bug."""


def _must(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvariantBroken(sentence)


def check_step(state: State, leads_to: frozenset[Phase] | None) -> None:
    """Check the state after a step.

    Args:
        state: the machine's state.
        leads_to: the phases that the step's row allows it to enter; None when the step was not a row's.

    Raises:
        InvariantBroken: with the sentence of what does not hold.
    """
    if leads_to is not None:
        strange = [phase for phase in state.visited if phase not in leads_to]
        _must(not strange, f"a step entered {strange}, which its row in the table does not allow")
    cycle = state.cycle
    if cycle is None:
        return
    if state.phase in (Phase.FREEZING_FILESYSTEMS, Phase.HOLDING) and not cycle.rehearses:
        for part in cycle.candidates():
            untold = part.is_connected and not part.is_told
            _must(not untold, f"{part.registration.app} is held, and nobody has told it of the file-system freeze")
    total = sum(cycle.grants, timedelta(0))
    _must(not cycle.grants or total <= cycle.budget, f"granted {total} of a budget of {cycle.budget}")
    if state.phase.is_resting:
        _check_ended(cycle)
        return
    _must(cycle.stage_deadline is not None, f"no deadline is armed in phase {state.phase}")
    for part in cycle.participants.values():
        waits = part.acked_at is not None and part.outcome is None and not part.let_go
        _must(
            not waits or cycle.hold_expiry is not None, f"{part.registration.app} is held and nothing watches its limit"
        )


def _check_ended(cycle: Cycle) -> None:
    _must(not (cycle.request or cycle.owed or cycle.joined), f"cycle {cycle.id} ended with a request unanswered")
    for part in cycle.participants.values():
        owes = part.asked_at is not None and part.is_connected and not part.let_go
        _must(not owes, f"{part.registration.app} was sent a freeze and neither thaw nor abort")
    verdict = cycle.verdict
    if verdict is None or verdict.level is not Level.APPLICATION:
        return
    _must(cycle.told_go_on and not cycle.ended_by, f"cycle {cycle.id} is `application` and ended early")
    for part in cycle.participants.values():
        if part.registration.requirement is not Requirement.REQUIRED or part.is_apart:
            continue
        held = part.outcome is Outcome.HELD and part.confirmed
        _must(held, f"{part.registration.app} is required, was not held, and the verdict is `application`")
        _must(not part.doubt, f"{part.registration.app} was held, although {part.doubt}")
        if part.let_go_at is None or part.acked_at is None or cycle.hold_ended is None:
            raise AssertionError(f"{part.registration.app} was held, and nobody knows from when to when")
        _must(part.let_go_at >= cycle.hold_ended, f"{part.registration.app} was thawed before the hold ended")
        _must(part.let_go_at - part.acked_at <= part.hold_limit, f"{part.registration.app} held past its limit")
    for outcome in verdict.outcomes:
        is_worth_it = outcome.requirement is not Requirement.REQUIRED or outcome.grade not in (Grade.RAW, Grade.FS)
        _must(is_worth_it, f"{outcome.app} is worth {outcome.grade}, and the verdict is `application`")


class Ledger:
    """What is frozen, for whom, and which requests are open, seen from outside: from what a machine is told and sends.

    A freeze, a claim to hold and an ack each say that an app may be frozen for a cycle; exactly one thaw or abort must
    end that, unless the registration ends first. One that has only prepared may be sent an abort, once.

    Args:
        adopted: the source of the cycle that the machine will adopt; empty: none. Its requester counts as one that was
            told "go on".
    """

    def __init__(self, adopted: str = "") -> None:
        self._frozen: set[tuple[AppId, str]] = set()
        self._preparing: set[tuple[AppId, str]] = set()
        self._told: set[tuple[AppId, str]] = set()
        self._open: dict[tuple[str, str, str], Request] = {}
        self._holding: dict[str, str] = {adopted: ""} if adopted else {}
        """By source, the freeze of the requester that was told "go on" and has not asked for the thaw."""

    def told(self, input: Input, now: Instant) -> None:
        """Record what the machine is told, before it acts on it. When a deadline is overdue, tell it of that first."""
        match input:
            case CheckRequested(request=request) | FreezeRequested(request=request) | ThawRequested(request=request):
                self._ask(request, now)
            case SourceLost():
                self._lose(input)
            case AppLeft(app=app):
                self._close(app)
            case AppRegistered(registration=registration):
                self._close(registration.app)
                if registration.claim is not None:
                    self._frozen.add((registration.app, registration.claim.cycle))
            case AppFroze(app=app, cycle=cycle):
                self._frozen.add((app, cycle))
            case _:
                pass

    def _ask(self, request: Request, now: Instant) -> None:
        if now <= request.deadline:
            self._open[request.source, request.kind, request.id] = request
        if request.supersedes or request.kind is RequestKind.THAW:
            self._holding.pop(request.source, None)

    def _lose(self, input: SourceLost) -> None:
        """A requester is gone, or everybody who has asked through the source: no answer is owed."""
        self._open = {
            key: request
            for key, request in self._open.items()
            if key[0] != input.source or input.request not in ("", request.id)
        }
        if input.request in ("", self._holding.get(input.source)):
            self._holding.pop(input.source, None)

    def _close(self, app: AppId) -> None:
        """A registration has ended: nothing can be sent to it."""
        self._frozen = {key for key in self._frozen if key[0] != app}
        self._preparing = {key for key in self._preparing if key[0] != app}
        self._told = {key for key in self._told if key[0] != app}

    def sent(self, effects: list[Effect], now: Instant) -> None:
        """Record what a step sent.

        Raises:
            InvariantBroken: something was sent twice, to nobody, or too late.
        """
        for effect in effects:
            if isinstance(effect, AskPrepare):
                self._preparing.add((effect.app, effect.cycle))
            elif isinstance(effect, AskFreeze):
                key = (effect.app, effect.cycle)
                _must(key not in self._frozen, f"{effect.app} was sent two freezes for {effect.cycle}")
                self._frozen.add(key)
                self._preparing.discard(key)
            elif isinstance(effect, AskThaw | AskAbort):
                self._let_go(effect)
            elif isinstance(effect, TellFilesystemFreeze):
                key = (effect.app, effect.cycle)
                _must(key in self._frozen, f"{effect.app} was told of the file-system freeze and holds nothing")
                self._told.add(key)
            elif isinstance(effect, FreezeFilesystems):
                self._all_told(effect.cycle, "the file systems are frozen")
            elif isinstance(effect, AnswerSource):
                self._answer(effect.answer, now)
            elif isinstance(effect, EndCycle):
                self._holding.clear()

    def _let_go(self, effect: AskThaw | AskAbort) -> None:
        key = (effect.app, effect.cycle)
        account = self._frozen if key in self._frozen else self._preparing
        _must(key in account, f"{effect.app} was let go twice, or holds nothing")
        account.remove(key)
        self._told.discard(key)
        holds = ", ".join(self._holding) if isinstance(effect, AskThaw) else ""
        _must(not holds, f"{effect.app} was sent its thaw while the requesters of {holds} still hold")

    def _answer(self, answer: Answer, now: Instant) -> None:
        request = answer.request
        found = self._open.pop((request.source, request.kind, request.id), None)
        _must(found is not None, f"request {request.id} was answered twice, or never asked")
        _must(now <= request.deadline, f"request {request.id} was answered after its limit")
        if answer.go_on and request.kind is RequestKind.FREEZE:
            if not request.rehearses:
                self._all_told(answer.cycle, "the requester goes on")
            self._holding[request.source] = request.id

    def _all_told(self, cycle: str, what: str) -> None:
        untold = [str(app) for app, of in self._frozen if of == cycle and (app, of) not in self._told]
        _must(not untold, f"{what}, and nobody has told {sorted(untold)}")

    def on_time(self, since: Instant, now: Instant) -> None:
        """Every deadline between the two instants has rung on time.

        Raises:
            InvariantBroken: the time of a request ended between them and it has no answer.
        """
        late = [request.id for request in self._open.values() if since <= request.deadline < now]
        _must(not late, f"requests without an answer in time: {late}")

    def at_rest(self, now: Instant) -> None:
        """No cycle runs.

        Raises:
            InvariantBroken: an app that was sent a freeze was not let go, or a request that is not overdue has no
            answer.
        """
        _must(not self._frozen, f"still frozen at rest: {sorted(map(str, self._frozen))}")
        waiting = [request.id for request in self._open.values() if request.deadline >= now]
        _must(not waiting, f"requests without an answer: {waiting}")
