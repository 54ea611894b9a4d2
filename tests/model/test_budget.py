"""Sharing one limit among steps that come one after the other."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from appvss.model.budget import LEAST_GRANT, share_budget

SECOND = timedelta(seconds=1)


def test_nobody_needs_nothing() -> None:
    assert share_budget(SECOND, []) == ()
    assert share_budget(-SECOND, []) == ()


def test_what_nobody_declared_is_shared_equally() -> None:
    assert share_budget(10 * SECOND, [None, None]) == (5 * SECOND, 5 * SECOND)


def test_a_declared_need_is_granted_and_the_rest_shared() -> None:
    assert share_budget(10 * SECOND, [4 * SECOND, None]) == (
        4 * SECOND + (6 * SECOND - LEAST_GRANT) / 2,
        LEAST_GRANT + (6 * SECOND - LEAST_GRANT) / 2,
    )


def test_exactly_enough_is_enough_and_less_is_not() -> None:
    needs = [3 * SECOND, None, timedelta(0)]
    enough = 3 * SECOND + 2 * LEAST_GRANT
    assert share_budget(enough, needs) == (3 * SECOND, LEAST_GRANT, LEAST_GRANT)
    assert share_budget(enough - timedelta.resolution, needs) is None


@given(
    st.timedeltas(min_value=timedelta(seconds=-5), max_value=timedelta(minutes=5)),
    st.lists(st.none() | st.timedeltas(min_value=timedelta(0), max_value=timedelta(minutes=1)), max_size=8),
)
def test_the_sum_is_never_more_than_the_budget_and_hardly_less(
    budget: timedelta, needs: list[timedelta | None]
) -> None:
    grants = share_budget(budget, needs)
    least = sum((max(LEAST_GRANT, need or LEAST_GRANT) for need in needs), timedelta(0))
    if grants is None:
        assert least > budget
        return
    assert len(grants) == len(needs)
    assert all(grant >= max(LEAST_GRANT, need or LEAST_GRANT) for grant, need in zip(grants, needs, strict=True))
    if needs:
        assert budget - len(needs) * timedelta.resolution < sum(grants, timedelta(0)) <= budget
