"""The two doors of the core, and what can be seen through its windows."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from appvss.cycle.effects import Announce, AnswerSource, AskThaw
from appvss.cycle.inputs import (
    AppFroze,
    AppRegistered,
    AppThawed,
    AppVetoed,
    DeadlinePassed,
    FilesystemsFrozen,
    FilesystemsThawed,
    FreezeRequested,
    JournalWritten,
    ThawRequested,
)
from appvss.cycle.machine import Machine
from appvss.cycle.state import ANSWER_MARGIN, AppState, CycleSettings
from appvss.model.app import AppId, Registration
from appvss.model.event import EventKind
from appvss.model.journal import Stage
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from appvss.model.verdict import Outcome
from tests.cycle.support import BEGINNING, HOLD, LIMIT, MOMENT, World, in_phase, seconds


def test_a_new_machine_rests() -> None:
    machine = Machine(CycleSettings(), BEGINNING)
    assert (machine.phase, machine.phase_since, machine.cycle) == (Phase.IDLE, BEGINNING, "")
    assert (machine.next_deadline(), machine.absent()) == (None, ())
    assert machine.app_state(AppId("a")) == (AppState.REGISTERED, None)
    assert machine.last_outcome(AppId("a")) is None
    assert machine.handle(DeadlinePassed(), BEGINNING) == []


def test_a_whole_cycle_without_checking() -> None:
    machine, world = Machine(CycleSettings(), BEGINNING), World()
    app = AppId("a")
    machine.handle(AppRegistered(Registration(app)), BEGINNING)
    machine.handle(FreezeRequested(world.request(RequestKind.FREEZE), "c"), BEGINNING)
    machine.handle(JournalWritten("c", Stage.FREEZING), BEGINNING)
    machine.handle(AppFroze(app, "c"), BEGINNING)
    machine.handle(JournalWritten("c", Stage.HELD), BEGINNING)
    effects = machine.handle(FilesystemsFrozen("c", frozen=False), BEGINNING)
    assert [effect.answer.go_on for effect in effects if isinstance(effect, AnswerSource)] == [True]
    machine.handle(ThawRequested(world.request(RequestKind.THAW)), BEGINNING)
    effects = machine.handle(FilesystemsThawed("c", unbroken=True), BEGINNING)
    assert AskThaw(app, "c") in effects
    machine.handle(AppThawed(app, "c", unbroken=True), BEGINNING)
    assert machine.phase is Phase.COMPLETED


def test_phase_since_is_when_the_phase_was_entered() -> None:
    world = in_phase(Phase.FREEZING_APPS)
    entered = world.now
    world.pass_time(seconds(1))
    assert world.machine.phase_since == entered
    world.ack("a", "b")
    assert world.machine.phase_since == world.now


def test_the_clock_never_goes_back() -> None:
    world = World()
    world.register("a")
    world.freeze()
    world.pass_time(seconds(5))
    world.feed(DeadlinePassed())
    world.now -= seconds(4)
    world.ack("a")
    assert world.machine.phase_since == world.now + seconds(4)


def test_absent_names_what_the_configuration_expects() -> None:
    world = World(expected=("db", "queue"))
    world.register("queue")
    assert world.machine.absent() == ("db",)
    world.machine.replace_settings(CycleSettings(expected=("queue",)))
    assert world.machine.absent() == ()


def test_the_last_outcome_is_that_of_the_last_cycle_that_has_ended() -> None:
    world = World()
    app = world.register("a")
    world.hold("a")
    world.thaw()
    world.finish()
    outcome = world.machine.last_outcome(app)
    assert outcome is not None
    assert outcome.outcome is Outcome.HELD
    world.freeze()
    assert world.machine.last_outcome(app) == outcome
    assert world.machine.last_outcome(AppId("other")) is None
    world.veto("a")
    world.finish()
    assert world.machine.last_outcome(app) == world.verdict.outcomes[0]


def test_away_names_those_who_may_come_back_with_their_hold() -> None:
    world = in_phase(Phase.HOLDING)
    assert world.machine.away() == ()
    for name in ("b", "a"):
        world.pass_time(seconds(1))
        world.leave(name)
    assert [(registration.app.name, since) for registration, since in world.machine.away()] == [
        ("a", world.now),
        ("b", world.now - seconds(1)),
    ]
    world.until_rest()
    assert world.machine.away() == ()


def test_the_next_deadline_is_the_earliest_of_all() -> None:
    world = World(return_grace=seconds(2))
    world.register("a", hold=seconds(20))
    world.register("b", hold=seconds(60))
    freeze = world.freeze()
    assert world.machine.next_deadline() == freeze.deadline - ANSWER_MARGIN
    world.ack("a", "b")
    world.filesystems_froze()
    assert world.machine.next_deadline() == world.now + seconds(20)
    world.leave("b")
    assert world.machine.next_deadline() == world.now + seconds(2)
    thaw = world.thaw(limit=seconds(1))
    assert world.machine.next_deadline() == thaw.deadline - ANSWER_MARGIN


def test_a_request_that_waits_is_a_deadline() -> None:
    world = World(thaw_limit=timedelta(minutes=1))
    world.register("a")
    world.hold("a", hold=timedelta(hours=1))
    new = world.freeze(supersedes=True)
    assert world.machine.next_deadline() == new.deadline - ANSWER_MARGIN


def test_every_overdue_deadline_is_dealt_with_in_one_step() -> None:
    world = in_phase(Phase.HOLDING)
    world.jump(HOLD)
    world.thaw()
    assert (world.phase, world.story(of_last=True)[0]) == (Phase.ABORTING, "thaw filesystems")


def test_a_request_that_waits_begins_also_when_other_deadlines_are_overdue() -> None:
    world = in_phase(Phase.HOLDING)
    new = world.freeze(supersedes=True, limit=timedelta(minutes=5))
    world.jump(timedelta(minutes=1))
    world.feed(DeadlinePassed())
    world.jump(timedelta(minutes=1))
    world.feed(DeadlinePassed())
    world.jump(timedelta(minutes=1))
    world.feed(DeadlinePassed())
    assert (world.phase, world.machine.cycle) == (Phase.PREPARING, f"c{new.id}")


@pytest.mark.parametrize(("phase", "name"), [(Phase.IDLE, "ack_too_late"), (Phase.HOLDING, "not_now")])
def test_what_means_nothing_now_is_refused_by_name(phase: Phase, name: str) -> None:
    world = in_phase(phase)
    before = world.photo()
    world.feed(AppVetoed(AppId("a"), world.machine.cycle, "no"))
    assert (world.refusals(), world.photo()) == ([name], before)


def test_an_instant_before_the_deadline_nothing_happens() -> None:
    world = in_phase(Phase.FREEZING_APPS)
    due = world.machine.next_deadline()
    assert due is not None
    world.now = due - MOMENT
    world.feed(DeadlinePassed())
    assert (world.phase, world.last) == (Phase.FREEZING_APPS, [])
    assert due <= world.now + LIMIT


def test_the_way_of_a_cycle_is_announced_in_order() -> None:
    world = World()
    world.register("a", prepares=True)
    world.freeze()
    world.ready("a")
    world.ack("a")
    world.filesystems_froze()
    world.thaw()
    world.finish()
    events = [effect.event for effect in world.all(Announce)]
    assert [event.kind for event in events if event.kind is not EventKind.PHASE_CHANGED] == [
        EventKind.APP_REGISTERED,
        EventKind.CYCLE_BEGAN,
        EventKind.JOURNAL_WRITTEN,
        EventKind.PREPARE_ASKED,
        EventKind.APP_READY,
        EventKind.FREEZE_ASKED,
        EventKind.APP_FROZE,
        EventKind.CERTIFICATE_WRITTEN,
        EventKind.FILESYSTEMS_FROZE,
        EventKind.SOURCE_ANSWERED,
        EventKind.FILESYSTEMS_THAWED,
        EventKind.THAW_ASKED,
        EventKind.APP_THAWED,
        EventKind.CYCLE_ENDED,
        EventKind.SOURCE_ANSWERED,
    ]
    phases = [event.phase for event in events if event.kind is EventKind.PHASE_CHANGED]
    assert phases == [phase.value for phase in Phase if phase.value in phases]
    assert {event.cycle for event in events[1:]} == {"c1"}
    assert all(one.at <= other.at for one, other in pairwise(events))
