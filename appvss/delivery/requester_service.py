"""`RequesterService`: what local requesters and hooks ask. See `proto/appvss/v1/requester.proto`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from appvss import contract
from appvss.delivery.admin_service import SILENT_DISK, Context
from appvss.model.app import AppId
from appvss.model.errors import BrokerUnreachable, CycleBusy, CycleError, MessageInvalid, RequestRefused
from appvss.model.filesystem import FilesystemChoice
from appvss.model.names import printable
from appvss.model.verdict import Verdict
from appvss.v1 import requester_pb2, requester_pb2_grpc

BEGIN_LIMIT: Final = timedelta(seconds=5)
"""How long a local requester may be silent before it begins."""
REQUESTER_LIMIT: Final = 200
"""Characters of a local requester's own name that are kept."""
_ZERO: Final = timedelta(0)


class LocalHold(Protocol):
    """One local requester's hold, as long as it lasts."""

    cycle: str
    hold_limit: timedelta

    async def held(self) -> bool:
        """Wait until everything is frozen (True) or the freeze has failed (False: `ended` has the verdict)."""

    async def ended(self) -> Verdict:
        """Wait for the end of the cycle.

        Raises:
            CycleError: there was no cycle, because another one is under way or the requester has hung up before it
                was held.
        """

    def finish(self) -> None:
        """The snapshot is taken: thaw. More than once does no harm."""

    def abandon(self, reason: str) -> None:
        """The requester is gone. Harmless after the end."""


class LocalRequests(Protocol):
    """The way of local requests into the broker: its local source."""

    def begin(
        self,
        requester: str,
        freeze_budget: timedelta | None,
        hold_limit: timedelta | None,
        filesystems: FilesystemChoice,
        apart: frozenset[AppId],
    ) -> LocalHold:
        """Ask for a freeze, which asks nobody that is `apart`.

        Raises:
            RequestRefused: local requests are switched off.
            BrokerUnreachable: the broker is starting or stopping.
            MessageInvalid: a length is over the configured one.
        """


class HookRequests(Protocol):
    """The way of hooks into the broker: its source of that name, which keeps their hold between two calls."""

    async def freeze(
        self,
        requester: str,
        freeze_budget: timedelta | None,
        hold_limit: timedelta | None,
        filesystems: FilesystemChoice,
        apart: frozenset[AppId],
    ) -> LocalHold:
        """Freeze and keep the hold; `LocalHold.held` says at once whether there is one.

        Raises:
            RequestRefused: hooks are switched off.
            BrokerUnreachable: the broker is starting or stopping.
            MessageInvalid: a length is over the configured one.
        """

    async def thaw(self) -> tuple[Verdict, bool] | None:
        """End the hold that is kept; its verdict, and whether all was kept that `freeze` had promised. None: there is
        nothing to tell.
        """


class RequesterService(requester_pb2_grpc.RequesterServiceServicer):
    """The servicer of `RequesterService`: the call is the hold's life.

    Args:
        requests: the local source.
        rehearsals: the source of rehearsals.
        hooks: the source of hooks.
        rehearsed: tells how the rehearsal of that cycle went, as `AdminView.rehearsal` does.
        apart: the registered apps that a freeze of these file systems does not concern. Answers within moments, and
            never raises.
    """

    def __init__(
        self,
        requests: LocalRequests,
        rehearsals: LocalRequests,
        hooks: HookRequests,
        rehearsed: Callable[[str], Awaitable[requester_pb2.RehearseResponse]],
        apart: Callable[[FilesystemChoice], Awaitable[frozenset[AppId]]],
    ) -> None:
        self._requests = requests
        self._rehearsals = rehearsals
        self._hooks = hooks
        self._rehearsed = rehearsed
        self._apart = apart

    async def Rehearse(  # noqa: N802, D102 - named and described in requester.proto
        self, request: requester_pb2.RehearseRequest, context: Context
    ) -> requester_pb2.RehearseResponse:
        begin = requester_pb2.Begin(requester=request.requester)
        if request.HasField("freeze_budget"):
            begin.freeze_budget.CopyFrom(request.freeze_budget)
        hold = await self._ask(self._rehearsals, begin, context)
        try:
            if await hold.held():
                hold.finish()
            verdict = await hold.ended()
            return await self._rehearsed(verdict.cycle)
        except CycleError as error:
            code = grpc.StatusCode.ABORTED if isinstance(error, CycleBusy) else grpc.StatusCode.UNAVAILABLE
            await context.abort(code, error.sentence)
            raise
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, SILENT_DISK)
            raise
        finally:
            hold.abandon("its call ended")

    async def Hold(  # type: ignore[override] # noqa: N802 - grpc.aio takes a coroutine that writes
        self, _requests: object, context: Context
    ) -> None:
        """See requester.proto. However this call ends, so does the hold."""
        begin = await self._begin(context)
        hold = await self._ask(self._requests, begin, context)
        listener = asyncio.create_task(self._listen(hold, context), name=f"requester {begin.requester[:20]!r}")
        try:
            if await hold.held():
                limit = contract.duration_message(hold.hold_limit)
                await context.write(
                    requester_pb2.HoldResponse(held=requester_pb2.Held(cycle=hold.cycle, hold_limit=limit))
                )
            verdict = contract.verdict_message(await hold.ended())
            await context.write(requester_pb2.HoldResponse(ended=requester_pb2.Ended(verdict=verdict)))
        except CycleBusy as error:
            await context.abort(grpc.StatusCode.ABORTED, error.sentence)
        except CycleError as error:
            await context.abort(grpc.StatusCode.CANCELLED, error.sentence)
        finally:
            hold.abandon("its call ended")
            listener.cancel()
            await asyncio.wait({listener})

    @staticmethod
    async def _listen(hold: LocalHold, context: Context) -> None:
        """Take the requester's one word. Everything but a finish ends the hold without one."""
        said = await _read(context)
        if said is None:
            hold.abandon("it hung up without a finish")
        elif said.WhichOneof("message") == "finish":
            hold.finish()
        else:
            hold.abandon("it said something but finish")

    @staticmethod
    async def _begin(context: Context) -> requester_pb2.Begin:
        first = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_LIMIT.total_seconds()):
                first = await _read(context)
        if first is None or first.WhichOneof("message") != "begin":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is not begin")
            raise AssertionError("a refused call has ended")
        return first.begin

    async def HookFreeze(  # noqa: N802, D102 - named and described in requester.proto
        self, request: requester_pb2.HookFreezeRequest, context: Context
    ) -> requester_pb2.HookFreezeResponse:
        async with _refusing(context):
            wanted = _wanted(request.begin)
            hold = await self._hooks.freeze(*wanted, await self._apart(wanted[-1]))
        try:
            if await hold.held():
                limit = contract.duration_message(hold.hold_limit)
                return requester_pb2.HookFreezeResponse(held=requester_pb2.Held(cycle=hold.cycle, hold_limit=limit))
            verdict = contract.verdict_message(await hold.ended())
            return requester_pb2.HookFreezeResponse(ended=requester_pb2.Ended(verdict=verdict))
        except CycleError as error:
            code = grpc.StatusCode.ABORTED if isinstance(error, CycleBusy) else grpc.StatusCode.CANCELLED
            await context.abort(code, error.sentence)
            raise

    async def HookThaw(  # noqa: N802, D102 - named and described in requester.proto
        self, request: requester_pb2.HookThawRequest, context: Context
    ) -> requester_pb2.HookThawResponse:
        end = await self._hooks.thaw()
        if end is None:
            return requester_pb2.HookThawResponse()
        verdict, kept = end
        return requester_pb2.HookThawResponse(verdict=contract.verdict_message(verdict), kept=kept)

    async def _ask(self, requests: LocalRequests, begin: requester_pb2.Begin, context: Context) -> LocalHold:
        async with _refusing(context):
            wanted = _wanted(begin)
            apart = await self._apart(wanted[-1])
            return requests.begin(*wanted, apart)


def _wanted(
    begin: requester_pb2.Begin,
) -> tuple[str, timedelta | None, timedelta | None, FilesystemChoice]:
    """Who wants it, with which budget and hold limit, and which file systems.

    Raises:
        MessageInvalid: a limit of the contract is broken.
    """
    budget = contract.length_of(begin.freeze_budget) if begin.HasField("freeze_budget") else None
    limit = contract.length_of(begin.hold_limit) if begin.HasField("hold_limit") else None
    for name, length in (("freeze_budget", budget), ("hold_limit", limit)):
        if length is not None and length <= _ZERO:
            raise MessageInvalid(f"{name} is {length.total_seconds()} s", "Send a length above zero, or none.")
    requester = printable(begin.requester, REQUESTER_LIMIT) or "a local program"
    return requester, budget, limit, contract.choice_of(begin.filesystems)


@contextlib.asynccontextmanager
async def _refusing(context: Context) -> AsyncIterator[None]:
    """End the call with the code of `requester.proto` for what a source does not accept."""
    try:
        yield
    except MessageInvalid as error:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.sentence)
    except RequestRefused as error:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.sentence)
    except BrokerUnreachable as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, error.sentence)


async def _read(context: Context) -> requester_pb2.HoldRequest | None:
    """What the requester says; None when it has hung up or its call is broken. What cannot be parsed says nothing."""
    try:
        said: Any = await context.read()
    except DecodeError:
        return requester_pb2.HoldRequest()
    except grpc.aio.InternalError:
        return None
    return said if isinstance(said, requester_pb2.HoldRequest) else None
