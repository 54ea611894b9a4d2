"""The two calls of a hook, against the real broker."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest

from appvss import contract
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.v1 import app_pb2, requester_pb2, requester_pb2_grpc, types_pb2
from tests.support.holds import HoldCall
from tests.support.raw_app import RawApp, attached
from tests.support.running_broker import BOUND, RunningBroker, running_broker

Code = grpc.StatusCode


class Hook:
    """What a guest agent does: one call, and another one later."""

    def __init__(self, broker: RunningBroker) -> None:
        self._stub: Any = requester_pb2_grpc.RequesterServiceStub(broker.channel())

    def freeze(self, requester: str = "qemu-ga", **begin: Any) -> Any:
        """The call of a freeze, under way."""
        request = requester_pb2.HookFreezeRequest(begin=requester_pb2.Begin(requester=requester, **begin))
        return self._stub.HookFreeze(request, timeout=BOUND)

    async def thaw(self) -> requester_pb2.HookThawResponse:
        answer = await self._stub.HookThaw(requester_pb2.HookThawRequest(), timeout=BOUND)
        assert isinstance(answer, requester_pb2.HookThawResponse)
        return answer


async def held(hook: Hook, app: RawApp, **begin: Any) -> str:
    """Freeze with one app; the cycle."""
    call = hook.freeze(**begin)
    await app.freeze()
    answer = await call
    assert answer.HasField("held"), answer
    return str(answer.held.cycle)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_hold_stays_between_freeze_and_thaw() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        cycle = await held(Hook(broker), app)
        status = await broker.status()
        assert (status.cycle, status.phase) == (cycle, types_pb2.PHASE_HOLDING)
        assert timedelta(seconds=50) < status.hold_left.ToTimedelta() <= timedelta(minutes=1)
        thaw = asyncio.create_task(Hook(broker).thaw())
        await app.thaw()
        end = await thaw
        assert (end.verdict.cycle, end.verdict.level, end.kept) == (cycle, types_pb2.LEVEL_APPLICATION, True)
        assert not (await Hook(broker).thaw()).HasField("verdict")
        (summary,) = await broker.cycles()
        assert (summary.source, summary.requester) == ("hook", "qemu-ga")


async def test_thaw_without_a_freeze_is_harmless() -> None:
    async with running_broker() as broker:
        assert not (await Hook(broker).thaw()).HasField("verdict")


async def test_hold_without_any_app_is_kept_and_worth_little() -> None:
    async with running_broker() as broker:
        answer = await Hook(broker).freeze()
        assert answer.HasField("held")
        end = await Hook(broker).thaw()
        assert (end.verdict.level, end.kept) == (types_pb2.LEVEL_CRASH, True)


async def test_freeze_that_fails_is_undone_before_it_is_answered() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        call = Hook(broker).freeze()
        freeze = await app.hear("freeze")
        await app.say(veto=app_pb2.Veto(cycle=freeze.cycle, reason="a deployment is running"))
        answer = await call
        assert answer.ended.verdict.level == types_pb2.LEVEL_FAILED
        assert (await broker.status()).cycle == ""
        assert not (await Hook(broker).thaw()).HasField("verdict")


async def test_second_freeze_ends_the_first_hold_and_begins_anew() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hook = Hook(broker)
        first = await held(hook, app)
        call = hook.freeze("qemu-ga again")
        await app.thaw("abort")
        await app.freeze()
        second = (await call).held.cycle
        assert second not in ("", first)
        thaw = asyncio.create_task(hook.thaw())
        await app.thaw()
        assert (await thaw).verdict.cycle == second
        assert {cycle.cycle: cycle.verdict.level for cycle in await broker.cycles()} == {
            first: types_pb2.LEVEL_CRASH,
            second: types_pb2.LEVEL_APPLICATION,
        }


async def test_hold_that_its_limit_ended_is_told_at_the_thaw() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        limit = contract.duration_message(timedelta(milliseconds=50))
        cycle = await held(Hook(broker), app, hold_limit=limit)
        await app.thaw("abort")
        end = await Hook(broker).thaw()
        verdict = end.verdict
        assert (verdict.cycle, verdict.level, end.kept) == (cycle, types_pb2.LEVEL_CRASH, False)
        assert verdict.reasons[0] == "the hold limit of 50.0ms passed before the thaw came"


async def test_hook_that_dies_before_everything_is_held_takes_its_freeze_with_it() -> None:
    async with (
        running_broker() as broker,
        attached(broker.runtime_directory, "a") as app,
        broker.watching() as watch,
    ):
        call = Hook(broker).freeze()
        freeze = await app.hear("freeze")
        call.cancel()
        assert (await app.thaw("abort")).cycle == freeze.cycle
        await watch.until("cycle_ended", cycle=freeze.cycle)
        assert not (await Hook(broker).thaw()).HasField("verdict")


async def test_hook_while_another_requester_holds() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker, "the first")
        await app.freeze()
        await hold.held()
        code, sentence = await refused(Hook(broker).freeze())
        assert (code, sentence.endswith("of the first is under way (holding)")) == (Code.ABORTED, True)
        await hold.finish()
        await app.thaw()
        assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION


async def test_what_a_hook_may_not_ask() -> None:
    async with running_broker() as broker:
        hook = Hook(broker)
        long = contract.duration_message(timedelta(hours=2))
        assert (await refused(hook.freeze(hold_limit=long)))[0] is Code.INVALID_ARGUMENT
        nowhere = contract.choice_message(FilesystemChoice(Scope.NAMED))
        code, sentence = await refused(hook.freeze(filesystems=nowhere))
        assert code is Code.INVALID_ARGUMENT
        assert sentence == "the scope of the file systems is named, and 0 paths are named"


async def test_broker_that_dies_in_a_hold_of_a_hook_leaves_its_verdict_to_the_next() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        cycle = await held(Hook(broker), app)
        await broker.kill()
        async with running_broker(directory=broker.directory) as next_broker:
            end = await Hook(next_broker).thaw()
            assert (end.verdict.cycle, end.verdict.level, end.kept) == (cycle, types_pb2.LEVEL_CRASH, False)
            assert not (await Hook(next_broker).thaw()).HasField("verdict")
