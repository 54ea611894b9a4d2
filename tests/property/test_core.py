"""Ten thousand seeded lives of the pure core, with a clock that is moved by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.property.life import Life

LIVES = 10_000
PARTS = 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_application_implies_that_no_required_app_was_free_in_the_hold_and_nobody_stays_frozen(part: int) -> None:
    levels: Counter[str] = Counter()
    deaths, adopted = 0, 0
    for seed in range(part * LIVES // PARTS, (part + 1) * LIVES // PARTS):
        life = Life(seed)
        try:
            levels += life.live()
        except Exception as error:
            raise AssertionError(f"the life of seed {seed} broke a promise: {error}") from error
        deaths += life.deaths
        adopted += life.adopted
    # That there was something to see.
    assert levels["application"] > 300, levels
    assert levels["failed"] > 300, levels
    assert deaths > 1000
    assert adopted > 100
