"""Apps that register, leave and come back while something is frozen or thawed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import AskAbort, AskFreeze, AskThaw
from appvss.cycle.holding import CLAIM_TOLERANCE
from appvss.cycle.state import AppState
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.phase import Phase
from appvss.model.request import Request
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import HOLD, MOMENT, SECOND, World, seconds

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
GRACE = seconds(5)


def _holding(*tolerated: str, hold: timedelta = HOLD, frozen: bool = True) -> World:
    """`a` freezes before `b`; those that are named are only tolerated."""
    world = World(return_grace=GRACE)
    world.register("a", 10, TOLERATED if "a" in tolerated else REQUIRED)
    world.register("b", 20, TOLERATED if "b" in tolerated else REQUIRED)
    world.hold("a", "b", hold=hold, frozen=frozen)
    return world


def _thaw(world: World) -> Request:
    thaw = world.thaw()
    world.filesystems_thawed()
    return thaw


# -- apps that register while something is frozen


@pytest.mark.parametrize("phase", [Phase.FREEZING_APPS, Phase.FREEZING_FILESYSTEMS, Phase.HOLDING])
@pytest.mark.parametrize("requirement", list(Requirement))
def test_an_app_that_registers_too_late_is_absent(phase: Phase, requirement: Requirement) -> None:
    world = World()
    world.register("a")
    world.freeze()
    if phase is not Phase.FREEZING_APPS:
        world.ack("a")
    if phase is Phase.HOLDING:
        world.filesystems_froze()
    assert world.phase is phase
    world.register("late", requirement=requirement)
    if requirement is REQUIRED:
        # It was not quiet and nobody can make it so any more.
        assert world.phase is Phase.ABORTING
        world.finish()
    else:
        assert (world.phase, world.state_of("late")) == (phase, AppState.ABSENT)
        world.leave("late")
        world.until_rest()
    assert world.outcomes()["late"] is Outcome.ABSENT
    assert "late" not in world.let_go()


@pytest.mark.parametrize("phase", [Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS, Phase.ABORTING])
def test_an_app_that_registers_during_the_thaw_is_merely_there(phase: Phase) -> None:
    world = _holding()
    if phase is Phase.ABORTING:
        world.force()
    elif phase is Phase.THAWING_APPS:
        _thaw(world)
    else:
        world.thaw()
    assert world.phase is phase
    world.register("late")
    assert world.machine.app_state(AppId("late")) == (AppState.REGISTERED, None)
    world.finish()
    assert "late" not in world.outcomes()
    world.freeze()
    assert [ask.app.name for ask in world.of_last(AskFreeze)] == ["a"]


# -- apps that leave and come back


def _freezing() -> World:
    world = World(return_grace=GRACE)
    world.register("a", 10)
    world.register("b", 20)
    world.freeze()
    world.ack("a")
    return world


def test_an_app_comes_back_with_its_hold_unbroken() -> None:
    world = _holding()
    world.leave("a")
    assert (world.phase, world.state_of("a")) == (Phase.HOLDING, AppState.AWAY)
    world.pass_time(GRACE - MOMENT)
    world.register("a", 10, claim=HoldClaim("c1", GRACE - MOMENT))
    assert (world.state_of("a"), world.story(of_last=True)) == (AppState.HELD, [])
    thaw = _thaw(world)
    assert world.finish().level is Level.APPLICATION
    assert world.answer(thaw).go_on


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (None, "it came back without its hold"),
        (HoldClaim("other", seconds(4)), "it came back with a hold of cycle other"),
        (
            HoldClaim("c1", seconds(4) - CLAIM_TOLERANCE - MOMENT),
            "it says that it has held for 3.0s only: not since its ack",
        ),
    ],
)
@pytest.mark.parametrize("requirement", [REQUIRED, TOLERATED])
def test_an_app_comes_back_and_proves_nothing(claim: HoldClaim | None, reason: str, requirement: Requirement) -> None:
    world = World()
    world.register("a", requirement=requirement)
    world.register("b")
    world.hold("a", "b")
    world.leave("a")
    world.pass_time(seconds(4))
    world.register("a", claim=claim)
    assert world.phase is (Phase.ABORTING if requirement is REQUIRED else Phase.HOLDING)
    told = [effect.cycle for effect in world.of_last(AskAbort) if effect.app.name == "a"]
    assert told == ([] if claim is None else [claim.cycle])
    world.finish() if requirement is REQUIRED else world.until_rest()
    assert world.outcomes()["a"] is Outcome.HOLD_LOST
    assert any(line.endswith(reason) for line in world.verdict.reasons)


def test_a_claim_may_be_short_by_the_tolerance() -> None:
    world = _holding()
    world.leave("a")
    world.pass_time(seconds(4))
    world.register("a", claim=HoldClaim("c1", seconds(4) - CLAIM_TOLERANCE))
    assert world.state_of("a") is AppState.HELD


@pytest.mark.parametrize("requirement", [REQUIRED, TOLERATED])
def test_an_app_that_does_not_come_back_has_lost_its_hold(requirement: Requirement) -> None:
    world = _holding(*(["a"] if requirement is TOLERATED else []))
    world.leave("a")
    world.pass_time(GRACE)
    assert world.phase is (Phase.ABORTING if requirement is REQUIRED else Phase.HOLDING)
    # It is back too late: whatever it holds, it is told to let go.
    world.register("a", claim=HoldClaim("c1", GRACE))
    assert world.of_last(AskAbort)[0].app.name == "a"
    world.finish() if requirement is REQUIRED else world.until_rest()
    assert world.outcomes()["a"] is Outcome.HOLD_LOST
    assert "its stream broke and it did not come back within 5.0s" in "".join(world.verdict.reasons)


def test_its_own_limit_passes_while_it_is_away() -> None:
    world = World(return_grace=timedelta(minutes=1))
    world.register("a", hold=seconds(3))
    world.register("b")
    world.hold("a", "b")
    world.leave("a")
    world.pass_time(seconds(3))
    assert world.phase is Phase.ABORTING
    world.finish()
    assert world.verdict.reasons[0].endswith("its hold limit of 3.0s passed before the thaw")


def test_an_app_whose_process_died_is_not_waited_for() -> None:
    world = _holding()
    world.leave("a", died=True)
    assert world.phase is Phase.ABORTING
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}
    assert world.let_go() == ["b"]


def test_the_freeze_waits_for_one_that_is_away_and_goes_on_when_it_is_back() -> None:
    world = _freezing()
    phases = []
    world.leave("a")
    world.ack("b")
    phases.append(world.phase)
    world.register("a", 10, claim=HoldClaim("c1", timedelta(0)))
    phases.append(world.phase)
    world.leave("b")
    world.filesystems_froze()
    phases.append(world.phase)
    world.register("b", 20, claim=HoldClaim("c1", timedelta(0)))
    phases.append(world.phase)
    freezing = Phase.FREEZING_FILESYSTEMS
    assert phases == [Phase.FREEZING_APPS, freezing, freezing, Phase.HOLDING]


@pytest.mark.parametrize("how", ["grace", "no claim"])
def test_the_freeze_goes_on_without_a_tolerated_one_that_was_away(how: str) -> None:
    world = World(return_grace=GRACE)
    world.register("a", 10, TOLERATED)
    world.register("b", 20)
    freeze = world.freeze()
    world.ack("a", "b")
    world.leave("a")
    world.filesystems_froze()
    assert world.phase is Phase.FREEZING_FILESYSTEMS
    if how == "grace":
        world.pass_time(GRACE)
    else:
        world.register("a", 10, TOLERATED)
    assert (world.phase, world.answer(freeze).go_on) == (Phase.HOLDING, True)


def test_the_only_app_is_away_and_comes_back_with_nothing() -> None:
    world = World()
    world.register("a", 10)
    world.register("b", 10, TOLERATED)
    world.freeze()
    world.ack("a")
    world.leave("a")
    world.veto("b")
    world.confirm("b")
    world.register("a", 10)
    assert (world.phase, world.outcomes()["a"]) == (Phase.ABORTED, Outcome.HOLD_LOST)


def test_an_app_that_is_away_is_not_heard() -> None:
    world = _holding()
    world.leave("a")
    before = world.photo()
    world.confirm("a")
    world.lose_hold("a")
    assert (world.refusals(), world.photo()) == (["not_asked"], before)


def test_an_app_that_was_silent_and_left_is_back_as_a_stranger_to_the_cycle() -> None:
    world = World()
    world.register("a", 10, TOLERATED)
    world.register("b", 20)
    world.freeze()
    world.leave("a")
    assert world.story(of_last=True) == ["freeze b"]
    world.register("a", 10, TOLERATED, claim=HoldClaim("c1", SECOND))
    assert world.story(of_last=True) == ["abort a"]
    world.confirm("a")
    world.leave("a")
    world.ack("b")
    world.filesystems_froze()
    _thaw(world)
    world.finish()
    assert world.outcomes() == {"a": Outcome.DISCONNECTED, "b": Outcome.HELD}


def test_an_app_that_registers_again_without_leaving_has_left() -> None:
    world = _holding()
    world.register("a", 10, claim=HoldClaim("c1", timedelta(0)))
    assert (world.phase, world.state_of("a"), world.story(of_last=True)) == (Phase.HOLDING, AppState.HELD, [])
    world.register("a", 10)
    assert world.phase is Phase.ABORTING
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}


# -- and during the thaw


def test_the_thaw_is_sent_again_to_one_that_comes_back() -> None:
    world = _holding()
    thaw = _thaw(world)
    assert world.story(of_last=True) == ["thaw b"]
    world.leave("b")
    world.pass_time(seconds(1))
    world.register("b", 20, claim=HoldClaim("c1", seconds(1)))
    assert [(effect.app.name, effect.cycle) for effect in world.of_last(AskThaw)] == [("b", "c1")]
    world.finish()
    assert (world.verdict.level, world.answer(thaw).go_on) == (Level.APPLICATION, True)


def test_one_that_comes_back_after_its_wave_was_passed_is_let_go_all_the_same() -> None:
    world = World(thaw_limit=seconds(2), return_grace=seconds(10))
    world.register("a", 10)
    world.register("b", 20)
    world.hold("a", "b")
    _thaw(world)
    world.leave("b")
    world.pass_time(seconds(2))
    assert world.story(of_last=True) == ["thaw a"]
    world.register("b", 20, claim=HoldClaim("c1", seconds(2)))
    assert world.story(of_last=True) == ["thaw b"]
    world.confirm("a")
    assert world.phase is Phase.THAWING_APPS
    world.confirm("b")
    assert (world.phase, world.verdict.level) == (Phase.COMPLETED, Level.APPLICATION)


def test_one_that_comes_back_before_its_wave_is_thawed_in_its_turn() -> None:
    world = _holding()
    _thaw(world)
    world.leave("a")
    world.register("a", 10, claim=HoldClaim("c1", timedelta(0)))
    assert world.story(of_last=True) == []
    world.confirm("b")
    assert world.story(of_last=True) == ["thaw a"]


def test_one_that_is_away_from_the_hold_is_waited_for_in_the_thaw() -> None:
    world = _holding()
    world.leave("b")
    _thaw(world)
    assert (world.phase, world.story(of_last=True)) == (Phase.THAWING_APPS, [])
    world.register("b", 20, claim=HoldClaim("c1", timedelta(0)))
    assert world.story(of_last=True) == ["thaw b"]
    assert world.finish().level is Level.APPLICATION


def test_one_that_is_away_in_the_thaw_and_does_not_come_back() -> None:
    world = World(return_grace=seconds(2), thaw_limit=timedelta(minutes=1))
    world.register("a")
    world.hold("a")
    thaw = _thaw(world)
    world.leave("a")
    world.pass_time(seconds(2))
    assert (world.phase, world.answer(thaw).go_on) == (Phase.COMPLETED, False)
    # Back after the end, still frozen.
    world.register("a", claim=HoldClaim("c1", seconds(2)))
    assert world.story(of_last=True) == ["abort a"]


def test_one_comes_back_to_the_thaw_without_its_hold_and_was_the_last() -> None:
    world = _holding()
    thaw = _thaw(world)
    world.confirm("b")
    world.leave("a")
    world.register("a", 10)
    assert (world.phase, world.answer(thaw).go_on) == (Phase.COMPLETED, False)
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}


def test_one_that_leaves_after_its_thaw_is_confirmed_has_held() -> None:
    world = _holding()
    _thaw(world)
    world.confirm("b")
    world.leave("b")
    world.confirm("a")
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HELD}


def test_a_limit_is_watched_again_when_the_stream_of_a_thawed_app_breaks() -> None:
    world = World(return_grace=timedelta(minutes=2), thaw_limit=timedelta(minutes=2))
    world.register("a", hold=seconds(10))
    world.register("b", hold=seconds(8))
    world.hold("a", "b", hold=timedelta(minutes=5))
    world.pass_time(seconds(7))
    thaw = world.thaw(limit=seconds(2))
    world.filesystems_thawed()
    # The answer to the thaw is due: from then on nobody's limit is watched, for all are let go.
    world.pass_time(seconds(2))
    assert not world.answer(thaw).go_on
    world.leave("a")
    world.pass_time(seconds(1))
    assert (world.state_of("a"), world.phase) == (AppState.FAILED, Phase.THAWING_APPS)
    world.finish()
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HELD}


@pytest.mark.parametrize("back", ["claim", "nothing", "never", "died"])
def test_apps_leave_and_return_in_an_abort(back: str) -> None:
    world = _holding()
    world.force()
    world.filesystems_thawed()
    assert world.story(of_last=True) == ["abort b"]
    world.leave("b", died=back == "died")
    if back == "claim":
        world.register("b", 20, claim=HoldClaim("c1", timedelta(0)))
        assert world.story(of_last=True) == ["abort b"]
        world.confirm("b")
    elif back == "nothing":
        world.register("b", 20)
    elif back == "never":
        world.pass_time(GRACE)
    assert "abort a" in world.story(of_last=True)
    world.confirm("a")
    assert world.phase is Phase.ABORTED
    assert world.outcomes() == {"a": Outcome.HELD, "b": Outcome.HELD if back == "claim" else Outcome.HOLD_LOST}


def test_one_that_was_asked_and_had_not_answered_leaves_in_the_abort() -> None:
    world = World()
    world.register("a")
    world.register("b")
    world.freeze()
    world.veto("b")
    world.leave("a")
    assert world.phase is Phase.ABORTED
    assert world.outcomes() == {"a": Outcome.DISCONNECTED, "b": Outcome.VETOED}
    world.register("a", claim=HoldClaim("c1", SECOND))
    assert world.story(of_last=True) == ["abort a"]
