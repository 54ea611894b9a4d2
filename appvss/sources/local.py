"""Local requests: `appvss freeze -- COMMAND` and other programs on this machine.

There is no device here: the requester speaks to the admin socket, and its call is its life. When the call ends in any
way but a finish, the hold ends at once. Rehearsals come the same way, through a source of their own name, and so do
hooks (`sources/hook.py`), whose hold outlives the call.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss.model.app import AppId
from appvss.model.cycle import CycleRecord
from appvss.model.duration import format_duration
from appvss.model.errors import BrokerUnreachable, CycleBusy, CycleError, MessageInvalid, RequestRefused
from appvss.model.filesystem import NO_FILESYSTEMS, FilesystemChoice
from appvss.model.instant import Instant
from appvss.model.policy import Overlap
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceCondition, SourceMode, SourceState
from appvss.model.verdict import Verdict
from appvss.sources.base import Clock, Requests

NAME: Final = "local"
REHEARSAL: Final = "rehearsal"
"""The name of the source whose freezes are rehearsals."""
HOOK: Final = "hook"
"""The name of the source whose hold stays between two calls (`sources/hook.py`)."""
THAW_LIMIT: Final = timedelta(seconds=60)
"""How long a finish may take to be answered; the apps' own limits are far below."""
_OVERDUE: Final = "its time was over before the broker had come to answer"


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """What the administrator decides about local requests."""

    mode: SourceMode = SourceMode.AUTOMATIC
    freeze_budget: timedelta = timedelta(seconds=30)
    """The time for prepare and freeze when the requester names none, and the most that it may name."""
    hold_limit: timedelta = timedelta(minutes=5)
    """The longest hold when the requester names none, and the most that it may name."""
    overlap: Overlap = Overlap.REFUSE
    """What becomes of a request while another requester's cycle is under way."""


class Hold:
    """One local requester's hold (`delivery/requester_service.py`, `LocalHold`)."""

    def __init__(self, source: LocalSource, request: Request) -> None:
        loop = asyncio.get_running_loop()
        self.cycle = ""
        self.request = request
        self.hold_limit = request.hold_limit
        self.is_kept = False
        """Whether everything stood still until the thaw that the requester asked for. Known at the end."""
        self._source = source
        self._held: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[Verdict | CycleError] = loop.create_future()
        self._has_finished = False
        self._is_abandoned = False

    async def held(self) -> bool:
        """Wait until everything is frozen (True) or the freeze has failed (False)."""
        return await asyncio.shield(self._held)

    async def ended(self) -> Verdict:
        """Wait for the end of the cycle.

        Raises:
            CycleError: there was no cycle, because another one is under way or the requester has hung up before it
                was held; or its time was over before it was answered.
        """
        end = await asyncio.shield(self._ended)
        if isinstance(end, CycleError):
            raise end
        return end

    def finish(self) -> None:
        """The snapshot is taken: thaw."""
        if not (self._has_finished or self._is_abandoned or self._ended.done()):
            self._has_finished = True
            self._source.ask_thaw(self)

    def abandon(self, reason: str) -> None:
        """The requester is gone. Harmless after the end, and when it has been said before."""
        if self._ended.done() or self._is_abandoned:
            return
        self._is_abandoned = True
        self._source.abandon(self, reason)

    @property
    def is_held(self) -> bool:
        """Whether everything was frozen."""
        return self._held.done() and self._held.result()

    def answered(self, answer: Answer) -> bool:
        """Take the cycle's answer to the freeze or to the thaw; whether that was the end of this hold."""
        self.cycle = self.cycle or answer.cycle
        if answer.verdict is not None:
            self.is_kept = answer.go_on and answer.request.kind is RequestKind.THAW
            self.end(answer.verdict)
            return True
        if not self.cycle:
            self.end(CycleBusy(answer.reason, "Try again when it is over; `appvss watch` shows it."))
            return True
        if answer.go_on and not self._held.done():
            self.hold_limit = answer.hold_limit if answer.hold_limit is not None else self.hold_limit
            self._held.set_result(True)
        return False

    def end(self, end: Verdict | CycleError) -> None:
        """The cycle is over."""
        if not self._held.done():
            self._held.set_result(False)
        if not self._ended.done():
            self._ended.set_result(end)


class LocalSource:
    """The source of local requests. Serves as soon as it runs; one hold at a time, the cycle sees to that.

    Args:
        settings: what the administrator decides.
        clock: the machine's clocks.
        name: `NAME`; or `REHEARSAL`: then every freeze is a rehearsal; or `HOOK`: then a freeze ends the former hold.
    """

    def __init__(self, settings: LocalSettings, clock: Clock, name: str = NAME) -> None:
        self.settings = settings
        self.name = name
        self._clock = clock
        self._requests: Requests | None = None
        self._numbers = itertools.count(1)
        self._open: dict[str, Hold] = {}
        """By the id of the freeze, as long as it waits for its answer or its hold lasts."""
        condition = SourceCondition.OFF if settings.mode is SourceMode.OFF else SourceCondition.WAITING
        self._state = SourceState(name, settings.mode, condition, clock.now())

    @property
    def state(self) -> SourceState:
        """Mode and condition at this moment."""
        return self._state

    async def run(self, requests: Requests) -> None:
        """Serve until cancelled."""
        if self.settings.mode is SourceMode.OFF:
            return
        self._requests = requests
        self._change(SourceCondition.SERVING)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._requests = None
            self._change(SourceCondition.OFF)

    def _change(self, condition: SourceCondition) -> None:
        self._state = SourceState(self.name, self.settings.mode, condition, self._clock.now())
        if self._requests is not None:
            self._requests.changed(self._state)

    def begin(
        self,
        requester: str,
        freeze_budget: timedelta | None,
        hold_limit: timedelta | None,
        filesystems: FilesystemChoice = NO_FILESYSTEMS,
        apart: frozenset[AppId] = frozenset(),
    ) -> Hold:
        """Ask for a freeze in the name of a requester.

        Args:
            requester: who wants it, for people.
            freeze_budget: the time for prepare and freeze together. None: as configured.
            hold_limit: the longest hold. None: as configured.
            filesystems: which file systems are to be frozen with the apps. A rehearsal freezes none.
            apart: the apps that a freeze of these does not concern.

        Raises:
            RequestRefused: such requests are switched off.
            BrokerUnreachable: the broker is starting or stopping.
            MessageInvalid: a length is over the configured one.
        """
        if self.settings.mode is SourceMode.OFF:
            what = "hooks" if self.name == HOOK else "local requests"
            raise RequestRefused(
                f"{what} are switched off", f"Set `{self._options}.mode` to automatic in the configuration."
            )
        if self._requests is None:
            raise BrokerUnreachable("the broker is starting or stopping", "Try again in a moment.")
        budget = self._within("freeze_budget", freeze_budget, self.settings.freeze_budget)
        limit = self._within("hold_limit", hold_limit, self.settings.hold_limit)
        request = self._request(RequestKind.FREEZE, requester, self._clock.now() + budget, limit, filesystems, apart)
        hold = self._open[request.id] = Hold(self, request)
        self._requests.ask(request)
        return hold

    @property
    def _options(self) -> str:
        """Where the configuration has the limits; rehearsals have those of local requests."""
        return f"sources.{HOOK if self.name == HOOK else NAME}"

    def _within(self, name: str, wanted: timedelta | None, most: timedelta) -> timedelta:
        if wanted is not None and wanted > most:
            raise MessageInvalid(
                f"{name} of {format_duration(wanted)} is over the configured {format_duration(most)}",
                f"Ask for less, or raise `{self._options}.{name}` in the broker's configuration.",
            )
        return most if wanted is None else wanted

    def _request(
        self,
        kind: RequestKind,
        requester: str,
        deadline: Instant,
        hold_limit: timedelta,
        filesystems: FilesystemChoice = NO_FILESYSTEMS,
        apart: frozenset[AppId] = frozenset(),
    ) -> Request:
        return Request(
            id=str(next(self._numbers)),
            source=self.name,
            kind=kind,
            requester=requester,
            deadline=deadline,
            hold_limit=hold_limit,
            supersedes=self.name == HOOK,
            overlap=self.settings.overlap,
            rehearses=self.name == REHEARSAL,
            filesystems=NO_FILESYSTEMS if self.name == REHEARSAL else filesystems,
            apart=frozenset() if self.name == REHEARSAL else apart,
        )

    def ask_thaw(self, hold: Hold) -> None:
        """A requester has finished."""
        if self._requests is None:
            return
        deadline = self._clock.now() + THAW_LIMIT
        request = self._request(RequestKind.THAW, hold.request.requester, deadline, timedelta(0))
        self._open[request.id] = hold
        self._requests.ask(request)

    def abandon(self, hold: Hold, reason: str) -> None:
        """A requester is gone. What it holds is thawed; a hold that had begun still hears its verdict."""
        if not hold.is_held:
            self._forget(hold)
        if self._requests is not None:
            self._requests.lost(self.name, reason, hold.request.id)
        if not hold.is_held:
            hold.end(CycleError(f"the requester is gone: {reason}", "Ask again."))

    def set_gate(self, *, is_open: bool) -> None:
        """Nothing to do: it starts no process and writes no file."""

    def answer(self, answer: Answer) -> None:
        """The cycle's answer. Without a verdict it is not the end: that comes with `ended`."""
        hold = self._open.get(answer.request.id)
        if hold is not None and hold.answered(answer):
            self._forget(hold)

    def ended(self, record: CycleRecord) -> None:
        """A cycle has ended; if it was a local one and its requester has not asked for the thaw, it hears of it now. So
        does one whose time was over before it was answered, as after a broker that stood still: no answer comes any
        more, and nobody may wait for it for ever.
        """
        for hold in {id(hold): hold for hold in self._open.values()}.values():
            if hold.cycle == record.cycle:
                hold.end(record.verdict)
                self._forget(hold)
            elif not hold.cycle and hold.request.deadline < self._clock.now():
                hold.end(CycleError(_OVERDUE, "See what became of it: `appvss history`, `appvss why`; then try again."))
                self._forget(hold)

    def _forget(self, hold: Hold) -> None:
        self._open = {number: one for number, one in self._open.items() if one is not hold}
