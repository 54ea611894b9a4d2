"""The commands of the simulator of FreeBSD's devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from appvss.model.errors import UsageError
from appvss.model.names import printable
from appvss.simulator import commands, lines
from appvss.simulator.commands import HINT, length, no_more, one_of
from appvss.simulator.freebsd import lines as freebsd_lines
from appvss.simulator.freebsd.fs_side import FsAnswer
from appvss.simulator.freebsd.simulator import FreebsdSimulator
from appvss.simulator.lines import Line
from appvss.sources.wire.freebsd import Operation

USAGE: Final = """\
check | freeze | thaw | dm-info     the host asks, and waits for the reply
negotiate                           the host offers its versions
operation NUMBER                    the host sends any operation, 0 to 255
backup [HOLD] [thaw-always]         check, freeze, HOLD (else 1s), thaw; thaw-always: also after a failed freeze
detach | attach                     the driver goes (its openers are killed), or comes back
fs auto                             the played file-system side agrees to everything
fs veto OPERATION...                it refuses these: check, freeze, thaw
fs silent                           it never answers
fs script ANSWER...                 it answers the next requests so: ok, veto, silent, die
fs die | fs open                    it closes the fs device, or opens it again
clock +LENGTH | clock -LENGTH       the guest's wall clock jumps
wait LENGTH                         do nothing for so long, such as 500ms
state                               show what is open and what waits
help | quit
A line that ends in & does not hold up the next one."""

_VETOABLE: Final = {operation.name.lower(): operation for operation in Operation if operation is not Operation.NONE}


class Commands(commands.Commands):
    """Carries out commands on one simulator.

    Args:
        simulator: which.
    """

    def __init__(self, simulator: FreebsdSimulator) -> None:
        self._simulator = simulator
        verbs = {
            "negotiate": self._negotiate,
            "detach": self._driver,
            "attach": self._driver,
            "fs": self._fs,
            "clock": self._clock,
            "state": self._state,
        }
        super().__init__(simulator.host, verbs, USAGE)

    async def _driver(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        if words[0] == "attach":
            self._simulator.attach()
        else:
            self._simulator.detach()
        return lines.done(words[0])

    async def _fs(self, words: Sequence[str]) -> Line:
        fs_side, text = self._simulator.fs, " ".join(words)
        match words[1:]:
            case ["auto"]:
                fs_side.answer_all()
            case ["silent"]:
                fs_side.keep_silent()
            case ["veto", _, *_]:
                fs_side.veto(*(one_of(_VETOABLE, word) for word in words[2:]))
            case ["script", _, *_]:
                answers = {answer.value: answer for answer in FsAnswer}
                fs_side.play([one_of(answers, word) for word in words[2:]])
            case ["die"]:
                fs_side.die()
                return lines.done(text)
            case ["open"]:
                fs_side.open()
            case _:
                raise UsageError(f"{printable(text, 80)!r} is not a command", HINT)
        return lines.done(text, "" if fs_side.state.opened else "not open here; `fs open` opens it")

    async def _clock(self, words: Sequence[str]) -> Line:
        no_more(words, 2)
        jump = words[1] if len(words) == 2 else ""
        if jump[:1] not in ("+", "-"):
            raise UsageError(f"{printable(jump, 40)!r} is not a jump", "Write + or - and a length: `clock -30s`.")
        by = length(jump[1:])
        self._simulator.shift_wall(by if jump[0] == "+" else -by)
        return lines.done(" ".join(words))

    async def _state(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        return freebsd_lines.state(self._simulator.state(), self._simulator.fs.state)
