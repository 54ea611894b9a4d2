"""The simulated Linux machine: a driver that comes and goes, and whoever has its device open."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from appvss.model.errors import UsageError
from appvss.simulator.clock import Alarms, Clock
from appvss.simulator.event import Event, EventKind, EventRecord
from appvss.simulator.hyperv import Packet
from appvss.simulator.linux.driver import Driver, DriverState
from appvss.simulator.linux.kernel import Kernel
from appvss.simulator.machine import PLAYED, Guest


class Machine(Guest):
    """A driver on a machine with clocks and processes.

    Args:
        clock: the machine's clocks.
        alarms: of the same clock.
        record: where the events go.
        kernel: whose driver it is.
    """

    def __init__(self, clock: Clock, alarms: Alarms, record: EventRecord, kernel: Kernel) -> None:
        super().__init__(clock, alarms, record)
        self.kernel = kernel
        self._driver: Driver | None = None
        self.attachment = 0
        """How often the driver has come: the node's number grows with it."""

    # Being there or not

    @property
    def attached(self) -> bool:
        """Whether the driver is there, and with it the node."""
        return self._driver is not None

    def attach(self) -> None:
        """The host offers the service: the driver comes, fresh. Nothing happens when it is there.

        Raises:
            UsageError: its removal is not over, because somebody still has the device open.
        """
        if self._driver is None:
            self._driver = Driver(self.kernel)
            self.attachment += 1
            self.note(Event(EventKind.ATTACHED, self.moment(), detail=f"Linux {self.kernel}"))
        elif self._driver.is_hung_up:
            raise UsageError(
                "the device is still being removed: somebody has it open",
                "The kernel waits for the close; `state` shows whether it has come.",
            )

    def remove(self) -> None:
        """The host withdraws the service. Nothing happens when the driver is not there.

        Raises:
            UsageError: this kernel would crash, because somebody has the device open.
        """
        driver = self._driver
        if driver is None:
            return
        if driver.state().is_open and not self.kernel.survives_removal:
            raise UsageError(
                f"Linux {self.kernel} crashes when the device is removed while it is open",
                "Close it first, or play a kernel from 4.5 on.",
            )
        with self._acting(PLAYED) as driver:
            driver.remove(self.moment())

    def hibernate(self) -> None:
        """The machine hibernates and comes back.

        Raises:
            UsageError: this kernel's driver tells nobody of it.
            OSError: ENXIO, the driver is not there.
        """
        if not self.kernel.tells_of_hibernation:
            raise UsageError(
                f"the driver of Linux {self.kernel} does nothing at a hibernation", "Play a kernel from 5.7 on."
            )
        with self._acting(PLAYED) as driver:
            driver.hibernate(self.moment())

    def close(self) -> None:
        """Nothing to forget."""

    # What user space does

    def open(self, process: int) -> None:
        """Open the device.

        Raises:
            OSError: EBUSY, EBADF; ENXIO, the driver is not there.
        """
        with self._acting(process) as driver:
            driver.open(self.moment())

    def release(self, process: int) -> None:
        """The last descriptor is closed."""
        with suppress(OSError), self._acting(process) as driver:  # without a driver there is nothing to tell
            driver.close(self.moment())

    def read(self, size: int, process: int) -> bytes | None:
        """The system call read: a message, or None where the real caller would sleep.

        Raises:
            OSError: EINVAL, EBADF; ENXIO, the driver is not there.
        """
        with self._acting(process) as driver:
            return driver.read(size, self.moment())

    def write(self, data: bytes, process: int) -> int:
        """The system call write: a registration or a reply.

        Raises:
            OSError: EINVAL, EFAULT, EBADF; ENXIO, the driver is not there.
        """
        with self._acting(process) as driver:
            return driver.write(data, self.moment())

    @property
    def is_readable(self) -> bool:
        """Whether poll shows POLLIN."""
        self.advance()
        return self._driver is not None and self._driver.is_readable

    @property
    def is_hung_up(self) -> bool:
        """Whether poll shows POLLERR and POLLHUP."""
        return self._driver is None or self._driver.is_hung_up

    # What the host and time do

    def host_sends(self, packet: Packet) -> None:
        """The host puts a message into the ring.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the driver is not there.
        """
        with self._acting(PLAYED) as driver:
            driver.host_sends(packet, self.moment())

    def advance(self) -> None:
        """Let the driver's timer run if it is due."""
        if self._driver is not None:
            with self._acting(PLAYED) as driver:
                driver.advance(self.moment())

    # What can be looked at

    def state(self) -> DriverState | None:
        """A look at the driver, None when it is not there."""
        return self._driver.state() if self._driver is not None else None

    # How it works

    @contextmanager
    def _acting(self, process: int) -> Iterator[Driver]:
        """Do something with the driver on behalf of a process, and spread what came of it."""
        driver = self._driver
        if driver is None:
            raise OSError(errno.ENXIO, "the driver is not there")
        try:
            yield driver
        finally:
            if driver.is_gone:
                self._driver = None
            self._collect(driver.take_events(), process)
            self._arm(driver.next_deadline() if not driver.is_gone else None, self.advance)
            self._spread()
