"""A folder with simulated devices as one object: a mount, a machine with its driver, a host."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.clock import Alarms, Moment
from appvss.simulator.event import Event, EventKind, EventRecord
from appvss.simulator.fuse import mount
from appvss.simulator.fuse.connection import FuseConnection
from appvss.simulator.host import Host
from appvss.simulator.observed import Observed

_SECONDS_TO_MOUNT: Final = 10


class Device(Protocol):
    """What answers on the mount."""

    def serve(self, descriptor: int) -> FuseConnection:
        """Begin to answer on a mount's descriptor. The caller closes the connection."""


class Machine(Protocol):
    """The machine behind the device."""

    def attach(self) -> None:
        """Bring the driver, and with it the nodes."""

    def shift_wall(self, by: timedelta) -> None:
        """Let the machine's wall clock jump."""

    def moment(self) -> Moment:
        """Both clocks, now."""

    def note(self, event: Event) -> None:
        """Record something that happened outside of the driver."""

    def close(self) -> None:
        """Forget the processes; kills nobody."""


class SimulatedFolder(Observed):
    """Simulated devices in a folder, for the length of an `async with` block.

    Inside of the block the folder has the nodes, which any program on this machine may open. Leaving the block unmounts
    it, whoever still uses it.

    Everything here belongs to the event loop that the block runs on. That loop also answers the files' system calls, so
    its own thread must never touch the folder: open, read, write and ioctl belong into other threads or other
    processes.

    Args:
        directory: the folder, empty or not there yet. Beside it, `DIRECTORY.control` exists as long as the block.
        device: answers on the mount.
        machine: the machine behind the device.
        host: plays the Hyper-V host of that machine.
        alarms: of the machine's clock.
        record: where the machine's events go.
    """

    def __init__(
        self, directory: Path, device: Device, machine: Machine, host: Host, alarms: Alarms, record: EventRecord
    ) -> None:
        self.directory = mount.resolve(directory)
        """The folder, without symbolic links."""
        self.host = host
        """Plays the Hyper-V host."""
        self._folder_device = device
        self._folder_machine = machine
        super().__init__(alarms, record)
        self._lock = mount.FolderLock(self.directory)
        self._connection: FuseConnection | None = None
        self._watch: asyncio.Task[None] | None = None

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
        self._connection = self._folder_device.serve(descriptor)
        self._folder_machine.attach()
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
        self._watch = asyncio.create_task(self._watch_mount(self._connection), name="simulator-mount")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unmount. Descriptors that others still hold answer with ENOTCONN or ECONNABORTED; nobody is killed."""
        await self._leave()

    # The clocks

    def shift_wall(self, by: timedelta) -> None:
        """Let the guest's wall clock jump: msgids of later requests are stamped with the jumped clock."""
        self._folder_machine.shift_wall(by)

    async def wait_gone(self) -> None:
        """Return when the folder is unmounted, by whomever."""
        if self._connection is not None:
            await self._connection.gone.wait()

    # How it works

    async def _watch_mount(self, connection: FuseConnection) -> None:
        await connection.gone.wait()
        self._folder_machine.note(Event(EventKind.UNMOUNTED, self._folder_machine.moment()))

    async def _leave(self) -> None:
        """Everything that must happen at the end, in an order in which no step can hold up the next."""
        watch, unmount = self._watch, asyncio.to_thread(self._unmount)
        self.host.give_up("the simulator has ended")
        if watch is not None:
            watch.cancel()
        try:
            await asyncio.shield(asyncio.create_task(unmount, name="simulator-unmount"))
        finally:
            if self._connection is not None:
                self._connection.close()
            self._alarms.ring_all()
            self._folder_machine.close()
        if watch is not None:
            await asyncio.wait({watch})

    def _unmount(self) -> None:
        mount.unmount(self.directory)
        self._lock.release()
