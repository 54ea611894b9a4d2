"""A source whose requester speaks through a device: opened again and again, one thread for each opening."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable
from datetime import timedelta

from tenacity.wait import wait_base

from appvss.model.request import Answer
from appvss.model.source import SourceMode
from appvss.sources.base import Clock, Requests
from appvss.sources.device_thread import DeviceThread, News
from appvss.sources.lasting_source import STEADY, LastingSource

STOP_LIMIT = timedelta(seconds=5)
"""How long the thread may take to close the device and whatever it needed for it."""


class DeviceSource(LastingSource):
    """Keeps a device open, through every loss and return, and carries requests and answers: most of a `Source`.

    Args:
        name: the source's.
        mode: what to do when the device is not there.
        device: its path, for logs.
        clock: the machine's clocks; called in the event loop's thread.
        pause: how long to wait before the next attempt to open.
        steady: how long a device must have served for the pauses to begin anew after its loss.
    """

    def __init__(
        self,
        name: str,
        mode: SourceMode,
        device: str,
        clock: Clock,
        pause: wait_base,
        *,
        steady: timedelta = STEADY,
    ) -> None:
        super().__init__(name, mode, device, clock, pause, steady=steady)
        self._device: DeviceThread | None = None

    async def run(self, requests: Requests) -> None:
        """Serve until cancelled, through every loss and return of the device; with mode `off` return at once.

        Cancelling closes the device and ends the thread, within `STOP_LIMIT`.

        Raises:
            SourceError: the mode is `required` and the device cannot be opened at start.
        """
        await super().run(requests)

    def answer(self, answer: Answer) -> None:
        """Have the answer written, unless its time is over or its request is not open; then it is only logged."""
        if self._device is None:
            self._logger.warning("the answer to request %s is not sent: the device is gone", answer.request.id)
            return
        self._device.answer(answer.request.id, go_on=answer.go_on)

    @abc.abstractmethod
    def _new_device(self, tell: Callable[[News], None]) -> DeviceThread:
        """What opens the device and serves it once, not started yet."""

    async def _relay(self, requests: Requests) -> str:
        """Open the device and relay until it is lost; the result says why."""
        loop = asyncio.get_running_loop()

        def tell(news: News) -> None:
            loop.call_soon_threadsafe(self._hear, device, news, requests)

        device = self._new_device(tell)
        device.start()
        self._device = device
        finished = asyncio.wrap_future(device.finished)
        try:
            reason = await asyncio.shield(finished)
        finally:
            await self._put_away(device, finished)
        if reason is None:
            raise AssertionError("the device was stopped by nobody")
        return reason

    async def _put_away(self, device: DeviceThread, finished: asyncio.Future[str | None]) -> None:
        self._device = None
        device.stop()
        await asyncio.wait([finished], timeout=STOP_LIMIT.total_seconds())
        # `finished` is the thread's last act, so the join takes no time; a thread that hangs is not waited for.
        if not finished.done() or not device.join(STOP_LIMIT):
            self._logger.error("the thread of %s hangs in a system call and is left behind", self._way)

    def _hear(self, device: DeviceThread, news: News, requests: Requests) -> None:
        if device is not self._device:
            return
        self._take(news, requests)
