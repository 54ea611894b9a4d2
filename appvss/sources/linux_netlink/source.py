"""The source: finds the driver, keeps itself registered through every loss and return, carries requests and answers."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from tenacity import wait_exponential, wait_random
from tenacity.wait import wait_base

from appvss.model.duration import format_duration
from appvss.model.errors import DeviceAbsent, SourceError
from appvss.model.request import Answer
from appvss.sources.base import Clock, Requests
from appvss.sources.device_thread import Opened, Unasked
from appvss.sources.lasting_source import LastingSource
from appvss.sources.linux_netlink.channel import NetlinkChannel
from appvss.sources.linux_netlink.link import PULSE, Confirmed, LinkNews, NetlinkLink, Suspicion
from appvss.sources.linux_netlink.presence import look
from appvss.sources.linux_netlink.profile import Profile, profile_of
from appvss.sources.linux_netlink.settings import LinuxNetlinkSettings
from appvss.sources.linux_vss.ledger import Ledger
from appvss.sources.wire.linux_hv_vss import DEVICE

HEARTBEAT = timedelta(seconds=10)
"""How often it is looked whether the driver is still there and nobody else serves it: neither is told."""
LEAST_PAUSE = timedelta(seconds=1)
"""How much time lies between two such looks at least, whatever strangers send."""
CONFIRMATION_LIMIT = timedelta(seconds=5)
"""How long the driver may take to answer a registration; it does so at once."""
PAUSE: wait_base = wait_exponential(multiplier=0.5, max=30) + wait_random(0, 1)
"""How long to wait before the next attempt: half a second, doubled up to 30 s, and up to a second by chance."""


class LinuxNetlinkSource(LastingSource):
    """Linux's VSS driver over the netlink connector, as a `Source`. No call blocks the event loop, and no process is
    started.

    Args:
        settings: what the administrator set.
        clock: the machine's clocks.
        device: the driver's character device; in mode `automatic` nothing is done while it is there.
        release: the kernel's, as uname(2) has it.
        pause: how long to wait before the next attempt.
        heartbeat: how often it is looked whether the driver is still there.
        confirmation_limit: how long the driver may take to answer a registration.
        pulse: how often the socket is looked at although nothing has come.
    """

    def __init__(
        self,
        settings: LinuxNetlinkSettings,
        clock: Clock,
        *,
        device: Path = Path(DEVICE),
        release: str = os.uname().release,
        pause: wait_base = PAUSE,
        heartbeat: timedelta = HEARTBEAT,
        confirmation_limit: timedelta = CONFIRMATION_LIMIT,
        pulse: timedelta = PULSE,
    ) -> None:
        super().__init__(settings.NAME, settings.mode, "netlink", clock, pause)
        self._settings = settings
        self._device = device
        self._release = release
        self._heartbeat = heartbeat
        self._confirmation_limit = confirmation_limit
        self._pulse = pulse
        self._profile: Profile | None = None
        self._ledger: Ledger | None = None
        self._link: NetlinkLink | None = None
        self._confirmed = asyncio.Event()
        """The driver has answered, or sent a request, since the last registration."""
        self._suspicious = asyncio.Event()

    async def run(self, requests: Requests) -> None:
        """Serve until cancelled, through every loss and return of the driver; with mode `off` return at once.

        Cancelling tells the driver that what is open has failed, and closes the socket.

        Raises:
            SourceError: the mode is `required` and the driver cannot be served at start.
        """
        await super().run(requests)

    def set_gate(self, *, is_open: bool) -> None:
        """Nothing to do: no process is started and no file is written here."""

    def answer(self, answer: Answer) -> None:
        """Have the answer sent, unless its time is over or its request is not open; then it is only logged."""
        if self._link is None:
            self._logger.warning("the answer to request %s is not sent: the driver is gone", answer.request.id)
            return
        self._link.answer(answer.request.id, go_on=answer.go_on)

    async def _relay(self, requests: Requests) -> str:
        """Register and relay until the driver is lost; the result says why.

        Raises:
            SourceError: the driver cannot be served; nothing has been asked.
        """
        name = await self._look(None)
        profile = profile_of(name, self._release, self._settings)
        self._confirmed.clear()
        self._suspicious.clear()
        serving = Opened(self._description(name, confirms=profile.confirms))
        channel = NetlinkChannel.open(self._settings.kernel_portid)
        link = NetlinkLink(
            channel,
            self._ledger_for(profile),
            profile,
            self._settings.kernel_portid,
            self._clock,
            lambda news: self._hear(link, news, serving, requests),
            pulse=self._pulse,
        )
        self._link = link
        try:
            link.start()
            if not profile.confirms:
                self._hear(link, Confirmed(), serving, requests)
            await self._await_confirmation(link)
            return await self._watch(link)
        finally:
            self._link = None
            link.close()

    def _ledger_for(self, profile: Profile) -> Ledger:
        """The same one as long as the driver is of the same kind, so that no id comes twice."""
        if self._ledger is None or profile != self._profile:
            self._profile, self._ledger = profile, Ledger(self._settings, profile.budgets)
        self._ledger.give_up()
        return self._ledger

    async def _await_confirmation(self, link: NetlinkLink) -> None:
        confirmed = asyncio.create_task(self._confirmed.wait(), name="linux-netlink-confirmation")
        try:
            limit = self._confirmation_limit
            await _first(confirmed, link.lost, limit)
        finally:
            confirmed.cancel()
        if not self._confirmed.is_set():
            reason = link.lost.result() if link.lost.done() else f"no answer within {format_duration(limit)}"
            raise DeviceAbsent(
                f"the driver does not answer the registration: {reason}",
                f"It takes none while a program has {self._device} open, or a request is under way: `fuser "
                f"{self._device}` names that program.",
            )

    async def _watch(self, link: NetlinkLink) -> str:
        """Return when the driver is lost, gone, or served by somebody else, too; the result says why."""
        suspicious = asyncio.create_task(self._suspicious.wait(), name="linux-netlink-suspicion")
        try:
            while True:
                await _first(suspicious, link.lost, self._heartbeat)
                if link.lost.done():
                    return link.lost.result()
                try:
                    await self._look(link.portid)
                except SourceError as error:
                    return f"{error.sentence}. {error.hint}"
                if suspicious.done():
                    await asyncio.wait({link.lost}, timeout=LEAST_PAUSE.total_seconds())
                    self._suspicious.clear()
                    suspicious = asyncio.create_task(self._suspicious.wait(), name="linux-netlink-suspicion")
        finally:
            suspicious.cancel()

    async def _look(self, portid: int | None) -> str:
        return await asyncio.to_thread(look, self._settings, self._device, portid)

    def _hear(self, link: NetlinkLink, news: LinkNews, serving: Opened, requests: Requests) -> None:
        if link is not self._link:
            return
        if isinstance(news, Suspicion):
            if not self._suspicious.is_set():
                self._logger.warning("%s", news.reason)
            self._suspicious.set()
        elif isinstance(news, Unasked) and not self._confirmed.is_set():
            self._logger.warning("%s", news.reason)
        else:
            if not self._confirmed.is_set():
                self._confirmed.set()
                self._take(serving, requests)
            if not isinstance(news, Confirmed):
                self._take(news, requests)

    def _description(self, name: str, *, confirms: bool) -> str:
        text = f"{name} over netlink"
        if not confirms:
            return f"{text}; this driver confirms nothing, so whether it listens shows with the first request"
        return f"{text}; {self._device} is better where it can be had: it admits one program alone"


async def _first(task: asyncio.Task[Any], lost: asyncio.Future[str], limit: timedelta) -> None:
    """Return when one of both is done, or the limit has passed."""
    ends: set[asyncio.Future[Any]] = {task, lost}
    await asyncio.wait(ends, timeout=limit.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
