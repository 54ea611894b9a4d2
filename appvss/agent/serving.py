"""An adapter as an app at the broker: looked at, registered with its volumes, and heard of by the agent.

An application that is down at the start is registered all the same, so that a freeze is refused with the reason and
not found absent; it is looked at again until its volumes are known, and then registered anew with them.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from tenacity import AsyncRetrying, retry_if_result, wait_exponential, wait_random

import appvss
from appvss.adapters.base import Adapter, Finding, Preflight, Severity
from appvss.adapters.errors import AdapterError
from appvss.agent.configuration import AppConfiguration
from appvss.agent.lines import LineWriter
from appvss.model.duration import format_duration
from appvss.model.names import REASON_LIMIT, printable

LOG: Final = logging.getLogger("appvss.agent.app")
ALIVE_EVERY: Final = timedelta(seconds=1)
FIRST_LOOK: Final = timedelta(seconds=3)
"""How long the first look may keep the app from being registered."""
LOOK_EVERY: Final = timedelta(minutes=15)
"""How often an application that is well is looked at again: a tablespace may have been added."""
LEAVE_LIMIT: Final = timedelta(seconds=8)
"""How long leaving may take: a little longer than the SDK allows the app's own code and the broker together."""
LOOK_AGAIN: Final = wait_exponential(multiplier=1, max=60) + wait_random(0, 1)
"""Seconds before each further look at an application that is not well."""
VOLUMES_MOST: Final = 64
"""Paths that an app may declare (proto/appvss/v1/app.proto, Hello)."""
CLOSE_LIMIT: Final = timedelta(seconds=2)
LET_GO_LIMIT: Final = timedelta(seconds=60)
"""How long letting go may take, and `thaw_limit` of the app's settings on top: longer than any adapter gives itself.
The limit of the hold does not count any more then: whoever lets go must not be killed at it.
"""
_LEVELS: Final = {Severity.PROBLEM: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.OK: logging.DEBUG}


class Phase(StrEnum):
    """What the app is doing."""

    IDLE = "idle"
    PREPARING = "preparing"
    FREEZING = "freezing"
    HOLDING = "holding"
    LETTING_GO = "letting go"
    """The thaw has come, or the hold has run out of time."""

    @property
    def holds(self) -> bool:
        """Whether the application may be held."""
        return self in (Phase.FREEZING, Phase.HOLDING, Phase.LETTING_GO)


class Serving:
    """One app. To be used on one event loop.

    Args:
        app: the app, as configured.
        adapter: its adapter.
        runtime_directory: the broker's; None: what the SDK finds.
        look_limit: how long one look at the application may take.
        line: the way to the agent.
    """

    def __init__(
        self,
        app: AppConfiguration,
        adapter: Adapter[Any],
        runtime_directory: str | None,
        look_limit: timedelta,
        line: LineWriter,
    ) -> None:
        self._app = app
        self._adapter = adapter
        self._runtime_directory = runtime_directory
        self._look_limit = look_limit
        self._line = line
        self.cycle = ""
        """The cycle that the app takes part in now; empty: none."""
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._is_leaving = asyncio.Event()
        self._leaves_at_rest = False
        self._look: asyncio.Task[Preflight] | None = None
        self._has_looked = asyncio.Event()
        self._volumes: tuple[Path, ...] = ()
        self._has_other_volumes = asyncio.Event()
        self._said: tuple[Finding, ...] | None = None

    def leave(self) -> None:
        """End `run` now. A hold that is in force is ended in order."""
        self._is_leaving.set()

    def leave_at_rest(self) -> None:
        """End `run` as soon as no cycle is at work with the app, and so without any await between that and the end."""
        self._leaves_at_rest = True
        if self._at_rest.is_set():
            self.leave()

    async def run(self) -> None:
        """Take part until told to leave."""
        tasks = {
            asyncio.create_task(self._is_leaving.wait(), name="leaving"),
            asyncio.create_task(self._show_life(), name="sign of life"),
            asyncio.create_task(self._keep_looking(), name="looking"),
            asyncio.create_task(self._stay_registered(), name="registered"),
        }
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=LEAVE_LIMIT.total_seconds())
        close = getattr(self._adapter, "close", None)
        if close is not None:  # what an adapter keeps between a prepare and its freeze
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_LIMIT.total_seconds()):
                    await close()
        for task in done:
            task.result()  # none but the first ends in any other way than with an error

    async def _show_life(self) -> None:
        """Say that the event loop runs. What does not fit into the pipe is tried again here, too."""
        while True:
            self._line.say({"alive": 1}, can_be_spared=True)
            await asyncio.sleep(ALIVE_EVERY.total_seconds())

    # At the broker.

    async def _stay_registered(self) -> None:
        """Be registered all the time, and anew, between two freezes, when other volumes are found."""
        looked = asyncio.create_task(self._has_looked.wait(), name="first look")
        await asyncio.wait({looked}, timeout=FIRST_LOOK.total_seconds())
        looked.cancel()
        while True:
            self._has_other_volumes.clear()
            served = asyncio.create_task(self._serve(), name="app")
            other = asyncio.create_task(self._has_other_volumes.wait(), name="other volumes")
            try:
                await asyncio.wait({served, other}, return_when=asyncio.FIRST_COMPLETED)
                while not served.done() and not self._at_rest.is_set():
                    await self._at_rest.wait()
            finally:
                served.cancel()
                other.cancel()
                await asyncio.wait({served})
            if not served.cancelled():
                served.result()

    async def _serve(self) -> None:
        options, properties = self._app.options, self._adapter.properties
        prepares = type(self._adapter).prepare is not Adapter.prepare
        hold_limit = options.hold_limit
        if properties.max_safe_freeze is not None and "hold_limit" not in self._app.table:
            hold_limit = min(hold_limit, properties.max_safe_freeze)
        await appvss.serve(
            self._app.name,
            self._quiesce,
            prepare=self._prepare if prepares else None,
            order=options.order,
            after=options.after,
            requirement=options.requirement,
            freeze_timeout=options.freeze_timeout,
            hold_limit=hold_limit,
            paths=self._volumes[:VOLUMES_MOST],
            grade=properties.grade,
            instance=options.instance,
            runtime_directory=self._runtime_directory,
        )

    async def _prepare(self, prepare: appvss.Prepare) -> None:
        with self._in_phase(Phase.PREPARING, prepare.cycle, prepare.budget), spoken(_veto):
            await self._end_look()
            await self._adapter.prepare(prepare)

    @asynccontextmanager
    async def _quiesce(self, freeze: appvss.Freeze) -> AsyncIterator[Mapping[str, str]]:
        with self._in_phase(Phase.FREEZING, freeze.cycle, freeze.budget + freeze.hold_limit), spoken(_hold_lost):
            async with AsyncExitStack() as stack:
                with spoken(_veto):
                    await self._end_look()
                    evidence = await stack.enter_async_context(self._adapter.quiesce(freeze))
                self._say_phase(Phase.HOLDING, freeze.hold_limit)
                try:
                    yield evidence
                finally:
                    own: timedelta = getattr(self._app.settings, "thaw_limit", timedelta(0))
                    self._say_phase(Phase.LETTING_GO, LET_GO_LIMIT + own)

    @contextmanager
    def _in_phase(self, phase: Phase, cycle: str, limit: timedelta | None = None) -> Iterator[None]:
        self.cycle = cycle
        self._at_rest.clear()
        self._say_phase(phase, limit)
        try:
            yield
        finally:
            self._say_phase(Phase.IDLE)
            self.cycle = ""
            self._at_rest.set()
            if self._leaves_at_rest:
                self.leave()

    def _say_phase(self, phase: Phase, limit: timedelta | None = None) -> None:
        seconds = None if limit is None else limit.total_seconds()
        self._line.say({"phase": phase, "cycle": self.cycle, "limit": seconds})

    # Looking at the application.

    async def _keep_looking(self) -> None:
        while True:
            retrying = AsyncRetrying(retry=retry_if_result(operator.not_), wait=LOOK_AGAIN)
            await retrying(self._look_once)
            await asyncio.sleep(LOOK_EVERY.total_seconds())

    async def _look_once(self) -> bool:
        """Look at the application, never while it is asked for a freeze; whether it is well."""
        await self._at_rest.wait()
        self._look = asyncio.create_task(self._adapter.preflight(), name="look")
        try:
            await asyncio.wait({self._look}, timeout=self._look_limit.total_seconds())
            if not self._look.done():
                return self._take(_silent(self._app.options.adapter, self._look_limit))
            if self._look.cancelled():
                return False
            error = self._look.exception()
            return self._take(self._look.result() if error is None else failed(error))
        finally:
            look, self._look = self._look, None
            look.cancel()
            # The end of the event loop would cancel it again, and all that it waits for: then asyncio waits for ever
            # for a program that is just being started.
            await asyncio.wait({look}, timeout=LEAVE_LIMIT.total_seconds())

    async def _end_look(self) -> None:
        """A freeze is asked for: from now on nobody but the hold itself calls the application."""
        look = self._look
        if look is not None:
            look.cancel()
            await asyncio.wait({look}, timeout=ALIVE_EVERY.total_seconds())

    def _take(self, preflight: Preflight) -> bool:
        if preflight.findings != self._said:
            self._said = preflight.findings
            for each in preflight.findings:
                hint = f"; {each.hint}" if each.hint else ""
                LOG.log(_LEVELS[each.severity], "%s: %s%s", each.name, each.sentence, hint)
            if not preflight.is_refused:
                LOG.info("%s is ready to be frozen: %s", preflight.version or self._adapter.engine, preflight.recipe)
        volumes = tuple(dict.fromkeys(volume.path for volume in preflight.volumes))
        if volumes and volumes != self._volumes:
            self._volumes = volumes
            if len(volumes) > VOLUMES_MOST:
                LOG.warning("it has %d volumes; the first %d are declared", len(volumes), VOLUMES_MOST)
            self._has_other_volumes.set()
        self._has_looked.set()
        return not preflight.is_refused


def _silent(engine: str, limit: timedelta) -> Preflight:
    sentence = f"{engine} gave no answer within {format_duration(limit)}"
    hint = "Look whether it hangs, or waits for a lock."
    return Preflight((Finding(Severity.PROBLEM, "no_answer", sentence, hint),))


def failed(error: BaseException) -> Preflight:
    """A look that has failed says that nobody can tell, and ends nothing. What a driver says may have a secret in it,
    and is not repeated.
    """
    sentence = error.sentence if isinstance(error, AdapterError) else f"the look has failed: {type(error).__name__}"
    hint = error.hint if isinstance(error, AdapterError) else "Report this as a bug of the adapter."
    return Preflight((Finding(Severity.PROBLEM, "look_failed", sentence, hint),))


# The one place where an adapter's refusal becomes a veto.


@contextmanager
def spoken(translate: Callable[[AdapterError], Exception]) -> Iterator[None]:
    """Inside this block an adapter's error becomes what the SDK tells the broker."""
    try:
        yield
    except AdapterError as error:
        raise translate(error) from error


def reason_of(error: AdapterError) -> str:
    """An adapter's sentence with its hint, as one line that is not longer than a reason may be."""
    sentence = printable(error.sentence)
    hint = printable(error.hint, max(0, REASON_LIMIT - len(sentence) - len(_HINT)))
    return f"{sentence}{_HINT}{hint}" if len(sentence) < REASON_LIMIT / 2 else sentence


def _veto(error: AdapterError) -> Exception:
    return appvss.Veto(reason_of(error), retryable=error.retryable)


def _hold_lost(error: AdapterError) -> Exception:
    return appvss.HoldLost(reason_of(error))


_HINT: Final = "; HINT: "
