"""How a cycle ended, for each app."""

from __future__ import annotations

import pytest

from appvss.model.app import AppId, Requirement
from appvss.model.verdict import AppOutcome, Outcome


@pytest.mark.parametrize("outcome", list(Outcome))
def test_everything_but_held_counts_against_the_app(outcome: Outcome) -> None:
    part = AppOutcome(AppId("a"), outcome, Requirement.REQUIRED, 50)
    assert part.is_failure is (outcome is not Outcome.HELD)


def test_no_two_outcomes_share_their_evidence() -> None:
    one, other = (AppOutcome(AppId(name), Outcome.HELD, Requirement.REQUIRED, 50) for name in "ab")
    assert one.evidence == {}
    assert one.evidence is not other.evidence
