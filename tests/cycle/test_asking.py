"""From a request to the hold: check, plan, waves, file systems, what is announced."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.cycle.effects import AskFreeze, AskPrepare, FreezeFilesystems
from appvss.cycle.inputs import CheckRequested, FreezeRequested
from appvss.cycle.state import ANSWER_MARGIN, AppState
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.budget import LEAST_GRANT
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import HOLD, LIMIT, MOMENT, World, seconds

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
    assert answer.reason == "db (required) should have taken part and was not there: the configuration expects it"
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


# -- what is announced


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
