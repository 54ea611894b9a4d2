"""One app under supervision: its process is started, watched, started again when it ends, and stopped in order.

Whatever happens to it touches no other app. When it dies in a hold that does not end by itself, a process of its own
undoes that; no other is started before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from appvss.agent.configuration import AppConfiguration
from appvss.agent.log import Log
from appvss.agent.process import TICK, UNDO_ATTEMPTS, UNDO_MARGIN, AppProcess, run_once
from appvss.agent.serving import Phase
from appvss.agent.undo_places import has_records
from appvss.agent.users import user_of
from appvss.model.duration import format_duration
from appvss.sdk.clock import now

START_AGAIN: Final = wait_exponential(multiplier=0.5, max=60) + wait_random(0, 0.5)
"""Seconds before each further start of an app that ended soon."""
SOUND: Final = timedelta(minutes=1)
"""An app that has lived as long is started anew as if it were the first time."""
KILL_LIMIT: Final = timedelta(seconds=10)
"""How long the end of a killed process may keep the agent from ending; undoing what it held has its own time on top."""
UNDO_AGAIN: Final = wait_exponential(multiplier=0.2, max=10) + wait_random(0, 0.2)
_MODULE: Final = "appvss.agent.child"


class Ended(Exception):
    """The app's process ended soon after its start."""


class Around(Protocol):
    """What an app needs of the agent around it."""

    log: Log

    async def nothing_held(self) -> None:
        """Wait until no app holds: no process is started in a hold."""

    def tell_guardian(self, message: Mapping[str, Any]) -> None:
        """Say something to the guardian. Never waits."""

    def phase_changed(self) -> None:
        """An app has begun a hold, or has ended one."""

    @property
    def undo_directory(self) -> Path:
        """Where the undo records of all apps are."""

    @property
    def hang_timeout(self) -> timedelta:
        """How long an app that holds nothing may be silent."""


class SupervisedApp:
    """One app. `run` keeps it running until `stop` has ended it.

    Args:
        app: as configured.
        order: the line that a process of the app is given.
        around: the agent.
    """

    def __init__(self, app: AppConfiguration, order: str, around: Around) -> None:
        self.app = app
        self.order = order
        self._around = around
        self._process: AppProcess | None = None
        self._is_wanted = True
        self._unwanted = asyncio.Event()
        self._is_out = asyncio.Event()
        self._log = logging.LoggerAdapter(logging.getLogger("appvss.agent"), {"app": app.key})
        self._last = ""

    @property
    def holds(self) -> bool:
        """Whether its process holds anything, or is about to, or has just died in it and is not undone."""
        return self._process is not None and self._process.phase.holds

    @property
    def pid(self) -> int | None:
        """Its process; None: there is none now."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Keep the app running until it is told to stop, and has stopped."""
        try:
            await self._undo()
            while self._is_wanted:
                retrying = AsyncRetrying(
                    retry=retry_if_exception_type(Ended), wait=START_AGAIN, sleep=self._pause, after=self._say_ended
                )
                await retrying(self._live)
        finally:
            self._is_out.set()

    async def leave_after_hold(self) -> None:
        """End the process as soon as no cycle is at work with it; returns when it is out. A hold has its limit."""
        self._is_wanted = False
        self._unwanted.set()
        if self._process is not None:
            self._process.leave_at_rest()
        await self._is_out.wait()

    async def stop(self, limit: timedelta) -> None:
        """End the process: it is told to leave, and killed when it has not within `limit`. What it holds is let go of,
        or undone.
        """
        self._is_wanted = False
        self._unwanted.set()
        if self._process is not None:
            self._process.leave()
        if not await self._out_within(limit):
            if self._process is not None:
                self._process.kill(f"it did not leave within {format_duration(limit)}")
            limit = KILL_LIMIT + self.app.undo_limit
            if not await self._out_within(limit):
                self._log.error("it cannot be killed, or not undone, within %s", format_duration(limit))

    async def _out_within(self, limit: timedelta) -> bool:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await self._is_out.wait()
        except TimeoutError:
            return False
        return True

    async def _pause(self, seconds: float) -> None:
        """The time between two starts; a stop ends it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._unwanted.wait()

    def _say_ended(self, state: RetryCallState) -> None:
        """Say why it ended, once for each reason."""
        error = None if state.outcome is None else state.outcome.exception()
        if error is not None and str(error) != self._last and self._is_wanted:
            self._last = str(error)
            self._log.error("%s; it is started again until it stays", error)

    async def _live(self) -> None:
        """One process, from its start to its end; what it has left behind is undone.

        Raises:
            Ended: it ended soon, and is wanted.
        """
        await self._around.nothing_held()
        if not self._is_wanted:
            return
        began = now()
        process = AppProcess(self._hear)
        try:
            await process.start(_MODULE, self.order, user_of(self.app.options.runs_as))
        except (OSError, LookupError) as error:
            raise Ended(f"it cannot be started: {error}") from error
        self._process = process
        self._around.tell_guardian({"child": self.app.key, "pid": process.pid})
        if self._unwanted.is_set():  # told while it was started: nobody could tell the process
            process.leave()
        watch = asyncio.create_task(self._watch(process), name=f"watch {self.app.key}")
        try:
            code = await process.ended()
        except asyncio.CancelledError:
            process.kill("the agent ends")
            raise
        finally:
            watch.cancel()
        self._around.tell_guardian({"rest": self.app.key})  # undoing is at work; the guardian minds the agent alone
        await self._undo()
        self._process = None
        self._around.tell_guardian({"gone": self.app.key})
        self._around.phase_changed()
        self._judge(process, code, soon=now() - began < SOUND)

    def _judge(self, process: AppProcess, code: int, *, soon: bool) -> None:
        reason = process.killed_because or ("it ended" if code == 0 else f"it ended with {_ending(code)}")
        what = "the hold of " if process.phase.holds else ""
        where = f" in {what}cycle {process.cycle}" if process.phase is not Phase.IDLE else ""
        if not self._is_wanted:
            if process.killed_because or where:
                self._log.warning("it was stopped: %s%s", reason, where)
        elif soon:
            raise Ended(f"{reason}{where}")
        else:
            self._last = ""
            self._log.error("%s%s; it is started again", reason, where)

    async def _watch(self, process: AppProcess) -> None:
        while True:
            await asyncio.sleep(TICK.total_seconds())
            reason = process.tick(self._around.hang_timeout)
            if reason:
                self._log.error("it is killed, because %s", reason)
                process.kill(f"it was killed, because {reason}")
                return

    def _hear(self, message: Mapping[str, Any]) -> None:
        if isinstance(message.get("log"), Mapping):
            self._around.log.take(self.app.key, message["log"])
        elif "phase" in message:
            if self.holds:
                self._around.tell_guardian({"hold": self.app.key, "limit": message["limit"]})
            else:
                self._around.tell_guardian({"rest": self.app.key})
            self._around.phase_changed()

    async def _undo(self) -> None:
        """Have undone what a process of this app has left behind. Bounded: what cannot be undone is said."""
        if not has_records(self._around.undo_directory, self.app.key):
            return
        retrying = AsyncRetrying(
            retry=retry_if_result(bool),
            wait=UNDO_AGAIN,
            stop=stop_after_attempt(UNDO_ATTEMPTS),
            retry_error_callback=_last_result,
        )
        failure: str = await retrying(self._undo_once)
        if failure:
            self._log.error("a hold was left behind and is not undone: %s", failure)

    async def _undo_once(self) -> str:
        """Why something is not undone; empty: nothing is left."""
        undone = await undo_once(self.app, self.order)
        for cycle in undone.cycles:
            self._log.warning("the hold of cycle %s that was left behind is undone", cycle)
        return undone.failure


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of what an app had left behind."""

    cycles: tuple[str, ...] = ()
    """Whose hold was ended."""
    failure: str = ""
    """Why something may be in force still; empty: nothing is, or its owner lives."""


async def undo_once(app: AppConfiguration, order: str) -> Undone:
    """Have a process of its own undo what an app has left behind, with the rights of the app's user."""
    limit = app.undo_limit + UNDO_MARGIN
    try:
        code, out, error = await run_once("undo", order, user_of(app.options.runs_as), limit)
        settled = json.loads(out) if out else []
    except TimeoutError:
        return Undone(failure=f"it did not end within {format_duration(limit)}")
    except (OSError, LookupError, ValueError) as failed:
        return Undone(failure=f"{type(failed).__name__}: {failed}")
    cycles = tuple(each["cycle"] for each in settled if not each["failure"])
    failures = [f"{each['failure']}; {each['hint']}" for each in settled if each["failure"]]
    if not failures and code != 0:
        failures = [error.strip() or f"the process that undoes ended with {_ending(code)}"]
    return Undone(cycles, "; ".join(failures))


def _last_result(state: RetryCallState) -> str:
    return "" if state.outcome is None else str(state.outcome.result())


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
