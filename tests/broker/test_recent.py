"""The events of a cycle, kept until it ends, and passed on to whoever watches."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from appvss.broker.recent import EVENTS_LIMIT, Recent
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


def record(cycle: str, began: Instant) -> CycleRecord:
    verdict = Verdict(cycle, Level.APPLICATION, (), ())
    return CycleRecord(cycle, "local", "me", began, SECOND, Phase.COMPLETED, verdict)


def recent() -> tuple[Recent, Clocks, Watchers]:
    clocks, watchers = Clocks(), Watchers()
    return Recent(clocks, watchers), clocks, watchers


def test_a_cycle_that_ends_is_kept_with_its_events_and_its_times() -> None:
    kept, clocks, _ = recent()
    began, wall = clocks.now(), clocks.wall()
    kept.announce(Event(EventKind.CYCLE_BEGAN, began, "c", phase=Phase.REQUESTED))
    clocks.move(2 * SECOND)
    kept.announce(Event(EventKind.APP_FROZE, clocks.now(), "c", "a", Phase.FREEZING_APPS, "well", SECOND))
    past = kept.end(record("c", began), "the text", "this boot")
    assert (past.cycle, past.source, past.requester, past.took) == ("c", "local", "me", SECOND)
    assert (past.time, past.certificate, past.boot) == (wall, "the text", "this boot")
    assert (past.phase, past.verdict.level, past.rehearses) == (Phase.COMPLETED, Level.APPLICATION, False)
    first, second = past.events
    assert (first.kind, first.time, first.since_request, first.phase) == ("cycle_began", wall, 0 * SECOND, "requested")
    assert (second.kind, second.app, second.detail, second.took) == ("app_froze", "a", "well", SECOND)
    assert (second.time, second.since_request) == (wall + 2 * SECOND, 2 * SECOND)
    assert kept.last is past


def test_a_rehearsal_is_kept_as_one() -> None:
    kept, clocks, _ = recent()
    assert kept.end(replace(record("c", clocks.now()), rehearses=True), "", "").rehearses


def test_a_cycle_of_which_nothing_was_announced_has_no_events() -> None:
    kept, clocks, _ = recent()
    kept.announce(Event(EventKind.CYCLE_BEGAN, clocks.now(), "another"))
    assert kept.end(record("c", clocks.now()), "", "").events == ()


def test_events_of_another_cycle_are_not_mixed_in() -> None:
    kept, clocks, _ = recent()
    for cycle in ("a", "b", "b"):
        kept.announce(Event(EventKind.INPUT_REFUSED, clocks.now(), cycle, detail=cycle))
    assert [event.detail for event in kept.end(record("b", clocks.now()), "", "").events] == ["b", "b"]


def test_first_events_of_a_cycle_are_kept() -> None:
    kept, clocks, _ = recent()
    for number in range(EVENTS_LIMIT + 3):
        kept.announce(Event(EventKind.INPUT_REFUSED, clocks.now(), "c", detail=str(number)))
    past = kept.end(record("c", clocks.now()), "", "")
    assert [event.detail for event in past.events] == [str(number) for number in range(EVENTS_LIMIT)]


def test_event_outside_of_a_cycle_is_for_watchers_alone() -> None:
    kept, clocks, watchers = recent()
    watcher = watchers.add()
    kept.announce(Event(EventKind.SOURCE_CHANGED, clocks.now(), detail="local serving", phase=Phase.IDLE))
    watchers.close()
    assert kept.end(record("", clocks.now()), "", "").events == ()
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
