"""The whole simulator of FreeBSD's devices as one object: a mount, a driver, a host, a file-system side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appvss.simulator.clock import Alarms, Clock, SystemClock
from appvss.simulator.event import Event, EventRecord, Side
from appvss.simulator.folder import SimulatedFolder
from appvss.simulator.freebsd.device import NODE_NAMES, Device
from appvss.simulator.freebsd.driver import DriverState
from appvss.simulator.freebsd.fs_side import FsSide
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.host import Host


class FreebsdSimulator(SimulatedFolder):
    """FreeBSD's Hyper-V VSS driver in a folder, for the length of an `async with` block.

    Inside of the block the folder has `hv_appvss_dev` and `hv_fsvss_dev`.

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
        clock = clock or SystemClock()
        record, alarms = EventRecord(), Alarms(clock)
        self._machine = Machine(clock, alarms, record, debug_kernel=debug_kernel)
        device, host = Device(self._machine), Host(self._machine, alarms, clock)
        super().__init__(directory, device, self._machine, host, alarms, record)
        self.app_device = self.directory / NODE_NAMES[Side.APP]
        """The path for an app or a broker to open."""
        self.fs_device = self.directory / NODE_NAMES[Side.FS]
        """The path for a file-system daemon to open."""
        self.fs = FsSide(self._machine, automatic=automatic_fs)
        """Plays the file-system side, while it has the fs device open."""
        self._machine.listeners = [device.notice, host.notice, self.fs.notice]
        if observer is not None:
            self._machine.listeners.insert(0, observer)

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
