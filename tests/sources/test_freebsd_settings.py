"""The settings say what cannot work, all of it at once."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from appvss.model.errors import ConfigurationInvalid
from appvss.model.source import SourceMode
from appvss.sources.freebsd import FreebsdSettings


def test_the_defaults_work_and_leave_the_apps_most_of_the_time() -> None:
    settings = FreebsdSettings()
    assert settings.device == "/dev/hv_appvss_dev"
    assert settings.mode is SourceMode.AUTOMATIC
    assert settings.budget - settings.filesystem_reserve > settings.budget / 2


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"device": ""}, "device: '' is not an absolute path"),
        ({"device": "hv_appvss_dev"}, "device: 'hv_appvss_dev' is not an absolute path"),
        ({"device": "/dev/a\0b"}, "device: '/dev/a\\x00b' is not an absolute path"),
        ({"device": "/mnt/x/hv_fsvss_dev"}, "device: /mnt/x/hv_fsvss_dev is the file systems' side"),
        ({"budget": timedelta(seconds=15, microseconds=1)}, "budget: 15.0s is not more than 500.0ms and at most 15.0s"),
        (
            {"budget": timedelta(milliseconds=500), "filesystem_reserve": timedelta(0)},
            "budget: 500.0ms is not more than",
        ),
        ({"filesystem_reserve": timedelta(seconds=14.5)}, "filesystem_reserve: 14.5s leaves the apps nothing"),
        ({"filesystem_reserve": timedelta(seconds=-1)}, "filesystem_reserve: -1.0s leaves"),
        ({"hold_limit": timedelta(0)}, "hold_limit: 0.0ms is no time"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        FreebsdSettings(**changes)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(problem)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        FreebsdSettings(
            device="x",
            budget=timedelta(0),
            filesystem_reserve=timedelta(days=1),
            hold_limit=timedelta(0),
        )
    named = [problem.partition(":")[0] for problem in caught.value.problems]
    assert named == [field.name for field in fields(FreebsdSettings) if field.name not in ("mode", "overlap")]


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": timedelta(seconds=15), "filesystem_reserve": timedelta(seconds=14.499)},
        {"budget": timedelta(seconds=0.6), "filesystem_reserve": timedelta(0)},
    ],
)
def test_the_extremes_work(changes: dict[str, Any]) -> None:
    settings = FreebsdSettings(**changes)
    assert (settings.budget, settings.filesystem_reserve) == tuple(changes.values())
