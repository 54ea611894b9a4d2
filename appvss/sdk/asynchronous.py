"""`appvss.serve`: an app on an event loop, over grpc.aio."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type

from appvss import contract
from appvss.model.app import DEFAULT_HOLD_LIMIT, DEFAULT_ORDER
from appvss.model.instant import Instant
from appvss.sdk import identity, reconnect
from appvss.sdk.answers import evidence_of, failure_of
from appvss.sdk.clock import now
from appvss.sdk.declaration import Declaration, check_function, declare
from appvss.sdk.driver import OUTBOX_LIMIT, Driver
from appvss.sdk.freeze import Freeze, Prepare
from appvss.sdk.inputs import (
    CloseAsked,
    DeadlinePassed,
    Entered,
    EnterFailed,
    Failure,
    Left,
    PrepareEnded,
    StreamEnded,
    StreamOpened,
)
from appvss.sdk.peer_token import token_async
from appvss.sdk.quiet import grpc
from appvss.v1 import app_pb2, app_pb2_grpc

Quiesce: TypeAlias = Callable[[Freeze], AbstractAsyncContextManager[object]]
"""Entering its context is the freeze, leaving it is the thaw."""
PrepareFunction: TypeAlias = Callable[[Prepare], Awaitable[object]]

RELEASE_LIMIT: Final = timedelta(seconds=5)
"""How long `serve`, once cancelled, waits for the app's context to be left before it cancels that again."""
FAREWELL_LIMIT: Final = timedelta(seconds=1)
"""How long it then waits until the broker has taken the last words."""

_Call: TypeAlias = grpc.aio.StreamStreamCall[app_pb2.AttachRequest, app_pb2.AttachResponse]


def serve(
    name: str,
    quiesce: Quiesce,
    *,
    prepare: PrepareFunction | None = None,
    order: int = DEFAULT_ORDER,
    after: Iterable[str] = (),
    requirement: str = "required",
    freeze_timeout: timedelta | None = None,
    hold_limit: timedelta = DEFAULT_HOLD_LIMIT,
    paths: Iterable[str | os.PathLike[str]] = (),
    watch_paths: bool = False,
    grade: str = "app",
    instance: str = "",
    runtime_directory: str | os.PathLike[str] | None = None,
) -> Coroutine[Any, Any, None]:
    """Take part in snapshots until cancelled: `await appvss.serve("orders-db", quiesce)`.

    The broker need not run: the app attaches when it comes, and comes back whenever it was gone. The arguments are
    checked in the call itself, before the first `await`.

    Args:
        name: the app's name, as the administrator knows it: 1 to 64 ASCII letters, digits and `. _ : @ / + -`.
        quiesce: called with a `Freeze`; gives an async context manager. Entering it makes the app quiet: from then on,
            until it is left, the app changes nothing on its disks. A mapping that it yields is evidence (say, a log
            position) and goes into the certificate. An exception while entering refuses the freeze, with its text as
            the reason (`Veto` to say it well); one while leaving says that the hold was broken (`HoldLost`). When the
            budget or the hold limit passes, the block is cancelled: `CancelledError` is raised where it waits, which is
            the `yield` once it has been entered. So let go in a `finally`, or with `async with`.
        prepare: called with a `Prepare` ahead of the freeze, for slow work (a checkpoint); nothing is held yet.
        order: lower freezes first, all of one order freeze together, thaw is the reverse.
        after: names of apps that must be frozen before this one.
        requirement: what a failure of this app does to the verdict: "required", "tolerated" or "ignored". The
            administrator's configuration has the last word.
        freeze_timeout: the time that the app needs to get quiet. A cycle that cannot give it fails early. None: the app
            takes what there is.
        hold_limit: the time that the app may stay quiet, kept by this library itself, broker or not.
        paths: folders and files that the hold protects, for the administrator.
        watch_paths: have the broker look whether they change while the app is held, which counts as a broken hold. They
            must be absolute and printable, and nobody but this app may change them.
        grade: what a copy is worth, at most, that is taken in this app's hold: "app"; or "fs" for an app that only
            stands still and flushes nothing, which lowers the verdict if the app is required.
        instance: tells two processes of one name apart.
        runtime_directory: where the broker's sockets are. None: `APPVSS_RUNTIME_DIRECTORY` from the environment, else
            the platform's place.

    Cancelling it during a hold leaves the context, reports the hold as lost, and returns within `RELEASE_LIMIT` and
    `FAREWELL_LIMIT` unless the app's own code takes longer. Run it on the only event loop with grpc.aio in the process.

    Raises:
        NameInvalid: name, instance or a name in `after` may not be used.
        SocketPathTooLong: the runtime directory's path is too long for a socket.
        UsageError: another argument is wrong, or this process serves the app already.
    """
    declaration = declare(
        name,
        order=order,
        after=after,
        requirement=requirement,
        freeze_timeout=freeze_timeout,
        hold_limit=hold_limit,
        paths=paths,
        watch_paths=watch_paths,
        grade=grade,
        instance=instance,
        runtime_directory=runtime_directory,
        prepares=prepare is not None,
    )
    hint = "Decorate an `async def` that yields once with contextlib.asynccontextmanager."
    check_function("quiesce", quiesce, hint)
    if prepare is not None:
        hint = "Make it an `async def` that does not yield; for plain functions there is appvss.serve_in_thread."
        check_function("prepare", prepare, hint, coroutine=True)
    return _AsyncShell(declaration, quiesce, prepare).run()


class _AsyncShell:
    """Carries out the machine's effects on an event loop. Whatever happens is told in the loop's own thread."""

    def __init__(self, declaration: Declaration, quiesce: Quiesce, prepare: PrepareFunction | None) -> None:
        self._declaration = declaration
        self._quiesce = quiesce
        self._prepare = prepare
        self._driver = Driver(declaration, self)
        self._tasks: asyncio.TaskGroup
        self._foreign: asyncio.Future[BaseException]
        self._thaw: asyncio.Future[None]
        self._call: _Call | None = None
        self._outbox: asyncio.Queue[app_pb2.AttachRequest | None] = asyncio.Queue()
        self._work: asyncio.Task[None] | None = None
        self._interrupted = False
        self._finished = asyncio.Event()
        self._deadline: Instant | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        app = self._declaration.app
        with identity.served(self._declaration.directory, app):
            self._foreign = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as self._tasks:
                attached = self._tasks.create_task(self._stay_attached(), name=f"appvss {app} stream")
                try:
                    await self._foreign
                    await self._close()
                except asyncio.CancelledError:
                    await self._close()
                    raise
                finally:
                    attached.cancel()
                    self.arm(None)
            raise self._foreign.result()

    async def _close(self) -> None:
        """Leave the context, say so, and give the broker a moment to hear it."""
        self._driver.tell(CloseAsked("the app is stopping"))
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_LIMIT.total_seconds()):
                await self._finished.wait()
        if not self._finished.is_set():
            self._driver.note(logging.ERROR, "the app's own code does not let go; it is cancelled once more")
        call = self._call
        if call is not None and self._driver.attached:
            self._outbox.put_nowait(None)
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_LIMIT.total_seconds()):
                    await call.code()

    # The stream.

    async def _stay_attached(self) -> None:
        notes = reconnect.FailureNotes(self._driver.note)
        while True:
            notes.forget()
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(reconnect.NotWelcomed), wait=reconnect.BACK_OFF, after=notes
            )
            await retrying(self._attach)
            await asyncio.sleep(random.uniform(0, reconnect.FIRST_WAIT))  # noqa: S311 - spreads apps, hides nothing

    async def _attach(self) -> None:
        """One call, from its hello to its end.

        Raises:
            NotWelcomed: it ended before the broker's welcome.
        """
        try:
            async with token_async(self._declaration.peer_socket) as token:
                if token is None:
                    reconnect.look_for(self._declaration.apps_socket)
                metadata = ((contract.TOKEN_METADATA, token),) if token else ()
                target = f"unix:{self._declaration.apps_socket}"
                async with grpc.aio.insecure_channel(target, options=contract.APP_CHANNEL_OPTIONS) as channel:
                    await self._talk(app_pb2_grpc.AppServiceStub(channel).Attach(metadata=metadata))
        except OSError as error:
            raise reconnect.NotWelcomed(f"no token: {failure_of(error).reason}") from error

    async def _talk(self, call: _Call) -> None:
        self._call = call
        self._outbox = asyncio.Queue()
        writer = self._tasks.create_task(_write(call, self._outbox), name=f"appvss {self._declaration.app} writer")
        welcomed = False
        ended = reconnect.NotWelcomed("the broker ended it in order")
        try:
            self._driver.tell(StreamOpened())
            while (response := await _read(call)) is not None:
                self._driver.hear(response)
                welcomed = welcomed or self._greeted()
        except grpc.aio.AioRpcError as error:
            ended = reconnect.not_welcomed(error.code(), error.details())
        finally:
            writer.cancel()
            self._call = None
            self._driver.tell(StreamEnded())
        if not welcomed:
            try:
                raise ended
            finally:
                # The traceback holds this frame, and a call that lives keeps its channel connecting to the broker, also
                # when that has been closed: every attempt that failed would become a connection that nobody uses.
                del ended, call
        self._driver.note(logging.INFO, f"the stream to the broker ended: {ended}")

    def _greeted(self) -> bool:
        if self._driver.attached:
            self._driver.note(logging.INFO, f"attached to the broker in {self._declaration.directory}")
        return self._driver.attached

    def send(self, message: app_pb2.AttachRequest) -> None:
        if self._outbox.qsize() < OUTBOX_LIMIT:
            self._outbox.put_nowait(message)
        else:
            self.drop_stream()

    def drop_stream(self) -> None:
        if self._call is not None:
            self._call.cancel()

    # The app's own code.

    def run_prepare(self, prepare: Prepare) -> None:
        self._start(self._run_prepare(prepare), "prepare")

    def end_prepare(self) -> None:
        self._interrupt()

    def enter(self, freeze: Freeze) -> None:
        self._thaw = asyncio.get_running_loop().create_future()
        self._start(self._hold(freeze), "freeze")

    def end_entering(self) -> None:
        self._interrupt()

    def leave(self, *, early: bool) -> None:
        if early:
            self._interrupt()
        elif not self._thaw.done():
            self._thaw.set_result(None)

    def _start(self, work: Coroutine[Any, Any, None], what: str) -> None:
        self._interrupted = False
        self._work = self._tasks.create_task(work, name=f"appvss {self._declaration.app} {what}")

    def _interrupt(self) -> None:
        self._interrupted = True
        if self._work is not None:
            self._work.cancel()

    async def _run_prepare(self, prepare: Prepare) -> None:
        ended: BaseException | None = None
        try:
            if self._prepare is not None:
                await self._prepare(prepare)
        except BaseException as error:  # noqa: BLE001 - reported below, and raised again if it is not the app's to raise
            ended = error
        self._driver.tell(PrepareEnded(failure_of(ended) if ended is not None else None))
        self._raise_foreign(ended)

    async def _hold(self, freeze: Freeze) -> None:
        entered = False
        ended: BaseException | None = None
        try:
            async with self._quiesce(freeze) as given:
                evidence = evidence_of(given)
                entered = True
                self._driver.tell(Entered(evidence))
                await self._thaw
        except BaseException as error:  # noqa: BLE001 - reported below, and raised again if it is not the app's to raise
            ended = error
        if isinstance(ended, asyncio.CancelledError) and self._interrupted:
            ended = None
        failure = failure_of(ended) if ended is not None else None
        if entered:
            self._driver.tell(Left(failure))
        else:
            self._driver.tell(EnterFailed(failure or Failure("the freeze was ended before the app was quiet")))
        self._raise_foreign(ended)

    def _raise_foreign(self, ended: BaseException | None) -> None:
        """Let out what no app may keep for itself: a cancellation that was not ours, here; an exit, through `run`."""
        if isinstance(ended, asyncio.CancelledError):
            if not self._interrupted:
                raise ended
        elif ended is not None and not isinstance(ended, Exception) and not self._foreign.done():
            self._foreign.set_result(ended)

    # Time.

    def arm(self, deadline: Instant | None) -> None:
        if deadline == self._deadline:
            return
        self._deadline = deadline
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            delay = max(0.0, (deadline - now()).total_seconds())
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        self._deadline = self._timer = None
        self._driver.tell(DeadlinePassed())

    def finish(self) -> None:
        self._finished.set()


_T = TypeVar("_T")


async def _read(call: _Call) -> app_pb2.AttachResponse | None:
    """The next message, or None at the end. A call that was cancelled, on either side, raises CancelledError from
    grpc.aio, which is the end of the stream and not of the task that reads it.
    """
    task = asyncio.current_task()
    try:
        response = await call.read()
    except asyncio.CancelledError:
        if task is not None and task.cancelling():
            raise
        return None
    return response if isinstance(response, app_pb2.AttachResponse) else None


async def _write(call: _Call, outbox: asyncio.Queue[app_pb2.AttachRequest | None]) -> None:
    """Write what is in the outbox, in order, until None. A call that is over ends it: the reader learns why."""
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while (message := await outbox.get()) is not None:
            await call.write(message)
        await call.done_writing()
