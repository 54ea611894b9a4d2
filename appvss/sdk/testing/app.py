"""What both fronts of the fake broker know of one app, and the questions that they ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from datetime import timedelta
from typing import Final, cast

from appvss.contract import duration_message
from appvss.model.app import HoldClaim, Peer, Registration
from appvss.model.duration import format_duration
from appvss.model.errors import UsageError
from appvss.sdk.testing.core import AppRecord, Core
from appvss.sdk.testing.ledger import Kind, Refusal
from appvss.sdk.testing.results import FreezeResult, PrepareResult, ThawResult
from appvss.v1 import app_pb2

ANSWER_LIMIT: Final = timedelta(seconds=10)
"""How long an answer may take, beyond the budget that the question gives, where the test does not say it."""
BUDGET: Final = timedelta(seconds=10)
HOLD_LIMIT: Final = timedelta(seconds=60)
REQUESTER: Final = "the test"
_OF_A_LATER_VERSION: Final = bytes.fromhex("fa3e03010203")
"""Field 1007, three bytes long."""


class AppBase:
    """One app as the fake broker sees it. It outlives the app's streams, and the broker's restarts.

    Args:
        core: the broker.
        record: what it knows of the app.
    """

    def __init__(self, core: Core, record: AppRecord) -> None:
        self._core = core
        self._record = record
        self._seen = record.attachments

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._record.registration.app}>"

    @property
    def registration(self) -> Registration:
        """What the app declared in its last hello: name, order, limits, and the rest."""
        return self._record.registration

    @property
    def paths(self) -> tuple[str, ...]:
        """The folders and files that the app says it protects."""
        return self._record.paths

    @property
    def library(self) -> str:
        """Name and version of the app's library."""
        return self._record.library

    @property
    def incarnation(self) -> str:
        """The random text that stays the same as long as the app's process lives."""
        return self._record.incarnation

    @property
    def peer(self) -> Peer | None:
        """Who the kernel says the app is; None if it came without a token, or the platform cannot tell."""
        return self._record.peer

    @property
    def attached(self) -> bool:
        """Whether the app has a stream now."""
        return self._record.stream is not None

    @property
    def attachments(self) -> int:
        """How often the app has been welcomed."""
        return self._record.attachments

    @property
    def holding(self) -> HoldClaim | None:
        """What the app's last hello said that it still held from before."""
        return self._record.claim

    @property
    def held(self) -> str:
        """The cycle that the app holds now, by its own word; empty: none."""
        return self._record.ledger.held

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every message of the app that the broker did not accept. An app that keeps app.proto has none."""
        return tuple(self._record.ledger.refusals)

    @property
    def heard(self) -> int:
        """How many messages the app has sent since it attached for the first time, its hellos not counted."""
        return self._record.heard

    @property
    def losses(self) -> Mapping[str, str]:
        """The holds that the app said to be lost: cycle and reason."""
        return dict(self._record.ledger.losses)

    # Words without an answer.

    def send(self, message: app_pb2.AttachResponse) -> None:
        """Send a message as it is, also one that makes no sense. No answer is awaited.

        Raises:
            ConnectionError: the app is not attached.
        """
        with self._core.watch.lock:
            if self._record.stream is None:
                raise ConnectionError(f"{self._record.registration.app} is not attached")
            self._record.stream.send(message)

    def _tell_filesystem_freeze(self, cycle: str | None) -> None:
        told = app_pb2.FilesystemFreeze(cycle=self._asked(cycle))
        self.send(app_pb2.AttachResponse(filesystem_freeze=told))

    def goodbye(self, reason: str) -> None:
        """Say that the broker is about to stop, and go on.

        Raises:
            ConnectionError: the app is not attached.
        """
        self.send(app_pb2.AttachResponse(goodbye=app_pb2.Goodbye(reason=reason)))

    def refuse_message(self, name: str, sentence: str) -> None:
        """Tell the app that a message of it was not accepted, with a name of docs/errors.md.

        Raises:
            ConnectionError: the app is not attached.
        """
        self.send(app_pb2.AttachResponse(refusal=app_pb2.Refusal(name=name, sentence=sentence)))

    def send_unknown(self) -> None:
        """Send what a later version of app.proto may have: a message of a kind that this one does not know.

        Raises:
            ConnectionError: the app is not attached.
        """
        self.send(app_pb2.AttachResponse())
        self.send(app_pb2.AttachResponse.FromString(_OF_A_LATER_VERSION))

    # Questions whose answer is awaited later, or not at all.

    def ask_prepare(
        self, cycle: str | None = None, *, requester: str = REQUESTER, budget: timedelta = BUDGET
    ) -> Future[PrepareResult]:
        """Ask for the slow work ahead; the future is of the answer, and fails with ConnectionError at a stream's end.

        Raises:
            ConnectionError: the app is not attached.
        """
        named = cycle or self._core.new_cycle()
        prepare = app_pb2.Prepare(cycle=named, requester=requester, budget=duration_message(budget))
        asked = self._core.ask(self._record, Kind.PREPARE, named, app_pb2.AttachResponse(prepare=prepare), budget)
        return cast(Future[PrepareResult], asked)

    def ask_freeze(
        self,
        cycle: str | None = None,
        *,
        requester: str = REQUESTER,
        budget: timedelta = BUDGET,
        hold_limit: timedelta = HOLD_LIMIT,
    ) -> Future[FreezeResult]:
        """Ask the app to get quiet and stay quiet; see `ask_prepare`."""
        named = cycle or self._core.new_cycle()
        freeze = app_pb2.Freeze(
            cycle=named,
            requester=requester,
            budget=duration_message(budget),
            hold_limit=duration_message(min(hold_limit, self.registration.hold_limit)),
        )
        asked = self._core.ask(self._record, Kind.FREEZE, named, app_pb2.AttachResponse(freeze=freeze), budget)
        return cast(Future[FreezeResult], asked)

    def ask_thaw(self, cycle: str | None = None) -> Future[ThawResult]:
        """Tell the app that the hold is over; see `ask_prepare`. `cycle`: None: that of the last question."""
        named = self._asked(cycle)
        message = app_pb2.AttachResponse(thaw=app_pb2.Thaw(cycle=named))
        return cast(Future[ThawResult], self._core.ask(self._record, Kind.THAW, named, message))

    def ask_abort(self, reason: str, cycle: str | None = None) -> Future[ThawResult]:
        """Tell the app that the cycle is over without a snapshot; see `ask_prepare`. `cycle`: as in `ask_thaw`."""
        named = self._asked(cycle)
        message = app_pb2.AttachResponse(abort=app_pb2.Abort(cycle=named, reason=reason))
        return cast(Future[ThawResult], self._core.ask(self._record, Kind.THAW, named, message))

    def _asked(self, cycle: str | None) -> str:
        known = cycle or self._record.last_cycle
        if not known:
            raise UsageError("no cycle has been asked of this app yet", "Name a cycle, or call `freeze` before.")
        return known

    def _when_returned(self) -> Future[AppRecord]:
        return self._core.attached(self._record.registration.app, self._seen)

    def _note_returned(self) -> HoldClaim | None:
        self._seen = self._record.attachments
        return self.holding

    def _late(self, what: str, within: timedelta) -> str:
        return f"{self._record.registration.app} did not {what} within {format_duration(within)}"
