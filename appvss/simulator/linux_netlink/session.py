"""`appvss simulate linux --netlink`: the simulator of the driver's netlink side in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appvss.simulator import session
from appvss.simulator.event import Event
from appvss.simulator.linux_netlink.commands import Commands, ready
from appvss.simulator.linux_netlink.kernel import kernel_of
from appvss.simulator.linux_netlink.simulator import NetlinkSimulator


async def run(directory: Path, *, kernel: str, as_json: bool) -> None:
    """Serve as `session.run` does.

    Args:
        directory: for the connector's list.
        kernel: the version of the kernel to play, such as `3.10`.
        as_json: how lines are written to standard output.

    Raises:
        UsageError: there is no such kernel, or it had no such driver.
        SimulatorUnavailable: this is the machine's own network namespace, or there is no right to play the kernel.
        SocketPathTooLong: the folder's path leaves no room for the control socket.
    """
    played = kernel_of(kernel)

    def make(observer: Callable[[Event], None]) -> session.Parts:
        simulator = NetlinkSimulator(directory, kernel=played, observer=observer)
        return simulator, Commands(simulator), lambda socket, process: ready(simulator, str(socket), process)

    await session.run(make, as_json=as_json)
