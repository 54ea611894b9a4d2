"""The commands that a person, a script or another shell gives to a running simulator, one line of text each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final, TypeAlias, TypeVar

from appvss.model.duration import parse_duration
from appvss.model.errors import UsageError
from appvss.model.names import printable
from appvss.simulator import lines
from appvss.simulator.host import Host
from appvss.simulator.hyperv import HostOperation
from appvss.simulator.lines import Line

LENGTH_LIMIT: Final = 4096
"""Longest command line in bytes."""
HINT: Final = "`help` lists the commands."
"""For every command that is not understood."""

Verb: TypeAlias = Callable[[Sequence[str]], Awaitable[Line]]
_Choice = TypeVar("_Choice")
_DEFAULT_HOLD: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=1)
_HOST: Final = {
    "check": HostOperation.CHECK,
    "freeze": HostOperation.FREEZE,
    "thaw": HostOperation.THAW,
    "dm-info": HostOperation.DM_INFO,
}


class Commands:
    """Carries out commands: those that every simulator has, and the verbs that one adds.

    Args:
        host: plays the Hyper-V host.
        verbs: what each further first word does.
        usage: the text that `help` prints.
    """

    def __init__(self, host: Host, verbs: Mapping[str, Verb], usage: str) -> None:
        self._host_side = host
        self._usage = usage
        self.quit = asyncio.Event()
        """Somebody has said `quit`."""
        self._verbs: dict[str, Verb] = {
            **dict.fromkeys(_HOST, self._host),
            "operation": self._operation,
            "backup": self._backup,
            "wait": self._wait,
            "help": self._help,
            "quit": self._quit,
            **verbs,
        }

    async def run(self, text: str) -> Line:
        """Carry out one command and tell how it ended.

        Raises:
            UsageError: there is no such command, or it is not written like this.
            DeviceBusy: another program has what the simulator was told to open.
            DeviceAbsent: the driver that the command is about is not there.
        """
        words = text.split()
        if not words:
            raise UsageError("the command is empty", HINT)
        verb = self._verbs.get(words[0])
        if verb is None:
            raise UsageError(f"there is no command {printable(words[0], 40)!r}", HINT)
        return await verb(words)

    async def _host(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        return lines.host_result(words[0], await self._host_side.request(_HOST[words[0]]))

    async def _negotiate(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        return lines.host_result(words[0], await self._host_side.negotiate())

    async def _operation(self, words: Sequence[str]) -> Line:
        no_more(words, 2)
        number = words[1] if len(words) == 2 else ""
        if not (number.isascii() and number.isdigit()) or len(number) > 3 or int(number) > 255:
            raise UsageError(f"{printable(number, 40)!r} is not an operation", "Write a number from 0 to 255.")
        return lines.host_result(" ".join(words), await self._host_side.request(int(number)))

    async def _backup(self, words: Sequence[str]) -> Line:
        options = list(words[1:])
        thaw_always = "thaw-always" in options
        if thaw_always:
            options.remove("thaw-always")
        no_more(options, 1)
        hold = length(options[0]) if options else _DEFAULT_HOLD
        result = await self._host_side.backup(hold=hold, thaw_after_failed_freeze=thaw_always)
        return lines.backup_result(" ".join(words), result)

    async def _wait(self, words: Sequence[str]) -> Line:
        no_more(words, 2)
        await asyncio.sleep(length(words[1] if len(words) == 2 else "").total_seconds())
        return lines.done(" ".join(words))

    async def _help(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        return lines.help_text(self._usage)

    async def _quit(self, words: Sequence[str]) -> Line:
        no_more(words, 1)
        self.quit.set()
        return lines.done(words[0])


def no_more(words: Sequence[str], count: int) -> None:
    """Refuse what is written after the first `count` words.

    Raises:
        UsageError: there is more.
    """
    if len(words) > count:
        raise UsageError(f"{printable(words[count], 40)!r} is too much", HINT)


def length(text: str) -> timedelta:
    """A length of time, a day at most.

    Raises:
        UsageError: it is none, or longer.
    """
    value = parse_duration(text)
    if value > _LONGEST:
        raise UsageError(f"{printable(text, 40)} is longer than a day", "Write at most 24h.")
    return value


def one_of(choices: Mapping[str, _Choice], word: str) -> _Choice:
    """What a word stands for.

    Raises:
        UsageError: it is none of the choices.
    """
    choice = choices.get(word)
    if choice is None:
        raise UsageError(f"{printable(word, 40)!r} is none of {', '.join(choices)}", HINT)
    return choice
