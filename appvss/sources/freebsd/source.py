"""The source: keeps the device open, through every loss and return, and carries requests and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_base

from appvss.sources.base import Clock
from appvss.sources.device_opener import DeviceOpener
from appvss.sources.device_source import DeviceSource
from appvss.sources.device_thread import News
from appvss.sources.freebsd.device import FreebsdDevice
from appvss.sources.freebsd.ledger import NAME, Ledger
from appvss.sources.freebsd.settings import FreebsdSettings

PAUSE: wait_base = wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)
"""How long to wait before the device is opened again: half a second, doubled up to 30 s, and up to a second by chance.
Never at once: an open that is refused with EBUSY can, in a bad moment, leave the driver registered with nobody
(facts/freebsd-vss.md section 1, "Stuck registration")."""


class FreebsdSource(DeviceSource):
    """The app device of FreeBSD's Hyper-V VSS driver, as a `Source`.

    The device is opened by a child process that may be killed in our place, see `appvss.sources.device_opener`. So
    every attempt to open it, at the start and after each loss, starts a process. No attempt is begun while the gate is
    closed: file systems may be frozen then.

    Args:
        settings: what the administrator set.
        clock: the machine's clocks; called in the event loop's thread and in the device's.
        pause: how long to wait before the next attempt to open.
    """

    def __init__(self, settings: FreebsdSettings, clock: Clock, *, pause: wait_base = PAUSE) -> None:
        super().__init__(NAME, settings.mode, settings.device, clock, pause)
        self._settings = settings
        self._opener = DeviceOpener(settings.device)
        self._gate = asyncio.Event()
        """Set: a process may be started."""
        self._gate.set()

    def set_gate(self, *, is_open: bool) -> None:
        """Closed: begin no attempt to open the device. One that is under way goes on."""
        if is_open:
            self._gate.set()
        else:
            self._gate.clear()

    async def _may_open(self) -> None:
        await self._gate.wait()

    def _new_device(self, tell: Callable[[News], None]) -> FreebsdDevice:
        return FreebsdDevice(self._opener, Ledger(self._settings), self._clock, tell)
