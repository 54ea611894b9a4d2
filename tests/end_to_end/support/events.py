"""What a broker announces, kept and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc

from appvss.model.phase import Phase
from appvss.sdk.admin_values import BrokerEvent, event_of
from appvss.v1 import admin_pb2
from tests.support.running_broker import BOUND, RunningBroker

_EVENTS_SHOWN = 80


class Events:
    """What one broker announces, from the beginning of the watch to its end."""

    def __init__(self, broker: RunningBroker) -> None:
        self.events: list[BrokerEvent] = []
        self._news = asyncio.Condition()
        self._broker = broker
        self._call: Any = broker.admin.WatchEvents(admin_pb2.WatchEventsRequest())
        self._reader: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """After this nothing is missed."""
        async with asyncio.timeout(BOUND):
            await self._call.initial_metadata()
        self._reader = asyncio.create_task(self._read(), name=f"events of broker {self._broker.pid}")

    async def _read(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            while (response := await self._call.read()) is not grpc.aio.EOF:
                async with self._news:
                    self.events.append(event_of(response.event))
                    self._news.notify_all()

    @property
    def count(self) -> int:
        """The place of the next event."""
        return len(self.events)

    async def sees(self, kind: str, *, after: int = 0, detail: str = "", **fields: object) -> BrokerEvent:
        """The first event from place `after` on with these fields, whose detail contains that text."""

        def wanted(event: BrokerEvent) -> bool:
            same = all(getattr(event, name) == value for name, value in fields.items())
            return same and event.kind == kind and detail in event.detail

        return await self._first(wanted, f"{kind} {fields} {detail!r}", after)

    async def comes(self, after: int) -> BrokerEvent:
        """The first app from place `after` on that registers or comes back, also without its hold."""
        kinds = ("app_registered", "app_returned", "app_failed")
        return await self._first(lambda event: event.kind in kinds, "any app", after)

    async def reaches(self, phase: Phase, after: int = 0) -> BrokerEvent:
        """The first change to this phase from place `after` on."""
        return await self.sees("phase_changed", phase=phase, after=after)

    async def rests(self, after: int) -> BrokerEvent:
        """The first change from place `after` on to a phase in which no cycle is under way."""

        def wanted(event: BrokerEvent) -> bool:
            return event.kind == "phase_changed" and event.phase is not None and event.phase.is_resting

        return await self._first(wanted, "the end of the cycle", after)

    async def _first(self, wanted: Callable[[BrokerEvent], bool], what: str, after: int) -> BrokerEvent:
        try:
            async with asyncio.timeout(BOUND), self._news:
                while (event := next(filter(wanted, self.events[after:]), None)) is None:
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"the broker has not announced {what}") from None
        return event

    async def close(self) -> None:
        self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})

    def report(self) -> str:
        lines = (
            f"{event.time.time()} {event.cycle or '-'} {event.kind} {event.app} {event.phase or ''} {event.detail}"
            for event in self.events[-_EVENTS_SHOWN:]
        )
        return "\n".join((f"---- events of broker {self._broker.pid}", *lines))
