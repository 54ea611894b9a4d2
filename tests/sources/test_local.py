"""Local requests: what the source asks of the broker, and what it tells its requesters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from appvss.model.cycle import CycleRecord
from appvss.model.errors import BrokerUnreachable, CycleBusy, CycleError, MessageInvalid, RequestRefused
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice, Scope
from appvss.model.instant import Instant
from appvss.model.phase import Phase
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceCondition, SourceMode, SourceState
from appvss.model.verdict import Level, Verdict
from appvss.sources.local import REHEARSAL, THAW_LIMIT, Hold, LocalSettings, LocalSource

SECOND = timedelta(seconds=1)
NOW = Instant(timedelta(hours=7))


class Clock:
    """A clock that stands."""

    def now(self) -> Instant:
        return NOW

    def wall(self) -> timedelta:
        return timedelta(days=20_000)


class Broker:
    """The broker's end: it keeps what comes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.asked: asyncio.Queue[Request] = asyncio.Queue()
        self.losses: list[tuple[str, str]] = []
        self.states: list[SourceState] = []

    def ask(self, request: Request) -> None:
        self.requests.append(request)
        self.asked.put_nowait(request)

    def lost(self, source: str, reason: str, request: str = "") -> None:
        self.losses.append((source, reason))

    def changed(self, state: SourceState) -> None:
        self.states.append(state)


@asynccontextmanager
async def serving(settings: LocalSettings | None = None) -> AsyncIterator[tuple[LocalSource, Broker]]:
    source, broker = LocalSource(settings or LocalSettings(), Clock()), Broker()
    task = asyncio.create_task(source.run(broker))
    await asyncio.sleep(0)
    yield source, broker
    task.cancel()
    await asyncio.wait({task})


def verdict(cycle: str = "c", level: Level = Level.APPLICATION) -> Verdict:
    return Verdict(cycle, level, (), ())


def record(cycle: str = "c", level: Level = Level.CRASH) -> CycleRecord:
    return CycleRecord(cycle, "local", "me", NOW, SECOND, Phase.ABORTED, verdict(cycle, level))


async def held(source: LocalSource, broker: Broker) -> Hold:
    """A hold that was told to go on, as cycle `c`."""
    hold = source.begin("me", None, None)
    source.answer(Answer(broker.requests[-1], go_on=True, reason="", cycle="c"))
    assert await hold.held()
    return hold


def condition_of(source: LocalSource) -> SourceCondition:
    return source.state.condition


# -- asking


async def test_request_carries_what_the_requester_named_and_else_what_is_configured() -> None:
    async with serving(LocalSettings(freeze_budget=9 * SECOND, hold_limit=8 * SECOND)) as (source, broker):
        source.begin("me", None, None)
        source.begin("you", 2 * SECOND, 3 * SECOND)
        first, second = broker.requests
        assert (first.kind, first.requester, first.source) == (RequestKind.FREEZE, "me", "local")
        assert (first.deadline - NOW, first.hold_limit) == (9 * SECOND, 8 * SECOND)
        assert (second.deadline - NOW, second.hold_limit) == (2 * SECOND, 3 * SECOND)
        assert first.id != second.id
        assert not first.supersedes


@pytest.mark.parametrize(("budget", "limit"), [(10 * SECOND, None), (None, 9 * SECOND)])
async def test_more_than_is_configured_is_refused(budget: timedelta | None, limit: timedelta | None) -> None:
    async with serving(LocalSettings(freeze_budget=9 * SECOND, hold_limit=8 * SECOND)) as (source, broker):
        source.begin("me", 9 * SECOND, 8 * SECOND)
        with pytest.raises(MessageInvalid, match="is over the configured") as caught:
            source.begin("me", budget, limit)
        assert "sources.local." in caught.value.hint
        assert len(broker.requests) == 1


async def test_request_carries_the_file_systems_that_the_requester_chose() -> None:
    choice = FilesystemChoice(Scope.NAMED, ("/srv",))
    async with serving() as (source, broker):
        source.begin("me", None, None, choice)
        source.begin("you", None, None).finish()
        assert [request.filesystems for request in broker.requests] == [choice, NO_FILESYSTEMS, NO_FILESYSTEMS]


async def test_rehearsal_freezes_no_file_system() -> None:
    source, broker = LocalSource(LocalSettings(), Clock(), REHEARSAL), Broker()
    task = asyncio.create_task(source.run(broker))
    await asyncio.sleep(0)
    source.begin("me", None, None, FilesystemChoice(Scope.ALL))
    with pytest.raises(MessageInvalid) as caught:
        source.begin("me", timedelta(hours=2), None)
    task.cancel()
    await asyncio.wait({task})
    (request,) = broker.requests
    assert (request.rehearses, request.filesystems) == (True, NO_FILESYSTEMS)
    assert "`sources.local.freeze_budget`" in caught.value.hint


async def test_off() -> None:
    async with serving(LocalSettings(mode=SourceMode.OFF)) as (source, broker):
        with pytest.raises(RequestRefused, match="switched off"):
            source.begin("me", None, None)
        assert source.state.condition is SourceCondition.OFF
        assert broker.states == []


async def test_before_the_start_and_after_the_end_nobody_answers() -> None:
    source, broker = LocalSource(LocalSettings(), Clock()), Broker()
    assert condition_of(source) is SourceCondition.WAITING
    with pytest.raises(BrokerUnreachable, match="starting or stopping"):
        source.begin("me", None, None)
    task = asyncio.create_task(source.run(broker))
    await asyncio.sleep(0)
    assert [state.condition for state in broker.states] == [SourceCondition.SERVING]
    task.cancel()
    await asyncio.wait({task})
    assert condition_of(source) is SourceCondition.OFF
    with pytest.raises(BrokerUnreachable):
        source.begin("me", None, None)


# -- the way of one hold


async def test_hold_to_its_verdict() -> None:
    async with serving() as (source, broker):
        hold = await held(source, broker)
        assert (hold.cycle, hold.hold_limit) == ("c", LocalSettings().hold_limit)
        hold.finish()
        hold.finish()
        freeze, thaw = broker.requests
        assert (thaw.kind, thaw.deadline - NOW) == (RequestKind.THAW, THAW_LIMIT)
        assert thaw.id != freeze.id
        source.answer(Answer(thaw, go_on=True, reason="", cycle="c", verdict=verdict()))
        assert await hold.ended() == verdict()
        source.ended(record())
        assert await hold.ended() == verdict()
        hold.abandon("its call ended")
        assert broker.losses == []


async def test_freeze_that_fails_comes_with_its_verdict() -> None:
    async with serving() as (source, broker):
        hold = source.begin("me", None, None)
        failed = verdict(level=Level.FAILED)
        source.answer(Answer(broker.requests[0], go_on=False, reason="a veto", cycle="c", verdict=failed))
        assert not await hold.held()
        assert await hold.ended() == failed


async def test_freeze_whose_time_is_over_hears_the_verdict_when_its_cycle_has_ended() -> None:
    async with serving() as (source, broker):
        hold = source.begin("me", None, None)
        source.answer(Answer(broker.requests[0], go_on=False, reason="its time is over", cycle="c"))
        waiting = asyncio.create_task(hold.held())
        await asyncio.sleep(0)
        assert not waiting.done()
        source.ended(record("another"))
        assert not waiting.done()
        source.ended(record())
        assert not await waiting
        assert (await hold.ended()).level is Level.CRASH


async def test_another_cycle_is_under_way() -> None:
    async with serving() as (source, broker):
        hold = source.begin("me", None, None)
        source.answer(Answer(broker.requests[0], go_on=False, reason="cycle x is under way"))
        assert not await hold.held()
        with pytest.raises(CycleBusy, match="cycle x is under way"):
            await hold.ended()
        hold.abandon("its call ended")
        assert broker.losses == []


async def test_hold_that_ends_by_itself_is_told() -> None:
    async with serving() as (source, broker):
        hold = await held(source, broker)
        source.ended(record())
        assert (await hold.ended()).level is Level.CRASH
        hold.finish()
        hold.abandon("its call ended")
        assert len(broker.requests) == 1
        assert broker.losses == []


async def test_requester_that_is_gone_in_its_hold_ends_it_once_and_the_verdict_still_comes() -> None:
    async with serving() as (source, broker):
        hold = await held(source, broker)
        hold.abandon("it hung up")
        hold.abandon("its call ended")
        hold.finish()
        assert broker.losses == [("local", "it hung up")]
        assert len(broker.requests) == 1
        source.ended(record())
        assert (await hold.ended()).level is Level.CRASH


async def test_requester_that_is_gone_before_it_held_ends_at_once() -> None:
    async with serving() as (source, broker):
        hold = source.begin("me", None, None)
        hold.abandon("it hung up")
        assert broker.losses == [("local", "it hung up")]
        assert not await hold.held()
        with pytest.raises(CycleError, match="the requester is gone: it hung up"):
            await hold.ended()
        source.answer(Answer(broker.requests[0], go_on=True, reason="", cycle="c"))
        assert not await hold.held()


async def test_whoever_was_refused_takes_nobody_down() -> None:
    async with serving() as (source, broker):
        first = await held(source, broker)
        second = source.begin("you", None, None)
        source.answer(Answer(broker.requests[-1], go_on=False, reason="under way"))
        second.abandon("its call ended")
        assert broker.losses == []
        first.finish()
        assert broker.requests[-1].kind is RequestKind.THAW


async def test_nothing_is_kept_of_what_is_over() -> None:
    async with serving() as (source, broker):
        for number in range(3):
            hold = await held(source, broker)
            if number == 0:
                hold.abandon("gone")
            hold.finish()
            source.ended(record())
        source.begin("me", None, None).abandon("gone")
        assert source._open == {}


async def test_answer_to_nobody_is_passed_over() -> None:
    async with serving() as (source, _):
        request = Request("99", "local", RequestKind.FREEZE, "me", NOW)
        source.answer(Answer(request, go_on=True, reason="", cycle="c"))
        source.ended(record())


async def test_waiting_that_is_cancelled_hurts_nobody_else() -> None:
    async with serving() as (source, broker):
        hold = source.begin("me", None, None)
        waiting = asyncio.create_task(hold.held())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        source.answer(Answer(broker.requests[0], go_on=True, reason="", cycle="c"))
        assert await hold.held()
