"""How a cycle ended, for each app."""

from __future__ import annotations

import pytest

from appvss.model.app import AppId, Requirement
from appvss.model.grade import Grade
from appvss.model.verdict import APART, AppOutcome, Outcome


@pytest.mark.parametrize("outcome", list(Outcome))
def test_everything_but_held_counts_against_the_app(outcome: Outcome) -> None:
    part = AppOutcome(AppId("a"), outcome, Requirement.REQUIRED, 50)
    assert part.is_failure is (outcome is not Outcome.HELD)


def test_no_two_outcomes_share_their_evidence() -> None:
    one, other = (AppOutcome(AppId(name), Outcome.HELD, Requirement.REQUIRED, 50) for name in "ab")
    assert one.evidence == {}
    assert one.evidence is not other.evidence


def outcome_with(outcome: Outcome, reason: str = "", grade: Grade | None = None) -> AppOutcome:
    return AppOutcome(AppId("a"), outcome, Requirement.REQUIRED, 50, reason, grade=grade)


@pytest.mark.parametrize(
    ("outcome", "is_failure"),
    [
        (outcome_with(Outcome.HELD), False),
        (outcome_with(Outcome.HELD, APART), False),
        (outcome_with(Outcome.SKIPPED, APART), False),
        (outcome_with(Outcome.SKIPPED, "it needs 20.0s to freeze"), True),
        (outcome_with(Outcome.ABSENT, APART), True),
    ],
)
def test_who_is_not_concerned_has_not_failed(outcome: AppOutcome, is_failure: bool) -> None:
    assert outcome.is_failure is is_failure
    assert outcome.is_apart is (outcome.outcome is Outcome.SKIPPED and not is_failure)


@pytest.mark.parametrize(
    ("outcome", "is_lessened"),
    [
        (outcome_with(Outcome.HELD, "", Grade.APP), False),
        (outcome_with(Outcome.HELD, APART), False),
        (outcome_with(Outcome.HELD, "it has files elsewhere", Grade.FS), True),
        (outcome_with(Outcome.HELD, "it has files elsewhere", Grade.RAW), True),
        (outcome_with(Outcome.HELD, "", Grade.RAW), False),
        (outcome_with(Outcome.VETOED, "busy", Grade.FS), False),
    ],
)
def test_only_what_held_can_be_worth_less_than_its_hold(outcome: AppOutcome, is_lessened: bool) -> None:
    assert outcome.is_lessened is is_lessened


@pytest.mark.parametrize(
    ("outcome", "is_concerned"),
    [
        (outcome_with(Outcome.HELD), True),
        (outcome_with(Outcome.HELD, "it only stands still", Grade.FS), True),
        (outcome_with(Outcome.HELD, APART), False),
        (outcome_with(Outcome.SKIPPED, APART), False),
        (outcome_with(Outcome.SKIPPED, "it was set aside"), True),
    ],
)
def test_who_has_its_files_elsewhere_is_not_concerned(outcome: AppOutcome, is_concerned: bool) -> None:
    assert outcome.is_concerned is is_concerned
