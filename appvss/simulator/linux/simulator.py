"""The whole simulator of Linux's device as one object: a mount, a driver, a host."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.simulator.clock import Alarms, Clock, SystemClock
from appvss.simulator.event import Event, EventRecord
from appvss.simulator.folder import SimulatedFolder
from appvss.simulator.host import Host
from appvss.simulator.linux.device import NODE_NAME, Device
from appvss.simulator.linux.driver import DriverState
from appvss.simulator.linux.kernel import MODERN, Kernel
from appvss.simulator.linux.machine import Machine

PATIENCE: Final = timedelta(minutes=16)
"""How long the host waits: longer than the driver's 15 minutes, which were chosen to match what a host expects
(facts/linux-hv-vss.md section 1.5)."""


class LinuxSimulator(SimulatedFolder):
    """Linux's Hyper-V VSS driver in a folder, for the length of an `async with` block.

    Inside of the block the folder has `hv_vss`.

    Args:
        directory: the folder, empty or not there yet. Beside it, `DIRECTORY.control` exists as long as the block.
        kernel: whose driver it is.
        clock: what the driver's limits are measured with.
        observer: called with every event, in order, on the event loop; it must not wait for anything. `watch` and
            `wait_for` are there for those who may.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kernel: Kernel = MODERN,
        clock: Clock | None = None,
        observer: Callable[[Event], None] | None = None,
    ) -> None:
        clock = clock or SystemClock()
        record, alarms = EventRecord(), Alarms(clock)
        self._machine = Machine(clock, alarms, record, kernel)
        device, host = Device(self._machine), Host(self._machine, alarms, clock, patience=PATIENCE)
        super().__init__(directory, device, self._machine, host, alarms, record)
        self.kernel = kernel
        """Whose driver it is."""
        self.device = self.directory / NODE_NAME
        """The path for a daemon or a broker to open."""
        self._machine.listeners = [device.notice, host.notice]
        if observer is not None:
            self._machine.listeners.insert(0, observer)

    @property
    def attached(self) -> bool:
        """Whether the driver is there, and with it the node: also while it is being removed."""
        return self._machine.attached

    def attach(self) -> None:
        """Bring the driver back, fresh, with a new node. Nothing happens when it is there.

        Raises:
            UsageError: it is still being removed, because somebody has the device open.
        """
        self._machine.attach()

    def remove(self) -> None:
        """Take the driver away, as the host's administrator does by unticking the backup service.

        Whoever has the device open is told by POLLHUP and EBADF; the node is there until they have closed it.

        Raises:
            UsageError: the kernel is older than 4.5 and somebody has the device open: it would crash.
        """
        self._machine.remove()

    def hibernate(self) -> None:
        """Let the machine hibernate and come back: whoever has the device open is sent a thaw that no host asked for.

        Raises:
            UsageError: the kernel is older than 5.7: its driver does nothing.
            OSError: ENXIO, the driver is not there.
        """
        self._machine.hibernate()

    def state(self) -> DriverState | None:
        """A look into the driver; None when it is not there."""
        return self._machine.state()
