"""What a cycle knows at any moment, and the few things that every step does to it.

Only the steps that `table` names change this state, and only inside `Machine.handle`. What they want done, they append
to `outbox`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from appvss.cycle.effects import (
    Announce,
    AnswerSource,
    AskAbort,
    AskThaw,
    Effect,
    RefuseInput,
    TellFilesystemFreeze,
)
from appvss.cycle.inputs import CheckRequested, FreezeRequested
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.event import Event, EventKind
from appvss.model.filesystem import NO_FILESYSTEMS, DeclaredPath, FilesystemChoice, FilesystemPart
from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.request import Answer, Request
from appvss.model.verdict import APART, AppOutcome, Outcome, Verdict

ANSWER_MARGIN = timedelta(milliseconds=100)
"""The cycle decides this long before a request's deadline, so that the answer is there in time."""


@dataclass(frozen=True, slots=True)
class CycleSettings:
    """The lengths and names that the administrator decides."""

    expected: tuple[str, ...] = ()
    """Names of apps that must be registered when a cycle begins."""
    prepared_limit: timedelta = timedelta(minutes=2)
    """How long a check stays good: without a freeze after it, the cycle is given up."""
    thaw_limit: timedelta = timedelta(seconds=5)
    """How long the apps of one wave may take to confirm their thaw before the next wave is thawed all the same."""
    return_grace: timedelta = timedelta(seconds=5)
    """How long an app whose stream broke in its hold may stay away before the hold counts as lost."""
    adoptable: frozenset[str] = frozenset()
    """The sources whose requester can still ask for the thaw when the broker was restarted in its hold."""
    is_journal_required: bool = False
    """Whether a cycle fails whose journal or certificate cannot be written. False: its verdict names it."""


class AppState(StrEnum):
    """What an app is doing in the running cycle, in the words of `appvss apps`."""

    REGISTERED = "registered"
    PREPARING = "preparing"
    READY = "ready"
    FREEZING = "freezing"
    HELD = "held"
    AWAY = "away"
    THAWING = "thawing"
    THAWED = "thawed"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(slots=True)
class Participant:
    """One app's part in the running cycle."""

    registration: Registration
    state: AppState
    since: Instant
    asked_at: Instant | None = None
    """When its freeze was sent: from then on it may be frozen."""
    acked_at: Instant | None = None
    hold_limit: timedelta = timedelta(0)
    let_go: bool = False
    """Whether its thaw or abort has been sent; exactly once for a registration that was sent a freeze."""
    let_go_at: Instant | None = None
    confirmed: bool = False
    """Whether it has said that it holds nothing any more."""
    is_connected: bool = True
    away_until: Instant | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    outcome: Outcome | None = None
    reason: str = ""
    retryable: bool = False
    doubt: str = ""
    """What the broker has seen that contradicts its hold; empty: nothing."""
    is_told: bool = False
    """Whether it was told, on its present stream, that the file systems are about to be frozen."""
    is_looked_up: bool = False
    """Whether the freezer was asked where the paths of this very process lie."""
    paths: tuple[DeclaredPath, ...] | None = None
    """Where its paths lie; None: nobody has looked."""

    @property
    def is_required(self) -> bool:
        """Whether its failure fails the cycle."""
        return self.registration.requirement is Requirement.REQUIRED

    @property
    def is_apart(self) -> bool:
        """Whether it is not asked because the freeze does not concern it."""
        return self.outcome is Outcome.SKIPPED and self.reason == APART

    @property
    def expires_at(self) -> Instant | None:
        """When its hold limit passes by the broker's clock, while it is held."""
        return self.acked_at + self.hold_limit if self.acked_at is not None else None

    def result(self) -> AppOutcome:
        """Its part as a value. Only when its outcome is decided."""
        if self.outcome is None:
            raise AssertionError(f"{self.registration.app} has no outcome yet")
        held_until = self.let_go_at if self.acked_at is not None else None
        return AppOutcome(
            app=self.registration.app,
            outcome=self.outcome,
            requirement=self.registration.requirement,
            order=self.registration.order,
            reason=self.reason,
            retryable=self.retryable,
            time_to_freeze=self.acked_at - self.asked_at if self.acked_at and self.asked_at else None,
            hold=held_until - self.acked_at if held_until and self.acked_at else None,
            evidence=self.evidence,
        )


@dataclass(slots=True)
class Joined:
    """A requester that shares the hold of another one's cycle."""

    requester: str
    freeze: str
    """The id of its freeze."""
    request: Request | None
    """Its freeze, as long as that waits for its answer; None: it was told "go on"."""
    until: Instant | None = None
    """When its own hold limit passes, once it was told "go on"."""


@dataclass(slots=True)
class Cycle:
    """The running cycle, or the last one."""

    id: str
    source: str
    requester: str
    began: Instant
    is_check: bool
    """Whether the open request is a check, so that the cycle rests in `prepared`."""
    request: Request | None
    """The check or freeze that is being carried out and still waits for its answer."""
    freeze: str = ""
    """The id of its requester's check or freeze."""
    is_prepared: bool = False
    """Whether a check has been answered in it."""
    joined: dict[str, Joined] = field(default_factory=dict)
    """By source, those of other sources that share this cycle and have not asked for the thaw."""
    has_finished: bool = False
    """Whether its own requester wants nothing any more of a hold that lasts for those that have joined it."""
    sources: set[str] = field(default_factory=set)
    """Those of other sources that have shared this cycle, whether or not they still do."""
    rehearses: bool = False
    is_adopted: bool = False
    """Whether a former broker began it. What that had told the requester is not known."""
    owed: list[Request] = field(default_factory=list)
    """Requests that are answered when the cycle has ended, or when their time is over: thaws, and what was refused."""
    participants: dict[AppId, Participant] = field(default_factory=dict)
    waves: tuple[tuple[AppId, ...], ...] = ()
    grants: tuple[timedelta, ...] = ()
    budget: timedelta = timedelta(0)
    """What all grants together may not exceed."""
    wave: int = 0
    """The wave that is being frozen or thawed."""
    pending: set[AppId] = field(default_factory=set)
    """Those whose answer the phase waits for."""
    away: set[AppId] = field(default_factory=set)
    stage_deadline: Instant | None = None
    hold_expiry: Instant | None = None
    """The earliest hold limit among the held apps; never later than the truth."""
    hold_limit: timedelta = timedelta(0)
    answer_by: Instant | None = None
    """The deadline of its requester's freeze."""
    is_journaled: bool = False
    """Whether the journal has answered, well or not, for the stage that the cycle is in."""
    is_held_on_disk: bool = False
    """Whether the journal may say that everything is held."""
    journal_notes: list[str] = field(default_factory=list)
    """What the journal could not do; named in the verdict, which stands without it."""
    is_inspecting: bool = False
    """Whether the paths of the apps are being looked at before these are thawed."""
    filesystems: FilesystemChoice = NO_FILESYSTEMS
    """Which file systems its requester wants frozen."""
    apart: set[AppId] = field(default_factory=set)
    """The apps that a freeze of named file systems does not concern."""
    has_located_paths: bool = False
    """Whether the freezer has looked where the paths of the apps lie."""
    tells_filesystem_freeze: bool = False
    """Whether the apps are told that the file systems are about to be frozen, or may be: one that comes back, too."""
    is_preparing_filesystems: bool = False
    """Whether the freezer was asked to prepare and has not answered."""
    filesystems_touched: bool = False
    """Whether file systems were to be prepared or frozen, and the freezer has not confirmed that it let go of all."""
    filesystems_done: bool = False
    """Whether the freezer has answered the freeze."""
    filesystems_frozen: bool = False
    """Whether this broker froze any."""
    filesystems_doubt: str = ""
    """Why file systems that this broker froze may not have stayed so until the thaw; empty: nothing speaks against
    it."""
    filesystems_missing: tuple[str, ...] = ()
    """One sentence for each file system that was not to be frozen, which lowers the verdict by the administrator's
    word."""
    filesystem_parts: dict[tuple[str, str], FilesystemPart] = field(default_factory=dict)
    """What became of each file system, by its path and its device: one may be hidden under another."""
    told_go_on: bool = False
    hold_ended: Instant | None = None
    """When the thaw began."""
    ended_by: str = ""
    """Why the cycle ends other than by its requester's thaw."""
    verdict: Verdict | None = None

    def candidates(self) -> Iterator[Participant]:
        """The apps that have not failed yet."""
        return (part for part in self.participants.values() if part.outcome is None)

    def watch(self, part: Participant) -> None:
        """See to it that the hold limit of an app that has acked rings in time."""
        if part.expires_at is not None:
            self.hold_expiry = min(self.hold_expiry or part.expires_at, part.expires_at)

    def note_filesystems(self, parts: Iterable[FilesystemPart]) -> None:
        """Remember what became of file systems."""
        self.filesystem_parts.update(((part.path, part.device), part) for part in parts)

    def last_ack(self) -> Instant | None:
        """When the last app became quiet."""
        return max((part.acked_at for part in self.participants.values() if part.acked_at), default=None)


@dataclass(frozen=True, slots=True)
class Closed:
    """What a source may still ask about its last freeze: a repeated or a late thaw."""

    cycle: str
    """Empty when the freeze was refused before it had a cycle."""
    thaw_is_fine: bool
    reason: str
    verdict: Verdict | None


UNSEEN = Closed("", False, "this broker has not seen the freeze that this thaw ends", None)
"""A thaw without a freeze. It may end one that an earlier broker acknowledged: nobody here can vouch for that hold."""
UNHELD = Closed("", True, "", None)
"""A thaw after a freeze that was told no: its requester may send it all the same, and that is no failure. Nothing was
promised."""


class State:
    """The whole state of the machine."""

    def __init__(self, settings: CycleSettings, now: Instant) -> None:
        self.settings = settings
        self.now = now
        self.phase = Phase.IDLE
        self.phase_since = now
        self.roster: dict[AppId, Registration] = {}
        self.awaited: dict[AppId, Registration] = {}
        """Apps of a former broker that have not come back to this one."""
        self.awaited_until = now
        """How long a freeze misses them."""
        self.cycle: Cycle | None = None
        self.waiting: list[CheckRequested | FreezeRequested] = []
        """Requests that begin a cycle, one after the other, when the running one has ended."""
        self.closed: dict[str, Closed] = {}
        """Per source, its last freeze."""
        self.last_verdict: Verdict | None = None
        """Of the last cycle that has ended."""
        self.outbox: list[Effect] = []
        self.visited: list[Phase] = []

    @property
    def running(self) -> Cycle:
        """The cycle that the step is about. Only in phases that have one."""
        if self.cycle is None:
            raise AssertionError(f"no cycle in phase {self.phase}")
        return self.cycle

    def enter(self, phase: Phase) -> None:
        """The one place where the phase changes."""
        self.phase, self.phase_since = phase, self.now
        self.visited.append(phase)
        cycle = self.cycle.id if self.cycle is not None else ""
        self.outbox.append(Announce(Event(EventKind.PHASE_CHANGED, self.now, cycle, phase=phase)))

    def say(self, kind: EventKind, app: AppId | None = None, detail: str = "", took: timedelta | None = None) -> None:
        """Announce what happened."""
        cycle = self.cycle.id if self.cycle is not None and not self.phase.is_resting else ""
        name = str(app) if app is not None else ""
        self.outbox.append(Announce(Event(kind, self.now, cycle, name, self.phase, detail, took)))

    def refuse(self, name: str, sentence: str, app: AppId | None = None) -> None:
        """Refuse an input: nothing has changed."""
        self.outbox.append(RefuseInput(name, sentence, app))
        self.say(EventKind.INPUT_REFUSED, app, f"{name}: {sentence}")

    def answer(
        self,
        request: Request,
        go_on: bool,
        reason: str = "",
        verdict: Verdict | None = None,
        *,
        cycle: str | None = None,
        hold_limit: timedelta | None = None,
    ) -> None:
        """Give a request its one answer, in the name of the running cycle unless told otherwise; none after its
        deadline.
        """
        if cycle is None:
            cycle = self.cycle.id if self.cycle is not None else ""
        if self.now > request.deadline:
            self.say(EventKind.SOURCE_ANSWERED, detail=f"no answer to {request.kind}: its time is over")
            return
        self.outbox.append(AnswerSource(Answer(request, go_on, reason, cycle, verdict, hold_limit)))
        word = "go on" if go_on else "no"
        self.say(EventKind.SOURCE_ANSWERED, detail=f"{request.kind}: {word}" + (f", {reason}" if reason else ""))

    def tell_filesystem_freeze(self, part: Participant) -> None:
        """Tell an app that is held that the file systems are about to be frozen, or may be frozen already."""
        part.is_told = True
        self.outbox.append(TellFilesystemFreeze(part.registration.app, self.running.id))

    def let_go(self, part: Participant, reason: str) -> None:
        """Send an app its thaw (no reason) or its abort, unless it has had one or cannot be reached."""
        if part.let_go or not part.is_connected:
            return
        part.let_go, part.let_go_at = True, self.now
        app, cycle = part.registration.app, self.running.id
        self.outbox.append(AskAbort(app, cycle, reason) if reason else AskThaw(app, cycle))
        self.say(EventKind.THAW_ASKED, app, reason)
        if part.outcome is None:
            part.state, part.since = AppState.THAWING, self.now


def answer_by(request: Request) -> Instant:
    """When the cycle must have decided, so that its answer to `request` is in time."""
    return request.deadline - ANSWER_MARGIN
