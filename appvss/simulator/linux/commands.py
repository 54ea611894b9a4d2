"""The commands of the simulator of Linux's device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from appvss.model.errors import DeviceAbsent
from appvss.simulator import commands, lines
from appvss.simulator.commands import Verb, no_more
from appvss.simulator.lines import Line
from appvss.simulator.linux import lines as linux_lines
from appvss.simulator.linux.simulator import LinuxSimulator

USAGE: Final = """\
check | freeze | thaw | dm-info     the host asks, and waits for the reply
operation NUMBER                    the host sends any operation, 0 to 255
backup [HOLD] [thaw-always]         check, freeze, HOLD (else 1s), thaw; thaw-always: also after a failed freeze
remove | return                     the host withdraws the service (the kernel waits for the close), or offers it again
hibernate                           the machine hibernates and comes back: the daemon is sent a thaw of nobody
wait LENGTH                         do nothing for so long, such as 500ms
state | status                      show who has the device open and what waits
help | quit
A line that ends in & does not hold up the next one."""


class Commands(commands.Commands):
    """Carries out commands on one simulator.

    Args:
        simulator: which.
    """

    def __init__(self, simulator: LinuxSimulator) -> None:
        self._simulator = simulator
        verbs: dict[str, Verb] = {
            "remove": self._act(simulator.remove),
            "return": self._act(simulator.attach),
            "hibernate": self._act(simulator.hibernate),
            "state": self._state,
            "status": self._state,
        }
        super().__init__(simulator.host, verbs, USAGE)

    def _act(self, act: Callable[[], None]) -> Verb:
        async def verb(words: Sequence[str]) -> Line:
            no_more(words, 1)
            try:
                act()
            except OSError as error:
                raise DeviceAbsent(
                    f"{words[0]} needs the driver, and it was removed", "`return` brings it back."
                ) from error
            return lines.done(words[0])

        return verb

    async def _state(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        return linux_lines.state(self._simulator.state())
