"""Hooks: a hold that stays in the broker between two calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest

from appvss.model.errors import BrokerUnreachable, CycleBusy, CycleError, MessageInvalid, RequestRefused
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice, Scope
from appvss.model.request import Answer, RequestKind
from appvss.model.source import SourceMode
from appvss.model.verdict import Level
from appvss.sources.hook import HookSource
from appvss.sources.local import THAW_LIMIT, Hold, LocalSettings
from tests.sources.test_local import SECOND, Broker, Clock, record, verdict

T = TypeVar("T")
SETTINGS = LocalSettings(freeze_budget=9 * SECOND, hold_limit=timedelta(minutes=1))


@asynccontextmanager
async def serving(settings: LocalSettings = SETTINGS) -> AsyncIterator[tuple[HookSource, Broker]]:
    source, broker = HookSource(settings, Clock()), Broker()
    task = asyncio.create_task(source.run(broker))
    await asyncio.sleep(0)
    yield source, broker
    task.cancel()
    await asyncio.wait({task})


async def begun(call: Coroutine[object, object, T], broker: Broker) -> asyncio.Task[T]:
    """A call whose request has reached the broker."""
    task = asyncio.create_task(call)
    await broker.asked.get()
    return task


async def asked(source: HookSource, broker: Broker, requester: str = "qemu-ga") -> asyncio.Task[Hold]:
    return await begun(source.freeze(requester, None, None), broker)


async def held(source: HookSource, broker: Broker, cycle: str = "c") -> Hold:
    task = await asked(source, broker)
    source.answer(Answer(broker.requests[-1], go_on=True, reason="", cycle=cycle))
    hold = await task
    assert hold.is_held
    return hold


async def test_request_of_a_hook_takes_the_place_of_the_former_and_wants_no_file_systems() -> None:
    async with serving() as (source, broker):
        await held(source, broker)
        (request,) = broker.requests
        assert (request.source, request.kind, request.requester) == ("hook", RequestKind.FREEZE, "qemu-ga")
        assert (request.supersedes, request.filesystems) == (True, NO_FILESYSTEMS)
        assert (request.deadline - Clock().now(), request.hold_limit) == (9 * SECOND, timedelta(minutes=1))


async def test_file_systems_and_lengths_that_the_hook_names() -> None:
    async with serving() as (source, broker):
        choice = FilesystemChoice(Scope.DECLARED)
        task = await begun(source.freeze("me", 2 * SECOND, 3 * SECOND, choice), broker)
        (request,) = broker.requests
        assert (request.hold_limit, request.filesystems) == (3 * SECOND, choice)
        task.cancel()
        await asyncio.wait({task})


async def test_hold_lasts_over_two_calls_and_thaw_tells_what_it_was_worth() -> None:
    async with serving() as (source, broker):
        await held(source, broker)
        thaw = await begun(source.thaw(), broker)
        request = broker.requests[-1]
        assert request.kind is RequestKind.THAW
        source.answer(Answer(request, go_on=True, reason="", cycle="c", verdict=verdict()))
        assert await thaw == (verdict(), True)
        source.ended(record())
        assert await source.thaw() is None
        assert broker.losses == []


async def test_thaw_without_a_freeze_is_harmless() -> None:
    async with serving() as (source, broker):
        thaw = await begun(source.thaw(), broker)
        source.answer(Answer(broker.requests[-1], go_on=True, reason=""))
        assert await thaw is None
        assert await source.thaw() is None
        assert (len(broker.requests), broker.losses) == (1, [])


async def test_thaw_tells_once_of_a_hold_that_has_ended_by_itself() -> None:
    async with serving() as (source, broker):
        await held(source, broker)
        source.ended(record())
        assert await source.thaw() == (record().verdict, False)
        assert len(broker.requests) == 1
        assert await source.thaw() is None


async def test_freeze_that_fails_leaves_nothing_behind() -> None:
    async with serving() as (source, broker):
        task = await asked(source, broker)
        failed = verdict(level=Level.FAILED)
        source.answer(Answer(broker.requests[-1], go_on=False, reason="a veto", cycle="c", verdict=failed))
        hold = await task
        source.ended(record(level=Level.FAILED))
        assert not hold.is_held
        assert await hold.ended() == failed
        assert await source.thaw() is None


async def test_freeze_while_another_source_holds() -> None:
    async with serving() as (source, broker):
        task = await asked(source, broker)
        source.answer(Answer(broker.requests[-1], go_on=False, reason="cycle x is under way"))
        with pytest.raises(CycleBusy, match="cycle x is under way"):
            await (await task).ended()
        assert await source.thaw() is None


async def test_second_freeze_forgets_the_first() -> None:
    async with serving() as (source, broker):
        first = await held(source, broker, "c1")
        again = await asked(source, broker)
        source.ended(record("c1"))
        assert (await first.ended()).cycle == "c1"
        source.answer(Answer(broker.requests[-1], go_on=True, reason="", cycle="c2"))
        second = await again
        assert (second.is_held, second.cycle) == (True, "c2")
        source.ended(record("c2"))
        assert await source.thaw() == (record("c2").verdict, False)
        assert await source.thaw() is None


async def test_second_freeze_while_the_first_is_under_way_is_the_one_that_is_kept() -> None:
    async with serving() as (source, broker):
        first = await asked(source, broker)
        second = await asked(source, broker)
        failed = verdict("c1", Level.FAILED)
        source.answer(Answer(broker.requests[0], go_on=False, reason="superseded", cycle="c1", verdict=failed))
        assert not (await first).is_held
        source.answer(Answer(broker.requests[1], go_on=True, reason="", cycle="c2"))
        assert (await second).cycle == "c2"
        source.ended(record("c2"))
        assert await source.thaw() is not None


async def test_hook_that_goes_away_before_it_is_held_takes_its_freeze_with_it() -> None:
    async with serving() as (source, broker):
        task = await asked(source, broker)
        task.cancel()
        await asyncio.wait({task})
        assert broker.losses == [("hook", "the hook went away before everything was held")]
        assert await source.thaw() is None


async def test_thaw_gives_up_a_freeze_that_is_under_way() -> None:
    async with serving() as (source, broker):
        task = await asked(source, broker)
        assert await source.thaw() is None
        hold = await task
        assert broker.losses == [("hook", "a thaw came before everything was held")]
        with pytest.raises(CycleError, match="a thaw came before everything was held"):
            await hold.ended()


async def test_thaw_after_a_restart_of_the_broker_tells_how_the_former_hold_ended() -> None:
    async with serving() as (source, broker):
        thaw = await begun(source.thaw(), broker)
        (request,) = broker.requests
        assert (request.kind, request.source, request.deadline - Clock().now()) == (
            RequestKind.THAW,
            "hook",
            THAW_LIMIT,
        )
        former = verdict("c0", Level.CRASH)
        source.answer(Answer(request, go_on=False, reason="", cycle="c0", verdict=former))
        assert await thaw == (former, False)
        assert await source.thaw() is None


async def test_freeze_after_a_restart_of_the_broker_makes_that_old_news() -> None:
    async with serving() as (source, broker):
        await held(source, broker)
        source.ended(record("c"))
        assert await source.thaw() == (record("c").verdict, False)
        assert await source.thaw() is None
        assert len(broker.requests) == 1


async def test_thaw_that_is_given_up_may_be_repeated() -> None:
    async with serving() as (source, broker):
        thaw = await begun(source.thaw(), broker)
        thaw.cancel()
        await asyncio.wait({thaw})
        source.answer(Answer(broker.requests[-1], go_on=True, reason=""))
        again = await begun(source.thaw(), broker)
        source.answer(Answer(broker.requests[-1], go_on=False, reason="", cycle="c0", verdict=verdict("c0")))
        assert await again == (verdict("c0"), False)


async def test_what_hooks_may_not() -> None:
    async with serving() as (source, _):
        with pytest.raises(MessageInvalid, match="over the configured") as caught:
            await source.freeze("me", None, timedelta(hours=1))
        assert "`sources.hook.hold_limit`" in caught.value.hint
    async with serving(replace(SETTINGS, mode=SourceMode.OFF)) as (source, _):
        with pytest.raises(RequestRefused, match="hooks are switched off") as refused:
            await source.freeze("me", None, None)
        assert "`sources.hook.mode`" in refused.value.hint
        assert await source.thaw() is None
    with pytest.raises(BrokerUnreachable):
        await HookSource(SETTINGS, Clock()).freeze("me", None, None)
