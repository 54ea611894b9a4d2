"""The events of the running cycle, and those that watchers see; and what becomes of a cycle when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from appvss import contract
from appvss.delivery.watch import Watchers
from appvss.model.cycle import CycleRecord
from appvss.model.event import Event
from appvss.model.instant import Instant
from appvss.model.past import PastCycle, PastEvent
from appvss.sources.base import Clock
from appvss.v1 import types_pb2

EVENTS_LIMIT: Final = 5_000
"""Events that are kept of one cycle, the first (`admin.proto`, GetCycleResponse)."""


@dataclass(slots=True)
class _Running:
    """One cycle with its events."""

    cycle: str
    began: Instant
    began_wall: timedelta
    events: list[Event] = field(default_factory=list)


class Recent:
    """Records what is announced and passes it on.

    Args:
        clock: for the wall-clock times that people see.
        watchers: who sees events as they happen.
        last: the last cycle that a former broker has kept, if there is one.
    """

    def __init__(self, clock: Clock, watchers: Watchers, last: PastCycle | None = None) -> None:
        self.last = last
        """The last cycle that has ended; None: none is known."""
        self._clock = clock
        self._watchers = watchers
        self._running: _Running | None = None

    def announce(self, event: Event) -> None:
        """Keep an event with its cycle and give it to the watchers."""
        if event.cycle:
            running = self._running
            if running is None or running.cycle != event.cycle:
                running = self._running = _Running(event.cycle, event.at, self.wall_at(event.at))
            if len(running.events) < EVENTS_LIMIT:
                running.events.append(event)
        if len(self._watchers):
            self._watchers.publish(self._message(event))

    def end(self, record: CycleRecord, certificate: str, boot: str) -> PastCycle:
        """A cycle has ended: it and its events, as they are to be kept."""
        running = self._running
        if running is None or running.cycle != record.cycle:
            running = _Running(record.cycle, record.began, self.wall_at(record.began))
        began = self.wall_at(record.began)
        self.last = past = PastCycle(
            cycle=record.cycle,
            source=record.source,
            requester=record.requester,
            time=began,
            took=record.took,
            phase=record.phase,
            verdict=record.verdict,
            events=tuple(_past(event, record.began, began) for event in running.events),
            certificate=certificate,
            boot=boot,
            rehearses=record.rehearses,
        )
        return past

    def wall_at(self, instant: Instant) -> timedelta:
        """What the wall clock showed at a past instant, by the present difference of the two clocks."""
        return self._clock.wall() - (self._clock.now() - instant)

    def _message(self, event: Event) -> types_pb2.Event:
        """An event for the wire."""
        running = self._running
        began = running.began if running is not None and running.cycle == event.cycle else None
        return contract.event_message(event, self.wall_at(event.at), began)


def _past(event: Event, began: Instant, began_wall: timedelta) -> PastEvent:
    since_request = event.at - began
    return PastEvent(
        kind=event.kind,
        time=began_wall + since_request,
        since_request=since_request,
        app=event.app,
        phase=event.phase,
        detail=event.detail,
        took=event.took,
    )
