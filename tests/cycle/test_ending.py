"""From the end of the hold to the verdict: thaw, abort, everything undone in reverse, the answers that are owed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from appvss.cycle.effects import AnswerSource, AskAbort, EndCycle, ThawFilesystems
from appvss.cycle.inputs import AppLostHold, AppThawed, CheckRequested, DeadlinePassed, FreezeRequested
from appvss.cycle.releasing import OWED_LIMIT
from appvss.cycle.state import ANSWER_MARGIN, CycleSettings
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.phase import Phase
from appvss.model.request import RequestKind
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import HOLD, LIMIT, MOMENT, World, in_phase, seconds

TOLERATED = Requirement.TOLERATED
PHASES_TO_END = [
    Phase.PREPARING,
    Phase.PREPARED,
    Phase.FREEZING_APPS,
    Phase.FREEZING_FILESYSTEMS,
    Phase.HOLDING,
    Phase.THAWING_FILESYSTEMS,
    Phase.THAWING_APPS,
    Phase.ABORTING,
]
BEFORE_THE_THAW = PHASES_TO_END[:5]


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.REQUESTED])
def test_the_ways_into_the_phases_are_right(phase: Phase) -> None:
    assert in_phase(phase).phase is phase


def held(phase: Phase) -> list[str]:
    """Who was sent a freeze by then, last first."""
    return {Phase.PREPARING: [], Phase.PREPARED: [], Phase.FREEZING_APPS: ["a"]}.get(phase, ["b", "a"])


# -- thaw


@pytest.mark.parametrize("phase", BEFORE_THE_THAW[:4])
def test_the_thaw_comes_before_everything_was_held(phase: Phase) -> None:
    world = in_phase(phase)
    thaw = world.thaw()
    verdict = world.finish()
    assert world.phase is Phase.ABORTED
    # A source that was not told to go on may thaw, and that is no failure. After a check alone it means another freeze,
    # which this broker has not seen.
    is_freeze = phase not in (Phase.PREPARING, Phase.PREPARED)
    assert (world.answer(thaw).go_on, verdict.level) == (is_freeze, Level.FAILED)
    assert verdict.reasons == ("freebsd host asked for the thaw before everything was held",)
    assert world.let_go() == (held(phase) or ["a"])


def test_a_freeze_that_is_given_up_is_answered_with_no() -> None:
    world = World()
    world.register("a")
    freeze = world.freeze()
    thaw = world.thaw()
    world.confirm("a")
    answers = [effect.answer for effect in world.of_last(AnswerSource)]
    assert [(answer.request, answer.go_on) for answer in answers] == [(thaw, True), (freeze, False)]
    assert answers[1].reason == "freebsd host asked for the thaw before everything was held"


@pytest.mark.parametrize("phase", [Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS, Phase.ABORTING])
def test_a_repeated_thaw_gets_the_same_answer_at_the_end(phase: Phase) -> None:
    world = in_phase(phase)
    again = world.thaw()
    assert world.answers(again) == []
    world.finish()
    assert world.answer(again).go_on is (phase is not Phase.ABORTING)
    assert world.answer(again).verdict == world.verdict


def test_too_many_thaws_are_told_no_at_once() -> None:
    world = in_phase(Phase.HOLDING)
    thaws = [world.thaw() for _ in range(OWED_LIMIT + 1)]
    assert [len(world.answers(thaw)) for thaw in thaws] == [0] * OWED_LIMIT + [1]
    assert world.answer(thaws[-1]).reason == "too many thaws wait for the end of this cycle"
    world.finish()
    assert all(world.answer(thaw).go_on for thaw in thaws[:-1])


def test_a_repeated_thaw_in_rest_gets_the_same_answer() -> None:
    world = in_phase(Phase.HOLDING)
    first = world.thaw()
    world.finish()
    second = world.thaw()
    for answer in (world.answer(first), world.answer(second)):
        assert (answer.go_on, answer.cycle, answer.verdict) == (True, "c1", world.verdict)


@pytest.mark.parametrize("when", ["before the check is answered", "after the check", "when the check is too old"])
def test_a_check_does_not_make_good_the_hold_that_was_lost_before_it(when: str) -> None:
    world = World(prepared_limit=seconds(120))
    world.register("a")
    world.hold("a")
    world.until_rest()
    world.confirm("a")
    world.check()
    if when != "before the check is answered":
        world.ready("a")
    if when == "when the check is too old":
        world.pass_time(seconds(120))
    thaw = world.thaw()
    if not world.phase.is_resting:
        world.finish()
    assert world.phase is Phase.ABORTED
    assert (world.answer(thaw).go_on, "hold limit" in world.answer(thaw).reason) == (False, True)
    assert not world.answer(world.thaw()).go_on
    world.hold("a")
    good = world.thaw()
    world.finish()
    assert world.answer(good).go_on
    world.check()
    world.ready("a")
    again = world.thaw()
    world.finish()
    assert world.answer(again).go_on


def test_a_thaw_of_a_freeze_that_was_never_seen_is_a_failure() -> None:
    world = World()
    answer = world.answer(world.thaw())
    assert (answer.go_on, answer.reason, answer.cycle) == (
        False,
        "this broker has not seen the freeze that this thaw ends",
        "",
    )


def test_a_thaw_of_a_freeze_that_was_refused_is_fine() -> None:
    world = World(expected=("db",))
    assert not world.answer(world.freeze()).go_on
    answer = world.answer(world.thaw())
    assert (answer.go_on, answer.reason, answer.cycle) == (True, "", "c1")


@pytest.mark.parametrize("when", ["meanwhile", "after"])
def test_a_thaw_of_a_freeze_that_was_refused_because_another_cycle_ran_is_fine(when: str) -> None:
    world = in_phase(Phase.HOLDING)
    assert not world.answer(world.freeze("local")).go_on
    if when == "after":
        world.thaw()
        world.finish()
    phase = world.phase
    answer = world.answer(world.thaw("local"))
    assert (answer.go_on, answer.cycle, answer.verdict, world.phase) == (True, "", None, phase)


def test_a_check_that_was_refused_is_no_freeze() -> None:
    world = in_phase(Phase.HOLDING)
    world.check("local")
    assert not world.answer(world.thaw("local")).go_on


@pytest.mark.parametrize("phase", PHASES_TO_END)
def test_the_thaw_of_a_foreign_source_thaws_nothing(phase: Phase) -> None:
    world = in_phase(phase)
    before = world.photo()
    answer = world.answer(world.thaw("local"))
    assert (answer.go_on, world.photo(), world.of_last(ThawFilesystems)) == (False, before, [])


def test_a_repeated_thaw_is_answered_as_before_while_another_source_has_a_cycle() -> None:
    world = in_phase(Phase.HOLDING)
    world.thaw()
    world.finish()
    world.freeze("local")
    answer = world.answer(world.thaw("freebsd"))
    assert (answer.go_on, answer.cycle, world.phase) == (True, "c1", Phase.PREPARING)


def test_the_answer_in_rest_names_the_sources_own_cycle() -> None:
    world = World()
    world.hold()
    world.thaw()
    world.finish()
    world.hold(source="local")  # type: ignore[arg-type] # a name, not a length
    world.thaw("local")
    world.finish()
    assert [world.answer(world.thaw(source)).cycle for source in ("freebsd", "local")] == ["c1", "c3"]


def test_a_thaw_whose_time_is_over_thaws_and_gets_no_answer() -> None:
    world = in_phase(Phase.HOLDING)
    thaw = world.thaw(limit=-MOMENT)
    assert world.phase is Phase.THAWING_FILESYSTEMS
    world.pass_time(timedelta(0))
    world.finish()
    assert world.answers(thaw) == []


def test_a_thaw_is_answered_in_time_also_when_apps_are_slow() -> None:
    world = World(thaw_limit=timedelta(minutes=1))
    world.register("a")
    world.hold("a")
    thaw = world.thaw(limit=seconds(3))
    world.filesystems_thawed()
    world.pass_time(seconds(3) - ANSWER_MARGIN - MOMENT)
    assert world.answers(thaw) == []
    world.pass_time(MOMENT)
    answer = world.answer(thaw)
    assert (answer.go_on, answer.reason) == (False, "apps have not confirmed their thaw yet")
    world.confirm("a")
    assert (world.phase, world.verdict.level) == (Phase.COMPLETED, Level.APPLICATION)


def test_the_thaw_while_a_newer_request_waits_takes_that_back() -> None:
    world = in_phase(Phase.HOLDING)
    new = world.freeze(supersedes=True)
    thaw = world.thaw()
    assert world.answer(new).reason == "freebsd host asked for the thaw before it could begin"
    world.finish()
    assert (world.phase, world.answer(thaw).go_on) == (Phase.ABORTED, False)


# -- the file systems


def test_the_apps_wait_for_the_file_systems() -> None:
    world = in_phase(Phase.THAWING_FILESYSTEMS)
    assert world.story(of_last=True) == ["thaw filesystems"]
    world.pass_time(world.settings.thaw_limit - MOMENT)
    assert world.phase is Phase.THAWING_FILESYSTEMS
    world.filesystems_thawed()
    assert world.story(of_last=True) == ["thaw b"]


@pytest.mark.parametrize("unbroken", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_file_systems_that_went_on_early_lower_the_verdict(frozen: bool, unbroken: bool) -> None:
    world = World()
    world.register("a")
    world.hold("a", frozen=frozen)
    thaw = world.thaw()
    world.filesystems_thawed(unbroken, "" if unbroken else "the guardian thawed them")
    verdict = world.finish()
    doubt = "the file systems went on before the thaw: the guardian thawed them"
    if frozen and not unbroken:
        assert (verdict.level, verdict.reasons) == (Level.CRASH, (doubt,))
        assert (world.answer(thaw).go_on, world.answer(thaw).reason) == (False, doubt)
    else:
        assert (verdict.level, verdict.reasons, world.answer(thaw).go_on) == (Level.APPLICATION, (), True)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_freezer_that_does_not_confirm_the_thaw_keeps_nobody_frozen(frozen: bool) -> None:
    world = World()
    world.register("a")
    world.hold("a", frozen=frozen)
    world.thaw()
    world.pass_time(world.settings.thaw_limit)
    assert (world.phase, world.story(of_last=True)) == (Phase.THAWING_APPS, ["thaw a"])
    world.filesystems_thawed()
    assert world.refusals() == ["not_now"]
    world.confirm("a")
    doubts = ("the freezer did not confirm the thaw of the file systems in time",) if frozen else ()
    assert (world.verdict.reasons, world.verdict.level) == (doubts, Level.CRASH if frozen else Level.APPLICATION)


def test_a_freezer_that_does_not_confirm_in_an_abort_keeps_nobody_frozen() -> None:
    world = in_phase(Phase.ABORTING)
    world.pass_time(world.settings.thaw_limit)
    assert world.story(of_last=True) == ["abort b"]
    world.filesystems_thawed()
    assert world.refusals() == ["other_cycle"]
    world.finish()
    assert world.let_go() == ["b", "a"]


def test_a_freezer_that_thaws_for_another_cycle_is_refused() -> None:
    world = in_phase(Phase.THAWING_FILESYSTEMS)
    before = world.photo()
    world.filesystems_thawed(cycle="other")
    assert (world.refusals(), world.photo()) == (["other_cycle"], before)


def test_early_file_systems_without_a_reason_say_so() -> None:
    world = World()
    world.register("a")
    world.hold("a")
    world.thaw()
    world.filesystems_thawed(unbroken=False)
    assert world.finish().reasons == ("the file systems went on before the thaw: no reason given",)


# -- ends that the requester did not ask for


@pytest.mark.parametrize("phase", BEFORE_THE_THAW)
def test_a_forced_thaw_ends_the_cycle(phase: Phase) -> None:
    world = in_phase(phase)
    world.force("maintenance")
    if phase in (Phase.FREEZING_FILESYSTEMS, Phase.HOLDING):
        assert world.story(of_last=True)[0] == "thaw filesystems"
    world.finish()
    assert (world.phase, world.verdict.reasons) == (Phase.ABORTED, ("maintenance",))
    assert world.let_go() == (held(phase) or ["a"])
    assert world.verdict.level is (Level.CRASH if phase is Phase.HOLDING else Level.FAILED)


def test_a_forced_thaw_without_a_reason_is_no_thaw_of_the_requester() -> None:
    world = in_phase(Phase.HOLDING)
    world.force("")
    world.finish()
    assert (world.phase, world.verdict.level) == (Phase.ABORTED, Level.CRASH)
    assert world.verdict.reasons == ("the thaw was forced, without a reason",)
    assert world.story()[-2:] == ["abort b", "abort a"]


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.COMPLETED, *PHASES_TO_END[5:]])
def test_a_forced_thaw_of_what_is_thawed_changes_nothing(phase: Phase) -> None:
    world = in_phase(phase)
    before = world.photo()
    world.force()
    assert (world.photo(), world.last) == (before, [])


@pytest.mark.parametrize("reason", ["the broker stops", ""])
def test_a_forced_thaw_takes_back_the_request_that_waits(reason: str) -> None:
    world = in_phase(Phase.HOLDING)
    new = world.freeze(supersedes=True)
    world.force(reason)
    assert not world.answer(new).go_on
    world.finish()
    assert world.phase is Phase.ABORTED
    assert len(world.all(EndCycle)) == 1


@pytest.mark.parametrize("phase", BEFORE_THE_THAW)
def test_the_source_is_lost(phase: Phase) -> None:
    world = in_phase(phase)
    world.lose_source("local")
    assert world.phase is phase
    answered = len(world.all(AnswerSource))
    world.lose_source("freebsd")
    world.finish()
    assert (world.phase, world.verdict.reasons) == (
        Phase.ABORTED,
        ("freebsd host is gone: the device went away",),
    )
    assert world.let_go() == (held(phase) or ["a"])
    assert len(world.all(AnswerSource)) == answered


@pytest.mark.parametrize("phase", [Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS])
def test_a_source_that_is_lost_in_the_thaw_gets_no_answer(phase: Phase) -> None:
    world = in_phase(phase)
    world.lose_source("local")
    world.lose_source("freebsd")
    assert world.phase is phase
    answered = len(world.all(AnswerSource))
    assert world.finish().level is Level.APPLICATION
    assert len(world.all(AnswerSource)) == answered


def test_a_source_that_is_lost_takes_its_waiting_request_with_it() -> None:
    world = in_phase(Phase.HOLDING)
    new = world.freeze(supersedes=True)
    world.lose_source("local")
    world.lose_source("freebsd")
    world.finish()
    assert (world.phase, world.answers(new)) == (Phase.ABORTED, [])


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.COMPLETED, Phase.ABORTED])
def test_a_source_that_is_lost_in_rest_changes_nothing(phase: Phase) -> None:
    world = in_phase(phase)
    before = world.photo()
    world.lose_source()
    assert (world.photo(), world.last) == (before, [])


# -- what comes after the end


def test_what_apps_say_in_rest_is_only_announced() -> None:
    world = in_phase(Phase.COMPLETED)
    before = world.photo()
    world.feed(AppThawed(AppId("a"), "c1", unbroken=True))
    world.feed(AppLostHold(AppId("a"), "c1", "late news"))
    assert (world.photo(), world.story(of_last=True)) == (before, [])
    assert world.machine.last_outcome(AppId("a")) == world.verdict.outcomes[0]


def test_the_answer_to_an_abort_of_what_was_only_prepared_is_welcome() -> None:
    world = in_phase(Phase.PREPARED)
    world.check(supersedes=True)
    before = world.photo()
    world.feed(AppThawed(AppId("a"), "c1", unbroken=False))
    world.confirm("a")
    assert (world.photo(), world.last) == (before, [])


@pytest.mark.parametrize("kind", [CheckRequested, FreezeRequested])
def test_a_new_cycle_begins_after_any_end(kind: type[CheckRequested] | type[FreezeRequested]) -> None:
    for phase in (Phase.COMPLETED, Phase.ABORTED):
        world = in_phase(phase)
        request = world.request(RequestKind.CHECK if kind is CheckRequested else RequestKind.FREEZE)
        world.feed(kind(request, "next"))
        assert world.machine.cycle == "next"


def test_every_app_is_awaited_for_no_longer_than_the_thaw_limit() -> None:
    world = in_phase(Phase.HOLDING)
    world.force()
    took = world.until_rest()
    assert took == 3 * world.settings.thaw_limit
    assert world.outcomes() == {"a": Outcome.HOLD_LOST, "b": Outcome.HOLD_LOST}
    assert world.let_go() == ["b", "a"]


def test_a_late_timer_thaws_everything_at_once() -> None:
    world = in_phase(Phase.HOLDING)
    world.jump(timedelta(hours=1))
    world.feed(DeadlinePassed())
    # The file systems first; the apps' own limits have long passed.
    assert set(world.story(of_last=True)) == {"thaw filesystems", "abort a", "abort b"}
    world.until_rest()
    assert set(world.outcomes().values()) == {Outcome.HOLD_LOST}


def test_the_record_of_a_cycle() -> None:
    world = World()
    world.register("a")
    world.hold("a")
    began = world.now
    world.pass_time(seconds(2))
    world.thaw()
    world.pass_time(seconds(1))
    world.finish()
    (effect,) = world.all(EndCycle)
    record = effect.record
    assert (record.cycle, record.source, record.requester) == ("c1", "freebsd", "freebsd host")
    assert (record.began, record.took, record.phase) == (began, seconds(3), Phase.COMPLETED)
    assert record.verdict.hold == seconds(2)
    assert record.verdict.outcomes[0].hold == seconds(3)


def test_there_is_no_hold_in_the_verdict_of_a_refused_freeze() -> None:
    world = in_phase(Phase.FREEZING_APPS)
    world.ack("a")
    world.veto("b")
    world.finish()
    assert world.verdict.hold is None


def test_settings_that_are_replaced_count_from_the_next_decision_on() -> None:
    world = in_phase(Phase.HOLDING)
    world.machine.replace_settings(CycleSettings(thaw_limit=seconds(1), return_grace=seconds(1)))
    world.leave("a")
    world.pass_time(seconds(1))
    assert world.phase is Phase.ABORTING
    assert world.until_rest() == seconds(2)


def test_a_returning_app_of_the_last_cycle_is_let_go_while_the_next_one_runs() -> None:
    world = in_phase(Phase.HOLDING)
    world.leave("b")
    world.force()
    world.until_rest()
    world.freeze()
    world.register("b", 20, claim=HoldClaim("c1", HOLD + LIMIT))
    (abort,) = world.of_last(AskAbort)
    assert (abort.app, abort.cycle) == (AppId("b"), "c1")
