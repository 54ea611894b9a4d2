"""The broker's app side alone, in the test's own event loop: `AppService` behind real sockets, and a note of its news.

    async with app_desk(directory, hello_limit=timedelta(milliseconds=50)) as desk:
        async with raw_app(directory) as app: ...
        await desk.told("registered")

For what needs the cycle, run the whole broker (`tests/support/running_broker.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from appvss import contract
from appvss.delivery.app_service import AppService
from appvss.delivery.registry import Registry
from appvss.model.app import AppId, Registration
from appvss.model.instant import Instant

BOUND = 20.0
"""Seconds after which a wait of a test has failed."""
News = tuple[Any, ...]


def now() -> Instant:
    return Instant(timedelta(microseconds=time.monotonic_ns() // 1000))


class AppDesk:
    """An `AppService` that listens; it is also the `AppEvents` that keeps what it is told, as tuples, in order."""

    def __init__(self, limit: int, limit_per_uid: int, in_force: Callable[[Registration], Registration]) -> None:
        self.news: list[News] = []
        self.in_force = in_force
        self.registry = Registry(limit, limit_per_uid)
        self.service: AppService
        self._taken = 0
        self._waiters: list[asyncio.Future[None]] = []

    def _note(self, *news: Any) -> None:
        self.news.append(news)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def told(self, kind: str) -> News:
        """The next piece of news, which must be of this kind."""
        news = await self.next_news()
        assert news[0] == kind, f"not {kind}: {news}"
        return news

    async def next_news(self) -> News:
        """The next piece of news."""
        async with asyncio.timeout(BOUND):
            while len(self.news) <= self._taken:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter
                self._waiters.remove(waiter)
        news = self.news[self._taken]
        self._taken += 1
        return news

    def registered(self, registration: Registration) -> None:
        self._note("registered", registration)

    def changed_policy(self, registration: Registration) -> None:
        self._note("changed_policy", registration)

    def left(self, app: AppId, reason: str, died: bool) -> None:
        self._note("left", str(app), reason, died)

    def ready(self, app: AppId, cycle: str) -> None:
        self._note("ready", str(app), cycle)

    def froze(self, app: AppId, cycle: str, evidence: Mapping[str, str]) -> None:
        self._note("froze", str(app), cycle, dict(evidence))

    def vetoed(self, app: AppId, cycle: str, reason: str, retryable: bool) -> None:
        self._note("vetoed", str(app), cycle, reason, retryable)

    def lost_hold(self, app: AppId, cycle: str, reason: str) -> None:
        self._note("lost_hold", str(app), cycle, reason)

    def thawed(self, app: AppId, cycle: str, unbroken: bool, reason: str) -> None:
        self._note("thawed", str(app), cycle, unbroken, reason)


@asynccontextmanager
async def app_desk(
    directory: Path,
    *,
    limit: int = 100,
    limit_per_uid: int = 100,
    in_force: Callable[[Registration], Registration] = lambda registration: registration,
    admits_unidentified: bool = True,
    refusal_by_policy: Callable[[AppId, int | None], str] = lambda _app, _uid: "",
    **limits: timedelta,
) -> AsyncIterator[AppDesk]:
    """Listen in `directory` until the end of the block.

    Args:
        directory: gets `apps.sock` and `apps.peer.sock`.
        limit: of apps in all.
        limit_per_uid: of apps of one user.
        in_force: the administrator's word.
        admits_unidentified: whether an app needs no token.
        refusal_by_policy: why an app of a user may not register.
        limits: further arguments of `AppService`: `hello_limit`, `token_lifetime`.
    """
    desk = AppDesk(limit, limit_per_uid, in_force)
    desk.service = service = AppService(
        desk,
        desk.registry,
        in_force=lambda registration: desk.in_force(registration),
        admits_unidentified=admits_unidentified,
        version="appvss/test",
        now=now,
        refusal_by_policy=refusal_by_policy,
        **limits,
    )
    server = grpc.aio.server(options=contract.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service.handler(),))
    server.add_insecure_port(f"unix:{directory / contract.APPS_SOCKET}")
    service.desk.open(str(directory / contract.PEER_SOCKET))
    await server.start()
    try:
        yield desk
    finally:
        service.desk.close()
        await server.stop(0)
        await service.all_left()
