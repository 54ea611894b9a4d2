"""One random life of the cycle's core, by a seed: apps, requesters, a freezer, a disk, and a broker that is killed.

It is the cousin of `tests/cycle/test_properties.py`: there hypothesis looks for the shortest life that breaks a
promise, here thousands are lived through, with everything that can happen to a broker, too. The observer's assertions
are the test (`tests/cycle/observed.py`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from appvss.cycle.effects import AskFreeze, AskPrepare, EndCycle, PrepareFilesystems, ThawFilesystems
from appvss.cycle.inputs import AppFroze, AppLostHold, AppReady, AppThawed, AppVetoed
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.filesystem import DeclaredPath, FilesystemOutcome, FilesystemPart, Scope
from appvss.model.grade import Grade
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from tests.cycle.observed import PREPARED_LIMIT, App, Habit, Observed
from tests.cycle.support import LIMIT, REHEARSAL, SECOND

NAMES = ("a", "b", "c", "d")
SOURCES = ("freebsd", "local", REHEARSAL)
LONGEST_HOLD = 40 * SECOND
_LENGTHS = tuple(SECOND * number for number in (0, 0.2, 0.3, 0.5, 1, 2.5, 4, 8, 15))
_STEPS = 30
SRV = FilesystemPart("/srv", "8:1", "ext4", FilesystemOutcome.HELD)
HERE = DeclaredPath("/srv/a", "8:1", is_planned=True, is_meant=True)
ELSEWHERE = DeclaredPath("/wal/a", "8:2", reason="/wal: the requester does not mean it", lowers=True)
ROOT = DeclaredPath("/var/a", "8:3", reason="/: its requester leaves that out", lowers=True, is_spared=True)

Deed = Callable[[], None]


class Life:
    """One life.

    Args:
        seed: of everything in it.
    """

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        is_slow = self._draw.random() < 0.5
        self.world = Observed([self._app(name) for name in NAMES], disk=not is_slow)
        self.deaths = 0
        """How often the broker was killed."""
        self.adopted = 0
        """How often its successor found a cycle."""
        for app in self.world.apps.values():
            if self._draw.random() < 0.8:
                self.world.attach(app)

    def _app(self, name: str) -> App:
        choose = self._draw.choice
        registration = Registration(
            AppId(name),
            order=choose((10, 20)),
            after=choose(((), (), ("a",))) if name != "a" else (),
            requirement=choose((Requirement.REQUIRED, Requirement.REQUIRED, *Requirement)),
            prepares=choose((True, False)),
            freeze_timeout=choose((None, None, SECOND, 5 * SECOND)),
            hold_limit=choose((8 * SECOND, 60 * SECOND)),
            incarnation=f"incarnation-of-{name}",
            watch_paths=choose((True, False, False)),
            grade=choose((Grade.APP, Grade.APP, Grade.FS)),
        )
        return App(registration, choose(list(Habit)))

    def live(self) -> Counter[str]:
        """Live it to its end; the verdicts by level.

        Raises:
            AssertionError: a promise was broken.
        """
        for _ in range(_STEPS):
            self._draw.choice(self._possible())()
            self._check_rest()
        self._fall_silent()
        self._check_rest()
        for app in self.world.apps.values():
            if not app.is_connected:
                self.world.attach(app)
        self._all_obey()
        self._fall_silent()
        kept = [app.id for app in self.world.apps.values() if app.cycle and not app.is_broken]
        assert not kept, f"{kept} stay frozen"
        return Counter(effect.record.verdict.level for effect in self.world.all(EndCycle))

    def _possible(self) -> list[Deed]:
        """What can happen next; what is likelier is there more than once."""
        world = self.world
        deeds: list[Deed] = [self._a_requester_acts] * 2
        if world.phase.is_resting:
            deeds += [self._all_goes_well_up_to_the_hold] * 4
        else:
            deeds += [self._time_passes, self._the_timer_is_late, self._fall_silent]
        if world.phase is Phase.HOLDING:
            deeds += [self._all_seems_well_from_the_hold_on] * 4
        deeds += [self._the_broker_dies] * (1 if world.phase.is_resting else 2)
        for condition, deed in (
            (lambda app: not app.is_connected, self._an_app_comes),
            (lambda app: app.is_connected, self._an_app_goes),
            (lambda app: app.is_connected, self._an_app_talks_nonsense),
            (lambda app: bool(app.inbox), self._an_app_obeys),
            (lambda app: bool(app.inbox), self._all_obey),
            (_may_refuse, self._an_app_refuses),
            (lambda app: app.cycle != "", self._a_hold_breaks),
        ):
            if self._those(condition):
                deeds.append(deed)
        if world.freezer:
            deeds += [self._the_freezer_obeys] * 2
        if world.writes:
            deeds += [lambda: world.obey_disk(self._draw.random() < 0.9)] * 3
        if world.inspections:
            deeds += [world.inspect] * 2
        return deeds

    def _those(self, condition: Callable[[App], bool]) -> list[App]:
        return [app for app in self.world.apps.values() if condition(app)]

    def _one(self, condition: Callable[[App], bool]) -> App:
        return self._draw.choice(self._those(condition))

    # -- apps

    def _an_app_comes(self) -> None:
        self.world.attach(self._one(lambda app: not app.is_connected))

    def _an_app_goes(self) -> None:
        self.world.detach(self._one(lambda app: app.is_connected), self._draw.random() < 0.5)

    def _an_app_obeys(self) -> None:
        self.world.obey(self._one(lambda app: bool(app.inbox)))

    def _an_app_refuses(self) -> None:
        app = self._one(_may_refuse)
        self.world.feed(AppVetoed(app.id, app.inbox.popleft().cycle, self._draw.choice(("busy", ""))))

    def _a_hold_breaks(self) -> None:
        app = self._one(lambda app: app.cycle != "")
        self._break(app)
        if self._draw.random() < 0.5 and app.is_connected:
            self.world.feed(AppLostHold(app.id, app.cycle, "the session is gone"))

    def _break(self, app: App) -> None:
        """It notices, and will say so when it is asked."""
        app.is_quiet, app.is_broken, app.has_changed = False, True, True
        self.world.look()

    def _an_app_talks_nonsense(self) -> None:
        """What it says is never the answer that it owes, and it claims no hold that it has not."""
        app = self._one(lambda app: app.is_connected)
        cycle = self._draw.choice(("old", self.world.machine.cycle))
        if any(message.cycle == cycle for message in app.inbox):
            return
        self.world.feed(AppThawed(app.id, cycle, self._draw.random() < 0.5))
        self.world.feed(AppReady(app.id, cycle))
        if app.cycle == cycle:
            self.world.feed(AppFroze(app.id, cycle))

    def _all_obey(self) -> None:
        for app in self.world.apps.values():
            while app.inbox:
                self.world.obey(app)

    # -- requesters

    def _a_requester_acts(self) -> None:
        world, draw = self.world, self._draw
        source = draw.choice(SOURCES)
        limit = draw.choice((LIMIT, LIMIT, SECOND / 2))
        supersedes = source == "freebsd" and draw.random() < 0.8
        overlap = draw.choice(list(Overlap))
        if source in world.snapshots and overlap is Overlap.JOIN:
            overlap = Overlap.QUEUE  # a second requester of one source would not be told apart here
        match draw.choice(("check", "freeze", "freeze", "thaw", "thaw", "lost", "forced")):
            case "check" if source == "freebsd":
                world.check(source, limit, supersedes, overlap)
            case "freeze":
                hold = draw.choice((5 * SECOND, LONGEST_HOLD))
                scope = draw.choice((Scope.NONE, Scope.ALL, Scope.NAMED))
                world.freeze(source, LIMIT, LIMIT - limit, hold, supersedes, overlap, scope, self._apart(scope))
            case "thaw":
                world.thaw(source, limit)
            case "lost":
                world.lose_source(source)
            case "forced":
                world.force()
            case _:
                pass

    def _all_goes_well_up_to_the_hold(self) -> None:
        self._all_obey()
        self.world.freezer.clear()
        scope = self._draw.choice((Scope.NONE, Scope.ALL, Scope.NAMED))
        supersedes = self._draw.random() < 0.5
        self.world.freeze(self._draw.choice(SOURCES), supersedes=supersedes, scope=scope, apart=self._apart(scope))
        self._everything_obeys(self._draw.random() < 0.5)

    def _apart(self, scope: Scope) -> tuple[str, ...]:
        """Whom a freeze of named file systems does not concern; the others have all that they declare there."""
        names = [app.id.name for app in self.world.apps.values() if self._draw.random() < 0.3]
        return tuple(names) if scope is Scope.NAMED else ()

    def _paths(self) -> dict[str, tuple[DeclaredPath, ...]] | None:
        """Where the freezer finds the apps' paths, if it tells."""
        places = ((), (HERE,), (HERE, ELSEWHERE), (ELSEWHERE,), (ROOT,))
        names = [app.id.name for app in self.world.apps.values() if self._draw.random() < 0.9]
        return {name: self._draw.choice(places) for name in names} if self._draw.random() < 0.5 else None

    def _all_seems_well_from_the_hold_on(self) -> None:
        if self._draw.random() < 0.4 and self._those(lambda app: app.cycle != ""):
            self._break(self._one(lambda app: app.cycle != ""))
        self.world.pass_time(self._draw.choice(_LENGTHS))
        if self.world.phase is Phase.HOLDING:
            self.world.thaw(self.world.machine._state.running.source)
        self._everything_obeys()

    def _everything_obeys(self, frozen: bool = True) -> None:
        for _ in range(3 * len(NAMES)):
            self._all_obey()
            if self.world.writes:
                self.world.obey_disk(went_well=True)
            if self.world.freezer:
                self._the_freezer_obeys(went_well=True, frozen=frozen)
            if self.world.inspections:
                self.world.inspect()

    # -- the freezer, the broker, time

    def _the_freezer_obeys(self, went_well: bool | None = None, frozen: bool = True) -> None:
        well = self._draw.random() < 0.7 if went_well is None else went_well
        asked = self.world.freezer.popleft()
        if isinstance(asked, ThawFilesystems):
            self.world.filesystems_thawed(well, cycle=asked.cycle)
        elif not well:
            self.world.filesystems_failed(cycle=asked.cycle)
        elif isinstance(asked, PrepareFilesystems):
            self.world.filesystems_prepared(cycle=asked.cycle, paths=self._paths())
        else:
            self.world.filesystems_froze(frozen, *((SRV,) if frozen else ()), cycle=asked.cycle)
            if self._draw.random() < 0.1:
                self.world.filesystems_lost(cycle=asked.cycle)

    def _the_broker_dies(self) -> None:
        self.deaths += 1
        self.adopted += self.world.journal is not None
        self.world.broker_dies(self._draw.choice(_LENGTHS[:7]))
        for app in list(self.world.apps.values()):  # most come back at once
            if self._draw.random() < 0.7:
                self.world.attach(app)

    def _time_passes(self) -> None:
        self.world.pass_time(self._draw.choice(_LENGTHS))

    def _the_timer_is_late(self) -> None:
        self.world.jump(self._draw.choice(_LENGTHS))

    def _fall_silent(self) -> None:
        """From any state, with no input but time: rest comes, within a bound that can be computed."""
        world = self.world
        waves = len(NAMES) + 1
        one = PREPARED_LIMIT + 2 * LIMIT + LONGEST_HOLD + waves * world.settings.thaw_limit
        waiting = len(world.machine._state.waiting)
        assert world.until_rest() <= (2 + waiting) * one

    def _check_rest(self) -> None:
        if self.world.phase.is_resting:
            frozen = [str(app.id) for app in self.world.apps.values() if self.world.stays_frozen(app)]
            assert not frozen, f"{frozen} stay frozen"
            assert not self.world.are_filesystems_asked


def _may_refuse(app: App) -> bool:
    return bool(app.inbox) and isinstance(app.inbox[0], AskPrepare | AskFreeze)
