"""Apps that come in the middle, answers out of turn, requests that overlap."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import AskAbort, AskFreeze, AskPrepare
from appvss.cycle.inputs import AppReady
from appvss.cycle.state import ANSWER_MARGIN
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import LIMIT, SECOND, World, seconds

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
ZERO = timedelta(0)


# -- apps that come while it is being prepared


def test_an_app_that_registers_while_preparing_takes_part() -> None:
    world = World()
    world.register("a", prepares=True)
    check = world.check()
    world.pass_time(seconds(5))
    world.register("late", prepares=True)
    world.register("plain")
    (asked,) = world.all(AskPrepare)[1:]
    assert (asked.app, asked.budget) == (AppId("late"), LIMIT - ANSWER_MARGIN - seconds(5))
    world.ready("a")
    assert (world.phase, world.answers(check)) == (Phase.PREPARING, [])
    world.ready("late")
    assert (world.phase, world.answer(check).go_on) == (Phase.PREPARED, True)
    world.freeze()
    world.ack("a", "late", "plain")
    assert world.phase is Phase.FREEZING_FILESYSTEMS


def test_an_app_that_registers_in_prepared_takes_part() -> None:
    world = World()
    world.check()
    world.register("a", prepares=True)
    assert world.story(of_last=True) == []
    world.hold("a")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_an_app_that_registers_while_preparing_and_makes_the_freeze_impossible_ends_the_cycle() -> None:
    world = World()
    world.register("a", prepares=True)
    freeze = world.freeze()
    world.register("b", needs=seconds(20))
    world.ready("a")
    assert (world.phase, world.answer(freeze).go_on) == (Phase.ABORTED, False)
    assert world.let_go() == ["a"]


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.PREPARING, Phase.PREPARED])
def test_an_app_that_registers_with_a_hold_that_nobody_wants_is_told_to_let_go(phase: Phase) -> None:
    world = World()
    if phase is not Phase.IDLE:
        world.register("other", prepares=phase is Phase.PREPARING)
        world.check()
    assert world.phase is phase
    world.register("a", claim=HoldClaim("before", SECOND))
    (abort,) = world.of_last(AskAbort)
    assert (abort.app, abort.cycle) == (AppId("a"), "before")


def test_an_app_leaves_between_check_and_freeze() -> None:
    world = World()
    world.register("a", prepares=True)
    world.register("b", requirement=TOLERATED)
    world.check()
    world.ready("a")
    world.leave("b")
    assert world.phase is Phase.PREPARED
    freeze = world.freeze()
    assert world.story(of_last=True) == ["freeze a"]
    world.ack("a")
    world.filesystems_froze()
    world.thaw()
    assert world.answer(freeze).go_on
    assert world.finish().reasons == ("b (tolerated) went away before it had answered: it left before the freeze",)


def test_a_required_app_leaves_between_check_and_freeze() -> None:
    world = World()
    world.register("a")
    world.register("b", prepares=True)
    world.check()
    world.ready("b")
    world.leave("a")
    freeze = world.freeze()
    assert (world.phase, world.answer(freeze).go_on) == (Phase.ABORTED, False)
    assert (world.outcomes()["a"], world.let_go()) == (Outcome.DISCONNECTED, ["b"])


def test_an_app_leaves_after_the_check_and_is_back_for_the_freeze() -> None:
    world = World()
    world.register("a")
    world.check()
    world.leave("a")
    world.register("a")
    world.hold("a")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_one_that_had_failed_and_left_and_is_back_begins_anew() -> None:
    world = World()
    world.register("a", requirement=TOLERATED, prepares=True)
    world.check()
    world.veto("a")
    assert world.phase is Phase.PREPARED
    world.leave("a")
    world.register("a", requirement=TOLERATED)
    world.hold("a")
    world.thaw()
    world.finish()
    assert world.outcomes() == {"a": Outcome.HELD}


def test_an_app_leaves_while_preparing() -> None:
    world = World()
    world.register("a", prepares=True)
    world.register("b", requirement=TOLERATED, prepares=True)
    check = world.check()
    world.leave("b")
    assert world.phase is Phase.PREPARING
    world.ready("a")
    assert (world.phase, world.answer(check).go_on) == (Phase.PREPARED, True)
    world.check(supersedes=True)
    world.leave("a")
    assert (world.phase, world.outcomes()["a"]) == (Phase.ABORTED, Outcome.DISCONNECTED)


# -- answers out of turn


def _preparing() -> World:
    world = World()
    world.register("a", prepares=True)
    world.register("b")
    world.freeze()
    return world


def _freezing() -> World:
    world = World()
    world.register("a", 10)
    world.register("b", 20)
    world.freeze()
    return world


def test_an_ack_before_it_was_asked_is_refused_and_the_app_told_to_let_go() -> None:
    world = _freezing()
    before = world.photo()
    world.ack("b")
    assert (world.refusals(), world.photo()) == (["ack_before_asked"], before)
    assert world.story(of_last=True) == ["abort b"]
    world.confirm("b")
    world.ack("a", "b")
    assert world.phase is Phase.FREEZING_FILESYSTEMS


def test_the_answer_to_that_is_no_answer_to_the_freeze() -> None:
    world = _freezing()
    world.ack("b")
    world.ack("a")
    world.confirm("b", unbroken=False)
    assert (world.refusals(), world.phase) == (["ack_of_other_kind"], Phase.FREEZING_APPS)
    world.pass_time(world.all(AskFreeze)[-1].budget)
    world.finish()
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.TIMED_OUT}


def test_an_app_that_hangs_does_not_keep_the_others_frozen() -> None:
    world = _freezing()
    world.ack("a")
    world.pass_time(world.all(AskFreeze)[-1].budget)
    assert (world.story(of_last=True), world.phase) == (["abort b", "abort a"], Phase.ABORTING)
    world.confirm("a")
    assert (world.phase, world.outcomes()) == (Phase.ABORTED, {"a": Outcome.HELD, "b": Outcome.TIMED_OUT})


def test_an_ack_while_preparing_is_refused() -> None:
    world = _preparing()
    world.ack("a")
    assert (world.refusals(), world.phase) == (["ack_before_asked"], Phase.PREPARING)
    world.ready("a")
    world.ack("a")
    assert world.phase is Phase.FREEZING_APPS


def test_an_ack_twice_is_refused_and_the_hold_goes_on() -> None:
    world = _freezing()
    world.ack("a")
    before = world.photo()
    world.ack("a")
    assert (world.refusals(), world.photo(), world.story(of_last=True)) == (["ack_twice"], before, [])


def test_an_ack_that_crosses_its_abort_is_refused_and_the_app_told_again() -> None:
    world = _freezing()
    world.force()
    assert world.story(of_last=True) == ["abort a"]
    world.ack("a")
    assert (world.refusals(), world.story(of_last=True)) == (["ack_too_late"], ["abort a"])
    world.confirm("a")
    assert world.phase is Phase.ABORTED


@pytest.mark.parametrize("phase", [Phase.FREEZING_APPS, Phase.IDLE])
def test_an_ack_for_another_cycle_is_refused_and_the_app_told_to_let_go(phase: Phase) -> None:
    world = World()
    app = world.register("a")
    if phase is Phase.FREEZING_APPS:
        world.freeze()
    world.ack("a", cycle="old")
    assert world.refusals() == ["ack_for_other_cycle" if phase is Phase.FREEZING_APPS else "ack_too_late"]
    (abort,) = world.of_last(AskAbort)
    assert (abort.app, abort.cycle) == (app, "old")


def test_an_ack_of_an_app_that_takes_no_part_is_refused() -> None:
    world = _freezing()
    world.ack("stranger")
    assert (world.refusals(), world.story(of_last=True)) == (["not_asked"], ["abort stranger"])


def test_ready_twice_and_for_another_cycle_is_refused() -> None:
    world = World()
    world.register("a", prepares=True)
    world.register("b", prepares=True)
    world.check()
    world.ready("a")
    before = world.photo()
    world.ready("a")
    assert world.refusals() == ["ack_before_asked"]
    world.feed(AppReady(AppId("b"), "other"))
    assert world.refusals() == ["ack_for_other_cycle"]
    world.ready("stranger")
    assert world.refusals() == ["not_asked"]
    assert world.photo() == before


def test_a_veto_out_of_turn_is_refused() -> None:
    world = _freezing()
    before = world.photo()
    world.veto("b")
    assert world.refusals() == ["ack_before_asked"]
    world.veto("stranger")
    assert world.refusals() == ["not_asked"]
    assert world.photo() == before
    world.ack("a")
    world.veto("a")
    assert world.refusals() == ["ack_twice"]
