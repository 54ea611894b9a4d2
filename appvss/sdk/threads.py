"""`appvss.serve_in_thread`: an app without an event loop, over gRPC's synchronous stack.

Three threads, all daemons: one reads the stream, one runs the app's own code, one looks at the clock. (gRPC adds two.)
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import random
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Final, Self, TypeAlias

from tenacity import Retrying, retry_if_exception_type, sleep_using_event, stop_when_event_set

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
from appvss.sdk.peer_token import token
from appvss.sdk.quiet import grpc
from appvss.v1 import app_pb2, app_pb2_grpc

Quiesce: TypeAlias = Callable[[Freeze], AbstractContextManager[object]]
"""Entering its context is the freeze, leaving it is the thaw. Both are done in one thread of the library."""
PrepareFunction: TypeAlias = Callable[[Prepare], object]

RELEASE_LIMIT: Final = timedelta(seconds=5)
"""How long `close` waits for the app's context to be left."""
FAREWELL_LIMIT: Final = timedelta(seconds=1)
"""How long it then waits until the broker has taken the last words, and again until the stream is closed."""
_LONGEST_WAIT: Final = timedelta(hours=1)
"""The clock thread looks again after this long; `threading` cannot wait for centuries."""

_Outbox: TypeAlias = queue.SimpleQueue[app_pb2.AttachRequest | None]


def serve_in_thread(
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
) -> ServingThread:
    """Take part in snapshots from threads of the library's own, until the handle is closed or the process ends.

    The arguments are those of `appvss.serve`, but `quiesce` gives a plain context manager and `prepare` is a plain
    function. Both run in one thread of the library, which nobody can interrupt: when the budget passes, `freeze.ended`
    is set and `freeze.check()` raises, and the code has to notice. When the hold limit passes, the library leaves the
    context as it would for a thaw; what comes after the `yield` can tell by `freeze.ended`.

    After a fork the handle is dead in the child, which may call this function itself.

    Returns:
        The handle. It closes itself at the end of the process, releasing a hold.

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
    hint = "Decorate a function that yields once with contextlib.contextmanager."
    check_function("quiesce", quiesce, hint)
    if prepare is not None:
        hint = "Make it a plain function; for `async def` there is appvss.serve."
        check_function("prepare", prepare, hint)
    return ServingThread(declaration, quiesce, prepare)


class ServingThread:
    """An app that is being served. Use it as a context manager, or call `close`, or keep it until the process ends.

    Args:
        declaration: the app.
        quiesce: makes the context that is entered for a freeze.
        prepare: does the slow work ahead; None if there is none.
    """

    def __init__(self, declaration: Declaration, quiesce: Quiesce, prepare: PrepareFunction | None) -> None:
        self._declaration = declaration
        self._quiesce = quiesce
        self._prepare = prepare
        self._process = os.getpid()
        self._kept = ExitStack()
        self._kept.enter_context(identity.served(declaration.directory, declaration.app))
        self._driver = Driver(declaration, self)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._outbox: _Outbox = queue.SimpleQueue()
        self._call: grpc.Call | None = None
        self._released = threading.Event()
        self._finished = threading.Event()
        self._closing = threading.Event()
        self._deadline: Instant | None = None
        self._deadline_changed = threading.Condition()
        self._threads = {
            what: threading.Thread(target=target, name=f"appvss {declaration.app} {what}", daemon=True)
            for what, target in (("stream", self._stay_attached), ("work", self._do_work), ("clock", self._watch_clock))
        }
        _alive.add(self)
        atexit.register(self.close)
        for thread in self._threads.values():
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take part no more. A hold is released and reported as lost. May be called twice, from any thread.

        Returns within `RELEASE_LIMIT` and twice `FAREWELL_LIMIT`, also when the app's own code does not come back; in a
        forked child it returns at once.
        """
        if self._process != os.getpid():
            return
        self._driver.tell(CloseAsked("the app is stopping"))
        if threading.current_thread() in self._threads.values():
            # The app's own code closes itself: the context is left when that code returns.
            threading.Thread(target=self.close, name=f"appvss {self._declaration.app} close", daemon=True).start()
            return
        if not self._finished.wait(RELEASE_LIMIT.total_seconds()):
            self._driver.note(logging.ERROR, "the app's own code does not let go")
        self._closing.set()
        self._outbox.put(None)
        stream = self._threads["stream"]
        stream.join(FAREWELL_LIMIT.total_seconds())
        self.drop_stream()
        stream.join(FAREWELL_LIMIT.total_seconds())
        self._jobs.put(None)
        self.arm(None)
        self._kept.close()
        _alive.discard(self)
        atexit.unregister(self.close)

    # The stream.

    def _stay_attached(self) -> None:
        notes = reconnect.FailureNotes(self._driver.note)
        retrying = Retrying(
            retry=retry_if_exception_type(reconnect.NotWelcomed),
            wait=reconnect.BACK_OFF,
            sleep=sleep_using_event(self._closing),
            stop=stop_when_event_set(self._closing),
            after=notes,
            retry_error_callback=lambda _state: None,
        )
        while not self._closing.is_set():
            notes.forget()
            retrying(self._attach)
            self._closing.wait(random.uniform(0, reconnect.FIRST_WAIT))  # noqa: S311 - spreads apps, hides nothing

    def _attach(self) -> None:
        """One call, from its hello to its end.

        Raises:
            NotWelcomed: it ended before the broker's welcome.
        """
        try:
            with token(self._declaration.peer_socket) as fetched:
                if fetched is None:
                    reconnect.look_for(self._declaration.apps_socket)
                metadata = ((contract.TOKEN_METADATA, fetched),) if fetched else ()
                target = f"unix:{self._declaration.apps_socket}"
                with grpc.insecure_channel(target, options=contract.APP_CHANNEL_OPTIONS) as channel:
                    self._talk(app_pb2_grpc.AppServiceStub(channel), metadata)
        except OSError as error:
            raise reconnect.NotWelcomed(f"no token: {failure_of(error).reason}") from error

    def _talk(self, stub: app_pb2_grpc.AppServiceStub, metadata: tuple[tuple[str, str], ...]) -> None:
        outbox: _Outbox = queue.SimpleQueue()
        self._outbox = outbox
        welcomed = False
        ended = reconnect.NotWelcomed("the broker ended it in order")
        call = stub.Attach(iter(outbox.get, None), metadata=metadata)
        self._call = call
        try:
            self._driver.tell(StreamOpened())
            if self._closing.is_set():
                call.cancel()
            for response in call:
                self._driver.hear(response)
                welcomed = welcomed or self._greeted()
        except grpc.RpcError:
            ended = reconnect.not_welcomed(call.code(), call.details())
        finally:
            self._call = None
            self._driver.tell(StreamEnded())
            outbox.put(None)
        if not welcomed:
            raise ended
        self._driver.note(logging.INFO, f"the stream to the broker ended: {ended}")

    def _greeted(self) -> bool:
        if self._driver.attached:
            self._driver.note(logging.INFO, f"attached to the broker in {self._declaration.directory}")
        return self._driver.attached

    def send(self, message: app_pb2.AttachRequest) -> None:
        """Queue a message; gRPC's own thread writes it."""
        if self._outbox.qsize() < OUTBOX_LIMIT:
            self._outbox.put(message)
        else:
            self.drop_stream()

    def drop_stream(self) -> None:
        """End the present call, if there is one."""
        call = self._call
        if call is not None:
            call.cancel()

    # The app's own code.

    def _do_work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def run_prepare(self, prepare: Prepare) -> None:
        """Have the prepare function run."""
        self._jobs.put(lambda: self._run_prepare(prepare))

    def end_prepare(self) -> None:
        """Nothing: a function in a thread cannot be interrupted, and it holds nothing."""

    def enter(self, freeze: Freeze) -> None:
        """Have the app's context entered."""
        self._released = released = threading.Event()
        self._jobs.put(lambda: self._hold(freeze, released))

    def end_entering(self) -> None:
        """Nothing: `freeze.ended` is set, and the app's own code has to notice."""

    def leave(self, *, early: bool) -> None:
        """Have the context left. `early` makes no difference here: `freeze.ended` tells."""
        del early
        self._released.set()

    def _run_prepare(self, prepare: Prepare) -> None:
        ended: BaseException | None = None
        try:
            if self._prepare is not None:
                self._prepare(prepare)
        except BaseException as error:  # noqa: BLE001 - reported below, and raised again if it is not the app's to raise
            ended = error
        self._driver.tell(PrepareEnded(failure_of(ended) if ended is not None else None))
        self._raise_foreign(ended)

    def _hold(self, freeze: Freeze, released: threading.Event) -> None:
        entered = False
        ended: BaseException | None = None
        try:
            with self._quiesce(freeze) as given:
                evidence = evidence_of(given)
                entered = True
                self._driver.tell(Entered(evidence))
                # The clock thread keeps the limit; should it ever fail to, this thread looks for itself.
                while not released.wait(min(freeze.hold_limit, _LONGEST_WAIT).total_seconds()):
                    self._driver.tell(DeadlinePassed())
        except BaseException as error:  # noqa: BLE001 - reported below, and raised again if it is not the app's to raise
            ended = error
        failure = failure_of(ended) if ended is not None else None
        if entered:
            self._driver.tell(Left(failure))
        else:
            self._driver.tell(EnterFailed(failure or Failure("the context was left before it was entered")))
        self._raise_foreign(ended)

    def _raise_foreign(self, ended: BaseException | None) -> None:
        """Let out an exit or an interrupt: it ends this thread as Python would, and the app's part with it."""
        if ended is None or isinstance(ended, Exception):
            return
        self.close()
        raise ended

    # Time.

    def arm(self, deadline: Instant | None) -> None:
        """Tell the clock thread when to look."""
        if deadline == self._deadline and not self._closing.is_set():
            return
        with self._deadline_changed:
            self._deadline = deadline
            self._deadline_changed.notify()

    def _watch_clock(self) -> None:
        while not (self._closing.is_set() and self._finished.is_set()):
            with self._deadline_changed:
                if not self._wait_for_deadline():
                    continue
                self._deadline = None
            self._driver.tell(DeadlinePassed())

    def _wait_for_deadline(self) -> bool:
        """Wait until the deadline, or until there is another. True: it has passed."""
        if self._deadline is None:
            self._deadline_changed.wait()
            return False
        left = self._deadline - now()
        if left > timedelta(0):
            self._deadline_changed.wait(min(left, _LONGEST_WAIT).total_seconds())
            return False
        return True

    def finish(self) -> None:
        """Nothing is held any more and nothing runs."""
        self._finished.set()
        with self._deadline_changed:
            self._deadline_changed.notify()


_alive: weakref.WeakSet[ServingThread] = weakref.WeakSet()
# gRPC's objects of the parent are never touched in a child, so they may not be collected there either.
_inherited: list[ServingThread] = []


def _after_fork_in_child() -> None:
    _inherited.extend(_alive)
    _alive.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
