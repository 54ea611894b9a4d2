"""What the broker keeps of cycles on disk: it puts the history's thread and the certificate together for the loop."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Final, TypeVar

from appvss.history import History, JournalFailed, ReadFailed
from appvss.model.certificate import issue
from appvss.model.journal import JournalEntry, Stage
from appvss.model.past import PastCycle
from appvss.model.policy import PolicyValue
from appvss.sources.base import Clock

READ_LIMIT: Final = timedelta(seconds=10)
"""How long an administrator waits for the disk (`admin.proto`, ListCycles)."""

_T = TypeVar("_T")


class JournalUnwritable(Exception):
    """Journal or certificate could not be written. Its text is one sentence."""


def may_be_frozen(entry: JournalEntry) -> bool:
    """Whether file systems may be frozen in the cycle that a former broker has left open. The gates are closed
    then, and `BrokerLoop.adopt` has them opened when the hold is over.
    """
    return entry.stage is Stage.HELD and not entry.rehearses


class Journal:
    """The journal of the running cycle and the history of past ones, for the event loop: nothing here blocks it.

    Args:
        history: open, with its thread.
        clock: for the wall-clock times in certificates.
        boot: the identity of this boot of the machine.
        version: name and version of the broker.
        policy: the policy in force, asked for with every certificate.
    """

    def __init__(
        self, history: History, clock: Clock, *, boot: str, version: str, policy: Callable[[], tuple[PolicyValue, ...]]
    ) -> None:
        self.history = history
        self.boot = boot
        self._clock = clock
        self._version = version
        self._policy = policy
        self._host = platform.node()
        self._certificate = ("", "")
        """The last cycle that got one, and its text."""

    async def write(self, entry: JournalEntry) -> None:
        """Have an entry on disk; at `Stage.HELD` with its certificate. The caller sets the bound.

        Raises:
            JournalUnwritable: it is not there.
        """
        text = ""
        if entry.stage is Stage.HELD:
            certificate = issue(
                entry,
                version=self._version,
                boot=self.boot,
                host=self._host,
                time=self._clock.wall(),
                policy=self._policy(),
            )
            text = certificate.text()
        try:
            await asyncio.wrap_future(self.history.write_journal(entry, text))
        except JournalFailed as error:
            raise JournalUnwritable(str(error)) from error
        if text:
            self._certificate = (entry.cycle, text)

    def certificate_of(self, cycle: str) -> str:
        """The text of the certificate that was written for a cycle; empty: none was."""
        return self._certificate[1] if self._certificate[0] == cycle else ""

    def adopt(self, entry: JournalEntry, certificate: str) -> None:
        """A former broker has written this certificate for a cycle that goes on here."""
        self._certificate = (entry.cycle, certificate)

    async def cycles(self, limit: int, since: timedelta | None) -> tuple[PastCycle, ...]:
        """The last cycles, newest first, without their events.

        Raises:
            TimeoutError: the disk does not answer, or not with a history.
        """
        return await self._answer(self.history.cycles(limit, since))

    async def cycle(self, cycle: str) -> PastCycle | None:
        """One cycle with its events; None: it is not known.

        Raises:
            TimeoutError: the disk does not answer, or not with a history.
        """
        return await self._answer(self.history.cycle(cycle))

    @staticmethod
    async def _answer(question: Future[_T]) -> _T:
        try:
            async with asyncio.timeout(READ_LIMIT.total_seconds()):
                return await asyncio.wrap_future(question)
        except ReadFailed as error:
            raise TimeoutError(str(error)) from error
