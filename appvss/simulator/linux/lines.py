"""The lines that only the simulator of Linux's device prints; the others are in `appvss.simulator.lines`."""

from __future__ import annotations

from pathlib import Path

from appvss.simulator.lines import Line
from appvss.simulator.linux.driver import DriverState, Phase
from appvss.simulator.linux.kernel import Kernel


def ready(device: Path, kernel: Kernel, control_socket: Path, process: int) -> Line:
    """The device is there and commands are taken."""
    return {
        "message_type": "ready",
        "device": str(device),
        "kernel": str(kernel),
        "control_socket": str(control_socket),
        "pid": process,
        "text": f"ready: {device} as in Linux {kernel}; `help` lists the commands",
    }


def state(driver: DriverState | None) -> Line:
    """A look at everything."""
    return {
        "message_type": "state",
        "attached": driver is not None,
        "open": driver is not None and driver.is_open,
        "phase": driver.phase.name.lower() if driver is not None else None,
        "unread": (driver.unread or None) if driver is not None else None,
        "operation": (driver.operation or None) if driver is not None else None,
        "messages_in_ring": driver.ring if driver is not None else 0,
        "text": _state_text(driver),
    }


def _state_text(driver: DriverState | None) -> str:
    if driver is None:
        return "removed: no node"
    parts = ["open" if driver.is_open else "not open"]
    if driver.phase is Phase.DEVICE_DYING:
        return f"{parts[0]}, being removed: the kernel waits for the close"
    parts.append("nobody is registered" if driver.phase is Phase.DEVICE_INIT else "ready")
    if driver.operation:
        parts[-1] = f"{driver.operation} is with the daemon"
    if driver.unread:
        parts.append(f"{driver.unread} was not read")
    if driver.ring:
        parts.append(f"{driver.ring} messages wait in the ring")
    return ", ".join(parts)
