"""`AdminService` and `RequesterService`: what administrators and local requesters ask. See `proto/appvss/v1`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from appvss import contract
from appvss.delivery.watch import Watchers
from appvss.model.duration import format_duration
from appvss.model.errors import BrokerUnreachable, CycleBusy, CycleError, MessageInvalid, RequestRefused
from appvss.model.names import printable
from appvss.model.verdict import Verdict
from appvss.v1 import admin_pb2, admin_pb2_grpc, requester_pb2, requester_pb2_grpc

FORCE_THAW_LIMIT: Final = timedelta(seconds=30)
"""How long a forced thaw waits for the apps to confirm (`admin.proto`, ForceThaw)."""
BEGIN_LIMIT: Final = timedelta(seconds=5)
"""How long a local requester may be silent before it begins."""
REQUESTER_LIMIT: Final = 200
"""Characters of a local requester's own name that are kept."""
_ZERO: Final = timedelta(0)
_SILENT_DISK: Final = "the disk of the history does not answer"

Context = grpc.aio.ServicerContext[Any, Any]


class AdminView(Protocol):
    """What an administrator sees of the broker. Called on the event loop; must not block."""

    def status(self) -> admin_pb2.GetStatusResponse:
        """The broker at one glance."""

    def apps(self) -> admin_pb2.ListAppsResponse:
        """All apps, with those that are expected and not there."""

    def now(self) -> timedelta:
        """The wall clock: time since 1970-01-01 UTC."""

    async def cycles(self, limit: int, since: timedelta | None) -> admin_pb2.ListCyclesResponse:
        """The last cycles, newest first.

        Args:
            limit: how many at most; 0: as many as fit.
            since: only those that were asked for then or later, by the wall clock; None: all.

        Raises:
            TimeoutError: the disk does not answer.
        """

    async def cycle(self, cycle: str) -> admin_pb2.GetCycleResponse | None:
        """One cycle with its events; None when it is not known.

        Raises:
            TimeoutError: the disk does not answer.
        """

    async def rehearsal(self, cycle: str) -> requester_pb2.RehearseResponse:
        """How a rehearsal went that has just ended.

        Raises:
            TimeoutError: the disk does not answer.
        """

    async def force_thaw(self, reason: str) -> str:
        """End the running cycle and wait until nothing is held; its id, or empty when none was running."""


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

    def begin(self, requester: str, freeze_budget: timedelta | None, hold_limit: timedelta | None) -> LocalHold:
        """Ask for a freeze.

        Raises:
            RequestRefused: local requests are switched off.
            BrokerUnreachable: the broker is starting or stopping.
            MessageInvalid: a length is over the configured one.
        """


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """The servicer of `AdminService`.

    Args:
        view: what is asked for.
        watchers: who watches.
        thaw_limit: how long a forced thaw waits for the apps to confirm.
    """

    def __init__(self, view: AdminView, watchers: Watchers, thaw_limit: timedelta = FORCE_THAW_LIMIT) -> None:
        self._view = view
        self._watchers = watchers
        self._thaw_limit = thaw_limit

    async def GetStatus(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.GetStatusRequest, context: Context
    ) -> admin_pb2.GetStatusResponse:
        return self._view.status()

    async def ListApps(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.ListAppsRequest, context: Context
    ) -> admin_pb2.ListAppsResponse:
        return self._view.apps()

    async def ListCycles(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.ListCyclesRequest, context: Context
    ) -> admin_pb2.ListCyclesResponse:
        since = contract.wall_of(request.since) if request.HasField("since") else None
        if since is not None and since > self._view.now():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "`since` is in the future")
        try:
            return await self._view.cycles(request.limit, since)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, _SILENT_DISK)
            raise

    async def GetCycle(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.GetCycleRequest, context: Context
    ) -> admin_pb2.GetCycleResponse:
        try:
            found = await self._view.cycle(request.cycle)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, _SILENT_DISK)
            raise
        if found is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no cycle {printable(request.cycle, 64)!r} is known to this broker"
            )
            raise AssertionError("a refused call has ended")
        return found

    async def ForceThaw(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.ForceThawRequest, context: Context
    ) -> admin_pb2.ForceThawResponse:
        reason = printable(request.reason) or "no reason given"
        try:
            async with asyncio.timeout(self._thaw_limit.total_seconds()):
                cycle = await self._view.force_thaw(f"an administrator forced the thaw: {reason}")
        except TimeoutError:
            sentence = f"not every app has confirmed the thaw within {format_duration(self._thaw_limit)}"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, sentence)
            raise
        return admin_pb2.ForceThawResponse(thawed_cycle=cycle)

    async def WatchEvents(  # type: ignore[override] # noqa: N802, D102 - grpc.aio takes a coroutine that writes
        self, request: admin_pb2.WatchEventsRequest, context: Context
    ) -> None:
        if self._watchers.is_full:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{len(self._watchers)} watchers are there already")
        watcher = self._watchers.add()
        try:
            # The caller then knows that nothing from now on is missed.
            await context.send_initial_metadata(())
            while not watcher.overflowed and (event := await watcher.get()) is not None:
                await context.write(admin_pb2.WatchEventsResponse(event=event))
        finally:
            self._watchers.remove(watcher)
        if watcher.overflowed:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "events were not read fast enough and are missing")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the broker stops")


class RequesterService(requester_pb2_grpc.RequesterServiceServicer):
    """The servicer of `RequesterService`: the call is the hold's life.

    Args:
        requests: the local source.
        rehearsals: the source of rehearsals.
        rehearsed: tells how the rehearsal of that cycle went, as `AdminView.rehearsal` does.
    """

    def __init__(
        self,
        requests: LocalRequests,
        rehearsals: LocalRequests,
        rehearsed: Callable[[str], Awaitable[requester_pb2.RehearseResponse]],
    ) -> None:
        self._requests = requests
        self._rehearsals = rehearsals
        self._rehearsed = rehearsed

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
            await context.abort(grpc.StatusCode.UNAVAILABLE, _SILENT_DISK)
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

    @staticmethod
    async def _ask(requests: LocalRequests, begin: requester_pb2.Begin, context: Context) -> LocalHold:
        try:
            budget = contract.length_of(begin.freeze_budget) if begin.HasField("freeze_budget") else None
            limit = contract.length_of(begin.hold_limit) if begin.HasField("hold_limit") else None
            for name, length in (("freeze_budget", budget), ("hold_limit", limit)):
                if length is not None and length <= _ZERO:
                    raise MessageInvalid(f"{name} is {length.total_seconds()} s", "Send a length above zero, or none.")
            return requests.begin(printable(begin.requester, REQUESTER_LIMIT) or "a local program", budget, limit)
        except MessageInvalid as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.sentence)
            raise
        except RequestRefused as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, error.sentence)
            raise
        except BrokerUnreachable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.sentence)
            raise


async def _read(context: Context) -> requester_pb2.HoldRequest | None:
    """What the requester says; None when it has hung up or its call is broken. What cannot be parsed says nothing."""
    try:
        said: Any = await context.read()
    except DecodeError:
        return requester_pb2.HoldRequest()
    except grpc.aio.InternalError:
        return None
    return said if isinstance(said, requester_pb2.HoldRequest) else None
