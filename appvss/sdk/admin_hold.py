"""A hold that a program on this machine asks for: freeze, do something, thaw."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from queue import SimpleQueue
from types import TracebackType
from typing import Final, Protocol

import grpc

from appvss import contract
from appvss.model.errors import AppvssError, UsageError
from appvss.model.verdict import Verdict
from appvss.sdk.admin_cycles import Held
from appvss.sdk.admin_failures import let_go, unreadable
from appvss.v1 import requester_pb2

HELD_LIMIT: Final = timedelta(minutes=65)
"""The longest wait for the freeze: the most that `sources.local.freeze_budget` can be set to, and some more."""
ENDED_LIMIT: Final = timedelta(minutes=2)
"""The longest wait for the verdict after the thaw was asked for."""
_JOIN_LIMIT: Final = timedelta(seconds=5)

Requests = Iterator[requester_pb2.HoldRequest]


class HoldCall(Protocol):
    """The part of gRPC's call object that is used here."""

    def __iter__(self) -> Iterator[requester_pb2.HoldResponse]:
        """The broker's messages."""

    def cancel(self) -> object:
        """Break the call; the broker thaws."""


class Hold:
    """One hold, from the request to the verdict. A context manager: leaving it ends the hold, whatever happened inside.

    `held`, `verdict` and `error` are what is known so far; they change at any time, from None to a value, once. After
    `verdict` or `error` nothing more comes. `AdminClient.hold` makes one.
    """

    def __init__(
        self,
        begin: requester_pb2.HoldRequest,
        call: Callable[[Requests], HoldCall],
        explain: Callable[[grpc.RpcError], AppvssError],
        silent: Callable[[timedelta], AppvssError],
        notify: Callable[[], None],
    ) -> None:
        self.held: Held | None = None
        """Set when everything is frozen."""
        self.verdict: Verdict | None = None
        """Set when the cycle is over."""
        self.error: AppvssError | None = None
        """Set when the call broke: the broker has thawed, or is gone and the apps go on by themselves."""
        self._explain = explain
        self._silent = silent
        self._notify = notify
        self._changed = threading.Condition()
        self._requests: SimpleQueue[requester_pb2.HoldRequest | None] = SimpleQueue()
        self._requests.put(begin)
        self._call: HoldCall | None = call(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, args=(self._call,), name="appvss-hold", daemon=True)
        self._reader.start()

    @property
    def is_over(self) -> bool:
        """Whether nothing is held any more on account of this call."""
        return self.verdict is not None or self.error is not None

    def wait_held(self, limit: timedelta = HELD_LIMIT) -> Held | None:
        """Wait until everything is frozen. None: the cycle ended before that, and `verdict` says how.

        Raises:
            AppvssError: the call broke, or the broker has said nothing within `limit` (the call is given up then).
        """
        self._wait(lambda: self.held is not None or self.is_over, limit)
        return self.held if self.verdict is None else None

    def request_finish(self) -> None:
        """Ask for the thaw, without waiting for it. Harmless when the hold is over."""
        self._requests.put(requester_pb2.HoldRequest(finish=requester_pb2.Finish()))

    def finish(self, limit: timedelta = ENDED_LIMIT) -> Verdict:
        """Thaw, and wait for the verdict. Harmless when the hold is over: the verdict comes again.

        Raises:
            AppvssError: the call broke, or the broker has said nothing within `limit` (the call is given up then).
        """
        self.request_finish()
        self._wait(lambda: self.is_over, limit)
        if self.verdict is None:
            raise unreadable("the call ended without a verdict")
        return self.verdict

    def give_up(self, limit: timedelta) -> AppvssError:
        """Break the call after a wait of `limit` that was in vain; the error that says so."""
        self._cancel()
        return self._silent(limit)

    def close(self) -> None:
        """Give the call up if it is still open: the broker thaws at once. May be called again."""
        self._cancel()
        self._requests.put(None)  # lets gRPC's thread that waits for our next message end
        self._reader.join(_JOIN_LIMIT.total_seconds())
        self._call = None  # or it is alive as long as anybody looks at this hold or its error (`let_go`)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self, condition: Callable[[], bool], limit: timedelta) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, limit.total_seconds()):
                raise self.give_up(limit)
            if self.error is not None:
                raise self.error

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _read(self, call: HoldCall) -> None:
        try:
            for response in call:
                self._take(response)
            if self.verdict is None:
                self._end(unreadable("the call ended without a verdict"))
        except grpc.RpcError as error:
            let_go(error)
            if self.verdict is None:
                self._end(self._explain(error))
        except UsageError as error:
            self._end(unreadable(error.sentence))

    def _take(self, response: requester_pb2.HoldResponse) -> None:
        with self._changed:
            if response.HasField("held"):
                self.held = Held(response.held.cycle, contract.length_of(response.held.hold_limit))
            elif response.HasField("ended"):
                self.verdict = contract.verdict_of(response.ended.verdict)
            self._changed.notify_all()
        self._notify()

    def _end(self, error: AppvssError) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()
        self._notify()
