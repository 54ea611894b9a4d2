"""What an administrator sees (`delivery/admin_service.py`, `AdminView`): the broker's state as answers of
`admin.proto`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Final

from appvss import contract
from appvss.broker.app_past import AppPast
from appvss.broker.configuration import Configuration
from appvss.broker.journal import Journal
from appvss.broker.loop import BrokerLoop
from appvss.broker.policy import AppPolicy, policy_in_force
from appvss.broker.recent import Recent
from appvss.broker.source_options import limits_of, sources_of
from appvss.broker.survey import survey_of
from appvss.cycle.order import waves_of
from appvss.delivery.filesystem_messages import freezer_message
from appvss.delivery.registry import AppStream, Registry
from appvss.freezer.base import Freezer
from appvss.model.app import AppId, Registration
from appvss.model.event import EventKind
from appvss.model.filesystem import FilesystemChoice, FilesystemSurvey
from appvss.model.instant import Instant
from appvss.model.names import printable
from appvss.model.past import PastCycle, PastEvent, Restored
from appvss.model.phase import Phase
from appvss.model.policy import PolicyValue
from appvss.sources.base import Clock, Source
from appvss.v1 import admin_pb2, requester_pb2, types_pb2

_ROOM: Final = contract.ADMIN_RESPONSE_LIMIT - 256 * 1024
"""Bytes of an answer that lists and their details may fill; what is always said fits into the rest."""
_FIRST_CYCLES: Final = 16
"""Past cycles that are read first when as many are wanted as fit."""


class View:
    """Reads, never changes, but for the forced thaw.

    Args:
        loop: the broker's loop.
        registry: the apps.
        sources: the sources that administrators know, by name.
        recent: the last cycle.
        journal: those before it.
        past: what each app did in them.
        freezer: who freezes the file systems.
        clock: for lengths of time.
        configuration: what is in force; replaced, with the policy, after a reload.
        version: name and version of the broker.
    """

    def __init__(
        self,
        loop: BrokerLoop,
        registry: Registry,
        sources: Mapping[str, Source],
        recent: Recent,
        journal: Journal,
        past: AppPast,
        freezer: Freezer,
        clock: Clock,
        configuration: Configuration,
        version: str,
    ) -> None:
        self.configuration = configuration
        self.policy = AppPolicy(configuration)
        self._loop = loop
        self._registry = registry
        self._sources = sources
        self._recent = recent
        self._journal = journal
        self._past = past
        self._freezer = freezer
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
            history=self._history(),
            policy=_policy(policy_in_force(self.configuration, self.configuration.overridden)),
            apps_set_aside=sorted(str(one.registration.app) for one in self._registry if one.registration.set_aside),
            freezer=freezer_message(self._freezer.state, self._clock.now()),
        )
        if machine.cycle:
            answer.phase_for.CopyFrom(contract.duration_message(self._since(machine.phase_since)))
        if machine.hold_ends is not None:
            answer.held_for.CopyFrom(answer.phase_for)
            left = max(machine.hold_ends - self._clock.now(), timedelta(0))
            answer.hold_left.CopyFrom(contract.duration_message(left))
        if self._recent.last is not None:
            answer.last_cycle.CopyFrom(_summary(self._recent.last))
        restored = self._journal.history.restored
        if restored is not None:
            answer.restored.CopyFrom(_restored(restored))
        return answer

    def _history(self) -> admin_pb2.History:
        state = self._journal.history.state
        return admin_pb2.History(
            directory=str(state.directory),
            condition=state.condition,
            detail=state.detail,
            cycles=state.cycles,
            waiting=state.waiting,
        )

    async def filesystems(self, choice: FilesystemChoice) -> FilesystemSurvey:
        """What a freeze of `choice` would do, with the apps that are registered now."""
        declared = {stream.registration.app: stream.paths for stream in self._registry}
        plan = await self._freezer.survey(choice, [path for paths in declared.values() for path in paths])
        return survey_of(plan, choice.scope, declared)

    def now(self) -> timedelta:
        """The wall clock."""
        return self._clock.wall()

    def _since(self, instant: Instant) -> timedelta:
        return self._clock.now() - instant

    def _source(self, source: Source) -> admin_pb2.Source:
        state = source.state
        since = contract.duration_message(self._since(state.since))
        message = admin_pb2.Source(
            name=state.name, mode=state.mode, condition=state.condition, detail=state.detail, since=since
        )
        options = dict(sources_of(self.configuration.sources))[state.name]
        limits = limits_of(options)
        message.budget.CopyFrom(contract.duration_message(limits.budget))
        message.reserve.CopyFrom(contract.duration_message(limits.reserve))
        message.hold_limit.CopyFrom(contract.duration_message(limits.hold_limit))
        message.overlap = options.overlap
        return message

    def apps(self) -> admin_pb2.ListAppsResponse:
        """All apps in the order of the freeze, those that are away among them, then those that are expected and not
        there.
        """
        streams = {stream.registration.app: stream for stream in self._registry}
        known = [stream.registration for stream in streams.values()]
        away = {registration.app: (registration, since) for registration, since in self._loop.machine.away()}
        known += [registration for registration, _ in away.values() if registration.app not in streams]
        answer, size = admin_pb2.ListAppsResponse(), 0
        for registration in _in_order(known):
            stream = streams.get(registration.app)
            since = stream.since if stream is not None else away[registration.app][1]
            app = answer.apps.add()
            self._tell_app(app, registration, since)
            if stream is not None:
                self._tell_stream(app, stream)
            size += app.ByteSize()
            if size > _ROOM:
                for field in ("paths", "past", "policy"):
                    app.ClearField(field)
                app.last_outcome.ClearField("evidence")
        for name in self._loop.machine.absent():
            since_start = contract.duration_message(self._since(self._started))
            answer.apps.add(name=name, state="absent", since=since_start, requirement=types_pb2.REQUIREMENT_REQUIRED)
        return answer

    def _tell_app(self, app: admin_pb2.App, registration: Registration, since: Instant) -> None:
        state, changed = self._loop.machine.app_state(registration.app)
        app.name, app.instance, app.state = registration.app.name, registration.app.instance, state
        app.since.CopyFrom(contract.duration_message(self._since(changed or since)))
        app.requirement = contract.requirement_message(registration.requirement)
        app.order = registration.order
        app.after.extend(registration.after)
        app.hold_limit.CopyFrom(contract.duration_message(registration.hold_limit))
        app.watch_paths = registration.watch_paths
        app.grade = contract.grade_message(registration.grade)
        app.set_aside = registration.set_aside
        if registration.freeze_timeout is not None:
            app.freeze_timeout.CopyFrom(contract.duration_message(registration.freeze_timeout))
        self._tell_past(app, registration.app)

    def _tell_past(self, message: admin_pb2.App, app: AppId) -> None:
        """What an app did in the cycles that are remembered."""
        past = self._past.of(app)
        message.failures_in_row = self._past.failures_in_row(app)
        for part in past:
            row = message.past.add(cycle=part.cycle, reason=part.outcome.reason)
            row.time.CopyFrom(contract.timestamp_message(part.time))
            row.outcome = contract.outcome_message(part.outcome).outcome
            if part.outcome.time_to_freeze is not None:
                row.time_to_freeze.CopyFrom(contract.duration_message(part.outcome.time_to_freeze))
        if past:
            message.last_outcome.CopyFrom(contract.outcome_message(past[0].outcome))
        failure = self._past.last_failure(app)
        if failure is not None:
            message.last_error = failure.sentence
            ago = max(self._clock.wall() - failure.time, timedelta(0))
            message.last_error_ago.CopyFrom(contract.duration_message(ago))

    def _tell_stream(self, app: admin_pb2.App, stream: AppStream) -> None:
        app.paths.extend(stream.paths)
        app.library = stream.library
        app.refused_messages = stream.refusals
        app.registrations = self._registry.registrations(stream.registration.app)
        app.policy.extend(_policy(self.policy.values(stream.declared)))
        if stream.last_error and stream.last_error_at is not None:
            ago = self._since(stream.last_error_at)
            if not app.last_error or ago <= app.last_error_ago.ToTimedelta():
                app.last_error = stream.last_error
                app.last_error_ago.CopyFrom(contract.duration_message(ago))
        if stream.peer is not None:
            app.peer.CopyFrom(types_pb2.Peer(uid=stream.peer.uid, gid=stream.peer.gid, pid=stream.peer.pid))

    async def cycles(self, limit: int, since: timedelta | None) -> admin_pb2.ListCyclesResponse:
        """The last cycles, newest first, as many as fit into one answer."""
        wanted = _FIRST_CYCLES
        while True:
            # More and more, since one cycle of a thousand apps fills a tenth of an answer and takes its time to read.
            wanted = min(wanted, limit) if limit else wanted
            found = await self._journal.cycles(wanted, since)
            answer, size = admin_pb2.ListCyclesResponse(), 0
            for past in found:
                summary = _summary(past)
                size += summary.ByteSize()
                if size > _ROOM:
                    return answer
                answer.cycles.append(summary)
            if len(found) < wanted or wanted == limit:
                return answer
            wanted *= 8

    async def cycle(self, cycle: str) -> admin_pb2.GetCycleResponse | None:
        """One cycle that has ended, with its events, the first that fit into one answer."""
        past = await self._journal.cycle(cycle)
        if past is None:
            return None
        answer = admin_pb2.GetCycleResponse(summary=_summary(past), certificate=past.certificate)
        if answer.ByteSize() > _ROOM:
            answer.ClearField("certificate")
        size = answer.ByteSize()
        for event in past.events:
            message = _event(event, past.cycle)
            size += message.ByteSize()
            if size > _ROOM:
                break
            answer.events.append(message)
        return answer

    async def rehearsal(self, cycle: str) -> requester_pb2.RehearseResponse:
        """How a rehearsal went that has just ended."""
        past = await self._journal.cycle(cycle)
        if past is None:
            raise AssertionError(f"cycle {cycle} has just ended, and nobody knows it")
        answer = requester_pb2.RehearseResponse(summary=_summary(past))
        answer.time_to_freeze.CopyFrom(contract.duration_message(_took(past, _FREEZE) or timedelta(0)))
        prepare = _took(past, _PREPARE)
        if prepare is not None:
            answer.time_to_prepare.CopyFrom(contract.duration_message(prepare))
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


_PREPARE: Final = (EventKind.PREPARE_ASKED, EventKind.APP_READY)
_FREEZE: Final = (EventKind.FREEZE_ASKED, EventKind.APP_FROZE)


def _took(past: PastCycle, kinds: tuple[EventKind, EventKind]) -> timedelta | None:
    """From the first question to the last answer; None when nobody was asked or nobody answered."""
    asked = [event.since_request for event in past.events if event.kind == kinds[0]]
    answered = [event.since_request for event in past.events if event.kind == kinds[1]]
    return max(answered) - min(asked) if asked and answered else None


def _policy(values: Iterable[PolicyValue]) -> Iterator[admin_pb2.PolicyValue]:
    return (admin_pb2.PolicyValue(key=value.key, value=value.value, origin=value.origin) for value in values)


def _restored(restored: Restored) -> admin_pb2.Restored:
    return admin_pb2.Restored(
        cycle=restored.cycle,
        source=restored.source,
        requester=restored.requester,
        time=contract.timestamp_message(restored.time),
        stage=restored.stage,
        certificate=restored.certificate if len(restored.certificate) < _ROOM // 2 else "",
    )


def _summary(past: PastCycle) -> admin_pb2.CycleSummary:
    return admin_pb2.CycleSummary(
        cycle=past.cycle,
        source=past.source,
        requester=past.requester,
        time=contract.timestamp_message(past.time),
        took=contract.duration_message(past.took),
        phase=contract.phase_message(past.phase),
        verdict=contract.verdict_message(past.verdict),
        rehearses=past.rehearses,
    )


def _event(event: PastEvent, cycle: str) -> types_pb2.Event:
    known = event.phase in {str(phase) for phase in Phase}
    message = types_pb2.Event(
        kind=event.kind,
        time=contract.timestamp_message(event.time),
        cycle=cycle,
        app=event.app,
        phase=contract.phase_message(Phase(event.phase)) if known else types_pb2.PHASE_UNSPECIFIED,
        detail=printable(event.detail),
        since_request=contract.duration_message(event.since_request),
    )
    if event.took is not None:
        message.took.CopyFrom(contract.duration_message(event.took))
    return message
