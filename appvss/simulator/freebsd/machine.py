"""The simulated FreeBSD machine: a driver that attaches and detaches, and the processes that opened its devices."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from appvss.simulator.clock import Alarms, Clock, Moment
from appvss.simulator.event import Event, EventKind, EventRecord, Side
from appvss.simulator.freebsd.callers import Opener
from appvss.simulator.freebsd.driver import Driver, DriverState, KernelPanic
from appvss.simulator.hyperv import Packet
from appvss.simulator.machine import PLAYED, Guest


class Machine(Guest):
    """A driver that can attach and detach, on a machine with clocks and processes.

    Every act ends with its events recorded and shown to the listeners, who may act in turn. For the event loop's thread
    only; nothing here blocks.

    Args:
        clock: the machine's clocks.
        alarms: of the same clock.
        record: where the events go.
        debug_kernel: whether the driver's assertions panic.
    """

    def __init__(self, clock: Clock, alarms: Alarms, record: EventRecord, *, debug_kernel: bool) -> None:
        super().__init__(clock, alarms, record)
        self._debug_kernel = debug_kernel
        self._driver: Driver | None = None
        self._openers: dict[Side, Opener] = {}
        self.attachment = 0
        """How often the driver has attached: tells a descriptor of today from one of an earlier attachment."""

    # Being there or not

    @property
    def attached(self) -> bool:
        """Whether the driver is there, and with it the nodes."""
        return self._driver is not None

    def attach(self) -> None:
        """The host offers the service: the driver comes, fresh. Nothing happens when it is there."""
        if self._driver is None:
            self._driver = Driver(debug_kernel=self._debug_kernel)
            self.attachment += 1
            self.note(Event(EventKind.ATTACHED, self.moment()))

    def detach(self) -> None:
        """The host withdraws the service: whoever opened a device gets SIGKILL, the nodes vanish (section 1).

        Nothing happens when the driver is not there.
        """
        if self._driver is not None:
            self._tear_down(self._driver)
            self._spread()

    def close(self) -> None:
        """Forget the processes; kills nobody."""
        for opener in self._openers.values():
            opener.close()
        self._openers.clear()

    # What user space does

    def open(self, side: Side, opener: Opener | None) -> None:
        """Open a device, for a process or, with None, for the simulator itself.

        Raises:
            OSError: EBUSY, it is open; ENXIO, the driver is not there.
        """
        process = opener.process if opener is not None else PLAYED
        with self._acting(process) as driver:
            driver.open(side, opener if opener is not None else PLAYED, self.moment())
            previous = self._openers.pop(side, None)
            if previous is not None:
                previous.close()
            if opener is not None:
                self._openers[side] = opener

    def close_side(self, side: Side, process: int) -> None:
        """The last descriptor of a device is closed."""
        with self._acting(process) as driver:
            driver.close(side, self.moment())

    def read(self, side: Side, process: int) -> bytes:
        """The ioctl READ."""
        with self._acting(process) as driver:
            return driver.read(side, self.moment())

    def write(self, side: Side, data: bytes, process: int) -> None:
        """The ioctl WRITE."""
        with self._acting(process) as driver:
            driver.write(side, data, self.moment())

    def readable(self, side: Side) -> bool:
        """Whether poll shows POLLIN."""
        self.advance()
        return self._driver is not None and self._driver.readable(side)

    # What the host and time do

    def host_sends(self, packet: Packet) -> None:
        """The host puts a message into the ring.

        Raises:
            OSError: EAGAIN, the ring is full; ENXIO, the driver is not there.
        """
        with self._acting(PLAYED) as driver:
            driver.host_sends(packet, self.moment())

    def advance(self) -> None:
        """Let the driver's timers run that are due."""
        if self._driver is not None:
            try:
                with self._acting(PLAYED) as driver:
                    driver.advance(self.moment())
            except OSError:  # the kernel panicked, and that is recorded
                return

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
            raise OSError(errno.ENXIO, "the driver is not attached")
        try:
            yield driver
        except KernelPanic:
            self._collect(driver.take_events(), process)
            self._tear_down(driver)
            raise OSError(errno.ENXIO, "the kernel has panicked") from None
        finally:
            self._collect(driver.take_events(), process)
            self._set_alarm()
            self._spread()

    def _tear_down(self, driver: Driver) -> None:
        moment = self.moment()
        driver.detach(moment)
        self._driver = None
        self._collect(driver.take_events(), PLAYED)
        for side in (Side.FS, Side.APP):
            opener = self._openers.pop(side, None)
            if opener is not None:
                self._kill(side, opener, moment)
                opener.close()
        self._set_alarm()

    def _kill(self, side: Side, opener: Opener, moment: Moment) -> None:
        if opener.ours:
            kind, detail = EventKind.SPARED, "the opener is the simulator's own process"
        elif opener.kill():
            kind, detail = EventKind.KILLED, "SIGKILL to who opened the device, even if it has closed it since"
        else:
            kind, detail = (
                EventKind.SPARED,
                "the opener is gone or cannot be seen; the real driver would use a stale pointer",
            )
        self._outbox.append(Event(kind, moment, side=side, process=opener.process, detail=detail))

    def _set_alarm(self) -> None:
        self._arm(self._driver.next_deadline() if self._driver is not None else None, self.advance)
