"""The journal before the first freeze, the certificate after the last ack; and a disk that is slow, full or lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from appvss.cycle.effects import Announce, EndCycle, ThawFilesystems, WriteJournal
from appvss.cycle.inputs import JournalFailed, JournalWritten
from appvss.cycle.journaling import JOURNAL_LIMIT
from appvss.cycle.state import ANSWER_MARGIN, AppState
from appvss.model.app import AppId, HoldClaim, Requirement
from appvss.model.event import EventKind
from appvss.model.journal import Stage
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Outcome
from tests.cycle.support import BEGINNING, HOLD, LIMIT, MOMENT, REHEARSAL, SECOND, World, in_phase, seconds

TOLERATED = Requirement.TOLERATED
FREEZING, HELD = Stage.FREEZING, Stage.HELD


def _requested(**settings: object) -> World:
    """`a` freezes before `b`; the journal is being written."""
    world = World(disk=False, **settings)
    world.register("a", 10)
    world.register("b", 20, TOLERATED)
    world.freeze()
    assert world.phase is Phase.REQUESTED
    return world


def _certifying(**settings: object) -> World:
    """All are held; the certificate is being written."""
    world = _requested(**settings)
    world.journal_written(FREEZING)
    world.ack("a", "b")
    assert world.phase is Phase.CERTIFYING
    return world


# -- what is written, and when


def test_nothing_is_asked_of_anybody_before_the_journal_is_written() -> None:
    world = _requested()
    assert world.story() == []
    world.journal_written(FREEZING)
    assert (world.phase, world.story()) == (Phase.FREEZING_APPS, ["freeze a"])


def test_the_first_entry_names_all_that_are_registered() -> None:
    world = _requested()
    (write,) = world.of_last(WriteJournal)
    entry = write.entry
    assert (entry.cycle, entry.source, entry.requester, entry.stage) == ("c1", "freebsd", "freebsd host", FREEZING)
    assert (entry.began, entry.written, entry.waves) == (BEGINNING, BEGINNING, ())
    assert (entry.answer_by, entry.hold_limit, entry.rehearses) == (BEGINNING + LIMIT, HOLD, False)
    assert [(str(app.registration.app), app.asked_at, app.acked_at, app.outcome) for app in entry.apps] == [
        ("a", None, None, None),
        ("b", None, None, None),
    ]
    assert write.limit == JOURNAL_LIMIT


def test_the_second_entry_has_what_another_broker_needs_to_go_on() -> None:
    world = World()
    world.register("late", 10)
    world.register("db", 20, hold=seconds(20), incarnation="one")
    world.register("bad", 20, TOLERATED)
    world.freeze()
    world.pass_time(SECOND)
    world.ack("late")
    world.pass_time(SECOND)
    world.ack("db", evidence={"lsn": "0/1"})
    world.veto("bad", "busy", retryable=True)
    entry = world.entry()
    assert (entry.stage, entry.written) == (HELD, BEGINNING + 2 * SECOND)
    assert entry.waves == ((AppId("late"),), (AppId("db"), AppId("bad")))
    late, db, bad = entry.apps
    assert (late.asked_at, late.acked_at, late.outcome) == (BEGINNING, BEGINNING + SECOND, None)
    assert (db.registration.incarnation, db.hold_limit, db.evidence) == ("one", seconds(20), {"lsn": "0/1"})
    assert (bad.acked_at, bad.outcome, bad.reason, bad.retryable) == (None, Outcome.VETOED, "busy", True)


def test_no_entry_carries_a_claim() -> None:
    world = World()
    world.register("a", claim=HoldClaim("before", SECOND))
    world.freeze()
    assert [app.registration.claim for app in world.entry(FREEZING).apps] == [None]


def test_the_file_systems_are_frozen_only_when_the_certificate_is_written() -> None:
    world = _certifying()
    assert [write.entry.stage for write in world.all(WriteJournal)] == [FREEZING, HELD]
    assert "freeze filesystems" not in world.story()
    world.pass_time(SECOND / 2)
    world.journal_written(HELD)
    assert (world.phase, world.story(of_last=True)) == (Phase.FREEZING_FILESYSTEMS, ["freeze filesystems"])
    world.filesystems_froze()
    world.thaw()
    assert (world.finish().level, world.verdict.reasons) == (Level.APPLICATION, ())


def test_a_check_writes_nothing_and_its_freeze_does() -> None:
    world = World(disk=False)
    world.register("a", prepares=True)
    world.check()
    world.ready("a")
    assert (world.phase, world.all(WriteJournal)) == (Phase.PREPARED, [])
    world.freeze()
    assert (world.phase, world.entry(FREEZING).cycle) == (Phase.REQUESTED, "c1")
    world.journal_written(FREEZING)
    # What was prepared serves the freeze.
    assert world.story() == ["prepare a", "check: go on", "freeze a"]


def test_a_rehearsal_writes_no_certificate_and_freezes_no_file_system() -> None:
    world = World()
    world.register("a")
    rehearsal = world.freeze(REHEARSAL)
    assert world.entry(FREEZING).rehearses
    world.ack("a")
    assert (world.phase, world.answer(rehearsal).go_on) == (Phase.HOLDING, True)
    thaw = world.thaw(REHEARSAL)
    assert world.phase is Phase.THAWING_APPS
    assert (world.finish().level, world.answer(thaw).go_on) == (Level.APPLICATION, True)
    assert "filesystems" not in " ".join(world.story())
    assert [effect.entry.stage for effect in world.all(WriteJournal)] == [FREEZING]
    assert world.all(EndCycle)[-1].record.rehearses


def test_a_rehearsal_with_nobody_ends_in_one_step() -> None:
    world = World()
    rehearsal = world.freeze(REHEARSAL)
    assert (world.phase, world.answer(rehearsal).go_on) == (Phase.HOLDING, True)
    thaw = world.thaw(REHEARSAL)
    assert (world.phase, world.verdict.level, world.answer(thaw).go_on) == (Phase.COMPLETED, Level.CRASH, True)


def test_a_rehearsal_whose_timer_is_late_holds_nobody() -> None:
    world = World()
    world.register("a", requirement=TOLERATED)
    world.register("b", requirement=TOLERATED)
    rehearsal = world.freeze(REHEARSAL)
    world.ack("a")
    world.jump(LIMIT - ANSWER_MARGIN / 2)
    world.confirm("b")
    assert (world.phase, world.finish().level) == (Phase.ABORTING, Level.FAILED)
    assert "the time was over when all apps were held" in world.verdict.reasons
    assert [answer.go_on for answer in world.answers(rehearsal)] == [False]


# -- a disk that does not answer well


@pytest.mark.parametrize(
    ("start", "stage", "what"), [(_requested, FREEZING, "the journal"), (_certifying, HELD, "the certificate")]
)
@pytest.mark.parametrize("is_late", [True, False])
def test_without_the_disk_the_cycle_goes_on_and_the_verdict_names_it(
    start: Callable[..., World], stage: Stage, what: str, is_late: bool
) -> None:
    world = start()
    if is_late:
        world.pass_time(JOURNAL_LIMIT)
        reason = "the disk did not answer in 1.0s"
    else:
        world.journal_failed(stage, "no space is left on /var/lib/appvss")
        reason = "no space is left on /var/lib/appvss"
    world.disk = True
    world.ack("a", "b")
    world.filesystems_froze()
    world.thaw()
    verdict = world.finish()
    assert (verdict.level, verdict.reasons) == (Level.APPLICATION, (f"{what} could not be written: {reason}",))
    kinds = [effect.event.kind for effect in world.all(Announce)]
    assert kinds.count(EventKind.JOURNAL_FAILED) == 1
    written = EventKind.CERTIFICATE_WRITTEN if stage is FREEZING else EventKind.JOURNAL_WRITTEN
    assert kinds.count(written) == 1


@pytest.mark.parametrize(
    ("start", "stage", "what"), [(_requested, FREEZING, "the journal"), (_certifying, HELD, "the certificate")]
)
@pytest.mark.parametrize("is_late", [True, False])
def test_a_disk_that_is_required_fails_the_cycle(
    start: Callable[..., World], stage: Stage, what: str, is_late: bool
) -> None:
    world = start(is_journal_required=True)
    if is_late:
        world.pass_time(JOURNAL_LIMIT)
    else:
        world.journal_failed(stage)
    verdict = world.finish()
    assert verdict.level is Level.FAILED
    assert verdict.reasons[0].startswith(f"{what} could not be written: ")
    assert "freeze filesystems" not in world.story()
    assert world.let_go() == ([] if stage is FREEZING else ["b", "a"])
    assert [word for word in world.story() if word.startswith("freeze:")] == ["freeze: no"]


def test_the_disk_gets_no_more_than_the_time_of_the_request() -> None:
    world = World(disk=False)
    world.register("a")
    freeze = world.freeze(limit=SECOND / 2)
    (write,) = world.of_last(WriteJournal)
    assert write.limit == SECOND / 2 - ANSWER_MARGIN
    world.until_rest()
    assert (world.answer(freeze).go_on, world.story()) == (False, ["freeze: no"])
    assert world.verdict.reasons[0].startswith("freebsd gives no time for the apps")


def test_what_the_journal_took_is_not_given_to_prepare() -> None:
    world = World(disk=False)
    world.register("a", prepares=True)
    freeze = world.freeze(limit=SECOND / 2 + ANSWER_MARGIN)
    world.pass_time(SECOND / 2 - SECOND / 20)
    world.journal_written(FREEZING)
    # There is not even the least grant left.
    assert (world.phase, world.answer(freeze).go_on) == (Phase.ABORTED, False)


def test_a_freeze_after_a_check_that_has_no_time_writes_nothing() -> None:
    world = in_phase(Phase.PREPARED)
    freeze = world.freeze(limit=ANSWER_MARGIN)
    assert (world.phase, world.all(WriteJournal)) == (Phase.ABORTED, [])
    assert world.let_go() == ["a"]  # it may drop what it prepared
    assert not world.answer(freeze).go_on


@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.CERTIFYING])
def test_the_journal_answers_once_and_for_its_own_cycle_and_stage(phase: Phase) -> None:
    world = in_phase(phase)
    before = world.photo()
    other = HELD if phase is Phase.REQUESTED else FREEZING
    for wrong in (lambda: world.journal_written(other), lambda: world.journal_failed(other)):
        wrong()
        assert (world.refusals(), world.photo()) == (["other_cycle"], before)
    if phase is Phase.CERTIFYING:
        world.leave("a")
        world.journal_written(HELD)
        assert (world.phase, world.refusals()) == (Phase.CERTIFYING, [])
        world.journal_written(HELD)
        assert world.refusals() == ["other_cycle"]


def test_the_late_answer_for_a_cycle_that_is_over_changes_nothing() -> None:
    world = _requested()
    world.force()
    world.journal_written(FREEZING)
    assert (world.phase, world.last) == (Phase.ABORTED, [])
    world.journal_failed(FREEZING)
    (event,) = [effect.event for effect in world.of_last(Announce)]
    assert (event.kind, event.detail) == (EventKind.JOURNAL_FAILED, "freezing of cycle : no space is left")
    world.freeze()
    world.feed(JournalWritten("c1", FREEZING))
    assert (world.phase, world.refusals()) == (Phase.REQUESTED, ["other_cycle"])


# -- apps, while the disk is awaited


def test_an_app_leaves_and_comes_back_while_the_journal_is_written() -> None:
    world = _requested()
    world.leave("a")
    assert (world.phase, world.state_of("a")) == (Phase.REQUESTED, AppState.REGISTERED)
    world.register("a", 10)
    world.journal_written(FREEZING)
    assert world.story() == ["freeze a"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_app_that_leaves_while_the_journal_is_written_is_missed(name: str) -> None:
    world = _requested()
    world.leave(name, died=True)
    world.journal_written(FREEZING)
    if name == "b":
        assert world.story() == ["freeze a"]
        world.disk = True
        world.ack("a")
        world.filesystems_froze()
        world.thaw()
        world.finish()
    reason = "went away before it had answered: it left before the freeze"
    assert f"{name} ({'required' if name == 'a' else 'tolerated'}) {reason}" in world.verdict.reasons
    assert world.outcomes()[name] is Outcome.DISCONNECTED


def test_an_app_that_registers_while_the_journal_is_written_takes_part() -> None:
    world = _requested()
    world.register("c", 5, prepares=True)
    world.journal_written(FREEZING)
    assert (world.phase, world.story()) == (Phase.PREPARING, ["prepare c"])
    world.ready("c")
    assert world.story() == ["prepare c", "freeze c"]


def test_nothing_is_held_while_the_journal_is_written() -> None:
    world = _requested()
    for say in (lambda: world.lose_hold("a"), lambda: world.veto("a")):
        say()
        assert (world.phase, world.refusals()) == (Phase.REQUESTED, ["not_now"])
    world.ack("a")
    assert world.refusals() == ["ack_before_asked"]
    assert world.let_go() == ["a"]


def test_an_app_is_away_while_the_certificate_is_written_and_comes_back() -> None:
    world = _certifying()
    world.leave("a")
    world.journal_written(HELD)
    assert (world.phase, world.story(of_last=True)) == (Phase.CERTIFYING, [])
    world.pass_time(SECOND)
    world.register("a", 10, claim=HoldClaim("c1", SECOND))
    assert (world.phase, world.story(of_last=True)) == (Phase.FREEZING_FILESYSTEMS, ["freeze filesystems"])


def test_an_app_that_is_away_longer_than_the_disk_is_waited_for_alone() -> None:
    world = _certifying(return_grace=seconds(60))
    world.leave("a")
    world.pass_time(JOURNAL_LIMIT)
    assert world.phase is Phase.CERTIFYING
    world.pass_time(LIMIT - ANSWER_MARGIN - JOURNAL_LIMIT)
    assert world.phase is Phase.ABORTING
    world.until_rest()
    assert "the stream of a broke and the time was over before it came back" in world.verdict.reasons


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("how", ["lost", "died", "thawed"])
def test_a_hold_ends_while_the_certificate_is_written(name: str, how: str) -> None:
    world = _certifying()
    if how == "lost":
        world.lose_hold(name)
    elif how == "died":
        world.leave(name, died=True)
    else:
        world.confirm(name)
    if name == "b":
        assert world.phase is Phase.CERTIFYING
        world.journal_written(HELD)
        world.filesystems_froze()
        world.thaw()
    assert world.finish().level is (Level.FAILED if name == "a" else Level.APPLICATION)
    assert world.outcomes()[name] is Outcome.HOLD_LOST


def test_a_hold_limit_passes_while_the_certificate_is_written() -> None:
    world = World(disk=False)
    world.register("a", hold=JOURNAL_LIMIT - MOMENT)
    world.freeze()
    world.journal_written(FREEZING)
    world.ack("a")
    assert world.phase is Phase.CERTIFYING
    world.pass_time(JOURNAL_LIMIT)
    assert (world.phase, world.finish().level) == (Phase.ABORTED, Level.FAILED)
    assert world.outcomes() == {"a": Outcome.HOLD_LOST}


def test_the_thaw_comes_while_the_certificate_is_written() -> None:
    world = _certifying()
    thaw = world.thaw()
    assert world.phase is Phase.ABORTING
    world.journal_written(HELD)
    assert world.last == []
    world.finish()
    assert world.answer(thaw).go_on  # nothing was promised


def test_no_time_is_left_when_the_certificate_is_written() -> None:
    world = _requested()
    world.journal_written(FREEZING)
    world.pass_time(LIMIT / 2)
    world.ack("a")
    world.jump(LIMIT / 2 - ANSWER_MARGIN)
    world.ack("b")
    world.until_rest()
    assert world.verdict.level is Level.FAILED
    assert "freeze filesystems" not in world.story()


def test_a_grant_is_never_more_than_what_the_disk_has_left() -> None:
    world = _requested()
    world.pass_time(JOURNAL_LIMIT - MOMENT)
    world.journal_written(FREEZING)
    spent = JOURNAL_LIMIT - MOMENT
    assert sum(world.machine._state.running.grants, timedelta(0)) <= LIMIT - ANSWER_MARGIN - spent


# -- a hold that is given up


def test_it_is_noted_that_a_hold_is_given_up_after_everything_was_told_to_let_go() -> None:
    world = in_phase(Phase.HOLDING)
    world.disk = False
    world.force()
    (write,) = world.of_last(WriteJournal)
    assert [type(effect) for effect in world.last if not isinstance(effect, Announce)] == [
        ThawFilesystems,
        WriteJournal,
    ]
    assert (write.entry.cycle, write.entry.stage, write.limit) == ("c1", Stage.ENDING, JOURNAL_LIMIT)
    assert write.entry.waves == ((AppId("a"),), (AppId("b"),))
    world.filesystems_thawed()
    world.confirm("b", "a")  # nobody waits for the disk
    assert world.phase is Phase.ABORTED
    assert [effect.entry.stage for effect in world.all(WriteJournal)] == [FREEZING, HELD, Stage.ENDING]


@pytest.mark.parametrize("phase", [Phase.REQUESTED, Phase.FREEZING_APPS])
def test_what_was_never_held_is_not_noted(phase: Phase) -> None:
    world = in_phase(phase)
    world.force()
    assert [effect.entry.stage for effect in world.all(WriteJournal)] == [FREEZING]


def test_a_thaw_that_was_asked_for_is_not_noted() -> None:
    """Whoever takes the hold up before its apps are thawed can still prove it."""
    world = in_phase(Phase.HOLDING)
    world.thaw()
    world.finish()
    assert [effect.entry.stage for effect in world.all(WriteJournal)] == [FREEZING, HELD]


@pytest.mark.parametrize("fails", [True, False])
def test_the_answer_about_a_hold_that_was_given_up_may_come_in_the_next_cycle(fails: bool) -> None:
    world = World(disk=False)
    world.register("a", requirement=TOLERATED)
    world.freeze()
    world.journal_written(FREEZING)
    world.ack("a")
    world.freeze(supersedes=True)
    world.confirm("a")
    assert (world.phase, world.machine.cycle) == (Phase.REQUESTED, "c2")
    answer = JournalFailed("c1", Stage.ENDING, "full") if fails else JournalWritten("c1", Stage.ENDING)
    world.feed(answer)
    assert (world.phase, world.refusals(), len(world.last)) == (Phase.REQUESTED, [], int(fails))
