"""The way of a program that runs through the whole hold, and is spoken to in lines (`conversation.py`).

It is started for each cycle, before anything is frozen, and ends with it: so it is checked each time, and what it holds
ends with it. Between its HELD and the thaw nothing is said to it, and no process is made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.adapters.base import Finding, Preflight, Severity, Volume, VolumeKind
from appvss.adapters.errors import AdapterError, ServerUnfit
from appvss.adapters.exec.conversation import UNKNOWN, Answer, Conversation
from appvss.adapters.exec.process import brief, environment, start
from appvss.adapters.exec.settings import Settings
from appvss.adapters.kept import Kept
from appvss.adapters.waiting import to_the_end
from appvss.model.errors import HoldLost, Veto
from appvss.sdk.freeze import Freeze, Prepare

PREFLIGHT_LIMIT: Final = timedelta(seconds=20)
_SHARE: Final = 0.9
"""Of the budget that is the program's: what is left is for ending it, and for saying why."""
_LEAST: Final = timedelta(milliseconds=1)


@dataclass(slots=True)
class Talk:
    """One hold."""

    cycle: str
    conversation: Conversation
    content: Mapping[str, str]
    """What it said with its HELD."""
    is_over: bool = False
    """It was told to release."""


class Talking:
    """Cycles of one program.

    Args:
        settings: with a `command`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = Kept(self._end_aside, Conversation.abandon)
        self._ending: set[asyncio.Task[None]] = set()

    async def _begin(self, app: str, cycle: str) -> Conversation:
        """A program to talk to: the one that was started in prepare, or another one.

        Raises:
            SettingInvalid, ServerUnfit: it cannot be started.
        """
        ready = self._ready.take()
        if ready is not None:
            if ready.is_alive:
                return ready
            await to_the_end(ready.end(timedelta(0)))
        return await self._start(app, cycle)

    async def _start(self, app: str, cycle: str) -> Conversation:
        variables = environment(app, cycle, "command", self._settings.environment)
        running = await start(self._settings.command, variables, grace=self._settings.grace, with_input=True)
        return Conversation(running)

    def _end_aside(self, conversation: Conversation) -> None:
        conversation.let_go()
        task = asyncio.get_running_loop().create_task(conversation.end(self._settings.grace), name="exec end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End what still runs."""
        self._ready.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    async def preflight(self, app: str) -> Preflight:
        """What the program says about itself."""
        conversation = None
        try:
            conversation = await self._start(app, "preflight")  # what was prepared is left to the freeze
            said = await conversation.preflight(PREFLIGHT_LIMIT)
        except AdapterError as error:
            return Preflight((Finding(Severity.PROBLEM, "program", error.sentence, error.hint),))
        finally:
            if conversation is not None:
                await to_the_end(conversation.end(self._settings.grace))
        return _told(said)

    async def prepare(self, app: str, prepare: Prepare) -> None:
        """Start it, and have it do its slow work if it has any.

        Raises:
            Veto, AdapterError: it cannot.
        """
        conversation = await self._begin(app, prepare.cycle)
        try:
            limit = max(_LEAST, prepare.budget_left() * _SHARE)
            request = f"PREPARE {prepare.cycle} {limit.total_seconds():.3f}"
            answer = await conversation.ask(request, ("READY", "VETO", "BUSY", UNKNOWN), limit)
            _refuse(answer)
        except BaseException:
            await to_the_end(conversation.end(self._settings.grace))
            raise
        self._ready.put(conversation)

    async def hold(self, app: str, freeze: Freeze) -> Talk:
        """Have it hold.

        Raises:
            Veto, AdapterError: it does not.
        """
        conversation = await self._begin(app, freeze.cycle)
        try:
            limit = max(_LEAST, freeze.budget_left() * _SHARE)
            times = f"{limit.total_seconds():.3f} {freeze.hold_limit.total_seconds():.3f}"
            answer = await conversation.ask(f"FREEZE {freeze.cycle} {times}", ("HELD", "VETO", "BUSY"), limit)
            _refuse(answer)
            return Talk(freeze.cycle, conversation, answer.content())
        except BaseException:
            await to_the_end(self._abort(conversation, freeze))
            raise

    async def confirm(self, held: Talk) -> None:
        """Have it release, and say whether it has held all the time.

        Raises:
            HoldLost: it has not, or does not say.
        """
        held.is_over = True
        request, words = f"THAW {held.cycle}", ("RELEASED", "LOST")
        try:
            early = await held.conversation.unasked()
            held.conversation.say(request)
            answer = early or await held.conversation.hear("THAW", words, self._settings.thaw_limit)
            if early is not None and early.word != "LOST":
                raise HoldLost(f"the program said {brief(early.word)!r} in the hold, before it was asked to let go")
            answer.content() if answer.word == "RELEASED" else None
        except ServerUnfit as error:
            raise HoldLost(error.sentence) from error
        if answer.word == "LOST":
            raise HoldLost(brief(answer.rest) or "the program says that its hold was lost")

    async def release(self, held: Talk, freeze: Freeze) -> None:
        """End it. A hold that ends early is told so; if file systems may be frozen, by the end of its input alone, and
        nobody waits for it.
        """
        if held.is_over:
            await held.conversation.end(self._settings.grace)
        elif freeze.filesystem_freeze.is_set():
            self._end_aside(held.conversation)
        else:
            await self._abort(held.conversation, freeze)

    async def _abort(self, conversation: Conversation, freeze: Freeze) -> None:
        """Tell it to let go, whatever it is doing. A late answer to the freeze may come first."""
        if conversation.is_alive:
            conversation.say(f"ABORT {freeze.cycle}")
            words = ("HELD", "VETO", "BUSY", "RELEASED", "LOST", UNKNOWN)
            try:
                async with asyncio.timeout(self._settings.grace.total_seconds()):
                    while (await conversation.hear("ABORT", words, self._settings.grace)).word in words[:3]:
                        pass
            except (ServerUnfit, TimeoutError):
                await conversation.end(self._settings.grace, timedelta(0))  # it had its time
                return
        await conversation.end(self._settings.grace)


def resolved(path: str) -> Path:
    """A path without symbolic links, as far as it is there."""
    return Path(os.path.realpath(path))


def _refuse(answer: Answer) -> None:
    if answer.word in ("VETO", "BUSY"):
        raise Veto(brief(answer.rest) or "the program refuses", retryable=answer.word == "BUSY")


def _told(said: tuple[Answer, ...]) -> Preflight:
    findings: list[Finding] = []
    volumes: list[Volume] = []
    version = ""
    for each in said:
        if each.word == "VERSION":
            version = brief(each.rest)
        elif each.word == "VOLUME":
            kind, _, path = each.rest.partition(" ")
            if kind in tuple(VolumeKind) and path.startswith("/"):
                volumes.append(Volume(VolumeKind(kind), resolved(path)))
            else:
                sentence = f"the program names a volume that is none: {brief(each.rest)!r}"
                findings.append(Finding(Severity.WARNING, "volume", sentence, "Say VOLUME data|log|tablespace /path."))
        else:
            severity = Severity.PROBLEM if each.word == "PROBLEM" else Severity.WARNING
            findings.append(Finding(severity, "said_by_program", brief(each.rest), "The program says so itself."))
    if not findings:
        findings.append(Finding(Severity.OK, "program", "the program starts and answers"))
    return Preflight(tuple(findings), version, tuple(volumes))
