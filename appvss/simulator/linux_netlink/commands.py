"""The commands of the simulator of Linux's driver over netlink."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from appvss.model.errors import DeviceAbsent, DeviceBusy, UsageError
from appvss.model.names import printable
from appvss.simulator import commands, lines
from appvss.simulator.commands import HINT, no_more
from appvss.simulator.lines import Line
from appvss.simulator.linux_netlink.port import PORTID
from appvss.simulator.linux_netlink.simulator import NetlinkSimulator

USAGE: Final = """\
check | freeze | thaw | dm-info     the host asks, and waits for the reply
negotiate                           the host offers its versions
operation NUMBER                    the host sends any operation, 0 to 255
backup [HOLD] [thaw-always]         check, freeze, HOLD (else 1s), thaw; thaw-always: also after a failed freeze
detach | attach                     the driver goes, and nobody is told, or comes back
device open | device close          a program opens the character device, and netlink is not listened to any more
wait LENGTH                         do nothing for so long, such as 500ms
state                               show what the driver waits for
help | quit
A line that ends in & does not hold up the next one."""


class Commands(commands.Commands):
    """Carries out commands on one simulator.

    Args:
        simulator: which.
    """

    def __init__(self, simulator: NetlinkSimulator) -> None:
        self._simulator = simulator
        verbs = {
            "negotiate": self._negotiate,
            "detach": self._driver,
            "attach": self._driver,
            "device": self._device,
            "state": self._state,
        }
        super().__init__(simulator.host, verbs, USAGE)

    async def _driver(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        await (self._simulator.attach() if words[0] == "attach" else self._simulator.detach())
        return lines.done(words[0])

    async def _device(self, words: Sequence[str]) -> Line:
        text = " ".join(words)
        try:
            match words[1:]:
                case ["open"]:
                    self._simulator.open_device()
                case ["close"]:
                    self._simulator.close_device()
                case _:
                    raise UsageError(f"{printable(text, 80)!r} is not a command", HINT)
        except OSError as error:
            kind = DeviceBusy if error.errno == errno.EBUSY else DeviceAbsent
            raise kind(f"{text} fails: {error.strerror}", "`state` shows the driver.") from None
        return lines.done(text)

    async def _state(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        return state(self._simulator)


def ready(simulator: NetlinkSimulator, control_socket: str, process: int) -> Line:
    """The driver is there and commands are taken."""
    return {
        "message_type": "ready",
        "connector": str(simulator.connector),
        "kernel_portid": PORTID,
        "control_socket": control_socket,
        "pid": process,
        "text": f"ready: connector = {simulator.connector}, kernel_portid = {PORTID}, in the network namespace of "
        f"process {process}; `help` lists the commands",
    }


def state(simulator: NetlinkSimulator) -> Line:
    """A look at everything."""
    driver = simulator.state()
    line = {
        "message_type": "state",
        "attached": driver is not None,
        "condition": driver.condition if driver is not None else None,
        "mode": driver.mode if driver is not None else None,
        "operation": (driver.operation or None) if driver is not None else None,
        "messages_in_ring": driver.ring if driver is not None else 0,
    }
    if driver is None:
        return {**line, "text": "detached: no driver"}
    waits = f", waits for the answer to {driver.operation}" if driver.operation else ""
    return {**line, "text": f"{driver.condition} over {driver.mode}{waits}; {driver.ring} messages wait in the ring"}
