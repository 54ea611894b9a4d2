"""What the outcomes mean for the verdict."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.cycle.policy import judge, sentence_of
from appvss.model.app import AppId, Requirement
from appvss.model.grade import Grade
from appvss.model.verdict import APART, AppOutcome, Level, Outcome, Verdict

REQUIRED, TOLERATED, IGNORED = Requirement.REQUIRED, Requirement.TOLERATED, Requirement.IGNORED
HELD = Outcome.HELD


def part(
    name: str, outcome: Outcome, requirement: Requirement = REQUIRED, reason: str = "", grade: Grade | None = None
) -> AppOutcome:
    return AppOutcome(AppId(name), outcome, requirement, 50, reason, grade=grade)


WAL = "it has files in /wal, which is not in the freeze"


def less(requirement: Requirement = REQUIRED, grade: Grade = Grade.FS) -> AppOutcome:
    """`b`, which was held and has files elsewhere."""
    return part("b", HELD, requirement, WAL, grade)


def verdict(
    *parts: AppOutcome,
    go_on: bool = True,
    ended: str = "",
    frozen: bool = False,
    doubt: str = "",
    missing: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Verdict:
    return judge(
        "c",
        parts,
        told_go_on=go_on,
        ended_by=ended,
        filesystems_frozen=frozen,
        filesystems_doubt=doubt,
        filesystems_missing=missing,
        filesystems=(),
        journal_notes=notes,
        hold=timedelta(seconds=1),
    )


@pytest.mark.parametrize(
    ("given", "level"),
    [
        (verdict(part("a", HELD)), Level.APPLICATION),
        (verdict(part("a", HELD), part("b", Outcome.VETOED, TOLERATED)), Level.APPLICATION),
        (verdict(part("a", HELD), part("b", Outcome.VETOED, IGNORED)), Level.APPLICATION),
        (verdict(part("a", HELD, TOLERATED)), Level.APPLICATION),
        (verdict(part("a", HELD), part("b", Outcome.HOLD_LOST), frozen=True), Level.FILESYSTEM),
        (verdict(part("a", HELD), part("b", Outcome.HOLD_LOST)), Level.CRASH),
        (verdict(part("a", HELD), less(), frozen=True), Level.FILESYSTEM),
        (verdict(part("a", HELD), less(grade=Grade.RAW), frozen=True), Level.FILESYSTEM),
        (verdict(part("a", HELD), less(grade=Grade.RAW)), Level.CRASH),
        (verdict(part("a", HELD), less(TOLERATED), frozen=True), Level.APPLICATION),
        (verdict(part("a", HELD), less(IGNORED), frozen=True), Level.APPLICATION),
        (verdict(part("a", HELD), part("b", Outcome.SKIPPED, reason=APART), frozen=True), Level.APPLICATION),
        (verdict(part("b", Outcome.SKIPPED, reason=APART), frozen=True), Level.FILESYSTEM),
        (verdict(), Level.CRASH),
        (verdict(frozen=True), Level.FILESYSTEM),
        (verdict(part("a", Outcome.VETOED, TOLERATED), frozen=True), Level.FILESYSTEM),
        (verdict(part("a", HELD), frozen=True, ended="forced"), Level.CRASH),
        (verdict(part("a", HELD), frozen=True, doubt="thawed early"), Level.CRASH),
        (verdict(part("a", Outcome.HOLD_LOST), frozen=True, doubt="thawed early"), Level.CRASH),
        (verdict(part("a", HELD), frozen=True, missing=("/mnt has no freeze",)), Level.CRASH),
        (verdict(frozen=True, missing=("/mnt has no freeze",)), Level.CRASH),
        (verdict(part("a", HELD), go_on=False), Level.FAILED),
    ],
)
def test_the_level(given: Verdict, level: Level) -> None:
    assert given.level is level


def test_the_reasons_name_the_gravest_first_and_each_once() -> None:
    given = verdict(
        part("t", Outcome.TIMED_OUT, TOLERATED),
        part("a", Outcome.VETOED, reason="busy"),
        part("i", Outcome.VETOED, IGNORED, "no"),
        part("s", Outcome.SKIPPED),
        part("n", Outcome.SKIPPED, reason="it needs more time"),
        go_on=False,
        ended="a (required) refused: busy",
        doubt="the file systems went on",
    )
    assert given.reasons == (
        "a (required) refused: busy",
        "the file systems went on",
        "n (required) was not asked: it needs more time",
        "t (tolerated) did not answer in time",
    )


def test_nobody_is_a_reason_only_when_nothing_graver_says_so() -> None:
    nobody = "no app was held: nothing in this machine vouches for the snapshot"
    assert verdict().reasons == (nobody,)
    assert verdict(part("a", Outcome.VETOED, TOLERATED)).reasons == (nobody, "a (tolerated) refused")
    assert verdict(part("a", Outcome.HOLD_LOST)).reasons == ("a (required) lost its hold",)
    assert verdict(go_on=False, ended="no time").reasons == ("no time",)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not HELD])
def test_every_failure_has_words(outcome: Outcome) -> None:
    plain = sentence_of(part("a", outcome))
    assert plain.startswith("a (required) ")
    assert sentence_of(part("a", outcome, reason="why")) == f"{plain}: why"


PARTS = st.builds(
    part,
    st.sampled_from("abc"),
    st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.SKIPPED]),
    st.sampled_from(Requirement),
    st.sampled_from(["", "why"]),
)


@given(st.lists(PARTS, max_size=5), st.booleans(), st.sampled_from(["", "forced"]), st.sampled_from(["", "early"]))
def test_application_is_said_only_without_a_doubt_and_every_doubt_has_a_reason(
    parts: list[AppOutcome], frozen: bool, ended: str, doubt: str
) -> None:
    given = verdict(*parts, frozen=frozen, ended=ended, doubt=doubt)
    required = [one for one in parts if one.requirement is REQUIRED]
    if given.level is Level.APPLICATION:
        assert all(one.outcome is HELD for one in required)
        assert (ended, doubt) == ("", "")
        assert any(one.outcome is HELD for one in parts)
    else:
        assert given.reasons
    assert (given.outcomes, given.hold) == (tuple(parts), timedelta(seconds=1))


@given(st.lists(PARTS, max_size=4))
def test_one_more_doubt_never_raises_the_level(parts: list[AppOutcome]) -> None:
    worth = [Level.FAILED, Level.CRASH, Level.FILESYSTEM, Level.APPLICATION]
    for frozen, ended, doubt in product([True, False], ["", "forced"], ["", "early"]):
        level = worth.index(verdict(*parts, frozen=frozen).level)
        assert worth.index(verdict(*parts, frozen=frozen, ended=ended, doubt=doubt).level) <= level
        lost = [*parts, part("z", Outcome.HOLD_LOST)]
        assert worth.index(verdict(*lost, frozen=frozen).level) <= level


def test_who_is_worth_less_is_named_unless_ignored() -> None:
    sentence = f"b (required) was held, and its copy is worth less: {WAL}"
    assert verdict(part("a", HELD), less(), frozen=True).reasons == (sentence,)
    assert verdict(part("a", HELD), less(TOLERATED), frozen=True).reasons == (
        sentence.replace("required", "tolerated"),
    )
    assert verdict(part("a", HELD), less(IGNORED), frozen=True).reasons == ()


def test_who_is_not_concerned_is_not_named() -> None:
    far = part("b", Outcome.SKIPPED, reason=APART)
    assert verdict(part("a", HELD), far, frozen=True).reasons == ()
    assert not far.is_failure
