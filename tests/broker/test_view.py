"""What an administrator sees, put together from a real loop, registry and machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from appvss import contract
from appvss.broker.clock import SystemClock
from appvss.broker.configuration import BrokerOptions, Configuration
from appvss.broker.logs import RingHandler
from appvss.broker.loop import BrokerLoop
from appvss.broker.recent import Recent
from appvss.broker.view import View
from appvss.cycle.machine import Machine
from appvss.cycle.state import CycleSettings
from appvss.delivery.app_service import AppService
from appvss.delivery.registry import AppStream, Registry
from appvss.delivery.watch import Watchers
from appvss.freezer.null import NullFreezer
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.cycle import CycleRecord
from appvss.model.event import Event, EventKind
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict
from appvss.sources.local import LocalSettings, LocalSource
from appvss.v1 import types_pb2

BOUND = 20
SECOND = timedelta(seconds=1)


class Rig:
    """A broker without servers; its apps are streams that nobody reads."""

    def __init__(self, *expected: str) -> None:
        self.clock = SystemClock()
        self.recent = Recent(self.clock, Watchers())
        machine = Machine(CycleSettings(expected=expected), self.clock.now(), checking=True)
        self.loop = BrokerLoop(machine, self.clock, NullFreezer(), self.recent, gate=RingHandler())
        self.registry = Registry(5000, 5000)
        self.local = LocalSource(LocalSettings(), self.clock)
        apps = AppService(
            self.loop,
            self.registry,
            in_force=lambda registration: registration,
            admits_unidentified=True,
            version="appvss/test",
            now=self.clock.now,
        )
        self.loop.connect(apps, {"local": self.local})
        configuration = Configuration(broker=BrokerOptions(runtime_directory=Path("/run/x")), origin="/etc/x.toml")
        self.view = View(
            self.loop, self.registry, {"local": self.local}, self.recent, self.clock, configuration, "appvss/test"
        )
        self._reader: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait())

    def register(self, registration: Registration, *, paths: tuple[str, ...] = ()) -> AppStream:
        async def write(message: bytes) -> None:
            pass

        stream = AppStream(registration, "1" * 16, write, self._reader, self.clock.now(), None, paths=paths)
        self.registry.add(stream)
        self.loop.registered(registration)
        return stream

    def keep(self, cycle: str, *outcomes: AppOutcome, events: int = 0) -> None:
        """A cycle that has ended so."""
        now = self.clock.now()
        self.recent.announce(Event(EventKind.CYCLE_BEGAN, now, cycle))
        for _ in range(events):
            self.recent.announce(Event(EventKind.INPUT_REFUSED, now, cycle, detail="\u00e4" * 500))
        verdict = Verdict(cycle, Level.APPLICATION, outcomes, ())
        self.recent.end(CycleRecord(cycle, "local", "me", now, SECOND, Phase.COMPLETED, verdict))

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait({self._reader})
        for stream in self.registry:
            await stream.flushed()
        await self.loop.close()


@asynccontextmanager
async def rig(*expected: str) -> AsyncIterator[Rig]:
    made = Rig(*expected)
    serving = asyncio.create_task(made.local.run(made.loop))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(BOUND):
            yield made
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        await made.close()


def outcome(
    name: str, what: Outcome = Outcome.HELD, reason: str = "", evidence: dict[str, str] | None = None
) -> AppOutcome:
    return AppOutcome(AppId(name), what, Requirement.REQUIRED, 50, reason, evidence=evidence or {})


async def test_status_at_rest_and_in_a_hold() -> None:
    async with rig("billing") as made:
        made.register(Registration(AppId("a")))
        status = made.view.status()
        assert (status.broker, status.apps, list(status.absent_apps)) == ("appvss/test", 1, ["billing"])
        assert (status.runtime_directory, status.configuration) == ("/run/x", "/etc/x.toml")
        assert (status.phase, status.cycle, status.HasField("phase_for")) == (types_pb2.PHASE_IDLE, "", False)
        made.loop.machine.replace_settings(CycleSettings())
        hold = made.local.begin("me", None, None)
        status = made.view.status()
        assert status.phase == types_pb2.PHASE_FREEZING_APPS
        assert status.cycle == made.loop.machine.cycle
        assert status.HasField("phase_for")
        assert not status.HasField("last_cycle")
        made.loop.froze(AppId("a"), status.cycle, {})
        assert await hold.held()
        assert made.view.apps().apps[0].state == "held"
        made.loop.left(AppId("a"), "its stream broke", False)
        stream = made.registry.get(AppId("a"))
        assert stream is not None
        made.registry.remove(stream)
        (away,) = made.view.apps().apps
        assert (away.name, away.state, away.library) == ("a", "away", "")
        made.loop.left(AppId("a"), "its process is gone", True)


async def test_order_of_the_freeze() -> None:
    async with rig() as made:
        made.register(Registration(AppId("early"), order=1, after=("late",)))
        made.register(Registration(AppId("late"), order=90))
        made.register(Registration(AppId("b")))
        made.register(Registration(AppId("a", "2")))
        made.register(Registration(AppId("a", "1")))
        names = [(app.name, app.instance) for app in made.view.apps().apps]
        assert names == [("a", "1"), ("a", "2"), ("b", ""), ("late", ""), ("early", "")]


async def test_apps_that_wait_for_each_other_are_listed_all_the_same() -> None:
    async with rig() as made:
        made.register(Registration(AppId("b"), order=2, after=("a",)))
        made.register(Registration(AppId("a"), order=3, after=("b",)))
        assert [app.name for app in made.view.apps().apps] == ["b", "a"]


async def test_last_outcome_is_of_the_last_cycle_that_the_app_was_in() -> None:
    async with rig() as made:
        for name in ("a", "b", "c"):
            made.register(Registration(AppId(name)))
        made.keep("1", outcome("a", Outcome.VETOED, "busy"), outcome("b"))
        made.keep("2", outcome("b", Outcome.HOLD_LOST, "session gone"))
        a, b, c = made.view.apps().apps
        assert (a.last_outcome.outcome, a.last_error) == (types_pb2.OUTCOME_VETOED, "vetoed: busy")
        assert (b.last_outcome.outcome, b.last_error) == (types_pb2.OUTCOME_HOLD_LOST, "hold_lost: session gone")
        assert not c.HasField("last_outcome")
        stream = made.registry.get(AppId("a"))
        assert stream is not None
        stream.last_error = "ack_twice: it did"
        assert made.view.apps().apps[0].last_error == "ack_twice: it did"


async def test_cycle_that_runs_has_no_summary_yet() -> None:
    async with rig() as made:
        made.recent.announce(Event(EventKind.CYCLE_BEGAN, made.clock.now(), "c"))
        assert made.view.cycle("c") is None
        assert list(made.view.cycles(0).cycles) == []


async def test_answers_fit_into_their_limit() -> None:
    evidence = {f"key-{number}": "x" * 250 for number in range(16)}
    async with rig() as made:
        for number in range(1000):
            made.register(Registration(AppId(f"a-{number}")), paths=("/" + "p" * 900,) * 4)
        everybody = [outcome(f"a-{number}", evidence=evidence) for number in range(1000)]
        for number in range(100):
            made.keep(str(number), *everybody)
        made.keep("events", *everybody, events=5000)
        limit = contract.ADMIN_RESPONSE_LIMIT
        apps = made.view.apps()
        assert (len(apps.apps), apps.ByteSize() < limit) == (1000, True)
        assert apps.apps[0].paths
        cycles = made.view.cycles(0)
        assert cycles.ByteSize() < limit
        assert len(cycles.cycles) > 10
        assert cycles.cycles[0].cycle == "events"
        detail = made.view.cycle("events")
        assert detail is not None
        assert detail.ByteSize() < limit
        assert len(detail.events) > 1000
        assert len(made.view.cycles(1).cycles) == 1
        assert made.view.status().ByteSize() < limit
