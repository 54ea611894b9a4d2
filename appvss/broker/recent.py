"""The last cycles and their events, in memory and bounded; and the events for whoever watches."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from appvss import contract
from appvss.delivery.watch import Watchers
from appvss.model.cycle import CycleRecord
from appvss.model.event import Event
from appvss.model.instant import Instant
from appvss.sources.base import Clock
from appvss.v1 import types_pb2

CYCLES_LIMIT: Final = 100
"""Cycles that are kept, the newest."""
EVENTS_LIMIT: Final = 5_000
"""Events that are kept of one cycle, the first (`admin.proto`, GetCycleResponse)."""


@dataclass(slots=True)
class Kept:
    """One cycle with its events."""

    began: Instant
    began_wall: timedelta
    events: list[Event] = field(default_factory=list)
    record: CycleRecord | None = None
    """None as long as it runs."""


class Recent:
    """Records what is announced and passes it on.

    Args:
        clock: for the wall-clock times that people see.
        watchers: who sees events as they happen.
    """

    def __init__(self, clock: Clock, watchers: Watchers) -> None:
        self._clock = clock
        self._watchers = watchers
        self._cycles: OrderedDict[str, Kept] = OrderedDict()

    def announce(self, event: Event) -> None:
        """Keep an event with its cycle and give it to the watchers."""
        if event.cycle:
            kept = self._cycles.get(event.cycle)
            if kept is None:
                kept = self._cycles[event.cycle] = Kept(event.at, self.wall_at(event.at))
                if len(self._cycles) > CYCLES_LIMIT:
                    self._cycles.popitem(last=False)
            if len(kept.events) < EVENTS_LIMIT:
                kept.events.append(event)
        if len(self._watchers):
            self._watchers.publish(self.message(event))

    def end(self, record: CycleRecord) -> None:
        """Keep the record of a cycle that has ended."""
        kept = self._cycles.get(record.cycle)
        if kept is not None:
            kept.record = record

    def get(self, cycle: str) -> Kept | None:
        """A cycle that is kept."""
        return self._cycles.get(cycle)

    def ended(self) -> list[Kept]:
        """The cycles that have ended, newest first."""
        return [kept for kept in reversed(self._cycles.values()) if kept.record is not None]

    def wall_at(self, instant: Instant) -> timedelta:
        """What the wall clock showed at a past instant, by the present difference of the two clocks."""
        return self._clock.wall() - (self._clock.now() - instant)

    def message(self, event: Event) -> types_pb2.Event:
        """An event for the wire."""
        kept = self._cycles.get(event.cycle) if event.cycle else None
        return contract.event_message(event, self.wall_at(event.at), kept.began if kept is not None else None)
