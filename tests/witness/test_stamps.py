"""When change times may be held against the wall clock: on file systems of this machine, if it is not set back."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.instant import Instant
from appvss.witness.stamps import MARGIN, WallClock, is_stamped_by_us

START = timedelta(days=20_000)
SECOND = timedelta(seconds=1)


class Hands:
    """Two clocks that are moved by hand."""

    def __init__(self) -> None:
        self.running = timedelta(hours=1)
        self.set_by = timedelta(0)

    def now(self) -> Instant:
        return Instant(self.running)

    def wall(self) -> timedelta:
        return START + self.running + self.set_by


def test_a_clock_that_runs_is_believed() -> None:
    hands = Hands()
    clock = WallClock(hands)
    hands.running += SECOND
    assert clock.read() == (START + hands.running, True)


def test_after_a_step_back_it_is_not_until_the_old_times_are_past() -> None:
    hands = Hands()
    clock = WallClock(hands)
    hands.set_by -= 10 * SECOND
    hands.running += SECOND
    assert clock.read()[1] is False
    hands.running += 10 * SECOND
    assert clock.read()[1] is False
    hands.running += MARGIN
    assert clock.read()[1] is True


def test_a_second_step_back_makes_no_earlier_end_of_the_first() -> None:
    hands = Hands()
    clock = WallClock(hands)
    hands.set_by -= 100 * SECOND
    clock.read()
    hands.set_by -= SECOND
    clock.read()
    hands.running += 50 * SECOND
    assert clock.read()[1] is False


def test_a_step_forward_does_no_harm() -> None:
    hands = Hands()
    clock = WallClock(hands)
    hands.set_by += 3600 * SECOND
    assert clock.read()[1] is True


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/mountinfo")
def test_file_systems_of_this_machine_are_known() -> None:
    assert is_stamped_by_us(Path("/dev/shm").stat().st_dev)
    assert not is_stamped_by_us(Path("/proc").stat().st_dev)
    assert not is_stamped_by_us(os.makedev(4095, 4095))


def test_no_change_time_is_later_than_the_wall_clock() -> None:
    """What `changed_after` rests on, on whatever file system the tests run."""
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(2_000):
            os.pwrite(file.fileno(), b"x", 0)
            wall = time.time_ns()
            assert os.stat(file.name).st_ctime_ns <= wall
