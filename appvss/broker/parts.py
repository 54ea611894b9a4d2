"""What a broker is made of, put together: nothing here listens or runs before `broker/main.py` lets it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from appvss.broker.app_past import AppPast
from appvss.broker.configuration import Configuration, UnidentifiedApps
from appvss.broker.filesystems import apart, freezer_of
from appvss.broker.gates import Gates
from appvss.broker.journal import Journal
from appvss.broker.loop import BrokerLoop
from appvss.broker.news import News
from appvss.broker.policy import AppPolicy, notes, policy_in_force
from appvss.broker.recent import Recent
from appvss.broker.sources import make_sources
from appvss.broker.view import View
from appvss.cycle.machine import Machine
from appvss.cycle.state import CycleSettings
from appvss.delivery.admin_service import AdminService
from appvss.delivery.app_service import AppService
from appvss.delivery.registry import Registry
from appvss.delivery.requester_service import RequesterService
from appvss.delivery.server import Servers
from appvss.delivery.sockets import RuntimeDirectory
from appvss.delivery.watch import Watchers
from appvss.freezer.linux import LinuxFreezer
from appvss.history import HistoryState, Opened
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.event import Event, EventKind
from appvss.model.filesystem import FilesystemChoice
from appvss.model.past import PastCycle, Restored
from appvss.model.policy import PolicyValue
from appvss.model.verdict import Outcome
from appvss.model.version import VERSION
from appvss.service.log import RingHandler
from appvss.service.service_manager import ServiceManager
from appvss.sources.base import Clock, Source
from appvss.sources.local import REHEARSAL
from appvss.witness.witness import Witness

_log = logging.getLogger("appvss.broker")

FORMER_CYCLES: Final = 200
"""Cycles of earlier brokers that are read at the start, for what each app did in them."""


RETURN_LIMIT: Final = timedelta(seconds=5)
"""How long a freeze misses the apps of a former broker: longer than the longest pause of the SDK's reconnecting
(`sdk/reconnect.py`)."""


class Parts:
    """One broker's parts. Made on the event loop that they belong to; then `take_up`, once, before anything is served,
    and `recall`, once, when everybody is.

    Args:
        configuration: what is in force; `reconfigure` replaces it.
        clock: the machine's clocks.
        handler: the log.
        directory: locked by this broker.
        opened: journal and history; closed by whoever has opened them.
        boot: the identity of this boot of the machine.
        witness: closed by whoever has made it.
        manager: hears of every cycle.
    """

    def __init__(
        self,
        configuration: Configuration,
        clock: Clock,
        handler: RingHandler,
        directory: RuntimeDirectory,
        opened: Opened,
        boot: str,
        witness: Witness,
        manager: ServiceManager,
    ) -> None:
        self.configuration = configuration
        _warn_of(configuration)
        self.policy_due = asyncio.Event()
        """Set: the policy has changed, or what apps did has, so that it may say something else about them."""
        self.watchers = Watchers()
        version = f"appvss/{VERSION}"
        sources = make_sources(configuration, clock)
        self.sources: Mapping[str, Source] = {**sources.known, REHEARSAL: sources.rehearsals}
        self._clock = clock
        self._opened = opened
        self._manager = manager
        self._policy = AppPolicy(configuration)
        self._past = AppPast(clock)
        self._ended_meanwhile: deque[PastCycle] | None = None
        """What has ended between `take_up` and the end of `recall`, oldest first; None at other times."""
        self._recent = Recent(clock, self.watchers)
        self._journal = Journal(opened.history, clock, boot=boot, version=version, policy=self._policy_in_force)
        gates = Gates((handler, opened.history), self.sources.values())
        machine = Machine(_cycle_settings(configuration, self._policy), clock.now())
        self.freezer = freezer_of(lambda: self.configuration, clock)
        self.loop = BrokerLoop(
            machine, clock, self.freezer, self._journal, witness, self._recent, gates, self.cycle_ended
        )
        self.news = News(self.loop, clock, self._recent)
        if isinstance(self.freezer, LinuxFreezer):
            self.freezer.on_lost = self.news.filesystems_lost
        apps = configuration.apps
        self.apps = AppService(
            self.news,
            Registry(apps.limit, apps.limit_per_uid),
            in_force=self._in_force,
            refusal_by_policy=self._refusal,
            admits_unidentified=apps.unidentified is UnidentifiedApps.ADMIT,
            version=version,
            now=clock.now,
        )
        self.loop.connect(self.apps, self.sources)
        self.view = View(
            self.loop,
            self.apps.registry,
            sources.known,
            self._recent,
            self._journal,
            self._past,
            self.freezer,
            clock,
            configuration,
            version,
        )
        admin, requester = (
            AdminService(self.view, self.watchers),
            RequesterService(sources.local, sources.rehearsals, sources.hooks, self.view.rehearsal, self._apart),
        )
        self.servers = Servers(directory, self.apps, admin, requester)

    # -- the former broker

    def take_up(self) -> None:
        """Go on with what a former broker has left: its open cycle, or a restored machine."""
        opened, loop = self._opened, asyncio.get_running_loop()

        def tell(state: HistoryState) -> None:
            loop.call_soon_threadsafe(self._history_changed, state)

        opened.history.on_change = tell
        self._ended_meanwhile = deque(maxlen=FORMER_CYCLES)
        if opened.restored is not None:
            self._say_restored(opened.restored)
        if opened.open_cycle is not None:
            _log.warning("cycle %s was under way when the former broker ended", opened.open_cycle.cycle)
            self._journal.adopt(opened.open_cycle, opened.certificate)
            self.loop.adopt(opened.open_cycle)
            apps = opened.open_cycle.apps
            self._await_return([app.registration for app in apps if app.outcome is not Outcome.ABSENT])

    async def recall(self) -> None:
        """Learn from the history of former brokers what apps did in it. Nobody waits for that, and what ends meanwhile
        comes after it.
        """
        former: tuple[PastCycle, ...] = ()
        try:
            former = await self._journal.cycles(FORMER_CYCLES, None)
        except TimeoutError:
            _log.warning("the history does not answer: what apps did in earlier cycles is not known")
        ended, self._ended_meanwhile = self._ended_meanwhile or (), None
        known = {past.cycle for past in ended}
        for past in (*(past for past in reversed(former) if past.cycle not in known), *ended):
            self._past.ended(past)
        if self._recent.last is None and former:
            self._recent.last = former[0]
        if self._opened.open_cycle is None and former and former[0].boot == self._journal.boot:
            outcomes = [part for part in former[0].verdict.outcomes if part.outcome is not Outcome.ABSENT]
            self._await_return([Registration(part.app, part.order, requirement=part.requirement) for part in outcomes])
        self.policy_due.set()

    def _await_return(self, apps: Sequence[Registration]) -> None:
        """Miss the apps of a former broker of this boot until they had the time to come back: a freeze without them
        would call a machine consistent in which they write.
        """
        self.loop.machine.await_return(apps, self._clock.now() + RETURN_LIMIT)

    def _say_restored(self, restored: Restored) -> None:
        sentence = (
            f"this machine was restored from cycle {restored.cycle} of {restored.requester}, or lost its power in that "
            "hold: nothing is held any more"
        )
        _log.warning("%s", sentence)
        self._recent.announce(Event(EventKind.MACHINE_RESTORED, self._clock.now(), detail=sentence))

    # -- what happens

    def _history_changed(self, state: HistoryState) -> None:
        detail = f"{state.condition}: {state.detail}" if state.detail else state.condition
        _log.warning("the history is %s", detail)
        self._recent.announce(Event(EventKind.HISTORY_CHANGED, self._clock.now(), detail=detail))

    def cycle_ended(self, past: PastCycle) -> None:
        """Keep a cycle that has ended, wherever it is to be known."""
        self._opened.history.end_cycle(past)
        if self._ended_meanwhile is None:
            self._past.ended(past)
        else:
            self._ended_meanwhile.append(past)
        self.policy_due.set()
        self._manager.status(f"last cycle {past.cycle}: {past.verdict.level}")

    # -- the administrator's word

    def _policy_in_force(self) -> tuple[PolicyValue, ...]:
        return policy_in_force(self.configuration, self.configuration.overridden)

    def _in_force(self, declared: Registration) -> Registration:
        registration = self._policy.in_force(declared)
        after = self._policy.set_aside_after(declared.app)
        return replace(registration, set_aside=self._past.set_aside(declared.app, declared.incarnation, after))

    async def _apart(self, choice: FilesystemChoice) -> frozenset[AppId]:
        """Whom a freeze of this choice does not concern. An app that has registered anew meanwhile is asked."""
        registry = self.apps.registry
        streams = {stream.registration.app: stream for stream in registry}
        found = await apart(self.freezer, choice, streams.values())
        return frozenset(app for app in found if registry.get(app) is streams[app])

    def _refusal(self, app: AppId, uid: int | None) -> str:
        return self._policy.refusal(app, uid)

    def reconfigure(self, new: Configuration) -> None:
        """Put another configuration in force; for the apps that are registered `policy_due` says so. What cannot be
        changed while the broker runs is said and left alone.
        """
        old = self.configuration
        _warn_of(new)
        for name, before, after in (
            ("broker.runtime_directory", old.broker.runtime_directory, new.broker.runtime_directory),
            ("broker.state_directory", old.broker.state_directory, new.broker.state_directory),
            ("broker.socket_group", old.broker.socket_group, new.broker.socket_group),
            ("sources", old.sources, new.sources),
            ("history.keep", old.history.keep, new.history.keep),
            ("filesystems.mode", old.filesystems.mode, new.filesystems.mode),
        ):
            if before != after:
                _log.warning("%s has changed; that takes a restart of the broker", name)
        self.configuration = replace(
            new,
            broker=replace(old.broker, log_level=new.broker.log_level, stop_timeout=new.broker.stop_timeout),
            sources=old.sources,
            history=replace(new.history, keep=old.history.keep),
            filesystems=replace(new.filesystems, mode=old.filesystems.mode),
        )
        if isinstance(self.freezer, LinuxFreezer):
            self.freezer.unfreezable = new.filesystems.unfreezable
        self._policy = self.view.policy = AppPolicy(self.configuration)
        self.view.configuration = self.configuration
        self.loop.machine.replace_settings(_cycle_settings(self.configuration, self._policy))
        registry = self.apps.registry
        registry.limit, registry.limit_per_uid = new.apps.limit, new.apps.limit_per_uid
        self.apps.admits_unidentified = new.apps.unidentified is UnidentifiedApps.ADMIT
        logging.getLogger("appvss").setLevel(new.broker.log_level.upper())
        self.policy_due.set()


def _warn_of(configuration: Configuration) -> None:
    for note in notes(configuration):
        _log.warning("%s", note)


def _cycle_settings(configuration: Configuration, policy: AppPolicy) -> CycleSettings:
    cycle = configuration.cycle
    return CycleSettings(
        expected=policy.expected(),
        prepared_limit=cycle.prepared_limit,
        thaw_limit=cycle.thaw_limit,
        return_grace=cycle.return_grace,
        adoptable=frozenset({"freebsd"}),  # a device asks whoever has it open; a local call ends with its broker
        is_journal_required=configuration.history.requirement is Requirement.REQUIRED,
    )
