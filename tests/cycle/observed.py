"""A world beside an observer that knows what every app truly does.

The observer believes nobody: it follows what is sent to each app, and the app's own clock. It asserts
- that `application` is said only when no required app was free between the answer to the freeze and the thaw;
- that nothing stays frozen: in rest every app that holds has its thaw or abort before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum

from appvss.cycle.effects import (
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
    ThawFilesystems,
    WatchPaths,
    WriteJournal,
)
from appvss.cycle.inputs import (
    AppFroze,
    AppLeft,
    AppReady,
    AppRegistered,
    AppThawed,
    CheckRequested,
    FreezeRequested,
    Input,
    JournalFailed,
    JournalWritten,
    PathsInspected,
    SourceLost,
    ThawRequested,
)
from appvss.cycle.machine import Machine
from appvss.model.app import AppId, HoldClaim, Registration, Requirement
from appvss.model.instant import Instant
from appvss.model.journal import JournalEntry
from appvss.model.phase import Phase
from appvss.model.request import Answer, RequestKind
from appvss.model.verdict import Level
from tests.cycle.support import BEGINNING, SECOND, World

PREPARED_LIMIT = 20 * SECOND
ADOPTABLE = frozenset({"freebsd"})
"""The sources whose requesters outlive a broker."""


class Habit(StrEnum):
    """What an app does when its own hold limit passes."""

    HONEST = "it goes on, and says that its hold was broken"
    LIAR = "it goes on, and says that its hold was unbroken"
    STUBBORN = "it holds on, and says that its hold was unbroken"


@dataclass
class App:
    """What one app truly does."""

    registration: Registration
    habit: Habit
    is_connected: bool = False
    inbox: deque[AskPrepare | AskFreeze | AskThaw | AskAbort] = field(default_factory=deque)
    cycle: str = ""
    """The cycle that it has acked and not let go of yet."""
    acked_at: Instant = BEGINNING
    limit: timedelta = timedelta(0)
    is_quiet: bool = False
    """Whether it truly changes nothing. Not so any more when its hold broke unseen."""
    is_broken: bool = False
    has_changed: bool = False
    """Whether its paths changed while it was to be quiet."""

    @property
    def id(self) -> AppId:
        return self.registration.app

    @property
    def is_required(self) -> bool:
        return self.registration.requirement is Requirement.REQUIRED

    def freeze(self, cycle: str, limit: timedelta, now: Instant) -> None:
        self.cycle, self.limit, self.acked_at = cycle, limit, now
        self.is_quiet, self.is_broken, self.has_changed = True, False, False

    def let_go(self) -> None:
        self.cycle, self.is_quiet = "", False

    def look_at_the_clock(self, now: Instant) -> None:
        """Keep the own limit, as every app must."""
        if self.is_quiet and now >= self.acked_at + self.limit and self.habit is not Habit.STUBBORN:
            self.is_quiet = False
            self.is_broken = self.habit is Habit.HONEST
            self.has_changed = True

    def claim(self, now: Instant) -> HoldClaim | None:
        """What it says of its hold when it attaches again."""
        return HoldClaim(self.cycle, now - self.acked_at) if self.cycle and not self.is_broken else None


class Observed(World):
    """A world in which the apps' true holds are known."""

    def __init__(self, apps: Iterable[App], *, disk: bool = True, **settings: object) -> None:
        super().__init__(
            disk=disk,
            prepared_limit=PREPARED_LIMIT,
            return_grace=4 * SECOND,
            thaw_limit=3 * SECOND,
            adoptable=ADOPTABLE,
            **settings,
        )
        self.apps = {app.id: app for app in apps}
        self.snapshots: set[str] = set()
        """The sources that take a snapshot: each from the answer to its freeze to its thaw."""
        self.apart: dict[str, frozenset[AppId]] = {}
        """By source that takes a snapshot, whose files are not in it."""
        self.free: set[AppId] = set()
        """The required apps that were free in that time."""
        self.relying: set[str] = set()
        """The sources that have taken a snapshot in the running cycle and asked for the thaw."""
        self.deceived: set[str] = set()
        """The sources in whose last snapshot a required app was free: none must be told that all went well."""
        self.assured: set[str] = set()
        """The sources whose thaw was told so in the running cycle."""
        self.freezer: deque[PrepareFilesystems | FreezeFilesystems | ThawFilesystems] = deque()
        self.are_filesystems_asked = False
        self.writes: deque[WriteJournal] = deque()
        """What the disk has been asked to keep, when it is not written at once."""
        self.journal: JournalEntry | None = None
        """What is on the disk of the running cycle."""
        self.inspections: deque[InspectPaths] = deque()
        self.watched: set[AppId] = set()
        """The apps whose paths somebody looks at."""

    @property
    def is_snapshot_time(self) -> bool:
        """Whether anybody takes a snapshot now."""
        return bool(self.snapshots)

    def feed(self, input: Input) -> list[Effect]:
        for app in self.apps.values():
            app.look_at_the_clock(self.now)
        self.look()
        if isinstance(input, JournalWritten):
            self._keep(input)
        asks_anew = isinstance(input, CheckRequested | FreezeRequested) and input.request.supersedes
        if isinstance(input, ThawRequested) and input.request.source in self.snapshots:
            self.relying.add(input.request.source)
        if isinstance(input, FreezeRequested):
            self.relying.discard(input.request.source)
            self.deceived.discard(input.request.source)
        if asks_anew or isinstance(input, ThawRequested):
            self.snapshots.discard(input.request.source)
        if isinstance(input, SourceLost):
            self.snapshots.discard(input.source)
        effects = super().feed(input)
        self.look()
        return effects

    def _look(self, input: Input, before: Phase, *, is_plain: bool) -> None:
        for effect in self.last:
            self._see(effect)
        super()._look(input, before, is_plain=is_plain)

    def _keep(self, written: JournalWritten) -> None:
        entries = [effect.entry for effect in self.sent if isinstance(effect, WriteJournal)]
        for entry in [*entries, *(effect.entry for effect in self.last if isinstance(effect, WriteJournal))]:
            if (entry.cycle, entry.stage) == (written.cycle, written.stage) and written.cycle == self.machine.cycle:
                self.journal = entry

    def look(self) -> None:
        """Who is free now, in the time of a snapshot?"""
        if self.snapshots:
            self.free |= {app.id for app in self.apps.values() if self._is_wanted(app) and self._is_free(app)}

    def _is_wanted(self, app: App) -> bool:
        """Whether it is required, and has files in anybody's snapshot."""
        return app.is_required and any(app.id not in self.apart[source] for source in self.snapshots)

    def _see_answer(self, answer: Answer) -> None:
        source = answer.request.source
        if answer.request.kind is RequestKind.FREEZE:
            self.deceived.discard(source)  # a later thaw is about this one
            if answer.go_on and not self.snapshots:
                self.free = set()
            if answer.go_on:
                self.snapshots.add(source)
                self.apart[source] = answer.request.apart
        elif answer.request.kind is RequestKind.THAW and answer.go_on:
            assert source not in self.deceived, f"{source} was told that all went well"
            self.assured |= {source} & self.relying

    def _forget_snapshots(self) -> None:
        if self.free:
            self.deceived |= self.snapshots | self.relying
        self.snapshots.clear()
        self.relying.clear()
        self.assured.clear()
        self.free = set()

    def _is_free(self, app: App) -> bool:
        return app.is_connected and not app.is_quiet

    def _see(self, effect: Effect) -> None:
        match effect:
            case AskPrepare() | AskFreeze() | AskThaw() | AskAbort():
                if self.apps[effect.app].is_connected:
                    self.apps[effect.app].inbox.append(effect)
            case PrepareFilesystems():
                self.freezer.append(effect)
            case FreezeFilesystems():
                self.freezer.append(effect)
                self.are_filesystems_asked = True
            case ThawFilesystems():
                self.freezer.append(effect)
                self.are_filesystems_asked = False
            case WriteJournal() if not self.disk:
                self.writes.append(effect)
            case WatchPaths(app=app):
                self.watched.add(app)
            case InspectPaths():
                self.inspections.append(effect)
            case AnswerSource(answer=answer):
                self._see_answer(answer)
            case EndCycle(record=record):
                if record.verdict.level is Level.APPLICATION:
                    assert not self.free, f"{self.free} were free in an application-consistent snapshot"
                assert not (self.free and self.assured), f"{self.assured} were told that all went well: {self.free}"
                self._forget_snapshots()
                self.watched.clear()
                self.journal = None
            case _:
                pass

    # -- the disk, the witness, and the broker's own death

    def obey_disk(self, went_well: bool) -> None:
        """Do the oldest write, or fail at it."""
        entry = self.writes.popleft().entry
        if went_well:
            self.feed(JournalWritten(entry.cycle, entry.stage))
        else:
            self.feed(JournalFailed(entry.cycle, entry.stage, "no space is left"))

    def inspect(self) -> None:
        """Compare what is watched with how it looked at the ack."""
        asked = self.inspections.popleft()
        changed = {app: "its paths have changed" for app in self.watched if self.apps[app].has_changed}
        self.feed(PathsInspected(asked.cycle, changed))

    def broker_dies(self, away: timedelta) -> None:
        """SIGKILL for the broker; another one is there after a while, and finds the journal. No app is there yet."""
        for app in self.apps.values():
            app.is_connected = False
            app.inbox.clear()
        for doing in (self.freezer, self.writes, self.inspections, self.watched):
            doing.clear()
        self.are_filesystems_asked = False
        self.snapshots &= ADOPTABLE  # whoever asked through another source knows that its hold is over
        entry, self.journal = self.journal, None
        if entry is None:  # nobody was held, or nothing could be written: there is no cycle, so no verdict
            self._forget_snapshots()
            self.begin_anew(away)
        else:
            # Nobody but the dead broker knew of an app that came too late for the freeze.
            self.free &= {app.registration.app for app in entry.apps}
            self.journal = entry
            self.restart(entry, away)

    def begin_anew(self, away: timedelta) -> None:
        """A new broker that knows of no cycle."""
        self.now += away
        self.machine = Machine(self.settings, self.now, checking=True)
        self.ledger = type(self.ledger)()
        self._registered.clear()
        self._unconfirmed.clear()

    # -- what apps do

    def attach(self, app: App) -> None:
        app.is_connected = True
        claimed = replace(app.registration, claim=app.claim(self.now))
        if claimed.claim is None:
            app.let_go()
        self.feed(AppRegistered(claimed))

    def detach(self, app: App, died: bool) -> None:
        app.is_connected = False
        app.inbox.clear()
        if died:
            if self._is_wanted(app):
                self.free.add(app.id)
            app.let_go()
        self.feed(AppLeft(app.id, "its stream broke", died))

    def obey(self, app: App) -> None:
        """Do what the oldest message wants, and say so."""
        message = app.inbox.popleft()
        match message:
            case AskPrepare(cycle=cycle):
                self.feed(AppReady(app.id, cycle))
            case AskFreeze(cycle=cycle, hold_limit=limit):
                app.freeze(cycle, limit, self.now)
                self.feed(AppFroze(app.id, cycle))
            case AskThaw(cycle=cycle) | AskAbort(cycle=cycle):
                unbroken = app.cycle == cycle and not app.is_broken
                if app.cycle == cycle:
                    app.let_go()
                self.feed(AppThawed(app.id, cycle, unbroken, "" if unbroken else "it was broken"))

    def stays_frozen(self, app: App) -> bool:
        """Whether an app holds, is there, and nothing that was sent to it will end that."""
        ends = any(isinstance(one, AskThaw | AskAbort) and one.cycle == app.cycle for one in app.inbox)
        return app.is_connected and app.cycle != "" and not app.is_broken and not ends
