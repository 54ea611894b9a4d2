"""What ends the hold that a new broker has found, and what it finds besides a hold."""

from __future__ import annotations

import pytest

from appvss.cycle.effects import (
    AskFreeze,
    AskThaw,
    ThawFilesystems,
    WriteJournal,
)
from appvss.cycle.inputs import CycleAdopted
from appvss.model.app import Requirement
from appvss.model.journal import JournalEntry, Stage
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.request import RequestKind
from appvss.model.verdict import Level, Outcome
from tests.cycle.restarted import GONE, GRACE, adopted, come_back, finish, held
from tests.cycle.support import HOLD, REHEARSAL, SECOND, World, in_phase

TOLERATED = Requirement.TOLERATED


# -- what ends an adopted hold


def test_the_hold_limit_counts_from_the_entry() -> None:
    world = adopted()
    come_back(world, "a", "b")
    assert world.machine.hold_ends == world.now - GONE + HOLD
    world.pass_time(HOLD - GONE)
    assert (world.phase, world.finish().level) == (Phase.ABORTING, Level.CRASH)
    assert world.verdict.reasons == ("the hold limit of 30.0s passed before the thaw came",)


def test_the_limit_passed_before_the_new_broker_was_there() -> None:
    world, entry = held()
    world.restart(entry, HOLD)
    assert world.phase is Phase.ABORTING
    come_back(world, "a", held=HOLD)
    world.filesystems_thawed()
    assert world.let_go() == []
    come_back(world, "b", held=HOLD)
    assert world.finish().reasons[0] == (
        "the broker was restarted in the hold, and the hold limit passed before it was there again"
    )
    assert world.let_go() == ["b", "a"]


@pytest.mark.parametrize("how", ["lost", "forced", "new freeze", "new check"])
def test_the_hold_is_ended(how: str) -> None:
    world = adopted()
    come_back(world, "a")
    match how:
        case "lost":
            world.lose_source()
        case "forced":
            world.force()
        case "new freeze":
            world.freeze(supersedes=True)
        case _:
            world.check(supersedes=True)
    assert world.phase is Phase.ABORTING
    come_back(world, "b")
    world.filesystems_thawed()
    world.confirm("b", "a")
    assert (world.let_go(), world.verdict.level) == (["b", "a"], Level.CRASH)
    assert world.phase.is_resting is not how.startswith("new")


def test_the_kernel_asks_again_for_the_freeze_that_was_never_answered() -> None:
    """Vector 41: the request is still there for whoever opens the device next."""
    world = adopted()
    freeze = world.freeze(supersedes=True)
    come_back(world, "a", "b")
    world.filesystems_thawed()
    world.confirm("b", "a")
    world.ack("a", "b")
    world.filesystems_froze(frozen=False)
    assert (world.phase, world.answer(freeze).go_on, world.machine.cycle) == (Phase.HOLDING, True, f"c{freeze.id}")
    assert finish(world)[1].level is Level.APPLICATION


def test_another_requester_is_refused_waits_or_joins() -> None:
    world = adopted()
    refused = world.freeze("local")
    assert not world.answer(refused).go_on
    waiting = world.freeze("local", overlap=Overlap.JOIN)
    assert world.answers(waiting) == []  # as long as apps are away, nothing can be promised
    come_back(world, "a", "b")
    joined = world.freeze("other", overlap=Overlap.JOIN)
    assert (world.answer(joined).go_on, world.answer(joined).hold_limit) == (True, HOLD - GONE)
    world.thaw()
    assert world.phase is Phase.HOLDING
    world.thaw("other")
    world.filesystems_thawed()
    world.confirm("b", "a")
    assert world.verdict.level is Level.APPLICATION
    assert world.machine.cycle == f"c{waiting.id}"


# -- nobody can ask for the thaw any more


@pytest.mark.parametrize("source", ["local", REHEARSAL])
def test_a_hold_of_somebody_whose_call_has_died_is_let_go(source: str) -> None:
    world, entry = held()
    entry = JournalEntry(
        entry.cycle,
        source,
        f"{source} host",
        entry.stage,
        entry.began,
        entry.written,
        entry.apps,
        entry.waves,
        entry.answer_by,
        entry.hold_limit,
        rehearses=source == REHEARSAL,
    )
    world.sent.clear()
    world.restart(entry, GONE)
    assert (world.phase, bool(world.all(ThawFilesystems))) == (Phase.ABORTING, source == "local")
    if source == "local":
        world.filesystems_thawed()
    come_back(world, "b", "a")
    assert world.let_go() == ["b"]
    verdict = world.finish()
    assert (world.let_go(), verdict.level) == (["b", "a"], Level.CRASH)
    assert verdict.reasons == (
        f"the broker was restarted in the hold, and {source} host cannot ask for the thaw any more",
    )


def test_without_apps_there_is_nothing_to_wait_for() -> None:
    world = World(adoptable=frozenset())
    world.hold()
    world.restart(world.entry())
    world.filesystems_thawed()
    assert (world.phase, world.verdict.level) == (Phase.ABORTED, Level.CRASH)


# -- before the hold


def _freezing() -> World:
    """Killed while `b` was being frozen."""
    world = World(return_grace=GRACE)
    world.register("a", 10, incarnation="one")
    world.register("b", 20, TOLERATED, incarnation="two")
    world.freeze()
    world.ack("a")
    entry = world.entry(Stage.FREEZING)
    world.sent.clear()
    world.restart(entry, GONE)
    return world


def test_a_freeze_that_was_under_way_has_failed() -> None:
    world = _freezing()
    assert (world.phase, world.story()) == (Phase.ABORTING, ["thaw filesystems"])
    world.filesystems_thawed()
    verdict = world.verdict
    assert (world.phase, verdict.level) == (Phase.ABORTED, Level.FAILED)
    assert verdict.reasons == (
        "the broker was restarted before it had noted that all apps were held",
        "a (required) went away before it had answered: the broker was restarted before it had answered",
        "b (tolerated) went away before it had answered: the broker was restarted before it had answered",
    )


@pytest.mark.parametrize("is_late", [True, False])
def test_what_holds_for_a_freeze_that_has_failed_is_let_go_once(is_late: bool) -> None:
    world = _freezing()
    if is_late:
        world.filesystems_thawed()
    come_back(world, "a", "b")
    assert (world.let_go(), world.all(AskThaw)) == (["a", "b"], [])
    if not is_late:
        world.filesystems_thawed()
    world.confirm("a", "b")
    come_back(world, "a", cycle="c0")
    assert world.let_go() == ["a", "b", "a"]


def test_nobody_vouches_for_a_freeze_of_which_the_end_is_not_known() -> None:
    """The entry may be older than the truth: the last one could not be written, and the requester was told "go on"."""
    world = _freezing()
    world.filesystems_thawed()
    thaw = world.thaw()
    assert (world.answer(thaw).go_on, world.answer(thaw).cycle) == (False, "c1")


def test_the_next_cycle_is_like_any_other() -> None:
    world = _freezing()
    world.filesystems_thawed()
    come_back(world, "a")
    freeze = world.freeze()
    assert [effect.cycle for effect in world.of_last(AskFreeze)] == [f"c{freeze.id}"]
    world.ack("a")
    world.filesystems_froze()
    assert finish(world)[1].level is Level.APPLICATION


# -- when the hold was being undone


@pytest.mark.parametrize("how", ["forced", "late", "limit"])
def test_a_hold_that_was_given_up_is_not_taken_up_as_good(how: str) -> None:
    world, _ = held()
    match how:
        case "forced":
            world.force()
        case "late":
            world.register("late")
        case _:
            world.pass_time(HOLD)
    assert world.phase is Phase.ABORTING
    world.restart(world.entry(Stage.ENDING), SECOND)
    come_back(world, "a", "b", held=world.now - world.entry(Stage.ENDING).written + HOLD)
    thaw = world.thaw()
    verdict = world.finish()
    assert (world.let_go(), verdict.level) == (["b", "a"], Level.CRASH)
    assert verdict.reasons[0] == "the broker was restarted while the hold was being undone"
    assert not world.answer(thaw).go_on


def test_a_hold_that_the_second_broker_gave_up_is_not_taken_up_by_the_third() -> None:
    world = adopted()
    world.force()
    entry = world.entry(Stage.ENDING)
    assert (entry.cycle, entry.source, entry.hold_limit) == ("c1", "freebsd", HOLD)
    world.restart(entry, SECOND)
    assert world.phase is Phase.ABORTING
    assert len(world.all(WriteJournal)) == 1  # it is on disk already


# -- file systems that the former broker may have frozen


@pytest.mark.parametrize("unbroken", [True, False])
def test_the_freezer_tells_whether_they_stayed_frozen(unbroken: bool) -> None:
    world = adopted()
    come_back(world, "a", "b")
    thaw = world.thaw()
    world.filesystems_thawed(unbroken=unbroken, reason="" if unbroken else "the guardian has thawed them")
    verdict = world.finish()
    assert world.answer(thaw).go_on is unbroken
    doubt = "the file systems went on before the thaw: the guardian has thawed them"
    assert (verdict.level, verdict.reasons) == ((Level.APPLICATION, ()) if unbroken else (Level.CRASH, (doubt,)))


def test_a_freezer_that_says_nothing_is_a_doubt() -> None:
    world = adopted()
    come_back(world, "a", "b")
    world.thaw()
    world.pass_time(world.settings.thaw_limit)
    world.confirm("b", "a")
    assert world.verdict.reasons == ("the freezer did not confirm the thaw of the file systems in time",)


# -- killed again and again


def test_a_third_broker_takes_it_up_as_well() -> None:
    world, entry = held()
    for _ in range(2):
        world.restart(entry, SECOND)
        come_back(world, "a", "b", held=world.now - entry.written)
    assert finish(world)[1].level is Level.APPLICATION


def test_an_app_that_the_second_broker_had_thawed_proves_nothing_to_the_third() -> None:
    world, entry = held()
    world.restart(entry, SECOND)
    come_back(world, "a", "b")
    world.thaw()
    world.filesystems_thawed()
    world.confirm("b")
    world.restart(entry, SECOND)
    come_back(world, "a")
    world.register("b", incarnation="two")
    assert (world.phase, world.finish().level) == (Phase.ABORTING, Level.CRASH)
    assert world.outcomes()["b"] is Outcome.HOLD_LOST


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.IDLE])
def test_only_a_broker_that_has_just_started_adopts(phase: Phase) -> None:
    entry = held()[1]
    world = in_phase(phase)
    before = world.photo()
    world.feed(CycleAdopted(entry))
    assert (world.refusals(), world.photo()) == (["not_now"], before)


def test_a_thaw_of_another_source_is_not_answered_for_the_adopted_hold() -> None:
    world = adopted()
    thaw = world.thaw("local")
    assert (world.phase, world.answer(thaw).go_on) == (Phase.HOLDING, False)
    assert world.answer(thaw).request.kind is RequestKind.THAW
