"""The lines that adapter and program exchange (facts/database-quiesce.md section 6.7; docs/engines/exec.md has it all).

    PREFLIGHT                        VERSION text, VOLUME kind path, WARNING text, PROBLEM text, at the end READY
    PREPARE cycle seconds            READY | VETO reason | BUSY reason
    FREEZE cycle seconds seconds     HELD {json} | VETO reason | BUSY reason
    THAW cycle                       RELEASED {json} | LOST reason
    ABORT cycle                      RELEASED {json} | LOST reason

A program answers each line, in order, with UNKNOWN what it does not know. The end of its standard input means: release
now, and end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss.adapters.errors import ServerUnfit
from appvss.adapters.exec.process import Running, brief
from appvss.model.duration import format_duration

UNKNOWN: Final = "UNKNOWN"
_HINT: Final = "docs/engines/exec.md has the lines and an example; what is for people goes to standard error."
_BETWEEN_LIMIT: Final = 1000
"""Lines of a pre-flight."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of a program."""

    word: str
    rest: str = ""

    def content(self) -> dict[str, str]:
        """The JSON object behind the word; empty: there is none.

        Raises:
            ServerUnfit: it is something else.
        """
        if not self.rest:
            return {}
        try:
            found = json.loads(self.rest)
        except (ValueError, RecursionError) as error:
            raise ServerUnfit(f"the program's {self.word} has no JSON behind it: {brief(self.rest)}", _HINT) from error
        return entries(found)


def entries(found: object) -> dict[str, str]:
    """The entries of a JSON object, as texts.

    Raises:
        ServerUnfit: it is no object, or has something in it that is neither text nor number.
    """
    if not isinstance(found, dict) or not all(isinstance(each, str | int | float) for each in found.values()):
        raise ServerUnfit("what the program says of its hold is no object of texts and numbers", _HINT)
    return {str(key): str(value) for key, value in found.items()}


class Conversation:
    """A program that answers. Whoever has it owes `end`."""

    def __init__(self, running: Running) -> None:
        self._running = running

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        return not self._running.has_ended and not self._running.stdout.at_eof()

    async def ask(self, request: str, answers: Collection[str], limit: timedelta) -> Answer:
        """Say one line, and wait for one.

        Raises:
            ServerUnfit: it has ended, does not answer in time, or says what is no answer to that.
        """
        self.say(request)
        return await self.hear(request.split()[0], answers, limit)

    def say(self, request: str) -> None:
        """Say one line. It is short: the pipe takes it at once, or the program is gone and `hear` finds that out."""
        stdin = self._running.stdin
        if stdin is not None and not stdin.is_closing():
            stdin.write(f"{request}\n".encode())

    async def hear(self, asked: str, answers: Collection[str], limit: timedelta) -> Answer:
        """Wait for the next line.

        Raises:
            ServerUnfit: as `ask`.
        """
        try:
            async with asyncio.timeout(limit.total_seconds()):
                answer = await self._next()
        except TimeoutError as error:
            raise ServerUnfit(
                f"the program did not answer {asked} within {format_duration(limit)}{self._said()}",
                "It was ended; run it by hand, type the line, and see what it waits for.",
            ) from error
        if answer.word not in answers:
            raise ServerUnfit(f"the program answered {asked} with {brief(f'{answer.word} {answer.rest}')!r}", _HINT)
        return answer

    async def unasked(self) -> Answer | None:
        """What it has said since its last answer, without having been asked; None: nothing. Does not wait.

        Raises:
            ServerUnfit: a line that is too long.
        """
        try:
            async with asyncio.timeout(0):  # a line that is there already is read all the same
                return await self._next()
        except TimeoutError:
            return None

    async def _next(self) -> Answer:
        while True:
            try:
                line = await self._running.stdout.readline()
            except ValueError as error:
                raise ServerUnfit("the program printed a line that is too long to be an answer", _HINT) from error
            if not line.endswith(b"\n"):
                await self._running.hear_last_words()
                raise ServerUnfit(
                    f"the program ended instead of answering{self._said()}", "Run it by hand to see why it ends."
                )
            word, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
            if word:
                return Answer(word, rest.strip())

    async def preflight(self, limit: timedelta) -> tuple[Answer, ...]:
        """All that it says about what it looks after; empty: it knows no pre-flight.

        Raises:
            ServerUnfit: as `ask`.
        """
        words = ("READY", UNKNOWN, "WARNING", "PROBLEM", "VOLUME", "VERSION")
        answer = await self.ask("PREFLIGHT", words, limit)
        found: list[Answer] = []
        while answer.word not in ("READY", UNKNOWN):
            found.append(answer)
            if len(found) > _BETWEEN_LIMIT:
                raise ServerUnfit("the program's pre-flight does not come to an end", _HINT)
            answer = await self.hear("PREFLIGHT", words, limit)
        return tuple(found)

    def let_go(self) -> None:
        """End its standard input, which says: release now. Waits for nobody."""
        if self._running.stdin is not None:
            self._running.stdin.close()

    def abandon(self) -> None:
        """Leave its end to its keeper (`Running.abandon`)."""
        self._running.abandon()

    async def end(self, grace: timedelta, patience: timedelta | None = None) -> None:
        """End its standard input, and it, if it does not end by itself (`Running.end`)."""
        await self._running.end(grace, patience)

    def _said(self) -> str:
        words = self._running.errors.in_brief()
        return f": {words}" if words else ""
