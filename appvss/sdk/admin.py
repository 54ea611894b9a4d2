"""The administrator's client: what the commands of `appvss` that ask a broker are made of.

It talks to the admin socket, which the kernel opens to the broker's own user alone (usually root).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import grpc

from appvss import contract
from appvss.model.errors import AppvssError, UsageError
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice, FilesystemSurvey, Scope
from appvss.model.names import REASON_LIMIT, printable
from appvss.model.verdict import Verdict
from appvss.sdk.admin_cycles import (
    BrokerEvent,
    CycleDetail,
    CycleSummary,
    Held,
    HookEnd,
    Rehearsal,
    detail_of,
    event_of,
    hook_end_of,
    hook_freeze_of,
    rehearsal_of,
    summary_of,
)
from appvss.sdk.admin_failures import let_go, refused, silent, unreachable, unreadable
from appvss.sdk.admin_filesystems import survey_of
from appvss.sdk.admin_hold import ENDED_LIMIT, HELD_LIMIT, Hold
from appvss.sdk.admin_values import AppStatus, BrokerStatus, app_of, status_of
from appvss.v1 import admin_pb2, admin_pb2_grpc, requester_pb2, requester_pb2_grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

ANSWER_LIMIT: Final = timedelta(seconds=10)
"""How long a question may take."""
HISTORY_LIMIT: Final = timedelta(seconds=15)
"""How long a question about past cycles may take: the broker waits 10 s for its disk (`admin.proto`)."""
THAW_LIMIT: Final = timedelta(seconds=45)
"""How long a forced thaw may take: the broker waits 30 s for the apps (`admin.proto`)."""
EVERY_FILESYSTEM: Final = FilesystemChoice(Scope.ALL)
"""What a hypervisor wants frozen."""
REQUESTER_LIMIT: Final = 200
"""Longest name of a requester, in characters (`requester.proto`)."""

_Request = TypeVar("_Request", bound="Message", contravariant=True)
_Response = TypeVar("_Response", bound="Message", covariant=True)
_Answer = TypeVar("_Answer", bound="Message")
_Question = TypeVar("_Question", bound="Message")
_Value = TypeVar("_Value")


class _Method(Protocol[_Request, _Response]):
    def __call__(self, request: _Request, timeout: float | None = None) -> _Response: ...


def _begin(
    requester: str, freeze_budget: timedelta | None, hold_limit: timedelta | None, filesystems: FilesystemChoice
) -> requester_pb2.Begin:
    begin = requester_pb2.Begin(
        requester=printable(requester, REQUESTER_LIMIT), filesystems=contract.choice_message(filesystems)
    )
    if freeze_budget is not None:
        begin.freeze_budget.FromTimedelta(freeze_budget)
    if hold_limit is not None:
        begin.hold_limit.FromTimedelta(hold_limit)
    return begin


class AdminClient:
    """A connection to one broker's admin socket. Every method may be called from any thread.

    Args:
        runtime_directory: the broker's. None: APPVSS_RUNTIME_DIRECTORY, else the platform's place.
        limit: how long one question may take.

    Raises:
        SocketPathTooLong: no socket fits into `runtime_directory`.
    """

    def __init__(
        self, runtime_directory: str | os.PathLike[str] | None = None, *, limit: timedelta = ANSWER_LIMIT
    ) -> None:
        self.path = contract.socket_path(contract.runtime_directory(runtime_directory), contract.ADMIN_SOCKET)
        """The admin socket."""
        self._limit = limit
        self._channel = grpc.insecure_channel(f"unix:{self.path}", options=contract.ADMIN_CHANNEL_OPTIONS)
        self._admin = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._requester = requester_pb2_grpc.RequesterServiceStub(self._channel)

    def close(self) -> None:
        """End the connection. A watch or a hold that is open ends with it."""
        self._channel.close()

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def status(self) -> BrokerStatus:
        """The broker at one glance.

        Raises:
            BrokerUnreachable: no broker answers.
            BrokerRefused: it answered with something else.
        """
        return self._ask(self._admin.GetStatus, admin_pb2.GetStatusRequest(), status_of, self._limit)

    def apps(self) -> tuple[AppStatus, ...]:
        """All registered apps in the order of the freeze, and those that are expected and not there.

        Raises:
            BrokerUnreachable: no broker answers.
            BrokerRefused: it answered with something else.
        """
        return self._ask(
            self._admin.ListApps,
            admin_pb2.ListAppsRequest(),
            lambda answer: tuple(app_of(app) for app in answer.apps),
            self._limit,
        )

    def cycles(self, limit: int = 0, since: datetime | None = None) -> tuple[CycleSummary, ...]:
        """The last cycles that ended, newest first, those of earlier brokers among them.

        Args:
            limit: how many at most; 0: as many as fit into one answer.
            since: only those that were asked for at this time or later, by the wall clock. Aware of its zone. None:
                all.

        Raises:
            BrokerUnreachable: no broker answers.
            BrokerRefused: it answered with something else, such as that `since` is in the future.
        """
        request = admin_pb2.ListCyclesRequest(limit=limit)
        if since is not None:
            request.since.FromDatetime(since)
        return self._ask(
            self._admin.ListCycles,
            request,
            lambda answer: tuple(summary_of(cycle) for cycle in answer.cycles),
            max(self._limit, HISTORY_LIMIT),
        )

    def cycle(self, cycle: str) -> CycleDetail:
        """One cycle with its events and its certificate.

        Raises:
            CycleUnknown: the broker knows no cycle of that id.
            BrokerUnreachable: no broker answers.
            BrokerRefused: it answered with something else.
        """
        request = admin_pb2.GetCycleRequest(cycle=cycle)
        return self._ask(self._admin.GetCycle, request, detail_of, max(self._limit, HISTORY_LIMIT))

    def rehearse(self, requester: str, freeze_budget: timedelta | None = None) -> Rehearsal:
        """Carry out one whole cycle without a file-system freeze and without a snapshot, and wait for its end.

        Args:
            requester: who wants it, for people.
            freeze_budget: the time for prepare and freeze together. None: as configured.

        Raises:
            CycleBusy: another cycle is under way.
            RequestRefused: the broker's configuration does not allow it.
            BrokerRefused: it answered with something else, such as that the budget is over the configured one.
            BrokerUnreachable: no broker answers; whatever was frozen has been let go.
        """
        request = requester_pb2.RehearseRequest(requester=printable(requester, REQUESTER_LIMIT))
        if freeze_budget is not None:
            request.freeze_budget.FromTimedelta(freeze_budget)
        limit = (HELD_LIMIT if freeze_budget is None else freeze_budget) + ENDED_LIMIT
        return self._ask(self._requester.Rehearse, request, rehearsal_of, limit)

    def filesystems(self, choice: FilesystemChoice = EVERY_FILESYSTEM) -> FilesystemSurvey:
        """What a freeze would do to the file systems of the broker's machine. Nothing is frozen for it.

        Args:
            choice: what a requester would want.

        Raises:
            BrokerUnreachable: no broker answers.
            BrokerRefused: it answered with something else, such as that a named path is no mount point.
        """
        request = admin_pb2.ListFilesystemsRequest(choice=contract.choice_message(choice))
        return self._ask(self._admin.ListFilesystems, request, survey_of, max(self._limit, HISTORY_LIMIT))

    def hook_freeze(
        self,
        requester: str,
        *,
        freeze_budget: timedelta | None = None,
        hold_limit: timedelta | None = None,
        filesystems: FilesystemChoice = NO_FILESYSTEMS,
    ) -> Held | Verdict:
        """Freeze, and leave the hold with the broker until `hook_thaw`, its limit, or the next freeze of a hook.

        Args:
            requester: who wants it, for people.
            freeze_budget: the time for prepare and freeze together. None: as configured.
            hold_limit: the longest hold. None: as configured.
            filesystems: which file systems are to be frozen after the apps.

        Returns:
            What is held; or the verdict of the cycle that failed, when everything is undone.

        Raises:
            CycleBusy: another requester's cycle is under way.
            RequestRefused: the broker's configuration does not allow it.
            BrokerRefused: it answered with something else.
            BrokerUnreachable: no broker answers; whatever was frozen on account of this call is let go.
        """
        begin = _begin(requester, freeze_budget, hold_limit, filesystems)
        limit = (HELD_LIMIT if freeze_budget is None else freeze_budget) + ENDED_LIMIT
        return self._ask(
            self._requester.HookFreeze, requester_pb2.HookFreezeRequest(begin=begin), hook_freeze_of, limit
        )

    def hook_thaw(self) -> HookEnd | None:
        """End the hold of `hook_freeze`. Harmless when there is none.

        Returns:
            What it was worth; None: nothing was held, or it was told before.

        Raises:
            BrokerUnreachable: no broker answers.
            BrokerRefused: it answered with something else.
        """
        return self._ask(self._requester.HookThaw, requester_pb2.HookThawRequest(), hook_end_of, ENDED_LIMIT)

    def force_thaw(self, reason: str = "") -> str:
        """End the running cycle, so that everything goes on. The cycle's id; empty: none was running.

        Args:
            reason: why, one sentence for the history.

        Raises:
            BrokerRefused: the thaw was ordered, and some app has not confirmed it in the broker's limit.
            BrokerUnreachable: no broker answers.
        """
        request = admin_pb2.ForceThawRequest(reason=printable(reason, REASON_LIMIT))
        return self._ask(
            self._admin.ForceThaw, request, lambda answer: printable(answer.thawed_cycle), max(self._limit, THAW_LIMIT)
        )

    def watch(self) -> Iterator[BrokerEvent]:
        """What happens from now on, event by event, until the broker stops or the iterator is closed.

        The call begins at once, before the first event is taken.

        Raises:
            BrokerUnreachable: no broker answers, or it stops. Raised by the iterator.
            BrokerRefused: there are too many watchers, or this one was too slow and has missed events.
        """
        call = self._admin.WatchEvents(admin_pb2.WatchEventsRequest())

        def events() -> Iterator[BrokerEvent]:
            try:
                for response in call:
                    yield event_of(response.event)
                return
            except grpc.RpcError as error:
                let_go(error)
                failure = self._explain(error)
            except UsageError as error:
                failure = unreadable(error.sentence)
            finally:
                call.cancel()
            try:
                raise failure
            finally:
                del failure  # or this frame, which knows the call, and the error keep each other alive

        return events()

    def hold(
        self,
        requester: str,
        *,
        freeze_budget: timedelta | None = None,
        hold_limit: timedelta | None = None,
        filesystems: FilesystemChoice = NO_FILESYSTEMS,
        notify: Callable[[], None] = lambda: None,
    ) -> Hold:
        """Ask for a hold of all apps and of file systems. It lasts until `Hold.finish`, until it is left, or until its
        limit.

        Args:
            requester: who wants it, for people.
            freeze_budget: the time for prepare and freeze together. None: as configured.
            hold_limit: the longest hold. None: as configured.
            filesystems: which file systems are to be frozen after the apps.
            notify: called after every change of the hold, from another thread. It must not block.

        No error here: `Hold.wait_held` raises CycleBusy, RequestRefused, BrokerRefused and BrokerUnreachable.
        """
        return Hold(
            requester_pb2.HoldRequest(begin=_begin(requester, freeze_budget, hold_limit, filesystems)),
            self._requester.Hold,
            self._explain,
            lambda limit: silent(self.path, limit),
            notify,
        )

    def _ask(
        self,
        method: _Method[_Question, _Answer],
        request: _Question,
        value_of: Callable[[_Answer], _Value],
        limit: timedelta,
    ) -> _Value:
        began = time.monotonic()
        try:
            return value_of(method(request, timeout=limit.total_seconds()))
        except grpc.RpcError as error:
            raise self._explain(error, limit, timedelta(seconds=time.monotonic() - began)) from error
        except UsageError as error:
            raise unreadable(error.sentence) from error

    def _explain(
        self, error: grpc.RpcError, limit: timedelta | None = None, waited: timedelta = timedelta(0)
    ) -> AppvssError:
        """The error in our words. gRPC has one code for its deadline and for the broker's; the time tells which."""
        call: object = error
        code, detail = (call.code(), call.details() or "") if isinstance(call, grpc.Call) else (None, str(error))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and limit is not None and waited >= limit:
            return silent(self.path, limit)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return unreachable(self.path, detail)
        return refused(code, detail)
