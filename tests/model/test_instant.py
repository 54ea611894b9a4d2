"""Instants on the monotonic clock."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from appvss.model.instant import Instant

LENGTHS = st.timedeltas(min_value=timedelta(days=-1000), max_value=timedelta(days=1000))
INSTANTS = st.builds(Instant, LENGTHS)


@given(INSTANTS, LENGTHS)
def test_adding_and_taking_away_a_length(instant: Instant, length: timedelta) -> None:
    assert (instant + length) - length == instant
    assert (instant + length) - instant == length


@given(INSTANTS, INSTANTS)
def test_instants_are_ordered_as_their_lengths(one: Instant, other: Instant) -> None:
    assert (one < other) == (one - other < timedelta(0))
    assert (one == other) == (one - other == timedelta(0))
