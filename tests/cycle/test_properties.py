"""Random lives of a machine beside an observer that knows what every app truly does (`observed`): the steps are chosen
by hypothesis, which looks for the shortest life that breaks a promise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appvss.cycle.effects import AskFreeze, AskPrepare, ThawFilesystems
from appvss.cycle.inputs import AppFroze, AppLostHold, AppReady, AppThawed, AppVetoed
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.phase import Phase
from tests.cycle.observed import PREPARED_LIMIT, App, Habit, Observed
from tests.cycle.support import LIMIT, SECOND

NAMES = ("a", "b", "c", "d")
SOURCES = ("freebsd", "local")
LONGEST_HOLD = 40 * SECOND


LENGTHS = st.sampled_from([SECOND * number for number in (0, 0.2, 0.3, 0.5, 1, 2.5, 4, 8, 15)])
ACTORS = st.sampled_from(NAMES)
ASKED = st.sampled_from(SOURCES)
WHICH = st.integers(0, len(NAMES) - 1)


def _one(apps: list[App], which: int) -> App:
    return apps[which % len(apps)]


def _is_there(app: App) -> bool:
    return app.is_connected


def _is_away(app: App) -> bool:
    return not app.is_connected


def _has_mail(app: App) -> bool:
    return bool(app.inbox)


def _may_refuse(app: App) -> bool:
    return bool(app.inbox) and isinstance(app.inbox[0], AskPrepare | AskFreeze)


def _holds(app: App) -> bool:
    return app.cycle != ""


@st.composite
def lives(draw: st.DrawFn) -> list[App]:
    apps = []
    for name in NAMES:
        registration = Registration(
            AppId(name),
            draw(st.sampled_from([10, 20])),
            draw(st.sampled_from([(), (), ("a",)])) if name != "a" else (),
            draw(st.sampled_from([Requirement.REQUIRED, Requirement.REQUIRED, *Requirement])),
            draw(st.booleans()),
            draw(st.sampled_from([None, None, SECOND, 5 * SECOND])),
            draw(st.sampled_from([8 * SECOND, 60 * SECOND])),
        )
        apps.append(App(registration, draw(st.sampled_from(Habit))))
    return apps


class Lives(RuleBasedStateMachine):
    """Apps, sources and a freezer that do what they like, when they like."""

    world: Observed

    @initialize(apps=lives(), there=st.sets(ACTORS, min_size=1))
    def begin(self, apps: list[App], there: set[str]) -> None:
        self.world = Observed(apps)
        for name in sorted(there):
            self.world.attach(self.world.apps[AppId(name)])

    def those(self, condition: Callable[[App], bool]) -> list[App]:
        return [app for app in self.world.apps.values() if condition(app)]

    # -- apps: of those that can do it, one does

    @precondition(lambda self: self.those(_is_away))
    @rule(which=WHICH)
    def an_app_comes(self, which: int) -> None:
        self.world.attach(_one(self.those(_is_away), which))

    @precondition(lambda self: self.those(_is_there))
    @rule(which=WHICH, died=st.booleans())
    def an_app_goes(self, which: int, died: bool) -> None:
        self.world.detach(_one(self.those(_is_there), which), died)

    @precondition(lambda self: self.those(_has_mail))
    @rule(which=WHICH)
    def an_app_obeys(self, which: int) -> None:
        self.world.obey(_one(self.those(_has_mail), which))

    @precondition(lambda self: self.those(_has_mail))
    @rule()
    def all_apps_obey(self) -> None:
        for app in self.world.apps.values():
            while app.inbox:
                self.world.obey(app)

    @precondition(lambda self: self.those(_may_refuse))
    @rule(which=WHICH, reason=st.sampled_from(["busy", ""]))
    def an_app_refuses(self, which: int, reason: str) -> None:
        app = _one(self.those(_may_refuse), which)
        self.world.feed(AppVetoed(app.id, app.inbox.popleft().cycle, reason))

    @precondition(lambda self: self.those(_holds))
    @rule(which=WHICH, tells=st.booleans())
    def a_hold_breaks(self, which: int, tells: bool) -> None:
        app = _one(self.those(_holds), which)
        app.is_quiet, app.is_broken = False, True
        self.world.look()
        if tells and app.is_connected:
            self.world.feed(AppLostHold(app.id, app.cycle, "the session is gone"))

    @precondition(lambda self: self.those(_is_there))
    @rule(which=WHICH, old=st.booleans(), unbroken=st.booleans())
    def an_app_talks_nonsense(self, which: int, old: bool, unbroken: bool) -> None:
        """What it says is never the answer that it owes, and it claims no hold that it has not."""
        app, cycle = _one(self.those(_is_there), which), "old" if old else self.world.machine.cycle
        if any(message.cycle == cycle for message in app.inbox):
            return
        self.world.feed(AppThawed(app.id, cycle, unbroken))
        self.world.feed(AppReady(app.id, cycle))
        if app.cycle == cycle:
            self.world.feed(AppFroze(app.id, cycle))

    # -- requesters

    @rule(
        what=st.sampled_from(["check", "freeze", "freeze", "thaw", "thaw", "lost", "forced"]),
        source=ASKED,
        limit=st.sampled_from([LIMIT, LIMIT, SECOND / 2]),
        hold=st.sampled_from([5 * SECOND, LONGEST_HOLD]),
        supersedes=st.booleans(),
    )
    def a_requester_acts(self, what: str, source: str, limit: timedelta, hold: timedelta, supersedes: bool) -> None:
        match what:
            case "check":
                self.world.check(source, limit, supersedes)
            case "freeze":
                self.world.freeze(source, LIMIT, LIMIT - limit, hold, supersedes)
            case "thaw":
                self.world.thaw(source, limit)
            case "lost":
                self.world.lose_source(source)
            case _:
                self.world.force()

    @precondition(lambda self: self.world.phase.is_resting)
    @rule(source=ASKED, supersedes=st.booleans(), frozen=st.booleans())
    def all_goes_well_up_to_the_hold(self, source: str, supersedes: bool, frozen: bool) -> None:
        self.all_apps_obey()
        self.world.freezer.clear()
        self.world.freeze(source, supersedes=supersedes)
        self._all_obey(frozen)

    @precondition(lambda self: self.world.phase is Phase.HOLDING)
    @rule(which=WHICH, breaks=st.booleans(), length=LENGTHS)
    def all_seems_well_from_the_hold_on(self, which: int, breaks: bool, length: timedelta) -> None:
        if breaks and self.those(_holds):
            self.a_hold_breaks(which, tells=False)
        self.world.pass_time(length)
        if self.world.phase is Phase.HOLDING:
            self.world.thaw(self.world.machine._state.running.source)
        self._all_obey()

    def _all_obey(self, frozen: bool = True) -> None:
        for _ in range(3 * len(NAMES)):
            self.all_apps_obey()
            if self.world.freezer:
                self.the_freezer_obeys(True, frozen)

    # -- the freezer

    @precondition(lambda self: self.world.freezer)
    @rule(went_well=st.sampled_from([True, True, False]))
    def the_freezer_obeys(self, went_well: bool, frozen: bool = True) -> None:
        asked = self.world.freezer.popleft()
        if isinstance(asked, ThawFilesystems):
            self.world.filesystems_thawed(went_well, cycle=asked.cycle)
        elif went_well:
            self.world.filesystems_froze(frozen, cycle=asked.cycle)
        else:
            self.world.filesystems_failed(cycle=asked.cycle)

    # -- time

    @precondition(lambda self: not self.world.phase.is_resting)
    @rule(length=LENGTHS)
    def time_passes(self, length: timedelta) -> None:
        self.world.pass_time(length)

    @precondition(lambda self: not self.world.phase.is_resting)
    @rule(length=LENGTHS)
    def the_timer_is_late(self, length: timedelta) -> None:
        self.world.jump(length)

    @precondition(lambda self: not self.world.phase.is_resting)
    @rule()
    def everybody_falls_silent(self) -> None:
        """From any state, with no input but time: rest comes, within a bound that can be computed."""
        waves = len(NAMES) + 1
        one = PREPARED_LIMIT + LIMIT + LONGEST_HOLD + waves * self.world.settings.thaw_limit
        assert self.world.until_rest() <= 2 * one  # the running cycle, and one that waits for its end

    @invariant()
    def nothing_stays_frozen(self) -> None:
        if not hasattr(self, "world") or not self.world.phase.is_resting:
            return
        frozen = [str(app.id) for app in self.world.apps.values() if self.world.stays_frozen(app)]
        assert not frozen, f"{frozen} stay frozen"
        assert not self.world.are_filesystems_asked

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.everybody_falls_silent()
        for app in self.world.apps.values():
            if not app.is_connected:
                self.world.attach(app)
        self.all_apps_obey()
        self.everybody_falls_silent()
        assert not [app.id for app in self.world.apps.values() if app.cycle and not app.is_broken]


Lives.TestCase.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestLives = Lives.TestCase
