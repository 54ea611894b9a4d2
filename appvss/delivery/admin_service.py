"""`AdminService`: what administrators ask. See `proto/appvss/v1/admin.proto`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final, Protocol

import grpc

from appvss import contract
from appvss.delivery.filesystem_messages import survey_message
from appvss.delivery.watch import Watchers
from appvss.model.duration import format_duration
from appvss.model.errors import UsageError
from appvss.model.filesystem import FilesystemChoice, FilesystemSurvey, Scope
from appvss.model.names import printable
from appvss.v1 import admin_pb2, admin_pb2_grpc, requester_pb2

FORCE_THAW_LIMIT: Final = timedelta(seconds=30)
"""How long a forced thaw waits for the apps to confirm (`admin.proto`, ForceThaw)."""
SURVEY_LIMIT: Final = timedelta(seconds=10)
"""How long the file systems may take to be looked at (`admin.proto`, ListFilesystems)."""
SILENT_DISK: Final = "the disk of the history does not answer"

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

    async def filesystems(self, choice: FilesystemChoice) -> FilesystemSurvey:
        """What a freeze of `choice` would do to the file systems. It may take as long as the disks do.

        Raises:
            UsageError: a named path is no mount point, or cannot be frozen.
        """

    async def force_thaw(self, reason: str) -> str:
        """End the running cycle and wait until nothing is held; its id, or empty when none was running."""


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """The servicer of `AdminService`.

    Args:
        view: what is asked for.
        watchers: who watches.
        thaw_limit: how long a forced thaw waits for the apps to confirm.
        survey_limit: how long the file systems may take to be looked at.
    """

    def __init__(
        self,
        view: AdminView,
        watchers: Watchers,
        thaw_limit: timedelta = FORCE_THAW_LIMIT,
        survey_limit: timedelta = SURVEY_LIMIT,
    ) -> None:
        self._view = view
        self._watchers = watchers
        self._thaw_limit = thaw_limit
        self._survey_limit = survey_limit

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
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, SILENT_DISK)
            raise

    async def GetCycle(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.GetCycleRequest, context: Context
    ) -> admin_pb2.GetCycleResponse:
        try:
            found = await self._view.cycle(request.cycle)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, SILENT_DISK)
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

    async def ListFilesystems(  # noqa: N802, D102 - named and described in admin.proto
        self, request: admin_pb2.ListFilesystemsRequest, context: Context
    ) -> admin_pb2.ListFilesystemsResponse:
        try:
            choice = (
                contract.choice_of(request.choice) if request.HasField("choice") else FilesystemChoice(scope=Scope.ALL)
            )
            async with asyncio.timeout(self._survey_limit.total_seconds()):
                return survey_message(await self._view.filesystems(choice))
        except UsageError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.sentence)
            raise
        except TimeoutError:
            sentence = f"the file systems could not be looked at within {format_duration(self._survey_limit)}"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, sentence)
            raise

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
