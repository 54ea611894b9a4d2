"""The settings say what cannot work, all of it at once, and what a kernel leaves of them."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from appvss.model.errors import ConfigurationInvalid
from appvss.model.source import SourceMode
from appvss.sources.linux_hv_vss import KernelLimits, LinuxHvVssSettings
from appvss.sources.wire.linux_hv_vss import LONG_LIMITS, SHORT_LIMITS


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def test_the_defaults_work_and_leave_the_apps_most_of_the_time() -> None:
    settings = LinuxHvVssSettings()
    assert (settings.device, settings.mode) == ("/dev/vmbus/hv_vss", SourceMode.AUTOMATIC)
    budgets = settings.budgets("6.1.0-18-amd64")
    assert (budgets.freeze, budgets.thaw, budgets.check) == (seconds(60), seconds(25), seconds(25))
    assert budgets.freeze - budgets.reserve > budgets.freeze / 2
    assert budgets.limits == LONG_LIMITS


@pytest.mark.parametrize(
    ("limits", "release", "is_long"),
    [
        (KernelLimits.AUTOMATIC, "4.10.0", True),
        (KernelLimits.AUTOMATIC, "4.9.337", False),
        (KernelLimits.LONG, "4.4.0-210-generic", True),
        (KernelLimits.SHORT, "6.1.0", False),
    ],
)
def test_the_kernel_says_how_much_of_it_there_is(limits: KernelLimits, release: str, is_long: bool) -> None:
    budgets = LinuxHvVssSettings(kernel_limits=limits, freeze_budget=seconds(300)).budgets(release)
    assert budgets.limits == (LONG_LIMITS if is_long else SHORT_LIMITS)
    assert budgets.freeze == seconds(300 if is_long else 8)
    assert (budgets.thaw, budgets.check) == ((seconds(25), seconds(25)) if is_long else (seconds(8), seconds(8)))
    assert budgets.reserve == seconds(15 if is_long else 4)


def test_a_check_may_be_shorter() -> None:
    assert LinuxHvVssSettings(check_budget=seconds(3)).budgets("6.1").check == seconds(3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"device": "hv_vss"}, "device: 'hv_vss' is not an absolute path"),
        ({"device": "/dev/a\0b"}, "device: '/dev/a\\x00b' is not an absolute path"),
        ({"freeze_budget": seconds(900)}, "freeze_budget: 15m00s is not between nothing and 14m55s"),
        ({"check_budget": seconds(26)}, "check_budget: 26.0s is not between nothing and 25.0s"),
        ({"check_budget": seconds(0)}, "check_budget: 0.0ms is not"),
        ({"filesystem_reserve": seconds(-1)}, "filesystem_reserve: -1.0s is less than nothing"),
        ({"hold_limit": seconds(0)}, "hold_limit: 0.0ms is no time"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        LinuxHvVssSettings(**changes)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(problem)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        LinuxHvVssSettings(
            device="x",
            freeze_budget=seconds(0),
            check_budget=seconds(0),
            filesystem_reserve=seconds(-9),
            hold_limit=seconds(0),
        )
    named = {problem.partition(":")[0] for problem in caught.value.problems}
    assert named == {field.name for field in fields(LinuxHvVssSettings)} - {"mode", "overlap", "kernel_limits"}


def test_the_extremes_work() -> None:
    budgets = LinuxHvVssSettings(freeze_budget=seconds(895), filesystem_reserve=seconds(2000)).budgets("6.1")
    assert (budgets.freeze, budgets.reserve) == (seconds(895), seconds(447.5))
