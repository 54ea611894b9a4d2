"""The source: keeps the device open, through every loss and return, and carries requests and answers."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import NoReturn

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential, wait_random
from tenacity.wait import wait_base

from appvss.model.cycle import CycleRecord
from appvss.model.errors import SourceError
from appvss.model.request import Answer
from appvss.model.source import SourceCondition, SourceMode, SourceState
from appvss.sources.base import Clock, Requests
from appvss.sources.device_opener import DeviceOpener
from appvss.sources.freebsd.device import Arrived, FreebsdDevice, News, Opened, Unasked
from appvss.sources.freebsd.ledger import NAME, Ledger
from appvss.sources.freebsd.settings import FreebsdSettings

PAUSE: wait_base = wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)
"""How long to wait before the device is opened again: half a second, doubled up to 30 s, and up to a second by chance.
Never at once: an open that is refused with EBUSY can, in a bad moment, leave the driver registered with nobody
(facts/freebsd-vss.md section 1, "Stuck registration")."""
STEADY = timedelta(seconds=60)
"""A device that has served this long has come back for good: after its next loss the pauses begin with the shortest
again."""
STOP_LIMIT = timedelta(seconds=5)
"""How long the thread may take to close the device and to end the process that opened it."""

_logger = logging.getLogger("appvss.sources.freebsd")


class FreebsdSource:
    """The app device of FreeBSD's Hyper-V VSS driver, as a `Source`.

    The device is opened by a child process that may be killed in our place, see `appvss.sources.device_opener`. So
    every attempt to open it, at the start and after each loss, starts a process. No attempt is begun while the gate is
    closed: file systems may be frozen then.

    Args:
        settings: what the administrator set.
        clock: the machine's clocks; called in the event loop's thread and in the device's.
        pause: how long to wait before the next attempt to open.
    """

    def __init__(self, settings: FreebsdSettings, clock: Clock, *, pause: wait_base = PAUSE) -> None:
        self._settings = settings
        self._clock = clock
        self._pause = pause
        self._opener = DeviceOpener(settings.device)
        self._device: FreebsdDevice | None = None
        self._has_served = False
        self._serving = ""
        self._gate = asyncio.Event()
        """Set: a process may be started."""
        self._gate.set()
        off = settings.mode is SourceMode.OFF
        condition = SourceCondition.OFF if off else SourceCondition.WAITING
        self._state = SourceState(NAME, settings.mode, condition, clock.now(), "" if off else "not started")

    @property
    def state(self) -> SourceState:
        """Mode and condition at this moment; while serving, the detail names the device and who opened it for us."""
        return self._state

    async def run(self, requests: Requests) -> None:
        """Serve until cancelled, through every loss and return of the device; with mode `off` return at once.

        Cancelling closes the device and ends the thread and the child process, within `STOP_LIMIT`.

        Raises:
            SourceError: the mode is `required` and the device cannot be opened at start.
        """
        if self._settings.mode is SourceMode.OFF:
            return
        retry = retry_if_exception(self._may_retry)
        async for attempt in AsyncRetrying(retry=retry, wait=self._pause, sleep=asyncio.sleep):
            with attempt:
                await self._serve(requests, attempt.retry_state)

    def set_gate(self, *, is_open: bool) -> None:
        """Closed: begin no attempt to open the device. One that is under way goes on."""
        if is_open:
            self._gate.set()
        else:
            self._gate.clear()

    def answer(self, answer: Answer) -> None:
        """Have the answer written, unless its time is over or its request is not open; then it is only logged."""
        if self._device is None:
            _logger.warning("the answer to request %s is not sent: the device is gone", answer.request.id)
            return
        self._device.answer(answer.request.id, go_on=answer.go_on)

    def ended(self, record: CycleRecord) -> None:
        """Nothing to do: the driver has no way to hear of a verdict but the answer to its next request."""

    def _may_retry(self, error: BaseException) -> bool:
        may_wait = self._settings.mode is SourceMode.AUTOMATIC or self._has_served
        return isinstance(error, _Lost) or (isinstance(error, SourceError) and may_wait)

    async def _serve(self, requests: Requests, attempt: RetryCallState) -> NoReturn:
        """One opening of the device, to its end."""
        await self._gate.wait()
        began = self._clock.now()
        try:
            reason = await self._relay(requests)
        except SourceError as error:
            self._change(requests, SourceCondition.WAITING, f"{error.sentence}. {error.hint}")
            raise
        if self._clock.now() - began >= STEADY:
            attempt.attempt_number = 1
        requests.lost(NAME, reason)
        self._change(requests, SourceCondition.LOST, reason)
        raise _Lost(reason)

    async def _relay(self, requests: Requests) -> str:
        """Open the device and relay until it is lost; the result says why."""
        loop = asyncio.get_running_loop()

        def tell(news: News) -> None:
            loop.call_soon_threadsafe(self._hear, device, news, requests)

        device = FreebsdDevice(self._opener, Ledger(self._settings), self._clock, tell)
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

    async def _put_away(self, device: FreebsdDevice, finished: asyncio.Future[str | None]) -> None:
        self._device = None
        device.stop()
        await asyncio.wait([finished], timeout=STOP_LIMIT.total_seconds())
        # `finished` is the thread's last act, so the join takes no time; a thread that hangs is not waited for.
        if not finished.done() or not device.join(STOP_LIMIT):
            _logger.error("the thread of %s hangs in a system call and is left behind", self._settings.device)

    def _hear(self, device: FreebsdDevice, news: News, requests: Requests) -> None:
        if device is not self._device:
            return
        match news:
            case Opened(pid):
                self._has_served = True
                self._serving = f"{self._settings.device}, opened by process {pid}"
                self._change(requests, SourceCondition.SERVING, self._serving)
            case Arrived(request):
                self._change(requests, SourceCondition.SERVING, self._serving)
                requests.ask(request)
            case Unasked(reason):
                _logger.warning("%s: %s", self._settings.device, reason)
                self._change(requests, SourceCondition.SERVING, reason)

    def _change(self, requests: Requests, condition: SourceCondition, detail: str) -> None:
        if (condition, detail) == (self._state.condition, self._state.detail):
            return
        _logger.debug("%s: %s", condition, detail)  # the broker tells people of every change
        since = self._state.since if condition is self._state.condition else self._clock.now()
        self._state = SourceState(NAME, self._settings.mode, condition, since, detail)
        requests.changed(self._state)


class _Lost(Exception):
    """The device was open and is gone."""
