"""The machine's clocks, and the ids of cycles."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest

from appvss import contract
from appvss.broker.clock import SystemClock, new_cycle_id
from appvss.model.instant import Instant


class Standing:
    """Clocks that stand."""

    def __init__(self, wall: timedelta) -> None:
        self._wall = wall

    def now(self) -> Instant:
        return Instant(timedelta(0))

    def wall(self) -> timedelta:
        return self._wall


def test_now_is_the_monotonic_clock() -> None:
    clock = SystemClock()
    before = time.monotonic_ns()
    now = clock.now().since_origin
    assert timedelta(microseconds=before // 1000) <= now <= timedelta(microseconds=time.monotonic_ns() // 1000)
    assert clock.now() <= clock.now()


def test_wall_is_the_time_since_1970() -> None:
    wall = datetime(1970, 1, 1, tzinfo=UTC) + SystemClock().wall()
    assert abs(datetime.now(UTC) - wall) < timedelta(seconds=5)


def test_id_says_when_and_is_new_each_time() -> None:
    clock = Standing(timedelta(seconds=1_795_186_831.9))
    ids = {new_cycle_id(clock) for _ in range(100)}
    assert len(ids) > 99
    assert all(re.fullmatch(r"20261120T150031Z-[0-9a-f]{6}", one) for one in ids)
    assert contract.cycle_of(min(ids)) == min(ids)


@pytest.mark.parametrize("later", [timedelta(seconds=1), timedelta(hours=10), timedelta(days=400)])
def test_ids_sort_by_time(later: timedelta) -> None:
    when = timedelta(seconds=1_795_186_831)
    assert new_cycle_id(Standing(when)) < new_cycle_id(Standing(when + later))
