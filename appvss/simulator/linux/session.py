"""`appvss simulate linux`: the simulator of Linux's device in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appvss.simulator import session
from appvss.simulator.event import Event
from appvss.simulator.linux import lines
from appvss.simulator.linux.commands import Commands
from appvss.simulator.linux.kernel import kernel_of
from appvss.simulator.linux.simulator import LinuxSimulator


async def run(directory: Path, *, kernel: str, as_json: bool) -> None:
    """Serve as `session.run` does.

    Args:
        directory: the folder for the device.
        kernel: the version of the kernel to play, such as `4.9`.
        as_json: how lines are written to standard output.

    Raises:
        UsageError: there is no such kernel, or it had no such device.
        SimulatorUnavailable: nothing can be mounted here, or somebody else has unmounted it.
        SocketPathTooLong: the folder's path leaves no room for the control socket.
    """
    played = kernel_of(kernel)

    def make(observer: Callable[[Event], None]) -> session.Parts:
        simulator = LinuxSimulator(directory, kernel=played, observer=observer)
        return (
            simulator,
            Commands(simulator),
            lambda socket, process: lines.ready(simulator.device, played, socket, process),
        )

    await session.run(make, as_json=as_json)
