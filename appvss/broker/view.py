"""What an administrator sees (`delivery/admin_service.py`, `AdminView`): the broker's state as answers of
`admin.proto`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from appvss import contract
from appvss.broker.configuration import Configuration
from appvss.broker.loop import BrokerLoop
from appvss.broker.recent import Kept, Recent
from appvss.cycle.order import waves_of
from appvss.delivery.registry import AppStream, Registry
from appvss.model.app import AppId, Registration
from appvss.model.instant import Instant
from appvss.model.verdict import AppOutcome
from appvss.sources.base import Clock, Source
from appvss.v1 import admin_pb2, types_pb2

_ROOM: Final = contract.ADMIN_RESPONSE_LIMIT - 256 * 1024
"""Bytes of an answer that lists and their details may fill; what is always said fits into the rest."""


class View:
    """Reads, never changes, but for the forced thaw.

    Args:
        loop: the broker's loop.
        registry: the apps.
        sources: all sources, by name.
        recent: the last cycles.
        clock: for lengths of time.
        configuration: what is in force; replaced after a reload.
        version: name and version of the broker.
    """

    def __init__(
        self,
        loop: BrokerLoop,
        registry: Registry,
        sources: Mapping[str, Source],
        recent: Recent,
        clock: Clock,
        configuration: Configuration,
        version: str,
    ) -> None:
        self.configuration = configuration
        self._loop = loop
        self._registry = registry
        self._sources = sources
        self._recent = recent
        self._clock = clock
        self._version = version
        self._started = clock.now()

    def status(self) -> admin_pb2.GetStatusResponse:
        """The broker at one glance."""
        machine = self._loop.machine
        answer = admin_pb2.GetStatusResponse(
            broker=self._version,
            pid=os.getpid(),
            uptime=contract.duration_message(self._since(self._started)),
            phase=contract.phase_message(machine.phase),
            cycle=machine.cycle,
            apps=len(self._registry),
            absent_apps=machine.absent(),
            sources=[self._source(source) for source in self._sources.values()],
            runtime_directory=str(self.configuration.broker.runtime_directory),
            configuration=self.configuration.origin,
        )
        if machine.cycle:
            answer.phase_for.CopyFrom(contract.duration_message(self._since(machine.phase_since)))
        last = self._recent.ended()[:1]
        if last:
            answer.last_cycle.CopyFrom(_summary(last[0]))
        return answer

    def _since(self, instant: Instant) -> timedelta:
        return self._clock.now() - instant

    def _source(self, source: Source) -> admin_pb2.Source:
        state = source.state
        since = contract.duration_message(self._since(state.since))
        return admin_pb2.Source(
            name=state.name, mode=state.mode, condition=state.condition, detail=state.detail, since=since
        )

    def apps(self) -> admin_pb2.ListAppsResponse:
        """All apps in the order of the freeze, those that are away among them, then those that are expected and not
        there.
        """
        streams = {stream.registration.app: stream for stream in self._registry}
        known = [stream.registration for stream in streams.values()]
        away = {registration.app: (registration, since) for registration, since in self._loop.machine.away()}
        known += [registration for registration, _ in away.values() if registration.app not in streams]
        outcomes = self._last_outcomes({registration.app for registration in known})
        answer, size = admin_pb2.ListAppsResponse(), 0
        for registration in _in_order(known):
            stream = streams.get(registration.app)
            since = stream.since if stream is not None else away[registration.app][1]
            app = answer.apps.add()
            self._tell_app(app, registration, since, outcomes.get(registration.app))
            if stream is not None:
                _tell_stream(app, stream)
            size += app.ByteSize()
            if size > _ROOM:
                app.ClearField("paths")
                app.last_outcome.ClearField("evidence")
        for name in self._loop.machine.absent():
            since_start = contract.duration_message(self._since(self._started))
            answer.apps.add(name=name, state="absent", since=since_start, requirement=types_pb2.REQUIREMENT_REQUIRED)
        return answer

    def _last_outcomes(self, apps: set[AppId]) -> dict[AppId, AppOutcome]:
        """What each app did in the last cycle that it was in."""
        found: dict[AppId, AppOutcome] = {}
        for kept in self._recent.ended():
            if len(found) == len(apps):
                break
            if kept.record is not None:
                for outcome in kept.record.verdict.outcomes:
                    if outcome.app in apps:
                        found.setdefault(outcome.app, outcome)
        return found

    def _tell_app(
        self, app: admin_pb2.App, registration: Registration, since: Instant, outcome: AppOutcome | None
    ) -> None:
        state, changed = self._loop.machine.app_state(registration.app)
        app.name, app.instance, app.state = registration.app.name, registration.app.instance, state
        app.since.CopyFrom(contract.duration_message(self._since(changed or since)))
        app.requirement = contract.requirement_message(registration.requirement)
        app.order = registration.order
        app.after.extend(registration.after)
        app.hold_limit.CopyFrom(contract.duration_message(registration.hold_limit))
        if registration.freeze_timeout is not None:
            app.freeze_timeout.CopyFrom(contract.duration_message(registration.freeze_timeout))
        if outcome is not None:
            app.last_outcome.CopyFrom(contract.outcome_message(outcome))
            if outcome.is_failure:
                app.last_error = f"{outcome.outcome}: {outcome.reason}"

    def cycles(self, limit: int) -> admin_pb2.ListCyclesResponse:
        """The last cycles, newest first, as many as fit into one answer."""
        ended = self._recent.ended()
        answer, size = admin_pb2.ListCyclesResponse(), 0
        for kept in ended[: limit or len(ended)]:
            summary = _summary(kept)
            size += summary.ByteSize()
            if size > _ROOM:
                break
            answer.cycles.append(summary)
        return answer

    def cycle(self, cycle: str) -> admin_pb2.GetCycleResponse | None:
        """One cycle that has ended, with its events, the first that fit into one answer."""
        kept = self._recent.get(cycle)
        if kept is None or kept.record is None:
            return None
        answer = admin_pb2.GetCycleResponse(summary=_summary(kept))
        size = answer.ByteSize()
        for event in kept.events:
            message = self._recent.message(event)
            size += message.ByteSize()
            if size > _ROOM:
                break
            answer.events.append(message)
        return answer

    async def force_thaw(self, reason: str) -> str:
        """End the running cycle and wait until nothing is held."""
        return await self._loop.force_thaw(reason)


def _in_order(registrations: list[Registration]) -> list[Registration]:
    """As they freeze; by order and name alone where their `after` goes round in a circle."""
    by_app = {registration.app: registration for registration in sorted(registrations, key=lambda one: one.app)}
    waves, circle = waves_of(by_app.values())
    if circle:
        return sorted(registrations, key=lambda one: (one.order, one.app))
    return [by_app[app] for wave in waves for app in wave]


def _tell_stream(app: admin_pb2.App, stream: AppStream) -> None:
    app.paths.extend(stream.paths)
    app.library = stream.library
    if stream.last_error:
        app.last_error = stream.last_error
    if stream.peer is not None:
        app.peer.CopyFrom(types_pb2.Peer(uid=stream.peer.uid, gid=stream.peer.gid, pid=stream.peer.pid))


def _summary(kept: Kept) -> admin_pb2.CycleSummary:
    record = kept.record
    if record is None:
        raise AssertionError("a cycle that runs has no summary")
    return admin_pb2.CycleSummary(
        cycle=record.cycle,
        source=record.source,
        requester=record.requester,
        time=contract.timestamp_message(kept.began_wall),
        took=contract.duration_message(record.took),
        phase=contract.phase_message(record.phase),
        verdict=contract.verdict_message(record.verdict),
    )
