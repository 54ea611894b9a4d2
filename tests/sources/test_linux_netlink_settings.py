"""The settings say what cannot work, all of it at once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from appvss.model.errors import ConfigurationInvalid
from appvss.model.source import SourceMode
from appvss.sources.linux_netlink import LinuxNetlinkSettings


def test_the_defaults_believe_the_kernel_alone() -> None:
    settings = LinuxNetlinkSettings()
    assert (settings.mode, settings.kernel_portid) == (SourceMode.AUTOMATIC, 0)
    assert settings.connector == "/proc/net/connector"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"connector": ""}, "connector: '' is not an absolute path"),
        ({"connector": "list"}, "connector: 'list' is not an absolute path"),
        ({"connector": "/a\0b"}, "connector: '/a\\x00b' is not an absolute path"),
        ({"kernel_portid": -1}, "kernel_portid: -1 does not fit into 32 bits"),
        ({"kernel_portid": 2**32}, "kernel_portid: 4294967296 does not fit into 32 bits"),
        ({"freeze_budget": timedelta(0)}, "freeze_budget: 0.0ms is not between nothing and 14m55s"),
        ({"hold_limit": timedelta(seconds=-1)}, "hold_limit: -1.0s is no time"),
    ],
)
def test_a_value_that_cannot_work_is_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        LinuxNetlinkSettings(**changes)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(problem)


def test_all_problems_are_told_at_once() -> None:
    zero = timedelta(0)
    with pytest.raises(ConfigurationInvalid) as caught:
        LinuxNetlinkSettings(
            connector="x",
            kernel_portid=-1,
            freeze_budget=zero,
            check_budget=zero,
            hold_limit=zero,
            filesystem_reserve=timedelta(-1),
        )
    assert len(caught.value.problems) == 6
    assert caught.value.sentence.startswith("sources.linux_netlink has 6 problems: ")


def test_the_extremes_work() -> None:
    LinuxNetlinkSettings(kernel_portid=2**32 - 1, filesystem_reserve=timedelta(0))
