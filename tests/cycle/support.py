"""What the tests of the cycle share: a small world around a checked machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TypeVar

from appvss.cycle.effects import (
    Announce,
    AnswerSource,
    AskAbort,
    AskFreeze,
    AskPrepare,
    AskThaw,
    Effect,
    EndCycle,
    FreezeFilesystems,
    InspectPaths,
    PrepareFilesystems,
    RefuseInput,
    TellFilesystemFreeze,
    ThawFilesystems,
    WriteJournal,
)
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppLostHold,
    AppReady,
    AppRegistered,
    AppThawed,
    AppVetoed,
    CheckRequested,
    CycleAdopted,
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FilesystemsLost,
    FilesystemsPrepared,
    FilesystemsThawed,
    FreezeRequested,
    Input,
    JournalFailed,
    JournalWritten,
    PathsInspected,
    SourceLost,
    ThawForced,
    ThawRequested,
)
from appvss.cycle.invariants import Ledger
from appvss.cycle.machine import Machine
from appvss.cycle.state import AppState, CycleSettings
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.event import EventKind
from appvss.model.filesystem import DeclaredPath, FilesystemChoice, FilesystemPart, Scope
from appvss.model.grade import Grade
from appvss.model.instant import Instant
from appvss.model.journal import JournalEntry, Stage
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.verdict import Outcome, Verdict

SECOND = timedelta(seconds=1)
MOMENT = timedelta(microseconds=1)
"""The least that the clock can tell apart."""
LIMIT = 15 * SECOND
"""The time that the device gives for a request (facts/freebsd-vss.md section 3.4)."""
HOLD = 30 * SECOND
REHEARSAL = "rehearsal"
"""The source whose freezes are rehearsals."""
BEGINNING = Instant(timedelta(hours=3))
RINGS = 500
"""More deadlines than any sequence of cycles here can have."""

EffectT = TypeVar("EffectT", bound=Effect)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


class World:
    """A machine with checking on, a clock that is moved by hand, and an account of all that was said on both sides.

    Every method that tells the machine something returns what it wants done.
    """

    def __init__(self, *, disk: bool = True, **settings: object) -> None:
        self.disk = disk
        """Whether the journal is written at once; False: only by `journal_written`."""
        self.now = BEGINNING
        settings.setdefault("adoptable", frozenset({"freebsd"}))
        self.settings = CycleSettings(**settings)  # type: ignore[arg-type] # each by its own name
        self.machine = Machine(self.settings, self.now, checking=True)
        self.ledger = Ledger()
        self.sent: list[Effect] = []
        """All effects since the beginning."""
        self.last: list[Effect] = []
        """Those of the last step."""
        self.arrows: set[tuple[Phase, type[Input], Phase]] = set()
        """Which input led from which phase into which."""
        self.requests = 0
        self._registered: set[AppId] = set()
        self._unconfirmed: dict[tuple[AppId, str] | str, Effect] = {}
        """Thaws and aborts that nobody has confirmed."""

    # -- telling the machine

    def feed(self, input: Input) -> list[Effect]:
        """Tell the machine an input; the invariants hold before and after."""
        due = self.machine.next_deadline()
        if isinstance(input, AppRegistered | AppLeft | AppFroze | SourceLost) and due is not None and due <= self.now:
            self.feed(DeadlinePassed())  # it comes first in any case, and so the ledger knows what the input closes
            due = self.machine.next_deadline()
        before, is_late = self.machine.phase, due is not None and due <= self.now
        is_again = isinstance(input, AppRegistered) and input.registration.app in self._registered
        self.ledger.told(input, self.now)
        self.last = self.machine.handle(input, self.now)
        self.ledger.sent(self.last, self.now)
        self._look(input, before, is_plain=isinstance(input, DeadlinePassed) or not (is_late or is_again))
        last = self.last
        writes = [effect for effect in last if isinstance(effect, WriteJournal)] if self.disk else []
        for effect in writes:
            last = [*last, *self.feed(JournalWritten(effect.entry.cycle, effect.entry.stage))]
        self.last = last
        return last

    def _look(self, input: Input, before: Phase, *, is_plain: bool) -> None:
        """After a step: is it in order, and what is to be remembered of it?"""
        if self.machine.phase.is_resting:
            self.ledger.at_rest(self.now)
            assert self.machine.next_deadline() is None
        else:
            assert self.machine.next_deadline() is not None
        self.sent += self.last
        if is_plain:  # otherwise the step was more than one
            self._draw(before, type(input))
        self._keep_books(input)

    def _keep_books(self, input: Input) -> None:
        match input:
            case AppThawed(app=app, cycle=cycle):
                self._unconfirmed.pop((app, cycle), None)
            case FilesystemsThawed():
                self._unconfirmed.pop("filesystems", None)
            case PathsInspected():
                self._unconfirmed.pop("paths", None)
            case AppRegistered(registration=registration):
                self._registered.add(registration.app)
            case AppLeft(app=app):
                self._registered.discard(app)
                self._unconfirmed = {key: effect for key, effect in self._unconfirmed.items() if key[0] != app}
            case _:
                pass
        for effect in self.last:
            if isinstance(effect, AskThaw | AskAbort):
                self._unconfirmed[effect.app, effect.cycle] = effect
            elif isinstance(effect, ThawFilesystems):
                self._unconfirmed["filesystems"] = effect
            elif isinstance(effect, InspectPaths):
                self._unconfirmed["paths"] = effect

    def _draw(self, before: Phase, input: type[Input]) -> None:
        """Remember the way that this step took, up to the next cycle that it may have begun."""
        entered = [
            Phase(effect.event.phase)
            for effect in self.last
            if isinstance(effect, Announce) and effect.event.kind is EventKind.PHASE_CHANGED
        ]
        for number, phase in enumerate(entered):
            if phase is Phase.REQUESTED and not (number == 0 and (before.is_resting or before is Phase.PREPARED)):
                return
            self.arrows.add((before, input, phase))

    def pass_time(self, length: timedelta) -> list[Effect]:
        """Let time pass; every deadline on the way rings at its very instant."""
        since, until, effects = self.now, self.now + length, []
        for _ in range(RINGS):
            due = self.machine.next_deadline()
            if due is None or due > until:
                break
            self.now = max(due, self.now)
            effects += self.feed(DeadlinePassed())
        else:
            raise AssertionError("time does not pass: deadlines ring for ever")
        self.now = until
        self.ledger.on_time(since, self.now)
        self.last = effects
        return effects

    def jump(self, length: timedelta) -> None:
        """Let time pass while no timer rings: the broker's loop was late."""
        self.now += length

    def until_rest(self) -> timedelta:
        """Let time pass without any input until no cycle runs; how long that took."""
        began = self.now
        for _ in range(RINGS):
            due = self.machine.next_deadline()
            if due is None:
                return self.now - began
            self.now = max(due, self.now)
            self.feed(DeadlinePassed())
        raise AssertionError(f"still {self.machine.phase} after {self.now - began}")

    # -- requests

    def request(
        self,
        kind: RequestKind,
        source: str = "freebsd",
        limit: timedelta = LIMIT,
        reserve: timedelta = timedelta(0),
        hold: timedelta = HOLD,
        supersedes: bool = False,
        overlap: Overlap = Overlap.REFUSE,
        scope: Scope = Scope.NONE,
        apart: tuple[str, ...] = (),
        spares_root: bool = False,
    ) -> Request:
        self.requests += 1
        number, requester, rehearses = str(self.requests), f"{source} host", source == REHEARSAL
        far = frozenset(map(AppId, apart))
        how = (reserve, hold, supersedes, overlap, rehearses, FilesystemChoice(scope, spares_root=spares_root), far)
        return Request(number, source, kind, requester, self.now + limit, *how)

    def check(
        self,
        source: str = "freebsd",
        limit: timedelta = LIMIT,
        supersedes: bool = False,
        overlap: Overlap = Overlap.REFUSE,
        cycle: str = "",
    ) -> Request:
        request = self.request(RequestKind.CHECK, source, limit, supersedes=supersedes, overlap=overlap)
        self.feed(CheckRequested(request, cycle or f"c{request.id}"))
        return request

    def freeze(
        self,
        source: str = "freebsd",
        limit: timedelta = LIMIT,
        reserve: timedelta = timedelta(0),
        hold: timedelta = HOLD,
        supersedes: bool = False,
        overlap: Overlap = Overlap.REFUSE,
        scope: Scope = Scope.NONE,
        apart: tuple[str, ...] = (),
        spares_root: bool = False,
    ) -> Request:
        choice = (scope, apart, spares_root)
        request = self.request(RequestKind.FREEZE, source, limit, reserve, hold, supersedes, overlap, *choice)
        self.feed(FreezeRequested(request, f"c{request.id}"))
        return request

    def thaw(self, source: str = "freebsd", limit: timedelta = LIMIT) -> Request:
        request = self.request(RequestKind.THAW, source, limit)
        self.feed(ThawRequested(request))
        return request

    def lose_source(self, source: str = "freebsd", request: str = "") -> list[Effect]:
        return self.feed(SourceLost(source, "the device went away", request))

    def force(self, reason: str = "the administrator wants it") -> list[Effect]:
        return self.feed(ThawForced(reason))

    # -- apps

    def register(
        self,
        name: str,
        order: int = 50,
        requirement: Requirement = Requirement.REQUIRED,
        *,
        after: tuple[str, ...] = (),
        prepares: bool = False,
        needs: timedelta | None = None,
        hold: timedelta = 60 * SECOND,
        claim: HoldClaim | None = None,
        incarnation: str = "",
        watched: bool = False,
        grade: Grade = Grade.APP,
        set_aside: str = "",
    ) -> AppId:
        app = AppId(name)
        how = (order, after, requirement, prepares, needs, hold, claim, incarnation, watched, grade, set_aside)
        self.feed(AppRegistered(Registration(app, *how)))
        return app

    def leave(self, name: str, died: bool = False) -> list[Effect]:
        return self.feed(AppLeft(AppId(name), "its stream ended", died))

    def ready(self, *names: str) -> None:
        for name in names:
            self.feed(AppReady(AppId(name), self.machine.cycle))

    def ack(self, *names: str, cycle: str = "", evidence: Mapping[str, str] | None = None) -> None:
        for name in names:
            self.feed(AppFroze(AppId(name), cycle or self.machine.cycle, evidence or {}))

    def veto(self, name: str, reason: str = "busy", retryable: bool = False) -> list[Effect]:
        return self.feed(AppVetoed(AppId(name), self.machine.cycle, reason, retryable))

    def lose_hold(self, name: str, reason: str = "session gone") -> list[Effect]:
        return self.feed(AppLostHold(AppId(name), self.machine.cycle, reason))

    def confirm(self, *names: str, unbroken: bool = True, reason: str = "") -> None:
        for name in names:
            self.feed(AppThawed(AppId(name), self.machine.cycle, unbroken, reason))

    # -- the freezer

    def filesystems_prepared(
        self,
        *parts: FilesystemPart,
        doubts: tuple[str, ...] = (),
        cycle: str = "",
        paths: Mapping[str, tuple[DeclaredPath, ...]] | None = None,
    ) -> list[Effect]:
        located = None if paths is None else {AppId(name): places for name, places in paths.items()}
        return self.feed(FilesystemsPrepared(cycle or self.machine.cycle, parts, doubts, located))

    def filesystems_froze(
        self, frozen: bool = True, *parts: FilesystemPart, doubts: tuple[str, ...] = (), cycle: str = ""
    ) -> list[Effect]:
        return self.feed(FilesystemsFrozen(cycle or self.machine.cycle, frozen, parts, doubts))

    def filesystems_failed(self, reason: str = "no space", *parts: FilesystemPart, cycle: str = "") -> list[Effect]:
        return self.feed(FilesystemsFailed(cycle or self.machine.cycle, reason, parts))

    def filesystems_lost(self, reason: str = "the guardian has died", cycle: str = "") -> list[Effect]:
        return self.feed(FilesystemsLost(cycle or self.machine.cycle, reason))

    def filesystems_thawed(self, unbroken: bool = True, reason: str = "", *lost: str, cycle: str = "") -> list[Effect]:
        return self.feed(FilesystemsThawed(cycle or self.machine.cycle, unbroken, reason, lost))

    # -- the journal and the witness

    def entry(self, stage: Stage = Stage.HELD) -> JournalEntry:
        """The last one that was to be written."""
        return [effect.entry for effect in self.all(WriteJournal) if effect.entry.stage is stage][-1]

    def restart(self, entry: JournalEntry, away: timedelta = timedelta(0)) -> None:
        """The broker is killed, and after a while a new one finds `entry` in the journal. Nobody is there yet."""
        self.now += away
        self.machine = Machine(self.settings, self.now, checking=True)
        self.ledger = Ledger(entry.source)
        self._registered.clear()
        self._unconfirmed.clear()
        self.feed(CycleAdopted(entry))

    def journal_written(self, stage: Stage) -> list[Effect]:
        return self.feed(JournalWritten(self.machine.cycle, stage))

    def journal_failed(self, stage: Stage, reason: str = "no space is left") -> list[Effect]:
        return self.feed(JournalFailed(self.machine.cycle, stage, reason))

    def paths_inspected(self, **changed: str) -> list[Effect]:
        sentences = {AppId(name): sentence for name, sentence in changed.items()}
        return self.feed(PathsInspected(self.machine.cycle, sentences))

    # -- whole ways

    def hold(self, *names: str, frozen: bool = True, **how: timedelta) -> Request:
        """Freeze, with acks in the order of `names`, up to the hold."""
        request = self.freeze(**how)  # type: ignore[arg-type] # lengths only
        self.ack(*names)
        self.filesystems_froze(frozen)
        assert self.phase is Phase.HOLDING
        return request

    def finish(self) -> Verdict:
        """Confirm every thaw, at once and unbroken, in the order in which they were sent; the verdict."""
        while self._unconfirmed:
            effect = next(iter(self._unconfirmed.values()))
            if isinstance(effect, AskThaw | AskAbort):
                self.feed(AppThawed(effect.app, effect.cycle, unbroken=True))
            elif isinstance(effect, InspectPaths):
                self.paths_inspected()
            else:
                self.filesystems_thawed()
        assert self.phase.is_resting, self.phase
        return self.verdict

    # -- looking

    @property
    def phase(self) -> Phase:
        return self.machine.phase

    @property
    def verdict(self) -> Verdict:
        """Of the last cycle that has ended."""
        return self.all(EndCycle)[-1].record.verdict

    def all(self, kind: type[EffectT]) -> list[EffectT]:
        """Every effect of a kind since the beginning."""
        return [effect for effect in self.sent if isinstance(effect, kind)]

    def of_last(self, kind: type[EffectT]) -> list[EffectT]:
        """The effects of a kind in the last step."""
        return [effect for effect in self.last if isinstance(effect, kind)]

    def answers(self, request: Request) -> list[Answer]:
        return [effect.answer for effect in self.all(AnswerSource) if effect.answer.request == request]

    def answer(self, request: Request) -> Answer:
        (answer,) = self.answers(request)
        return answer

    def refusals(self) -> list[str]:
        """The names of what the last step refused."""
        return [effect.name for effect in self.of_last(RefuseInput)]

    def story(self, *, of_last: bool = False) -> list[str]:
        """What apps and freezer were asked, in order, each as a word: `freeze a`, `thaw a`, `thaw filesystems`."""
        return list(_words(self.last if of_last else self.sent))

    def told(self) -> list[str]:
        """Who was told that the file systems are about to be frozen, in order."""
        return [effect.app.name for effect in self.all(TellFilesystemFreeze)]

    def let_go(self) -> list[str]:
        """Who was sent a thaw or an abort, in order."""
        return [effect.app.name for effect in self.sent if isinstance(effect, AskThaw | AskAbort)]

    def outcomes(self) -> dict[str, Outcome]:
        return {outcome.app.name: outcome.outcome for outcome in self.verdict.outcomes}

    def state_of(self, name: str) -> AppState:
        return self.machine.app_state(AppId(name))[0]

    def photo(self) -> object:
        """All that the machine knows, to compare: a refused input must not change it."""
        state = self.machine._state
        known = (state.phase, state.phase_since, state.roster, state.cycle, state.waiting, state.closed)
        return copy.deepcopy((*known, state.last_verdict))


def in_phase(phase: Phase) -> World:
    """A world of the source `freebsd` in a phase. `a` prepares and freezes before `b`. Where the disk is awaited, it is
    slow.
    """
    world = World()
    world.register("a", 10, prepares=True)
    world.register("b", 20)
    if phase is Phase.IDLE:
        return world
    world.check()
    if phase is Phase.PREPARING:
        return world
    world.ready("a")
    if phase is Phase.PREPARED:
        return world
    world.disk = phase is not Phase.REQUESTED
    world.freeze()
    if phase is Phase.REQUESTED:
        return world
    if phase is Phase.FREEZING_APPS:
        return world
    if phase is Phase.ABORTED:
        world.leave("a")
        return world
    world.disk = phase is not Phase.CERTIFYING
    world.ack("a", "b")
    if phase in (Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS):
        return world
    world.filesystems_froze()
    if phase is Phase.ABORTING:
        world.force()
    if phase in (Phase.HOLDING, Phase.ABORTING):
        return world
    world.thaw()
    if phase is Phase.THAWING_FILESYSTEMS:
        return world
    world.filesystems_thawed()
    if phase is Phase.COMPLETED:
        world.finish()
    return world


def _words(effects: list[Effect]) -> Iterator[str]:
    for effect in effects:
        match effect:
            case AskPrepare(app=app):
                yield f"prepare {app}"
            case AskFreeze(app=app):
                yield f"freeze {app}"
            case AskThaw(app=app):
                yield f"thaw {app}"
            case AskAbort(app=app):
                yield f"abort {app}"
            case PrepareFilesystems():
                yield "prepare filesystems"
            case FreezeFilesystems():
                yield "freeze filesystems"
            case ThawFilesystems():
                yield "thaw filesystems"
            case AnswerSource(answer=answer):
                yield f"{answer.request.kind}: {'go on' if answer.go_on else 'no'}"
            case _:
                pass
