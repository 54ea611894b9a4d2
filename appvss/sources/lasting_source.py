"""A source that keeps its way to the requester open, through every loss and return: most of a `Source`."""

from __future__ import annotations

import abc
import asyncio
import logging
from datetime import timedelta
from typing import NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
from tenacity.wait import wait_base

from appvss.model.cycle import CycleRecord
from appvss.model.errors import SourceError
from appvss.model.source import SourceCondition, SourceMode, SourceState
from appvss.sources.base import Clock, Requests
from appvss.sources.device_thread import Arrived, Lapsed, News, Opened, Unasked

STEADY = timedelta(seconds=60)
"""What has served this long has come back for good, unless its source says otherwise: after its next loss the pauses
begin with the shortest again."""


class LastingSource(abc.ABC):
    """Opens its way to the requester again and again, and says how it is doing.

    Args:
        name: the source's.
        mode: what to do when the device is not there.
        way: what leads to the requester, such as a device's path; for logs.
        clock: the machine's clocks; called in the event loop's thread.
        pause: how long to wait before the next attempt to open.
        steady: how long it must have served for the pauses to begin anew after its loss.
    """

    def __init__(
        self,
        name: str,
        mode: SourceMode,
        way: str,
        clock: Clock,
        pause: wait_base,
        *,
        steady: timedelta = STEADY,
    ) -> None:
        self._steady = steady
        self._name = name
        self._mode = mode
        self._way = way
        self._clock = clock
        self._pause = pause
        self._logger = logging.getLogger(f"appvss.sources.{name}")
        self._has_served = False
        self._serving = ""
        off = mode is SourceMode.OFF
        condition = SourceCondition.OFF if off else SourceCondition.WAITING
        self._state = SourceState(name, mode, condition, clock.now(), "" if off else "not started")

    @property
    def state(self) -> SourceState:
        """Mode and condition at this moment; while serving, the detail names the device."""
        return self._state

    async def run(self, requests: Requests) -> None:
        """Serve until cancelled, through every loss and return; with mode `off` return at once.

        Cancelling closes what is open.

        Raises:
            SourceError: the mode is `required` and it cannot be opened at start.
        """
        if self._mode is SourceMode.OFF:
            return
        retry = retry_if_exception(self._may_retry)
        async for attempt in AsyncRetrying(retry=retry, wait=self._pause, sleep=asyncio.sleep):
            with attempt:
                await self._serve(requests, attempt.retry_state)

    def ended(self, record: CycleRecord) -> None:  # noqa: B027 - most devices cannot be told more
        """Nothing to do: the driver has no way to hear of a verdict but the answer to its next request."""

    async def _may_open(self) -> None:  # noqa: B027 - most may be opened at any time
        """Return when an attempt to open may begin."""

    def _may_retry(self, error: BaseException) -> bool:
        may_wait = self._mode is SourceMode.AUTOMATIC or self._has_served
        return isinstance(error, _Lost) or (isinstance(error, SourceError) and may_wait)

    async def _serve(self, requests: Requests, attempt: RetryCallState) -> NoReturn:
        """One opening, to its end."""
        await self._may_open()
        began = self._clock.now()
        try:
            reason = await self._relay(requests)
        except SourceError as error:
            self._change(requests, SourceCondition.WAITING, f"{error.sentence}. {error.hint}")
            raise
        if self._clock.now() - began >= self._steady:
            attempt.attempt_number = 1
        requests.lost(self._name, reason)
        self._change(requests, SourceCondition.LOST, reason)
        raise _Lost(reason)

    @abc.abstractmethod
    async def _relay(self, requests: Requests) -> str:
        """Open and relay until it is lost; the result says why. Cancelling closes what is open.

        Raises:
            SourceError: it cannot be opened; nothing has been asked.
        """

    def _take(self, news: News, requests: Requests) -> None:
        """Pass on what the way to the requester brings."""
        match news:
            case Opened(detail):
                self._has_served = True
                self._serving = detail
                self._change(requests, SourceCondition.SERVING, detail)
            case Arrived(request):
                self._change(requests, SourceCondition.SERVING, self._serving)
                requests.ask(request)
            case Unasked(reason):
                self._logger.warning("%s: %s", self._way, reason)
                self._change(requests, SourceCondition.SERVING, reason)
            case Lapsed(request, reason):
                requests.lost(self._name, reason, request.id)

    def _change(self, requests: Requests, condition: SourceCondition, detail: str) -> None:
        if (condition, detail) == (self._state.condition, self._state.detail):
            return
        self._logger.debug("%s: %s", condition, detail)  # the broker tells people of every change
        since = self._state.since if condition is self._state.condition else self._clock.now()
        self._state = SourceState(self._name, self._mode, condition, since, detail)
        requests.changed(self._state)


class _Lost(Exception):
    """It was open and is gone."""
