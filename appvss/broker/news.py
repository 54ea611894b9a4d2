"""What apps and sources say, as inputs of the cycle."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from appvss.broker.clock import new_cycle_id
from appvss.broker.loop import BrokerLoop
from appvss.broker.recent import Recent
from appvss.cycle import effects, inputs
from appvss.model.app import AppId, Registration
from appvss.model.event import Event, EventKind
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.source import SourceState
from appvss.sources.base import Clock

_log = logging.getLogger("appvss.broker")


class News:
    """Whom apps (`delivery/app_events.py`) and sources (`sources/base.py`, `Requests`) tell their news.

    Args:
        loop: where the inputs go.
        clock: for the ids of cycles.
        recent: where a change of a source is announced.
    """

    def __init__(self, loop: BrokerLoop, clock: Clock, recent: Recent) -> None:
        self._loop = loop
        self._clock = clock
        self._recent = recent

    # -- what apps say

    def registered(self, registration: Registration) -> None:
        """An app has registered."""
        _log.info("%s has registered", registration.app)
        self._loop.feed(inputs.AppRegistered(registration))

    def changed_policy(self, registration: Registration) -> None:
        """Another policy is in force for a registered app."""
        self._loop.feed(inputs.RegistrationChanged(registration))

    def left(self, app: AppId, reason: str, died: bool) -> None:
        """An app's stream has ended."""
        _log.info("%s has left: %s", app, reason)
        self._loop.feed(inputs.AppLeft(app, reason, died))

    def ready(self, app: AppId, cycle: str) -> None:
        """An app has prepared."""
        self._loop.feed(inputs.AppReady(app, cycle))

    def froze(self, app: AppId, cycle: str, evidence: Mapping[str, str]) -> None:
        """An app's ack."""
        self._loop.feed(inputs.AppFroze(app, cycle, evidence))

    def vetoed(self, app: AppId, cycle: str, reason: str, retryable: bool) -> None:
        """An app refuses."""
        self._loop.feed(inputs.AppVetoed(app, cycle, reason, retryable))

    def lost_hold(self, app: AppId, cycle: str, reason: str) -> None:
        """An app's hold has ended by itself."""
        self._loop.feed(inputs.AppLostHold(app, cycle, reason))

    def thawed(self, app: AppId, cycle: str, unbroken: bool, reason: str) -> None:
        """An app holds nothing any more."""
        self._loop.feed(inputs.AppThawed(app, cycle, unbroken, reason))

    # -- what the freezer says

    def filesystems_lost(self, cycle: str, reason: str) -> None:
        """File systems that it had frozen may have gone on."""
        _log.error("the file systems of cycle %s went on before the thaw: %s", cycle, reason)
        self._loop.feed(inputs.FilesystemsLost(cycle, reason))

    # -- what sources say (`Requests`)

    def ask(self, request: Request) -> None:
        """A source brings a request."""
        _log.info("%s asks for %s", request.requester, request.kind)
        if self._loop.is_ending and request.kind is not RequestKind.THAW:
            self._loop.answer(effects.AnswerSource(Answer(request, go_on=False, reason="the broker stops")))
        elif request.kind is RequestKind.CHECK:
            self._loop.feed(inputs.CheckRequested(request, new_cycle_id(self._clock)))
        elif request.kind is RequestKind.FREEZE:
            self._loop.feed(inputs.FreezeRequested(request, new_cycle_id(self._clock)))
        else:
            self._loop.feed(inputs.ThawRequested(request))

    def lost(self, source: str, reason: str, request: str = "") -> None:
        """A source's requester is gone."""
        _log.warning("the requester of %s is gone: %s", source, reason)
        self._loop.feed(inputs.SourceLost(source, reason, request))

    def changed(self, state: SourceState) -> None:
        """A source's condition has changed."""
        detail = f": {state.detail}" if state.detail else ""
        _log.info("source %s is %s%s", state.name, state.condition, detail)
        self._recent.announce(
            Event(EventKind.SOURCE_CHANGED, state.since, detail=f"{state.name} {state.condition}{detail}")
        )
