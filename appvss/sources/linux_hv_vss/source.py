"""The source: keeps the device open, through every loss and return, and carries requests and answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_base

from appvss.sources.base import Clock
from appvss.sources.device_source import DeviceSource
from appvss.sources.device_thread import News
from appvss.sources.linux_hv_vss.device import LinuxHvVssDevice
from appvss.sources.linux_hv_vss.settings import LinuxHvVssSettings
from appvss.sources.linux_vss.ledger import Ledger

PAUSE: wait_base = wait_exponential(multiplier=0.1, max=30) + wait_random(0, 0.1)
"""How long to wait before the device is opened again: a tenth of a second, doubled up to 30 s. Short at first, because
the kernel refuses every operation of the host as long as nobody is registered, a thaw too."""

STEADY = timedelta(seconds=1)
"""After so short a time of service the pauses begin with the shortest again: an opening costs no process, and one that
was ended because an answer came too late should be followed by the next before the host asks again."""


class LinuxHvVssSource(DeviceSource):
    """The device of Linux's Hyper-V VSS driver, as a `Source`.

    It takes the place of `hv_vss_daemon`: the kernel leaves the freeze of the file systems to whoever has the device
    open, so that a freeze asks for all of them.

    Args:
        settings: what the administrator set.
        clock: the machine's clocks; called in the event loop's thread and in the device's.
        pause: how long to wait before the next attempt to open.
        release: the kernel's, by which its limits are known; None: this machine's.
    """

    def __init__(
        self, settings: LinuxHvVssSettings, clock: Clock, *, pause: wait_base = PAUSE, release: str | None = None
    ) -> None:
        super().__init__(settings.NAME, settings.mode, settings.device, clock, pause, steady=STEADY)
        self.budgets = settings.budgets(os.uname().release if release is None else release)
        """What the kernel leaves of the times that were set."""
        self._ledger = Ledger(settings, self.budgets)

    def set_gate(self, *, is_open: bool) -> None:
        """Nothing to do: the device is opened while file systems are frozen, too.

        That starts no process and writes to no disk: the node lies in devtmpfs, and a look-up, an open and a link that
        is read wait for no frozen file system (facts/linux-hv-vss.md section 5.3). And it is worth something: after a
        close in mid-hold the kernel refuses the host's thaw unless somebody has registered again, so that the host
        would never hear that the hold was lost.
        """

    def _new_device(self, tell: Callable[[News], None]) -> LinuxHvVssDevice:
        return LinuxHvVssDevice(self._way, self._ledger, self._clock, tell)
