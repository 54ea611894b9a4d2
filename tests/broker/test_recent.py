"""The last cycles and their events: bounded, newest first, and passed on to whoever watches."""

from __future__ import annotations

from datetime import timedelta

from appvss.broker.recent import CYCLES_LIMIT, EVENTS_LIMIT, Recent
from appvss.delivery.watch import Watchers
from appvss.model.cycle import CycleRecord
from appvss.model.event import Event, EventKind
from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.verdict import Level, Verdict
from appvss.v1 import types_pb2

SECOND = timedelta(seconds=1)


class Clocks:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.monotonic, self.real = timedelta(hours=1), timedelta(days=20_000)

    def now(self) -> Instant:
        return Instant(self.monotonic)

    def wall(self) -> timedelta:
        return self.real

    def move(self, by: timedelta) -> None:
        self.monotonic += by
        self.real += by


def record(cycle: str) -> CycleRecord:
    verdict = Verdict(cycle, Level.APPLICATION, (), ())
    return CycleRecord(cycle, "local", "me", Instant(timedelta(0)), SECOND, Phase.COMPLETED, verdict)


def recent() -> tuple[Recent, Clocks, Watchers]:
    clocks, watchers = Clocks(), Watchers()
    return Recent(clocks, watchers), clocks, watchers


def test_cycle_is_known_from_its_first_event_and_ended_with_its_record() -> None:
    kept, clocks, _ = recent()
    kept.announce(Event(EventKind.CYCLE_BEGAN, clocks.now(), "c"))
    found = kept.get("c")
    assert found is not None
    assert found.record is None
    assert kept.ended() == []
    kept.end(record("c"))
    assert kept.ended() == [found]
    assert kept.get("other") is None
    kept.end(record("never announced"))
    assert len(kept.ended()) == 1


def test_newest_first_and_the_oldest_are_forgotten() -> None:
    kept, clocks, _ = recent()
    for number in range(CYCLES_LIMIT + 5):
        kept.announce(Event(EventKind.CYCLE_BEGAN, clocks.now(), str(number)))
        kept.end(record(str(number)))
    cycles = [one.record.cycle for one in kept.ended() if one.record is not None]
    assert cycles == [str(number) for number in range(CYCLES_LIMIT + 4, 4, -1)]
    assert kept.get("4") is None


def test_first_events_of_a_cycle_are_kept() -> None:
    kept, clocks, _ = recent()
    for number in range(EVENTS_LIMIT + 3):
        kept.announce(Event(EventKind.INPUT_REFUSED, clocks.now(), "c", detail=str(number)))
    found = kept.get("c")
    assert found is not None
    assert [event.detail for event in found.events] == [str(number) for number in range(EVENTS_LIMIT)]


def test_event_outside_of_a_cycle_is_for_watchers_alone() -> None:
    kept, clocks, watchers = recent()
    watcher = watchers.add()
    kept.announce(Event(EventKind.SOURCE_CHANGED, clocks.now(), detail="local serving", phase=Phase.IDLE))
    watchers.close()
    assert kept.get("") is None
    assert not watcher.overflowed


async def test_watchers_see_wall_time_and_time_since_the_request() -> None:
    kept, clocks, watchers = recent()
    watcher = watchers.add()
    kept.announce(Event(EventKind.CYCLE_BEGAN, clocks.now(), "c", phase=Phase.REQUESTED))
    clocks.move(3 * SECOND)
    kept.announce(Event(EventKind.APP_FROZE, clocks.now(), "c", "a", Phase.FREEZING_APPS, took=SECOND))
    kept.announce(Event(EventKind.SOURCE_CHANGED, clocks.now()))
    first, second, outside = [await watcher.get() for _ in range(3)]
    assert first is not None
    assert second is not None
    assert outside is not None
    assert first.since_request.ToTimedelta() == timedelta(0)
    assert second.since_request.ToTimedelta() == 3 * SECOND
    assert second.time.seconds - first.time.seconds == 3
    assert (second.kind, second.app, second.phase) == ("app_froze", "a", types_pb2.PHASE_FREEZING_APPS)
    assert second.took.ToTimedelta() == SECOND
    assert not outside.HasField("since_request")
    assert outside.phase == types_pb2.PHASE_UNSPECIFIED


def test_time_of_a_past_instant_is_counted_back() -> None:
    kept, clocks, _ = recent()
    then, wall = clocks.now(), clocks.wall()
    clocks.move(9 * SECOND)
    assert kept.wall_at(then) == wall
    clocks.real += timedelta(hours=1)  # the wall clock was set
    assert kept.wall_at(then) == wall + timedelta(hours=1)
