"""The whole simulator as one object: a port in the kernel's place, a driver, a host, and the connector's list."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.clock import Alarms, Clock, SystemClock
from appvss.simulator.event import Event, EventRecord
from appvss.simulator.fuse.mount import FolderLock, resolve
from appvss.simulator.host import Host
from appvss.simulator.linux.simulator import PATIENCE
from appvss.simulator.linux_netlink.driver import DriverState
from appvss.simulator.linux_netlink.kernel import MODERN, NetlinkKernel
from appvss.simulator.linux_netlink.machine import NetlinkMachine
from appvss.simulator.linux_netlink.port import KernelPort
from appvss.simulator.observed import Observed

_HEADING: Final = "Name            ID\n"


class NetlinkSimulator(Observed):
    """The netlink side of Linux's VSS driver, for the length of an `async with` block.

    Inside of the block, the port id `PORTID` of this network namespace is what 0 is on a machine with the driver, and
    the folder has the file `connector`, which is what `/proc/net/connector` is there. Everything here belongs to the
    event loop that the block runs on.

    Args:
        directory: for the list; made if it is missing. Beside it, `DIRECTORY.control` exists as long as the block.
        kernel: whose driver is played.
        clock: what the driver's timer is measured with.
        observer: called with every event, in order, on the event loop; it must not wait for anything.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kernel: NetlinkKernel = MODERN,
        clock: Clock | None = None,
        observer: Callable[[Event], None] | None = None,
    ) -> None:
        self.directory = resolve(directory)
        """The folder, without symbolic links."""
        self.connector = self.directory / "connector"
        """The list, for the broker's option `sources.linux_netlink.connector`."""
        clock = clock or SystemClock()
        self._kernel = kernel
        super().__init__(Alarms(clock), EventRecord())
        self._machine = NetlinkMachine(clock, self._alarms, self._record, kernel, self._multicast)
        self._lock = FolderLock(self.directory)
        self._port: KernelPort | None = None
        self.host = Host(self._machine, self._alarms, clock, patience=PATIENCE)
        """Plays the Hyper-V host."""
        self._machine.listeners = [self.host.notice]
        if observer is not None:
            self._machine.listeners.insert(0, observer)

    @property
    def control_folder(self) -> Path:
        """The folder beside the other, mode 0700."""
        return self._lock.folder

    async def __aenter__(self) -> Self:
        """Take the kernel's place, and attach.

        Raises:
            SimulatorUnavailable: this is the machine's own network namespace, there is no right to send to a group, the
                place is taken, or the folder cannot be used.
        """
        await asyncio.to_thread(self._lock.take)
        try:
            self._port = KernelPort()
            await self.attach()
        except BaseException:
            await self._leave()
            raise
        asyncio.get_running_loop().add_reader(self._port.fileno(), self._readable, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the place back. Nobody is told."""
        await self._leave()

    # The driver

    async def attach(self) -> None:
        """Bring the driver back, fresh. Nothing happens when it is there.

        Raises:
            SimulatorUnavailable: the list cannot be written.
        """
        await self._write_list(f"{self._kernel.callback:<15} 10:1\n")
        self._machine.attach()

    async def detach(self) -> None:
        """Take the driver away, as the host's administrator does by unticking the backup service. Nobody is told.

        Raises:
            SimulatorUnavailable: the list cannot be written.
        """
        self._machine.detach()
        await self._write_list("")

    def open_device(self) -> None:
        """A program opens the character device, and netlink is not listened to any more.

        Raises:
            OSError: EBUSY, it is open; ENOENT, this kernel's driver has none; ENXIO, the driver is not there.
        """
        self._machine.open_device()

    def close_device(self) -> None:
        """The program closes the character device.

        Raises:
            OSError: ENXIO, the driver is not there.
        """
        self._machine.close_device()

    def state(self) -> DriverState | None:
        """A look into the driver; None when it is detached."""
        return self._machine.state()

    async def wait_gone(self) -> None:
        """Never returns: nobody can take the place away."""
        await asyncio.get_running_loop().create_future()

    # How it works

    def _multicast(self, payload: bytes) -> bool:
        return self._port is not None and self._port.multicast(payload)

    def _readable(self, port: KernelPort) -> None:
        for data, process, portid in port.receive():
            self._machine.receive(data, process, portid)

    async def _write_list(self, line: str) -> None:
        try:
            await asyncio.to_thread(self._put, _HEADING + line)
        except OSError as error:
            raise SimulatorUnavailable(
                f"{self.connector} cannot be written: {error.strerror}", "Name a folder that this user may write."
            ) from None

    def _put(self, text: str) -> None:
        self.directory.mkdir(mode=0o755, exist_ok=True)
        if self.directory.lstat().st_uid != os.geteuid() or not stat.S_ISDIR(self.directory.lstat().st_mode):
            raise PermissionError(errno.EPERM, "the folder is a link, or belongs to somebody else")
        new = self.connector.with_name("connector.new")
        new.unlink(missing_ok=True)
        with new.open("x", encoding="ascii") as file:
            file.write(text)
        new.replace(self.connector)

    async def _leave(self) -> None:
        self.host.give_up("the simulator has ended")
        if self._port is not None:
            asyncio.get_running_loop().remove_reader(self._port.fileno())
            self._port.close()
            self._port = None
        self._alarms.ring_all()
        await asyncio.to_thread(self._tidy)

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):  # there was no folder to write to
            self.connector.unlink()
        self._lock.release()
