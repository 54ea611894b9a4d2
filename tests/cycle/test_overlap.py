"""A request while a cycle runs: refused, in its place, queued, or sharing its hold; and rehearsals, which give way."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import AskFreeze, EndCycle
from appvss.cycle.overlap import WAITING_LIMIT
from appvss.cycle.state import ANSWER_MARGIN
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.verdict import Level
from tests.cycle.support import LIMIT, MOMENT, REHEARSAL, SECOND, World, in_phase, seconds

JOIN, QUEUE = Overlap.JOIN, Overlap.QUEUE


# -- refused, or in the place of the running cycle


def test_a_second_source_is_refused_while_a_cycle_runs() -> None:
    world = World()
    world.register("a")
    world.freeze()
    before = world.photo()
    refused = world.check("local")
    assert not world.answer(refused).go_on
    assert world.answer(refused).reason == "cycle c1 of freebsd host is under way (freezing_apps)"
    # The answer belongs to no cycle of that requester.
    assert (world.answer(refused).cycle, world.photo()) == ("", before)


def test_the_same_source_is_refused_unless_its_request_supersedes() -> None:
    world = World()
    world.register("a")
    world.hold("a")
    assert not world.answer(world.freeze()).go_on
    assert world.phase is Phase.HOLDING


def test_a_freeze_that_supersedes_undoes_the_old_cycle_first() -> None:
    world = World()
    world.register("a")
    world.hold("a")
    new = world.freeze(supersedes=True)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["thaw filesystems"])
    world.pass_time(seconds(1))
    world.filesystems_thawed()
    world.pass_time(seconds(1))
    world.confirm("a")
    assert (world.phase, world.machine.cycle, world.story(of_last=True)) == (
        Phase.FREEZING_APPS,
        f"c{new.id}",
        ["freeze a"],
    )
    assert world.of_last(AskFreeze)[0].budget == LIMIT - seconds(2) - ANSWER_MARGIN
    assert world.verdict.reasons == ("freebsd host asked for a new freeze before the thaw of this cycle came",)
    world.ack("a")
    world.filesystems_froze()
    world.thaw()
    assert world.answer(new).go_on
    assert world.finish().level is Level.APPLICATION


def test_a_request_that_waits_is_told_no_when_its_time_is_over() -> None:
    world = World(thaw_limit=timedelta(minutes=1))
    world.register("a")
    world.hold("a")
    new = world.freeze(supersedes=True)
    world.pass_time(LIMIT - ANSWER_MARGIN - MOMENT)
    assert world.answers(new) == []
    world.pass_time(MOMENT)
    answer = world.answer(new)
    assert (answer.go_on, answer.reason, answer.cycle) == (False, "cycle c1 was not thawed in time for it", "")
    world.finish()
    assert [effect.record.cycle for effect in world.all(EndCycle)] == ["c1"]


def test_only_the_newest_of_several_waiting_requests_begins() -> None:
    world = World()
    world.register("a")
    world.hold("a")
    second = world.freeze(supersedes=True)
    third = world.check(supersedes=True)
    assert world.answer(second).reason == "a newer request has taken its place"
    world.filesystems_thawed()
    world.confirm("a")
    assert (world.phase, world.answer(third).go_on) == (Phase.PREPARED, True)


@pytest.mark.parametrize("supersedes", [True, False])
def test_whatever_comes_in_prepared_takes_the_place_of_the_check(supersedes: bool) -> None:
    world = World()
    world.register("a", prepares=True)
    world.check()
    world.ready("a")
    world.check("local", supersedes=supersedes)
    assert (world.phase, world.story(of_last=True)) == (Phase.PREPARING, ["abort a", "prepare a"])
    world.ready("a")
    freeze = world.freeze("freebsd", supersedes=supersedes)
    assert (world.machine.cycle, world.story(of_last=True)) == (f"c{freeze.id}", ["abort a", "prepare a"])


def test_a_request_that_waits_begins_also_when_the_old_cycle_ends_by_a_deadline() -> None:
    world = World(thaw_limit=seconds(1))
    world.register("a")
    world.hold("a")
    new = world.freeze(supersedes=True)
    world.pass_time(seconds(2))
    assert (world.phase, world.machine.cycle) == (Phase.FREEZING_APPS, f"c{new.id}")


def test_a_new_request_of_one_requester_ends_only_what_it_has_asked_before() -> None:
    world = in_phase(Phase.HOLDING)
    first = world.freeze("kernel", supersedes=True, overlap=QUEUE)
    local = world.freeze("local", overlap=QUEUE)
    second = world.freeze("kernel", supersedes=True, overlap=QUEUE)
    assert world.answer(first).reason == "a newer request has taken its place"
    assert world.answers(local) == world.answers(second) == []


# -- queued


def _finish_and_begin(world: World) -> None:
    """The running cycle ends, and what waits begins."""
    world.filesystems_thawed()
    for name in ("b", "a"):
        world.confirm(name)


def test_requests_wait_in_the_order_in_which_they_came() -> None:
    world = in_phase(Phase.HOLDING)
    second, third = (world.freeze(source, overlap=QUEUE) for source in ("local", "other"))
    assert (world.answers(second), world.phase) == ([], Phase.HOLDING)
    world.thaw()
    _finish_and_begin(world)
    assert world.machine.cycle == f"c{second.id}"
    world.ready("a")
    world.ack("a", "b")
    world.filesystems_froze()
    world.thaw("local")
    _finish_and_begin(world)
    assert (world.machine.cycle, world.answers(third)) == (f"c{third.id}", [])


def test_a_second_requester_of_the_same_source_waits_too() -> None:
    world = in_phase(Phase.HOLDING)
    second = world.freeze(overlap=JOIN)  # it cannot share a hold of its own source
    world.thaw()
    _finish_and_begin(world)
    assert world.machine.cycle == f"c{second.id}"


def test_there_is_a_bound_on_how_many_wait() -> None:
    world = in_phase(Phase.HOLDING)
    waiting = [world.freeze("local", overlap=QUEUE) for _ in range(WAITING_LIMIT)]
    refused = world.freeze("local", overlap=QUEUE)
    assert world.answer(refused).reason == "cycle c1 of freebsd host is under way (holding)"
    assert not any(world.answers(request) for request in waiting)
    newest = world.freeze(supersedes=True)  # it does not stand in the queue
    assert (world.phase, world.answers(newest)) == (Phase.ABORTING, [])


def test_what_waits_is_told_no_in_its_own_time() -> None:
    world = in_phase(Phase.HOLDING)
    short, long = world.freeze("local", limit=SECOND, overlap=QUEUE), world.freeze("other", overlap=QUEUE)
    world.pass_time(SECOND - ANSWER_MARGIN - MOMENT)
    assert world.answers(short) == []
    world.pass_time(MOMENT)
    assert world.answer(short).reason == "cycle c1 was not thawed in time for it"
    assert (world.phase, world.answers(long)) == (Phase.HOLDING, [])
    assert world.answer(world.thaw("local")).go_on  # nothing was promised


def test_a_requester_that_waits_hangs_up() -> None:
    world = in_phase(Phase.HOLDING)
    gone, stays = (world.freeze("local", overlap=QUEUE) for _ in range(2))
    world.lose_source("local", gone.id)
    world.thaw()
    _finish_and_begin(world)
    assert (world.answers(gone), world.machine.cycle) == ([], f"c{stays.id}")


def test_a_second_requester_of_the_same_source_hangs_up_and_the_first_holds_on() -> None:
    world = in_phase(Phase.HOLDING)
    second = world.freeze(overlap=QUEUE)
    world.lose_source(request=second.id)
    assert world.phase is Phase.HOLDING
    thaw = world.thaw()
    world.lose_source(request=second.id)
    assert (world.finish().level, world.answer(thaw).go_on) == (Level.APPLICATION, True)


def test_the_first_of_two_requesters_hangs_up_and_the_second_begins() -> None:
    world = World()
    world.register("a")
    first = world.hold("a")
    second = world.freeze(overlap=QUEUE)
    world.lose_source(request=first.id)
    assert world.phase is Phase.ABORTING
    world.filesystems_thawed()
    world.confirm("a")
    assert world.machine.cycle == f"c{second.id}"


def test_a_forced_thaw_is_not_followed_by_a_freeze() -> None:
    world = in_phase(Phase.HOLDING)
    waiting = world.freeze("local", overlap=QUEUE)
    world.force()
    assert (world.answer(waiting).go_on, world.answer(waiting).reason) == (False, "the administrator wants it")
    world.finish()
    assert world.phase is Phase.ABORTED


def test_a_thaw_withdraws_what_waits_of_a_requester_that_is_alone() -> None:
    world = in_phase(Phase.HOLDING)
    waiting, local = world.freeze("kernel", supersedes=True, overlap=QUEUE), world.freeze("local", overlap=QUEUE)
    thaw = world.thaw("kernel")
    assert world.answer(waiting).reason == "kernel host asked for the thaw before it could begin"
    assert (world.answer(thaw).go_on, world.answers(local)) == (True, [])


def test_a_check_waits_as_well() -> None:
    world = in_phase(Phase.HOLDING)
    check = world.check("local", overlap=JOIN)
    world.thaw()
    _finish_and_begin(world)
    assert (world.phase, world.machine.cycle) == (Phase.PREPARING, f"c{check.id}")


# -- rehearsals


def _rehearsing() -> World:
    world = World()
    world.register("a")
    world.freeze(REHEARSAL)
    world.ack("a")
    assert world.phase is Phase.HOLDING
    return world


@pytest.mark.parametrize("overlap", list(Overlap))
def test_a_rehearsal_gives_way(overlap: Overlap) -> None:
    world = _rehearsing()
    freeze = world.freeze("local", overlap=overlap)
    assert (world.phase, world.let_go()) == (Phase.ABORTING, ["a"])
    world.confirm("a")
    assert world.verdict.reasons == ("local host asked for a new freeze before the thaw of this cycle came",)
    assert (world.machine.cycle, [ask.cycle for ask in world.of_last(AskFreeze)]) == (
        f"c{freeze.id}",
        [f"c{freeze.id}"],
    )


def test_a_rehearsal_that_is_being_thawed_is_waited_for_by_one_requester() -> None:
    world = _rehearsing()
    world.thaw(REHEARSAL)
    first = world.freeze("local")
    assert world.answers(first) == []
    second, third = world.freeze("other"), world.freeze("other", overlap=QUEUE)
    assert "is under way (thawing_apps)" in world.answer(second).reason
    world.confirm("a")
    assert (world.machine.cycle, world.verdict.level) == (f"c{first.id}", Level.APPLICATION)
    world.ack("a")
    world.filesystems_froze()
    world.thaw("local")
    world.filesystems_thawed()
    world.confirm("a")
    assert world.machine.cycle == f"c{third.id}"


def test_requests_of_one_source_do_not_push_each_other_out() -> None:
    world = _rehearsing()
    first, second = world.freeze("local"), world.freeze("local", overlap=QUEUE)
    assert (world.answers(first), world.answers(second)) == ([], [])
    world.confirm("a")
    assert world.machine.cycle == f"c{first.id}"


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.PREPARED, Phase.HOLDING, Phase.THAWING_APPS])
@pytest.mark.parametrize("overlap", list(Overlap))
def test_a_rehearsal_takes_nobodys_place(phase: Phase, overlap: Overlap) -> None:
    world = in_phase(phase)
    rehearsal = world.freeze(REHEARSAL, overlap=overlap)
    assert (world.phase, world.machine.cycle) == (phase, "c1")
    assert (len(world.answers(rehearsal)) == 1) is (overlap is Overlap.REFUSE)


def test_a_second_rehearsal_is_refused() -> None:
    world = _rehearsing()
    assert not world.answer(world.freeze(REHEARSAL)).go_on
    assert world.phase is Phase.HOLDING


def test_a_real_request_comes_before_a_rehearsal_that_waits() -> None:
    world = _rehearsing()
    world.freeze("other rehearsal", overlap=QUEUE)
    assert world.phase is Phase.ABORTING
