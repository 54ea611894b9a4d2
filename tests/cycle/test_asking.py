"""From a request to the hold: check, prepare, freeze wave by wave, the file systems, the answer."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.cycle.effects import Announce, AskAbort, AskFreeze, AskPrepare, EndCycle, FreezeFilesystems
from appvss.cycle.inputs import AppFroze, AppReady, CheckRequested, DeadlinePassed, FreezeRequested
from appvss.cycle.state import ANSWER_MARGIN, AppState
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.budget import LEAST_GRANT
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import HOLD, LIMIT, MOMENT, SECOND, World, seconds

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
ZERO = timedelta(0)


# -- check, then freeze


def test_check_then_freeze_then_thaw_is_one_cycle() -> None:
    world = World()
    world.register("db", prepares=True)
    check = world.check(cycle="first")
    assert (world.phase, world.story(of_last=True)) == (Phase.PREPARING, ["prepare db"])
    world.ready("db")
    assert (world.phase, world.answer(check).go_on, world.answer(check).cycle) == (Phase.PREPARED, True, "first")
    freeze = world.freeze()
    assert (world.phase, world.machine.cycle) == (Phase.FREEZING_APPS, "first")
    world.ack("db", evidence={"lsn": "7"})
    assert world.phase is Phase.FREEZING_FILESYSTEMS
    world.filesystems_froze()
    assert (world.phase, world.answer(freeze).go_on, world.answer(freeze).cycle) == (Phase.HOLDING, True, "first")
    thaw = world.thaw()
    assert (world.phase, world.story(of_last=True)) == (Phase.THAWING_FILESYSTEMS, ["thaw filesystems"])
    world.filesystems_thawed()
    assert (world.phase, world.story(of_last=True)) == (Phase.THAWING_APPS, ["thaw db"])
    world.confirm("db")
    assert (world.phase, world.machine.cycle) == (Phase.COMPLETED, "")
    answer = world.answer(thaw)
    assert (answer.go_on, answer.reason, answer.verdict) == (True, "", world.verdict)
    assert (world.verdict.level, world.verdict.reasons) == (Level.APPLICATION, ())
    (outcome,) = world.verdict.outcomes
    assert (outcome.outcome, outcome.evidence) == (Outcome.HELD, {"lsn": "7"})


def test_a_check_asks_only_those_who_prepare_and_gives_them_all_its_time() -> None:
    world = World()
    world.register("a", prepares=True)
    world.register("b")
    world.check()
    (asked,) = world.all(AskPrepare)
    assert (asked.app, asked.budget) == (AppId("a"), LIMIT - ANSWER_MARGIN)


def test_a_check_of_nobody_who_prepares_is_answered_at_once() -> None:
    world = World()
    world.register("a")
    assert world.answer(world.check()).go_on
    assert world.phase is Phase.PREPARED


def test_a_freeze_without_a_check_prepares_with_half_of_what_the_freeze_leaves() -> None:
    world = World()
    world.register("a", 10, prepares=True, needs=seconds(3))
    world.register("b", 20, needs=seconds(2))
    world.register("c", 30)
    world.freeze()
    slack = LIMIT - ANSWER_MARGIN - seconds(5) - LEAST_GRANT
    (asked,) = world.all(AskPrepare)
    assert (world.phase, asked.budget) == (Phase.PREPARING, slack / 2)
    world.pass_time(seconds(1))
    world.ready("a")
    assert world.phase is Phase.FREEZING_APPS
    (frozen,) = world.all(AskFreeze)
    assert frozen.budget == seconds(3) + (slack - seconds(1)) / 3


def test_without_time_to_prepare_the_freeze_goes_on_unprepared() -> None:
    world = World()
    world.register("a", prepares=True, needs=LIMIT - ANSWER_MARGIN - LEAST_GRANT)
    world.freeze()
    assert (world.phase, world.story()) == (Phase.FREEZING_APPS, ["freeze a"])


def test_a_freeze_that_is_prepared_at_its_last_instant_still_has_time_for_every_wave() -> None:
    world = World()
    world.register("slow", 10, TOLERATED, prepares=True, needs=seconds(4))
    world.register("b", 20, needs=seconds(4))
    freeze = world.freeze()
    world.pass_time((LIMIT - ANSWER_MARGIN - seconds(8)) / 2)
    assert (world.phase, world.story(of_last=True)) == (Phase.FREEZING_APPS, ["abort slow", "freeze b"])
    world.ack("b")
    world.filesystems_froze()
    assert world.answer(freeze).go_on


def test_a_check_without_a_freeze_is_given_up_after_its_limit() -> None:
    world = World(prepared_limit=seconds(20))
    world.register("a", prepares=True)
    world.check()
    world.ready("a")
    world.pass_time(seconds(20) - MOMENT)
    assert world.phase is Phase.PREPARED
    world.pass_time(MOMENT)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTED, ["abort a"])
    assert world.verdict.reasons == ("no freeze followed the check within 20.0s",)
    assert world.verdict.level is Level.FAILED


def test_a_check_waits_for_the_apps_that_do_not_answer_and_no_longer() -> None:
    world = World()
    world.register("quick", prepares=True)
    world.register("required", prepares=True)
    world.register("also", prepares=True)
    check = world.check()
    world.ready("quick")
    world.pass_time(LIMIT)
    assert (world.phase, world.answer(check).go_on) == (Phase.ABORTED, False)
    # Both were silent, so both have timed out, also when one of them is enough to end the cycle.
    assert world.outcomes() == {
        "quick": Outcome.SKIPPED,
        "required": Outcome.TIMED_OUT,
        "also": Outcome.TIMED_OUT,
    }
    assert sorted(world.let_go()) == ["also", "quick", "required"]


def test_a_tolerated_app_that_does_not_prepare_is_left_out() -> None:
    world = World()
    world.register("a")
    world.register("slow", requirement=TOLERATED, prepares=True)
    check = world.check()
    world.pass_time(LIMIT)
    assert (world.phase, world.answer(check).go_on) == (Phase.PREPARED, True)
    world.hold("a")
    assert "freeze slow" not in world.story()


def test_an_app_refuses_while_preparing() -> None:
    world = World()
    world.register("a", prepares=True)
    check = world.check()
    world.veto("a", "a long statement runs", retryable=True)
    assert (world.phase, world.answer(check).go_on) == (Phase.ABORTED, False)
    assert world.verdict.reasons == ("a (required) refused: a long statement runs",)
    assert world.verdict.outcomes[0].retryable


def test_a_veto_while_preparing_of_the_last_tolerated_app_goes_on_without_it() -> None:
    world = World()
    world.register("a", requirement=TOLERATED, prepares=True)
    world.freeze()
    world.veto("a", "")
    assert (world.phase, world.story(of_last=True)) == (Phase.FREEZING_FILESYSTEMS, ["abort a", "freeze filesystems"])
    world.filesystems_froze()
    world.thaw()
    assert world.finish().reasons == (
        "no app was held: nothing in this machine vouches for the snapshot",
        "a (tolerated) refused: it gave no reason",
    )


# -- the plan


def test_no_apps_at_all_goes_on_and_is_never_application() -> None:
    world = World()
    freeze = world.freeze()
    assert (world.phase, world.story()) == (Phase.FREEZING_FILESYSTEMS, ["freeze filesystems"])
    world.filesystems_froze()
    thaw = world.thaw()
    verdict = world.finish()
    assert (world.answer(freeze).go_on, world.answer(thaw).go_on, verdict.level) == (True, True, Level.FILESYSTEM)


@pytest.mark.parametrize("kind", [RequestKind.CHECK, RequestKind.FREEZE])
def test_an_expected_app_that_is_absent_fails_the_cycle_before_anybody_is_asked(kind: RequestKind) -> None:
    world = World(expected=("db", "queue"))
    world.register("queue", prepares=True)
    request = world.check() if kind is RequestKind.CHECK else world.freeze()
    answer = world.answer(request)
    assert (world.phase, answer.go_on) == (Phase.ABORTED, False)
    assert answer.reason == "db (required) is required and did not take part: the configuration expects it"
    assert world.story() == [f"{kind}: no"]
    assert world.outcomes() == {"queue": Outcome.SKIPPED, "db": Outcome.ABSENT}


def test_any_instance_of_an_expected_name_will_do() -> None:
    world = World(expected=("db",))
    world.register("db")
    world.hold("db")
    world.thaw()
    assert world.finish().level is Level.APPLICATION


def test_an_app_that_needs_more_than_there_is_fails_the_cycle_early() -> None:
    world = World()
    world.register("quick")
    world.register("slow", needs=seconds(20))
    freeze = world.freeze(reserve=seconds(4))
    answer = world.answer(freeze)
    assert not answer.go_on
    assert answer.reason == "slow needs 20.0s to freeze, and freebsd gives 10.9s for all apps together"
    assert world.story() == ["freeze: no"]


@pytest.mark.parametrize("requirement", [TOLERATED, IGNORED])
def test_an_app_that_needs_more_than_there_is_and_is_not_required_is_set_aside(requirement: Requirement) -> None:
    world = World()
    world.register("quick")
    world.register("slow", requirement=requirement, needs=seconds(20))
    freeze = world.hold("quick", reserve=seconds(4))
    assert world.answer(freeze).go_on
    world.thaw()
    verdict = world.finish()
    assert (verdict.level, world.outcomes()) == (
        Level.APPLICATION,
        {"quick": Outcome.HELD, "slow": Outcome.SKIPPED},
    )
    named = "slow (tolerated) was not asked: it needs 20.0s to freeze, and freebsd gives 10.9s for all apps together"
    assert verdict.reasons == ((named,) if requirement is TOLERATED else ())


def test_waves_that_need_more_than_there_is_together_fail_the_cycle_early() -> None:
    world = World()
    world.register("a", 10, needs=seconds(8))
    world.register("b", 20, needs=seconds(8))
    answer = world.answer(world.freeze())
    assert answer.reason == (
        "the apps need more time to freeze, one order after the other, than there is: "
        "freebsd gives 14.9s for all apps together"
    )
    assert world.story() == ["freeze: no"]


def test_two_apps_of_one_wave_share_their_time() -> None:
    world = World()
    world.register("a", needs=seconds(8))
    world.register("b", needs=seconds(8))
    world.freeze()
    assert world.story() == ["freeze a", "freeze b"]


def test_apps_that_wait_for_each_other_fail_the_cycle_early() -> None:
    world = World()
    world.register("a", after=("b",))
    world.register("b", after=("a",))
    world.register("c", after=("a",))
    answer = world.answer(world.freeze())
    assert answer.reason == "the apps a, b wait for each other through `after`"
    assert world.story() == ["freeze: no"]


@pytest.mark.parametrize("limit", [ZERO, ANSWER_MARGIN, seconds(-1), seconds(4) + ANSWER_MARGIN])
@pytest.mark.parametrize("has_app", [True, False])
def test_a_request_without_time_is_refused_and_asks_nobody(limit: timedelta, has_app: bool) -> None:
    world = World()
    if has_app:
        world.register("a")
    freeze = world.freeze(limit=limit, reserve=seconds(4))
    assert world.phase is Phase.ABORTED
    assert [answer.go_on for answer in world.answers(freeze)] == ([False] if limit >= ZERO else [])
    assert not [word for word in world.story() if word.startswith(("freeze a", "freeze f"))]


def test_a_check_without_time_is_refused() -> None:
    world = World()
    assert not world.answer(world.check(limit=ANSWER_MARGIN)).go_on


def test_a_freeze_with_less_time_than_its_check_is_judged_anew() -> None:
    world = World()
    world.register("a", needs=seconds(10))
    world.check()
    freeze = world.freeze(limit=seconds(5))
    answer = world.answer(freeze)
    assert answer.reason == "a needs 10.0s to freeze, and freebsd gives 4.9s for all apps together"
    assert world.phase is Phase.ABORTED


@given(
    limit=st.integers(1, 40_000),
    reserve=st.integers(0, 20_000),
    needs=st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(1, 6_000)), max_size=6),
)
def test_grants_cover_every_need_and_never_exceed_what_the_source_gave(
    limit: int, reserve: int, needs: list[tuple[int, int | None]]
) -> None:
    world = World()
    for number, (order, need) in enumerate(needs):
        world.register(f"a{number}", order, needs=None if need is None else timedelta(milliseconds=need))
    given, kept = timedelta(milliseconds=limit), timedelta(milliseconds=reserve)
    world.freeze(limit=given, reserve=kept)
    asked: dict[AppId, AskFreeze] = {}
    while world.phase is Phase.FREEZING_APPS:
        wave = world.of_last(AskFreeze)
        assert len({ask.budget for ask in wave}) == 1
        asked |= {ask.app: ask for ask in wave}
        world.ack(*(ask.app.name for ask in wave))
    for number, (_, need) in enumerate(needs):
        ask = asked.get(AppId(f"a{number}"))
        assert ask is None or need is None or ask.budget >= timedelta(milliseconds=need)
    by_wave = {ask.app: ask.budget for ask in asked.values()}
    orders = {order: by_wave.get(AppId(f"a{number}"), ZERO) for number, (order, _) in enumerate(needs)}
    assert sum(orders.values(), ZERO) <= max(given - kept, ZERO)
    assert all(ZERO < freeze.budget <= given for freeze in world.all(FreezeFilesystems))


# -- waves


def test_waves_freeze_in_order_and_thaw_in_exact_reverse() -> None:
    world = World()
    world.register("web", 10)
    world.register("queue", 20)
    world.register("db", 30)
    world.register("cache", 20)
    world.register("index", 0, after=("db",))
    world.hold("web", "queue", "cache", "db", "index")
    world.thaw()
    world.finish()
    asked = ["freeze web", "freeze queue", "freeze cache", "freeze db", "freeze index", "freeze filesystems"]
    undone = ["thaw filesystems", "thaw index", "thaw db", "thaw queue", "thaw cache", "thaw web"]
    assert world.story() == [*asked, "freeze: go on", *undone, "thaw: go on"]
    assert [str(outcome.app) for outcome in world.verdict.outcomes] == ["web", "queue", "cache", "db", "index"]


def test_a_wave_is_asked_only_when_the_one_before_is_complete() -> None:
    world = World()
    world.register("a1", 10)
    world.register("a2", 10)
    world.register("b", 20)
    world.freeze()
    assert world.story(of_last=True) == ["freeze a1", "freeze a2"]
    world.ack("a1")
    assert world.story(of_last=True) == []
    world.ack("a2")
    assert world.story(of_last=True) == ["freeze b"]


def test_a_wave_of_nobody_is_passed_over() -> None:
    world = World()
    world.register("a", 10)
    world.register("b", 20, TOLERATED, prepares=True)
    world.register("c", 30)
    world.freeze()
    world.veto("b")
    world.ack("a")
    assert world.story(of_last=True) == ["freeze c"]


def test_both_clocks_are_told() -> None:
    world = World()
    world.register("short", 10, hold=seconds(7))
    world.register("long", 20, hold=timedelta(hours=1))
    world.freeze(hold=HOLD)
    (short,) = world.of_last(AskFreeze)
    assert short.hold_limit == seconds(7)
    world.pass_time(seconds(2))
    world.ack("short")
    (long,) = world.of_last(AskFreeze)
    # From its ack on: what is left of the request, and the whole hold.
    assert long.hold_limit == LIMIT - seconds(2) + HOLD
    assert short.budget + long.budget == LIMIT - ANSWER_MARGIN


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


# -- file systems


def test_the_file_systems_get_all_the_time_that_is_left() -> None:
    world = World()
    world.register("a")
    world.freeze()
    world.pass_time(seconds(4))
    world.ack("a")
    (asked,) = world.all(FreezeFilesystems)
    assert asked.budget == LIMIT - ANSWER_MARGIN - seconds(4)


def test_the_file_systems_fail() -> None:
    world = World()
    world.register("a")
    freeze = world.freeze()
    world.ack("a")
    world.filesystems_failed("/var is busy")
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["thaw filesystems"])
    world.filesystems_thawed()
    assert world.story(of_last=True) == ["abort a"]
    world.confirm("a")
    assert world.answer(freeze).reason == "the file systems could not be frozen: /var is busy"
    assert (world.phase, world.verdict.level) == (Phase.ABORTED, Level.FAILED)


def test_the_freezer_is_silent() -> None:
    world = World()
    world.register("a")
    freeze = world.freeze()
    world.ack("a")
    world.pass_time(LIMIT - ANSWER_MARGIN)
    assert (world.phase, world.story(of_last=True)) == (Phase.ABORTING, ["thaw filesystems", "freeze: no"])
    assert world.answer(freeze).reason == "the file systems were not frozen in the time that was left"
    world.filesystems_froze()
    assert world.refusals() == ["not_now"]
    world.until_rest()
    assert world.let_go() == ["a"]


def test_a_freezer_that_speaks_of_another_cycle_is_refused() -> None:
    world = World()
    world.freeze()
    before = world.photo()
    world.filesystems_froze(cycle="another")
    assert world.refusals() == ["other_cycle"]
    world.filesystems_failed(cycle="another")
    assert world.refusals() == ["other_cycle"]
    assert world.photo() == before


def test_a_freezer_that_says_twice_that_it_is_done_is_refused() -> None:
    world = World()
    world.register("a")
    world.freeze()
    world.ack("a")
    world.leave("a")
    world.filesystems_froze(frozen=True)
    assert world.phase is Phase.FREEZING_FILESYSTEMS
    before = world.photo()
    world.filesystems_froze(frozen=False)
    assert (world.refusals(), world.photo()) == (["ack_twice"], before)


def test_the_answer_waits_for_an_app_that_is_away_and_says_so_when_the_time_is_over() -> None:
    world = World(return_grace=timedelta(minutes=1))
    world.register("a")
    freeze = world.freeze()
    world.ack("a")
    world.leave("a")
    world.filesystems_froze()
    assert (world.phase, world.answers(freeze)) == (Phase.FREEZING_FILESYSTEMS, [])
    world.pass_time(LIMIT)
    assert world.answer(freeze).reason == "the stream of a broke and the time was over before it came back"
    world.register("a", claim=HoldClaim("c1", LIMIT))
    world.finish()
    assert world.outcomes() == {"a": Outcome.HELD}


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
    assert world.finish().reasons == ("b (tolerated) went away before it had answered: it left after the check",)


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


# -- a request while a cycle runs


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


# -- what is announced


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
        EventKind.PREPARE_ASKED,
        EventKind.APP_READY,
        EventKind.FREEZE_ASKED,
        EventKind.APP_FROZE,
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


def test_the_state_of_an_app_is_seen_from_outside() -> None:
    world = World()
    world.register("a", prepares=True)
    world.register("b")
    assert world.state_of("a") is AppState.REGISTERED
    world.freeze()
    assert (world.state_of("a"), world.state_of("b")) == (AppState.PREPARING, AppState.REGISTERED)
    world.ready("a")
    assert world.state_of("a") is AppState.FREEZING
    world.ack("a")
    assert world.machine.app_state(AppId("a")) == (AppState.HELD, world.now)


@pytest.mark.parametrize("kind", [CheckRequested, FreezeRequested])
def test_the_id_of_the_cycle_is_the_one_that_came_with_the_request(
    kind: type[CheckRequested] | type[FreezeRequested],
) -> None:
    world = World()
    world.register("a", prepares=True)
    request = world.request(RequestKind.CHECK if kind is CheckRequested else RequestKind.FREEZE)
    world.feed(kind(request, "named"))
    assert world.machine.cycle == "named"
