"""`appvss simulate freebsd`: the simulator of FreeBSD's devices in the foreground."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appvss.simulator import session
from appvss.simulator.event import Event
from appvss.simulator.freebsd import lines
from appvss.simulator.freebsd.commands import Commands
from appvss.simulator.freebsd.simulator import FreebsdSimulator


async def run(directory: Path, *, automatic_fs: bool, silent_fs: bool, debug_kernel: bool, as_json: bool) -> None:
    """Serve as `session.run` does.

    Args:
        directory: the folder for the devices.
        automatic_fs: whether the file-system side is played.
        silent_fs: whether it is played as one that never answers.
        debug_kernel: whether the driver's assertions panic.
        as_json: how lines are written to standard output.

    Raises:
        SimulatorUnavailable: nothing can be mounted here, or somebody else has unmounted it.
        SocketPathTooLong: the folder's path leaves no room for the control socket.
    """

    def make(observer: Callable[[Event], None]) -> session.Parts:
        simulator = FreebsdSimulator(directory, automatic_fs=automatic_fs, debug_kernel=debug_kernel, observer=observer)
        if silent_fs:
            simulator.fs.keep_silent()
        return (
            simulator,
            Commands(simulator),
            lambda socket, process: lines.ready(simulator.app_device, simulator.fs_device, socket, process),
        )

    await session.run(make, as_json=as_json)
