"""`FakeBroker`: the fake broker for tests on an event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from appvss.model.app import AppId, HoldClaim
from appvss.model.duration import format_duration
from appvss.sdk.quiet import grpc
from appvss.sdk.testing.app import ANSWER_LIMIT, BUDGET, HOLD_LIMIT, REQUESTER, AppBase
from appvss.sdk.testing.core import Core, TurnedAway
from appvss.sdk.testing.results import FreezeResult, PrepareResult, ThawResult
from appvss.sdk.testing.streams import CallRefused

T = TypeVar("T")


async def _within(future: Future[T], bound: timedelta, late: str) -> T:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), bound.total_seconds())
    except TimeoutError as error:
        raise TimeoutError(late) from error


class FakeApp(AppBase):
    """One app that is attached to a `FakeBroker`: ask it what a broker asks. Every wait is bounded.

    All questions raise ConnectionError if the app has no stream, or loses it before it answers, and TimeoutError if it
    does not answer.
    """

    async def prepare(
        self,
        cycle: str | None = None,
        *,
        requester: str = REQUESTER,
        budget: timedelta = BUDGET,
        within: timedelta | None = None,
    ) -> PrepareResult:
        """Ask for the slow work ahead.

        Args:
            cycle: the cycle's id; None: a new one.
            requester: who the app is told wants the snapshot.
            budget: the time that the app gets.
            within: how long the answer may take here; None: the budget and `ANSWER_LIMIT`.
        """
        bound = within or budget + ANSWER_LIMIT
        asked = self.ask_prepare(cycle, requester=requester, budget=budget)
        return await _within(asked, bound, self._late("answer a prepare", bound))

    async def freeze(
        self,
        cycle: str | None = None,
        *,
        requester: str = REQUESTER,
        budget: timedelta = BUDGET,
        hold_limit: timedelta = HOLD_LIMIT,
        within: timedelta | None = None,
    ) -> FreezeResult:
        """Ask the app to get quiet and stay quiet.

        Args:
            cycle: the cycle's id; None: a new one.
            requester: who the app is told wants the snapshot.
            budget: the time to get quiet.
            hold_limit: the time to stay quiet; never more than the app declares is asked for.
            within: how long the answer may take here; None: the budget and `ANSWER_LIMIT`.
        """
        bound = within or budget + ANSWER_LIMIT
        asked = self.ask_freeze(cycle, requester=requester, budget=budget, hold_limit=hold_limit)
        return await _within(asked, bound, self._late("answer a freeze", bound))

    async def tell_filesystem_freeze(self, cycle: str | None = None) -> None:
        """Tell the app that the file systems are about to be frozen, as a broker does after the last ack. There is no
        answer. `cycle`: None: that of the last question.
        """
        self._tell_filesystem_freeze(cycle)

    async def thaw(self, cycle: str | None = None, *, within: timedelta = ANSWER_LIMIT) -> ThawResult:
        """Tell the app that the hold is over. `cycle`: None: that of the last question."""
        return await _within(self.ask_thaw(cycle), within, self._late("answer a thaw", within))

    async def abort(
        self, reason: str = "the test aborts the cycle", cycle: str | None = None, *, within: timedelta = ANSWER_LIMIT
    ) -> ThawResult:
        """Tell the app that the cycle is over without a snapshot. `cycle`: None: that of the last question."""
        return await _within(self.ask_abort(reason, cycle), within, self._late("answer an abort", within))

    async def hold_lost(self, cycle: str | None = None, *, within: timedelta = ANSWER_LIMIT) -> str:
        """Wait until the app says that it lost its hold, and why. `cycle`: None: that of the last question."""
        lost = self._core.lost(self._record, self._asked(cycle))
        return await _within(lost, within, self._late("say that its hold is lost", within))

    async def disconnect(self) -> None:
        """Cut the app's stream. The app comes back by itself: see `returned`."""
        self._core.disconnect(self._record)

    async def returned(self, *, within: timedelta = ANSWER_LIMIT) -> HoldClaim | None:
        """Wait until the app has attached again since it was last waited for. Returns what it says it still holds."""
        await _within(self._when_returned(), within, self._late("come back", within))
        return self._note_returned()

    async def gone(self, *, within: timedelta = ANSWER_LIMIT) -> None:
        """Wait until the app has no stream."""
        await _within(self._core.gone(self._record), within, self._late("go", within))


class FakeBroker:
    """A broker in the test's own process, on a real socket: `async with FakeBroker() as broker`.

    It does what app.proto says and refuses what that refuses, and has no cycles: the test is the requester. Its server
    runs in threads, so the event loop of the test stays the only one with grpc.aio.

    Args:
        runtime_directory: where the sockets are made; None: in a temporary directory that goes with the broker.
        unidentified: whether an app that brings no token from the side socket is admitted.
    """

    def __init__(self, runtime_directory: Path | None = None, *, unidentified: bool = True) -> None:
        self._core = Core(runtime_directory, unidentified=unidentified)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._core.close)

    @property
    def runtime_directory(self) -> Path:
        """Where the sockets are: give it to `appvss.serve`, or to a process as `APPVSS_RUNTIME_DIRECTORY`."""
        return self._core.directory

    async def app(self, name: str, instance: str = "", *, within: timedelta = ANSWER_LIMIT) -> FakeApp:
        """Wait until the app is attached.

        Raises:
            NameInvalid: no app can have such a name.
            TimeoutError: it did not come.
        """
        app = AppId(name, instance)
        late = f"{app} did not attach within {format_duration(within)}"
        return FakeApp(self._core, await _within(self._core.attached(app), within, late))

    async def first_app(self, *, within: timedelta = ANSWER_LIMIT) -> FakeApp:
        """Wait until any app is attached, whatever its name.

        Raises:
            TimeoutError: none came.
        """
        late = f"no app attached within {format_duration(within)}"
        return FakeApp(self._core, await _within(self._core.any_attached(), within, late))

    @property
    def attached(self) -> tuple[AppId, ...]:
        """The apps that have a stream now, in the order in which they came for the first time."""
        return self._core.attached_apps()

    @property
    def turned_away(self) -> tuple[TurnedAway, ...]:
        """Every call that was ended with a code: because it broke app.proto, or because of `refuse`."""
        return self._core.turned_away()

    async def stop(self, goodbye: str | None = None) -> None:
        """End every stream and take the sockets away. `goodbye`: what to say before; None: nothing, as in a crash."""
        await asyncio.to_thread(self._core.stop, goodbye)

    async def start(self) -> None:
        """Serve again after `stop`, in the same directory. The apps come back by themselves."""
        await asyncio.to_thread(self._core.start)

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """Refuse every app that attaches from now on, with a code of the table at `Attach` in app.proto."""
        self._core.refusing = CallRefused(code, details)

    def admit(self) -> None:
        """Refuse no more."""
        self._core.refusing = None
