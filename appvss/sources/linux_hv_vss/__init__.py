"""The broker's door to Linux's Hyper-V VSS driver: the device /dev/vmbus/hv_vss (facts/linux-hv-vss.md)."""

from __future__ import annotations

from appvss.sources.linux_hv_vss.settings import LinuxHvVssSettings
from appvss.sources.linux_hv_vss.source import LinuxHvVssSource
from appvss.sources.linux_vss.settings import Budgets, KernelLimits

__all__ = ["LinuxHvVssSettings", "LinuxHvVssSource", "KernelLimits", "Budgets"]
