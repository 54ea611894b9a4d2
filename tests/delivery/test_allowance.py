"""So many at once, and one more with each step of time. The time is an argument."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from appvss.delivery.allowance import Allowance
from appvss.model.instant import Instant

START = Instant(timedelta(hours=1))
SECOND = timedelta(seconds=1)


def taken(allowance: Allowance, now: Instant, tries: int) -> int:
    return sum(allowance.take(now) for _ in range(tries))


def test_so_many_at_once_and_then_one_each_second() -> None:
    allowance = Allowance(3, SECOND, START)
    assert taken(allowance, START, 10) == 3
    assert taken(allowance, START + SECOND / 2, 10) == 0
    assert taken(allowance, START + SECOND, 10) == 1
    assert taken(allowance, START + 3 * SECOND, 10) == 2


def test_a_long_rest_saves_up_no_more_than_at_the_start() -> None:
    allowance = Allowance(3, SECOND, START)
    assert taken(allowance, START + timedelta(days=1), 10) == 3


def test_asking_takes_nothing() -> None:
    allowance = Allowance(1, SECOND, START)
    assert allowance.has_any(START)
    assert allowance.take(START)
    assert not allowance.has_any(START)


def test_what_is_granted_counts_up_to_the_most() -> None:
    allowance = Allowance(3, SECOND, START)
    assert taken(allowance, START, 3) == 3
    allowance.grant(2)
    assert taken(allowance, START, 9) == 2
    allowance.grant(20)
    assert taken(allowance, START, 9) == 3


@given(st.lists(st.tuples(st.timedeltas(timedelta(0), 3 * SECOND), st.integers(0, 9)), max_size=30))
def test_never_more_than_at_the_start_and_one_for_each_second(tries: list[tuple[timedelta, int]]) -> None:
    allowance, now, granted = Allowance(5, SECOND, START), START, 0
    for pause, count in tries:
        now = now + pause
        granted += taken(allowance, now, count)
    assert granted <= 5 + (now - START) / SECOND + 1e-6
