"""The observer of the pure core: what it must find, it finds. And what it has found."""

from __future__ import annotations

import pytest

from appvss.model.app import AppId, Registration
from appvss.model.phase import Phase
from appvss.model.verdict import Level
from tests.cycle.observed import App, Habit, Observed
from tests.cycle.support import SECOND


def held(*names: str) -> Observed:
    """A world in whose host's hold these apps are; `late` is not there yet."""
    apps = [App(Registration(AppId(name), incarnation=name), Habit.HONEST) for name in (*names, "late")]
    world = Observed(apps)
    for name in names:
        world.attach(world.apps[AppId(name)])
    world.freeze()
    obey(world)
    assert world.phase is Phase.HOLDING
    return world


def obey(world: Observed) -> None:
    """Apps and freezer do what they were asked until nothing is left to do."""
    for _ in range(8):
        for app in world.apps.values():
            while app.inbox:
                world.obey(app)
        while world.freezer:
            asked = world.freezer.popleft()
            if type(asked).__name__ == "ThawFilesystems":
                world.filesystems_thawed(cycle=asked.cycle)
            else:
                world.filesystems_froze(True, cycle=asked.cycle)


def test_an_app_that_writes_in_its_hold_and_says_nothing_is_found_out() -> None:
    world = held("a", "b")
    world.apps[AppId("b")].is_quiet = False
    world.look()
    world.thaw()
    with pytest.raises(AssertionError, match="free in an application-consistent snapshot"):
        obey(world)


def test_a_hold_in_which_all_are_quiet_is_application_consistent() -> None:
    world = held("a", "b")
    world.thaw()
    obey(world)
    assert world.verdict.level is Level.APPLICATION


def test_apps_that_held_on_while_a_new_broker_came_were_held() -> None:
    world = held("a", "b")
    world.broker_dies(SECOND)
    for name in ("a", "b"):
        world.attach(world.apps[AppId(name)])
    world.thaw()
    obey(world)
    assert world.verdict.level is Level.APPLICATION


def test_a_hold_that_a_broker_had_given_up_when_it_died_is_not_taken_up_as_good() -> None:
    """A required app came too late, so the first broker began to abort. Who is away when the next one looks is not
    known to it, and the apps that were not yet told hold on.
    """
    world = held("a", "b")
    world.attach(world.apps[AppId("late")])
    assert world.phase is Phase.ABORTING
    world.broker_dies(SECOND)
    for name in ("a", "b"):
        world.attach(world.apps[AppId(name)])
    if not world.phase.is_resting:
        world.thaw()
    obey(world)
    assert world.verdict.level is not Level.APPLICATION


def test_a_hold_that_an_administrator_had_ended_when_the_broker_died_is_not_taken_up_as_good() -> None:
    world = held("a", "b")
    world.force()
    assert world.phase is Phase.ABORTING
    world.broker_dies(SECOND)
    for name in ("a", "b"):
        world.attach(world.apps[AppId(name)])
    if not world.phase.is_resting:
        world.thaw()
    obey(world)
    assert world.verdict.level is not Level.APPLICATION, "its file systems were thawed by the broker that died"
