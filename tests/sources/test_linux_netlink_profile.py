"""What is concluded from the driver's name and the kernel's release."""

from __future__ import annotations

import pytest

from appvss.sources.linux_netlink import LinuxNetlinkSettings
from appvss.sources.linux_netlink.profile import profile_of
from appvss.sources.linux_vss.settings import KernelLimits
from appvss.sources.wire.linux_hv_vss import LONG_LIMITS, SHORT_LIMITS, Limits

OLD, NEW = "vss_kernel_module", "vmbus/hv_vss"


@pytest.mark.parametrize(
    ("name", "release", "registration", "has_timer", "limits"),
    [
        (OLD, "3.10.0", 128, False, SHORT_LIMITS),
        (OLD, "3.18.140", 128, False, SHORT_LIMITS),
        (OLD, "3.19.0", 128, True, SHORT_LIMITS),
        (OLD, "4.1.52", 128, True, SHORT_LIMITS),
        (NEW, "4.2.0", 129, True, SHORT_LIMITS),
        (NEW, "4.7.10", 129, True, SHORT_LIMITS),
        (NEW, "4.9.337", 129, True, SHORT_LIMITS),
        (NEW, "4.10.0", 129, True, LONG_LIMITS),
        (NEW, "4.18.0-553.el8.x86_64", 129, True, LONG_LIMITS),
        (NEW, "6.18.44", 129, True, LONG_LIMITS),
        # carried back by a distribution: the name is right, the release tells nothing
        (NEW, "3.10.0-1160.el7.x86_64", 129, True, SHORT_LIMITS),
        (OLD, "6.1.0", 128, True, SHORT_LIMITS),
        (OLD, "what", 128, True, SHORT_LIMITS),
        (NEW, "what", 129, True, SHORT_LIMITS),
    ],
)
def test_a_drivers_ways(name: str, release: str, registration: int, has_timer: bool, limits: Limits) -> None:
    profile = profile_of(name, release, LinuxNetlinkSettings())
    assert (profile.registration, profile.has_timer, profile.budgets.limits) == (registration, has_timer, limits)
    assert profile.confirms is (registration == 129)


@pytest.mark.parametrize(
    ("name", "release", "told"),
    [(OLD, "6.1", False), (NEW, "5.6.19", False), (NEW, "5.7.0", True), (NEW, "6.18", True), (NEW, "what", True)],
)
def test_whether_a_hibernation_sends_a_thaw(name: str, release: str, told: bool) -> None:
    assert profile_of(name, release, LinuxNetlinkSettings()).tells_of_hibernation is told


@pytest.mark.parametrize("name", [OLD, NEW])
def test_the_administrator_knows_better(name: str) -> None:
    settings = LinuxNetlinkSettings(kernel_limits=KernelLimits.LONG)
    assert profile_of(name, "3.10.0", settings).budgets.limits == LONG_LIMITS
    settings = LinuxNetlinkSettings(kernel_limits=KernelLimits.SHORT)
    assert profile_of(name, "6.1.0", settings).budgets.limits == SHORT_LIMITS
