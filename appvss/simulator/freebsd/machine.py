"""The simulated machine around the driver: its clocks, its processes, and the spreading of what happened."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final

from appvss.simulator.freebsd.callers import Opener
from appvss.simulator.freebsd.clock import Alarms, Clock, Moment
from appvss.simulator.freebsd.driver import Driver, DriverState, KernelPanic
from appvss.simulator.freebsd.event import Event, EventKind, EventRecord, Side
from appvss.simulator.freebsd.hyperv import Packet

PLAYED: Final = 0
"""The process id in events where the simulator itself plays a side."""

_BY_A_PROCESS: Final = frozenset(
    {
        EventKind.OPENED,
        EventKind.OPEN_REFUSED,
        EventKind.CLOSED,
        EventKind.READ,
        EventKind.READ_EMPTY,
        EventKind.WROTE,
        EventKind.WRITE_IGNORED,
    }
)


class Machine:
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
        self._clock = clock
        self._alarms = alarms
        self._record = record
        self._debug_kernel = debug_kernel
        self._wall_shift = timedelta(0)
        self._driver: Driver | None = None
        self._openers: dict[Side, Opener] = {}
        self._alarm: int | None = None
        self._outbox: deque[Event] = deque()
        self._spreading = False
        self.listeners: list[Callable[[Event], None]] = []
        """Who is shown every event, in this order."""
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

    def shift_wall(self, by: timedelta) -> None:
        """Let the wall clock that the driver stamps its msgids with jump."""
        self._wall_shift += by

    def moment(self) -> Moment:
        """Both clocks, now."""
        return Moment(self._clock.now(), self._clock.wall() + self._wall_shift)

    # What can be looked at

    def state(self) -> DriverState | None:
        """A look at the driver, None when it is not there."""
        return self._driver.state() if self._driver is not None else None

    def note(self, event: Event) -> None:
        """Record something that happened outside of the driver."""
        self._outbox.append(event)
        self._spread()

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
            self._collect(driver, process)
            self._tear_down(driver)
            raise OSError(errno.ENXIO, "the kernel has panicked") from None
        finally:
            self._collect(driver, process)
            self._arm()
            self._spread()

    def _collect(self, driver: Driver, process: int) -> None:
        for event in driver.take_events():
            self._outbox.append(replace(event, process=process) if event.kind in _BY_A_PROCESS else event)

    def _tear_down(self, driver: Driver) -> None:
        moment = self.moment()
        driver.detach(moment)
        self._driver = None
        self._collect(driver, PLAYED)
        for side in (Side.FS, Side.APP):
            opener = self._openers.pop(side, None)
            if opener is not None:
                self._kill(side, opener, moment)
                opener.close()
        self._arm()

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

    def _arm(self) -> None:
        """Set the alarm for the driver's next timer."""
        if self._alarm is not None:
            self._alarms.cancel(self._alarm)
            self._alarm = None
        deadline = self._driver.next_deadline() if self._driver is not None else None
        if deadline is not None:
            self._alarm = self._alarms.ring(deadline, self.advance)

    def _spread(self) -> None:
        """Record and show what happened, in order; what the listeners do about it is spread after it."""
        if self._spreading:
            return
        self._spreading = True
        try:
            while self._outbox:
                event = self._record.add(self._outbox.popleft())
                for listener in self.listeners:
                    listener(event)
        finally:
            self._spreading = False
