"""A local requester: one call of `RequesterService.Hold`, step by step, with bounded waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc

from appvss import contract
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice
from appvss.v1 import requester_pb2, types_pb2
from tests.support.running_broker import BOUND, RunningBroker

FINISH = requester_pb2.HoldRequest(finish=requester_pb2.Finish())


def begin(
    requester: str = "a test", filesystems: FilesystemChoice = NO_FILESYSTEMS, **lengths: timedelta
) -> requester_pb2.HoldRequest:
    """The first message; `lengths` are its `freeze_budget` and `hold_limit`."""
    message = requester_pb2.Begin(requester=requester, filesystems=contract.choice_message(filesystems))
    for name, length in lengths.items():
        getattr(message, name).FromTimedelta(length)
    return requester_pb2.HoldRequest(begin=message)


class HoldCall:
    """One call."""

    def __init__(self, call: Any) -> None:
        self.call = call

    @classmethod
    async def begin(
        cls,
        broker: RunningBroker,
        requester: str = "a test",
        filesystems: FilesystemChoice = NO_FILESYSTEMS,
        **lengths: timedelta,
    ) -> HoldCall:
        """Ask for a hold. A call that is refused at once says so in its `ending`."""
        hold = cls(broker.hold())
        with suppress(grpc.aio.AioRpcError):
            await hold.say(begin(requester, filesystems, **lengths))
        return hold

    async def say(self, message: requester_pb2.HoldRequest) -> None:
        async with asyncio.timeout(BOUND):
            await self.call.write(message)

    async def heard(self) -> requester_pb2.HoldResponse:
        """The next message of the broker."""
        async with asyncio.timeout(BOUND):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, f"the hold ended: {await self.call.code()} {await self.call.details()}"
        assert isinstance(response, requester_pb2.HoldResponse)
        return response

    async def held(self) -> requester_pb2.Held:
        """The next message, which says that everything is held."""
        response = await self.heard()
        assert response.HasField("held"), response
        return response.held

    async def verdict(self) -> types_pb2.Verdict:
        """The next message, which is the verdict."""
        response = await self.heard()
        assert response.HasField("ended"), response
        return response.ended.verdict

    async def finish(self) -> None:
        """Ask for the thaw."""
        await self.say(FINISH)

    async def hang_up(self) -> None:
        """Half-close."""
        await self.call.done_writing()

    def cancel(self) -> None:
        """Break the call."""
        self.call.cancel()

    async def ending(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the call: code and sentence. What was not heard yet is passed over."""
        async with asyncio.timeout(BOUND):
            try:
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            return await self.call.code(), await self.call.details()
