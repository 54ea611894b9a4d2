"""The commands that a person, a script or another shell gives to a running simulator, one line of text each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from appvss.model.duration import parse_duration
from appvss.model.errors import UsageError
from appvss.model.names import printable
from appvss.simulator.freebsd import lines
from appvss.simulator.freebsd.fs_side import FsAnswer
from appvss.simulator.freebsd.hyperv import HostOperation
from appvss.simulator.freebsd.lines import Line
from appvss.simulator.freebsd.simulator import FreebsdSimulator
from appvss.sources.wire.freebsd import Operation

LENGTH_LIMIT: Final = 4096
"""Longest command line in bytes."""
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

_Choice = TypeVar("_Choice")
_DEFAULT_HOLD: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=1)
_HINT: Final = "`help` lists the commands."
_HOST: Final = {
    "check": HostOperation.CHECK,
    "freeze": HostOperation.FREEZE,
    "thaw": HostOperation.THAW,
    "dm-info": HostOperation.DM_INFO,
}
_VETOABLE: Final = {operation.name.lower(): operation for operation in Operation if operation is not Operation.NONE}


class Commands:
    """Carries out commands on one simulator.

    Args:
        simulator: which.
    """

    def __init__(self, simulator: FreebsdSimulator) -> None:
        self._simulator = simulator
        self.quit = asyncio.Event()
        """Somebody has said `quit`."""
        self._verbs: dict[str, Callable[[Sequence[str]], Awaitable[Line]]] = {
            **dict.fromkeys(_HOST, self._host),
            "negotiate": self._negotiate,
            "operation": self._operation,
            "backup": self._backup,
            "detach": self._driver,
            "attach": self._driver,
            "fs": self._fs,
            "clock": self._clock,
            "wait": self._wait,
            "state": self._state,
            "help": self._help,
            "quit": self._quit,
        }

    async def run(self, text: str) -> Line:
        """Carry out one command and tell how it ended.

        Raises:
            UsageError: there is no such command, or it is not written like this.
            DeviceBusy: `fs open`, and another program has the fs device.
            DeviceAbsent: `fs open`, and the driver is detached.
        """
        words = text.split()
        if not words:
            raise UsageError("the command is empty", _HINT)
        verb = self._verbs.get(words[0])
        if verb is None:
            raise UsageError(f"there is no command {printable(words[0], 40)!r}", _HINT)
        return await verb(words)

    async def _host(self, words: Sequence[str]) -> Line:
        _no_more(words, 1)
        return lines.host_result(words[0], await self._simulator.host.request(_HOST[words[0]]))

    async def _negotiate(self, words: Sequence[str]) -> Line:
        _no_more(words, 1)
        return lines.host_result(words[0], await self._simulator.host.negotiate())

    async def _operation(self, words: Sequence[str]) -> Line:
        _no_more(words, 2)
        number = words[1] if len(words) == 2 else ""
        if not (number.isascii() and number.isdigit()) or len(number) > 3 or int(number) > 255:
            raise UsageError(f"{printable(number, 40)!r} is not an operation", "Write a number from 0 to 255.")
        return lines.host_result(" ".join(words), await self._simulator.host.request(int(number)))

    async def _backup(self, words: Sequence[str]) -> Line:
        options = list(words[1:])
        thaw_always = "thaw-always" in options
        if thaw_always:
            options.remove("thaw-always")
        _no_more(options, 1)
        hold = _length(options[0]) if options else _DEFAULT_HOLD
        result = await self._simulator.host.backup(hold=hold, thaw_after_failed_freeze=thaw_always)
        return lines.backup_result(" ".join(words), result)

    async def _driver(self, words: Sequence[str]) -> Line:
        _no_more(words, 1)
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
                fs_side.veto(*(_one_of(_VETOABLE, word) for word in words[2:]))
            case ["script", _, *_]:
                answers = {answer.value: answer for answer in FsAnswer}
                fs_side.play([_one_of(answers, word) for word in words[2:]])
            case ["die"]:
                fs_side.die()
                return lines.done(text)
            case ["open"]:
                fs_side.open()
            case _:
                raise UsageError(f"{printable(text, 80)!r} is not a command", _HINT)
        return lines.done(text, "" if fs_side.state.opened else "not open here; `fs open` opens it")

    async def _clock(self, words: Sequence[str]) -> Line:
        _no_more(words, 2)
        jump = words[1] if len(words) == 2 else ""
        if jump[:1] not in ("+", "-"):
            raise UsageError(f"{printable(jump, 40)!r} is not a jump", "Write + or - and a length: `clock -30s`.")
        length = _length(jump[1:])
        self._simulator.shift_wall(length if jump[0] == "+" else -length)
        return lines.done(" ".join(words))

    async def _wait(self, words: Sequence[str]) -> Line:
        _no_more(words, 2)
        await asyncio.sleep(_length(words[1] if len(words) == 2 else "").total_seconds())
        return lines.done(" ".join(words))

    async def _state(self, words: Sequence[str]) -> Line:
        _no_more(words, 1)
        return lines.state(self._simulator.state(), self._simulator.fs.state)

    async def _help(self, words: Sequence[str]) -> Line:
        _no_more(words, 1)
        return lines.help_text(USAGE)

    async def _quit(self, words: Sequence[str]) -> Line:
        _no_more(words, 1)
        self.quit.set()
        return lines.done(words[0])


def _no_more(words: Sequence[str], count: int) -> None:
    if len(words) > count:
        raise UsageError(f"{printable(words[count], 40)!r} is too much", _HINT)


def _length(text: str) -> timedelta:
    length = parse_duration(text)
    if length > _LONGEST:
        raise UsageError(f"{printable(text, 40)} is longer than a day", "Write at most 24h.")
    return length


def _one_of(choices: Mapping[str, _Choice], word: str) -> _Choice:
    choice = choices.get(word)
    if choice is None:
        raise UsageError(f"{printable(word, 40)!r} is none of {', '.join(choices)}", _HINT)
    return choice
