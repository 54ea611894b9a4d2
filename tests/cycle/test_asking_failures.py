"""The n-th app fails after n-1 have succeeded, for every n; and deadlines that ring late."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import AskAbort, AskFreeze
from appvss.cycle.inputs import AppFroze, DeadlinePassed
from appvss.cycle.state import ANSWER_MARGIN
from appvss.model.app import AppId, Requirement
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import LIMIT, MOMENT, World, seconds

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
ZERO = timedelta(0)


# -- the n-th app fails, and the n-1 before it have succeeded

FAILURES = ["veto", "silence", "disconnect", "lost", "late", "died", "wrong cycle"]
APPS = 4


def _fail(world: World, name: str, how: str) -> Outcome:
    """Make an app that was asked fail; the outcome that it must get."""
    match how:
        case "veto":
            world.veto(name)
            return Outcome.VETOED
        case "disconnect":
            world.leave(name)
            return Outcome.DISCONNECTED
        case "silence":
            world.pass_time(world.all(AskFreeze)[-1].budget)
            return Outcome.TIMED_OUT
        case "late":
            # The ack is at the very deadline, and no timer has rung yet.
            world.jump(world.all(AskFreeze)[-1].budget)
            world.ack(name)
            return Outcome.TIMED_OUT
        case "wrong cycle":
            world.ack(name, cycle="another")
            assert world.refusals() == ["ack_for_other_cycle"]
            world.pass_time(world.all(AskFreeze)[-1].budget)
            return Outcome.TIMED_OUT
        case "lost":
            world.ack(name)
            world.lose_hold(name)
        case "died":
            world.ack(name)
            world.leave(name, died=True)
    return Outcome.HOLD_LOST


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("nth", range(1, APPS + 1))
def test_the_nth_required_app_fails(nth: int, how: str) -> None:
    world = World()
    for number in range(1, APPS + 1):
        world.register(f"a{number}", order=number)
    freeze = world.freeze()
    world.ack(*(f"a{number}" for number in range(1, nth)))
    outcome = _fail(world, f"a{nth}", how)
    world.finish()
    assert (world.phase, world.answer(freeze).go_on) == (Phase.ABORTED, False)
    assert world.verdict.level is Level.FAILED
    assert world.verdict.reasons[0].startswith(f"a{nth} (required)")
    # All that may be frozen is let go, last first. One that has left cannot be told.
    held = [f"a{number}" for number in range(nth - 1, 0, -1)]
    told = [] if how in ("disconnect", "died") else [f"a{nth}"]
    # Told once more: an ack for another cycle, or after the end of its time, says that the app is frozen all the same.
    again = {"late": [f"a{nth}"], "wrong cycle": [f"a{nth}"]}.get(how, [])
    after = [f"a{nth + 1}"] if how in ("lost", "died") and nth < APPS else []
    # Nobody waits for the confirmation of one that has failed, so the next is let go before its late ack comes.
    assert world.let_go() == (
        [*told, *held[:1], *again, *held[1:]] if how == "late" else [*told, *again, *after, *held]
    )
    skipped = {f"a{number}": Outcome.SKIPPED for number in range(nth + 1, APPS + 1)}
    expected = {f"a{number}": Outcome.HELD for number in range(1, nth)} | {f"a{nth}": outcome} | skipped
    assert world.outcomes() == expected
    if nth == APPS and how in ("lost", "died"):
        assert "thaw filesystems" in world.story()


@pytest.mark.parametrize("requirement", [TOLERATED, IGNORED])
@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("nth", range(1, APPS + 1))
def test_the_nth_app_fails_and_is_not_required(nth: int, how: str, requirement: Requirement) -> None:
    world = World()
    for number in range(1, APPS + 1):
        world.register(f"a{number}", number, requirement if number == nth else REQUIRED)
    freeze = world.freeze()
    world.ack(*(f"a{number}" for number in range(1, nth)))
    outcome = _fail(world, f"a{nth}", how)
    gone = world.let_go()
    world.ack(*(f"a{number}" for number in range(nth + 1, APPS + 1)))
    world.filesystems_froze()
    assert (world.phase, world.answer(freeze).go_on) == (Phase.HOLDING, True)
    assert set(gone) <= {f"a{nth}"}
    thaw = world.thaw()
    verdict = world.finish()
    assert (world.phase, verdict.level, world.answer(thaw).go_on) == (Phase.COMPLETED, Level.APPLICATION, True)
    assert world.outcomes() == {f"a{n}": outcome if n == nth else Outcome.HELD for n in range(1, APPS + 1)}
    assert [reason.split(" (")[0] for reason in verdict.reasons] == ([f"a{nth}"] if requirement is TOLERATED else [])
    assert world.let_go() == [*gone, *(f"a{n}" for n in range(APPS, 0, -1) if n != nth)]


def test_the_order_is_exact_when_one_of_several_in_a_wave_fails() -> None:
    world = World()
    world.register("first", 10)
    world.register("left", 20)
    world.register("middle", 20)
    world.register("right", 20)
    world.register("never", 30)
    world.freeze()
    world.ack("first", "left")
    world.veto("middle")
    # The answer of `right` is unknown: it may be frozen.
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["abort middle", "abort left", "abort right"])
    world.confirm("left")
    assert world.story(of_last=True) == []
    world.confirm("right")
    assert world.story(of_last=True) == ["abort first"]
    world.confirm("first")
    assert world.phase is Phase.ABORTED
    assert world.outcomes() == {
        "first": Outcome.HELD,
        "left": Outcome.HELD,
        "middle": Outcome.VETOED,
        "right": Outcome.SKIPPED,
        "never": Outcome.SKIPPED,
    }


def test_all_that_are_silent_at_the_deadline_have_timed_out() -> None:
    world = World()
    world.register("a")
    world.register("b")
    world.register("c", requirement=TOLERATED)
    world.freeze()
    world.pass_time(LIMIT - ANSWER_MARGIN)
    world.finish()
    assert set(world.outcomes().values()) == {Outcome.TIMED_OUT}
    assert sorted(world.let_go()) == ["a", "b", "c"]


def test_an_app_that_is_away_when_the_time_of_the_wave_is_over_has_lost_its_hold() -> None:
    world = World(return_grace=timedelta(minutes=1))
    world.register("a", 10)
    world.register("b", 20)
    world.freeze()
    world.ack("a")
    world.leave("a")
    world.ack("b")
    assert world.phase is Phase.FREEZING_APPS
    world.until_rest()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HOLD_LOST}
    assert world.verdict.reasons[0].startswith("a (required) lost its hold: its stream broke")


def test_only_tolerated_apps_and_all_fail() -> None:
    world = World()
    world.register("a", requirement=TOLERATED)
    world.register("b", requirement=IGNORED)
    world.freeze()
    world.veto("a")
    world.veto("b")
    world.filesystems_froze()
    thaw = world.thaw()
    verdict = world.finish()
    assert (verdict.level, world.answer(thaw).go_on) == (Level.FILESYSTEM, True)
    assert verdict.reasons == (
        "no app was held: nothing in this machine vouches for the snapshot",
        "a (tolerated) refused: busy",
    )


def test_only_tolerated_apps_that_hold_are_enough() -> None:
    world = World()
    world.register("a", requirement=TOLERATED)
    world.hold("a")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


# -- deadlines that ring late


def test_a_wave_gets_no_more_than_what_a_late_timer_has_left() -> None:
    world = World()
    world.register("a", 10, TOLERATED)
    world.register("b", 20)
    world.freeze(limit=seconds(10))
    world.jump(seconds(8))
    world.feed(DeadlinePassed())
    (ask,) = world.of_last(AskFreeze)
    assert (ask.app, ask.budget) == (AppId("b"), seconds(2) - ANSWER_MARGIN)


def test_a_late_timer_that_leaves_no_time_ends_the_cycle() -> None:
    world = World()
    world.register("a", 10, TOLERATED)
    world.register("b", 20)
    freeze = world.freeze()
    world.jump(LIMIT)
    world.feed(DeadlinePassed())
    assert world.story() == ["freeze a", "abort a", "freeze: no"]
    assert world.answer(freeze).reason == "the time for the apps was over before all were asked"


def test_a_late_timer_after_the_last_wave_never_begins_the_file_system_freeze() -> None:
    world = World()
    world.register("a", requirement=TOLERATED)
    freeze = world.freeze()
    world.jump(LIMIT + MOMENT)
    world.feed(DeadlinePassed())
    world.finish()
    assert (world.phase, world.answers(freeze)) == (Phase.ABORTED, [])
    assert world.verdict.reasons[0] == "the time was over before the file systems could be frozen"
    assert world.story() == ["freeze a", "abort a"]


def test_a_check_that_is_prepared_after_its_limit_gets_no_answer() -> None:
    world = World()
    world.register("a", requirement=TOLERATED, prepares=True)
    check = world.check()
    world.jump(LIMIT + MOMENT)
    world.feed(DeadlinePassed())
    assert (world.phase, world.answers(check)) == (Phase.PREPARED, [])


@pytest.mark.parametrize("late", [ZERO, MOMENT, seconds(1)])
def test_an_ack_at_or_after_the_deadline_is_late_before_the_timer_has_rung(late: timedelta) -> None:
    world = World()
    app = world.register("a")
    freeze = world.freeze()
    # Not through the world, which rings first.
    effects = world.machine.handle(AppFroze(app, "c1"), freeze.deadline - ANSWER_MARGIN + late)
    assert world.phase is Phase.ABORTED
    assert [effect.reason for effect in effects if isinstance(effect, AskAbort)] == [
        "no ack within 14.9s",
        "no hold is wanted for cycle c1",
    ]


def test_an_ack_a_moment_before_the_deadline_counts() -> None:
    world = World()
    world.register("a")
    world.freeze()
    world.pass_time(LIMIT - ANSWER_MARGIN - MOMENT)
    world.ack("a")
    assert world.phase is Phase.FREEZING_FILESYSTEMS
