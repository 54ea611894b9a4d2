"""The whole simulator as one object: a mount, a driver, a host, a file-system side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.freebsd import mount
from appvss.simulator.freebsd.clock import Alarms, Clock, SystemClock
from appvss.simulator.freebsd.device import NODE_NAMES, Device
from appvss.simulator.freebsd.driver import DriverState
from appvss.simulator.freebsd.event import Event, EventKind, EventRecord, Side
from appvss.simulator.freebsd.fs_side import FsSide
from appvss.simulator.freebsd.fuse import FuseConnection
from appvss.simulator.freebsd.host import Host
from appvss.simulator.freebsd.machine import Machine

_SECONDS_TO_MOUNT: Final = 10
SHORT_WAIT: Final = timedelta(seconds=10)
"""How long `wait_for` waits unless told otherwise."""


class FreebsdSimulator:
    """FreeBSD's Hyper-V VSS driver in a folder, for the length of an `async with` block.

    Inside of the block the folder has `hv_appvss_dev` and `hv_fsvss_dev`, which any program on this machine may open.
    Leaving the block unmounts it, whoever still uses it.

    Everything here belongs to the event loop that the block runs on. That loop also answers the files' system calls, so
    its own thread must never touch the folder: open and ioctl belong into other threads or other processes.

    Args:
        directory: the folder, empty or not there yet. Beside it, `DIRECTORY.control` exists as long as the block.
        clock: what the driver's 15 s and the msgids are measured with.
        automatic_fs: whether the simulator plays the file-system side (`fs`), agreeing to everything at first. If not,
            another program must open the fs device before the driver reads anything.
        debug_kernel: a kernel built with INVARIANTS: its assertions panic, which here means that both devices vanish
            and their openers are killed.
        observer: called with every event, in order, on the event loop; it must not wait for anything. `watch` and
            `wait_for` are there for those who may.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock | None = None,
        automatic_fs: bool = True,
        debug_kernel: bool = False,
        observer: Callable[[Event], None] | None = None,
    ) -> None:
        self.directory = mount.resolve(directory)
        """The folder, without symbolic links."""
        self.app_device = self.directory / NODE_NAMES[Side.APP]
        """The path for an app or a broker to open."""
        self.fs_device = self.directory / NODE_NAMES[Side.FS]
        """The path for a file-system daemon to open."""
        clock = clock or SystemClock()
        self._record = EventRecord()
        self._alarms = Alarms(clock)
        self._machine = Machine(clock, self._alarms, self._record, debug_kernel=debug_kernel)
        self._device = Device(self._machine)
        self._lock = mount.FolderLock(self.directory)
        self._connection: FuseConnection | None = None
        self._watch: asyncio.Task[None] | None = None
        self.host = Host(self._machine, self._alarms, clock)
        """Plays the Hyper-V host."""
        self.fs = FsSide(self._machine, automatic=automatic_fs)
        """Plays the file-system side, while it has the fs device open."""
        self._machine.listeners = [self._device.notice, self.host.notice, self.fs.notice]
        if observer is not None:
            self._machine.listeners.insert(0, observer)

    @property
    def control_folder(self) -> Path:
        """The folder beside the mount, mode 0700."""
        return self._lock.folder

    async def __aenter__(self) -> Self:
        """Mount and attach.

        Raises:
            SimulatorUnavailable: no FUSE here, no right to mount, or the folder is in use or not empty.
        """
        await asyncio.to_thread(self._lock.take)
        try:
            descriptor = await asyncio.to_thread(mount.mount, self.directory)
        except BaseException:
            await asyncio.to_thread(self._lock.release)
            raise
        self._connection = self._device.serve(descriptor)
        self._machine.attach()
        try:
            async with asyncio.timeout(_SECONDS_TO_MOUNT):
                await self._connection.ready.wait()
        except TimeoutError:
            await self._leave()
            raise SimulatorUnavailable(
                f"the kernel did not begin to use the mount at {self.directory} within {_SECONDS_TO_MOUNT}s",
                "Look into the kernel's log; a healthy FUSE answers at once.",
            ) from None
        except BaseException:
            await self._leave()
            raise
        self._watch = asyncio.create_task(self._watch_mount(self._connection), name="freebsd-simulator-mount")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unmount. Descriptors that others still hold answer with ENOTCONN or ECONNABORTED; nobody is killed."""
        await self._leave()

    # The device

    @property
    def attached(self) -> bool:
        """Whether the driver is there, and with it both nodes."""
        return self._machine.attached

    def attach(self) -> None:
        """Bring the driver back, fresh, with new nodes. Nothing happens when it is there."""
        self._machine.attach()

    def detach(self) -> None:
        """Take the driver away, as the host's administrator does by unticking the backup service.

        The last opener of each device gets SIGKILL, even if it closed it long ago, but never the simulator's own
        process. The nodes vanish; descriptors that are still held answer ENXIO, and POLLHUP to poll.
        """
        self._machine.detach()

    def state(self) -> DriverState | None:
        """A look into the driver; None when it is detached."""
        return self._machine.state()

    # The clocks

    def clock_moved(self) -> None:
        """Tell the simulator that the clock it was given has been moved by hand: whatever is due, happens now."""
        self._alarms.moved()

    def shift_wall(self, by: timedelta) -> None:
        """Let the guest's wall clock jump: msgids of later requests are stamped with the jumped clock."""
        self._machine.shift_wall(by)

    # What happened

    @property
    def events(self) -> tuple[Event, ...]:
        """The last 10,000 events, oldest first."""
        return self._record.events()

    @property
    def event_count(self) -> int:
        """The number of the newest event; the place to `wait_for` something after."""
        return self._record.count

    def watch(self) -> AsyncIterator[Event]:
        """Every event from the first `anext` on, without end. A reader that is 1,000 behind loses the oldest."""
        return self._record.watch()

    async def wait_for(
        self, wanted: Callable[[Event], bool] | EventKind, *, after: int = 0, timeout: timedelta = SHORT_WAIT
    ) -> Event:
        """The first event numbered above `after` that is `wanted`, past or still to come.

        Args:
            wanted: a kind, or a question that says yes to the right event.
            after: an `event_count` of earlier.
            timeout: of real time, whatever clock the simulator was given.

        Raises:
            TimeoutError: none came in that time.
        """
        asked = (lambda event: event.kind is wanted) if isinstance(wanted, EventKind) else wanted
        return await self._record.wait_for(asked, after=after, timeout=timeout)

    async def wait_gone(self) -> None:
        """Return when the folder is unmounted, by whomever."""
        if self._connection is not None:
            await self._connection.gone.wait()

    # How it works

    async def _watch_mount(self, connection: FuseConnection) -> None:
        await connection.gone.wait()
        self._machine.note(Event(EventKind.UNMOUNTED, self._machine.moment()))

    async def _leave(self) -> None:
        """Everything that must happen at the end, in an order in which no step can hold up the next."""
        watch, unmount = self._watch, asyncio.to_thread(self._unmount)
        self.host.give_up("the simulator has ended")
        if watch is not None:
            watch.cancel()
        try:
            await asyncio.shield(asyncio.create_task(unmount, name="freebsd-simulator-unmount"))
        finally:
            if self._connection is not None:
                self._connection.close()
            self._alarms.ring_all()
            self._machine.close()
        if watch is not None:
            await asyncio.wait({watch})

    def _unmount(self) -> None:
        mount.unmount(self.directory)
        self._lock.release()
