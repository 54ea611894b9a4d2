"""The simulated machine: a driver that comes and goes, and what its connector brings."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appvss.simulator.clock import Alarms, Clock
from appvss.simulator.event import Event, EventKind, EventRecord
from appvss.simulator.hyperv import Packet
from appvss.simulator.linux_netlink.driver import DriverState, NetlinkDriver
from appvss.simulator.linux_netlink.first import FirstDriver
from appvss.simulator.linux_netlink.kernel import NetlinkKernel
from appvss.simulator.linux_netlink.second import SecondDriver
from appvss.simulator.machine import PLAYED, Guest


class NetlinkMachine(Guest):
    """A machine whose VSS driver is reached over netlink. For the event loop's thread only; nothing here blocks.

    Args:
        clock: the machine's clocks.
        alarms: of the same clock.
        record: where the events go.
        kernel: whose driver it is.
        multicast: sends a payload to the group; returns whether anybody is in it.
    """

    def __init__(
        self,
        clock: Clock,
        alarms: Alarms,
        record: EventRecord,
        kernel: NetlinkKernel,
        multicast: Callable[[bytes], bool],
    ) -> None:
        super().__init__(clock, alarms, record)
        self._kernel = kernel
        self._multicast = multicast
        self._driver: NetlinkDriver | None = None

    @property
    def attached(self) -> bool:
        """Whether the driver is there."""
        return self._driver is not None

    def attach(self) -> None:
        """The host offers the service: the driver comes, fresh. Nothing happens when it is there."""
        if self._driver is None:
            edition = SecondDriver if self._kernel.has_states else FirstDriver
            self._driver = edition(self._kernel, self._multicast)
            self.note(Event(EventKind.ATTACHED, self.moment()))

    def detach(self) -> None:
        """The host withdraws the service. Nobody is told; nothing happens when the driver is not there."""
        if self._driver is not None:
            self._driver = None
            self._arm(None, self.advance)
            self.note(Event(EventKind.DETACHED, self.moment()))

    def host_sends(self, packet: Packet) -> None:
        """The host puts a message into the ring.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the driver is not there.
        """
        with self._acting(PLAYED) as driver:
            driver.host_sends(packet, self.moment())

    def receive(self, data: bytes, process: int, portid: int) -> None:
        """A datagram for the kernel's port. Without the driver nobody takes it, and its sender hears nothing of that.

        Args:
            data: what is received of it.
            process: who sent it.
            portid: of the socket that it came from.
        """
        if self._driver is not None:
            with self._acting(process) as driver:
                driver.receive(data, self.moment(), f"port id {portid}")

    def open_device(self) -> None:
        """Somebody opens the character device.

        Raises:
            OSError: EBUSY, it is open; ENOENT, there is none; ENXIO, the driver is not there.
        """
        with self._acting(PLAYED) as driver:
            driver.open_device(self.moment())

    def close_device(self) -> None:
        """The character device is closed.

        Raises:
            OSError: ENXIO, the driver is not there.
        """
        with self._acting(PLAYED) as driver:
            driver.close_device(self.moment())

    def advance(self) -> None:
        """Let the driver's timer run out, if it is due."""
        if self._driver is not None:
            with self._acting(PLAYED) as driver:
                driver.advance(self.moment())

    def state(self) -> DriverState | None:
        """A look at the driver, None when it is not there."""
        return self._driver.state() if self._driver is not None else None

    @contextmanager
    def _acting(self, process: int) -> Iterator[NetlinkDriver]:
        driver = self._driver
        if driver is None:
            raise OSError(errno.ENXIO, "the driver is not there")
        try:
            yield driver
        finally:
            self._collect(driver.take_events(), process)
            self._arm(driver.next_deadline(), self.advance)
            self._spread()
