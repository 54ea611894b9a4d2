"""The agent's end of its guardian: it is started before anything is held, and again should it die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential, wait_random

from appvss.agent.lines import LineWriter, make_room
from appvss.agent.process import PYTHON
from appvss.model.duration import format_duration
from appvss.sdk.clock import now

READY_LIMIT: Final = timedelta(seconds=10)
AGAIN: Final = wait_exponential(multiplier=0.2, max=10) + wait_random(0, 0.2)
"""Seconds before another guardian is started."""
GOODBYE_LIMIT: Final = timedelta(seconds=2)
SOUND: Final = timedelta(minutes=1)
"""After a life that was as long another one is started at once."""
_LOG: Final = logging.getLogger("appvss.agent")


class _Lost(Exception):
    """The guardian is not there. The text says why; empty: that was said."""


class GuardianProcess:
    """The guardian. To be used on the event loop alone.

    Args:
        undo_directory: where the undo records of all apps are.
    """

    def __init__(self, undo_directory: Path) -> None:
        self._undo_directory = undo_directory
        self._writer: LineWriter | None = None
        self._known: dict[str, dict[str, Mapping[str, Any]]] = {}
        """What holds of each app, by the verb that said it: a new guardian is told all of it."""
        self.ready = asyncio.Event()
        self.pid: int | None = None
        self._said = ""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something, now and to every guardian that follows. Never waits."""
        (verb,) = [verb for verb in ("app", "child", "gone", "hold", "rest") if verb in message]
        said = self._known.setdefault(message[verb], {})
        said.pop("hold", None)  # any word about an app ends what was said of its hold, but for the next one
        if verb == "gone":
            said.pop("child", None)
        elif verb != "rest":
            said[verb] = message
        if self._writer is not None:
            self._writer.say(message)

    async def run(self) -> None:
        """Keep a guardian alive until cancelled, and tell it by the end of its pipe then that the agent is gone."""
        try:
            while True:
                retrying = AsyncRetrying(
                    retry=retry_if_exception_type((_Lost, OSError)),
                    wait=AGAIN,
                    before_sleep=self._say_lost,
                )
                await retrying(self._live)
        finally:
            self._forget()

    def flush(self) -> None:
        """Try again to say what did not fit into the pipe."""
        if self._writer is not None:
            self._writer.flush()

    async def _live(self) -> None:
        order, own = os.pipe()
        make_room(own)
        try:
            process = await asyncio.create_subprocess_exec(
                *PYTHON,
                "appvss.agent.guardian",
                str(self._undo_directory),
                stdin=order,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            os.close(own)
            raise
        finally:
            os.close(order)
        self._writer = LineWriter(own)
        try:
            try:
                async with asyncio.timeout(READY_LIMIT.total_seconds()):
                    if process.stdout is None or await process.stdout.readline() != b"ready\n":
                        raise _Lost("it has ended before it was ready")
            except TimeoutError:
                raise _Lost(f"it was not ready within {format_duration(READY_LIMIT)}") from None
            for said in self._known.values():
                for message in said.values():
                    self._writer.say(message)
            self.pid, self._said = process.pid, ""
            self.ready.set()
            _LOG.debug("the guardian, process %d, is ready", process.pid)
            began = now()
            await process.wait()
        finally:
            self._forget()
            with contextlib.suppress(TimeoutError):  # cancelled: it hears that the agent is gone, and ends by itself
                async with asyncio.timeout(GOODBYE_LIMIT.total_seconds()):
                    await process.wait()
        _LOG.error("the guardian has ended, which it never does; another one is started")
        if now() - began < SOUND:
            raise _Lost  # so that one that never stays is not started without a pause

    def _say_lost(self, state: RetryCallState) -> None:
        """Say why none can be started, once for each reason."""
        reason = "" if state.outcome is None else str(state.outcome.exception())
        if reason and reason != self._said:
            self._said = reason
            _LOG.error("the guardian cannot be started, and is tried again: %s", reason)

    def _forget(self) -> None:
        self.ready.clear()
        self.pid = None
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None
