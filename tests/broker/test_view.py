"""What an administrator sees, put together from a real loop, registry and machine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from appvss import contract
from appvss.broker.clock import SystemClock
from appvss.broker.configuration import AppOptions, BrokerOptions, Configuration, CycleOptions
from appvss.broker.parts import Parts
from appvss.cycle.state import CycleSettings
from appvss.delivery.registry import AppStream
from appvss.delivery.sockets import RuntimeDirectory
from appvss.history import open_state
from appvss.model.app import AppId, Registration, Requirement
from appvss.model.past import PastCycle, PastEvent
from appvss.model.phase import Phase
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict
from appvss.model.version import VERSION
from appvss.service.log import RingHandler
from appvss.service.service_manager import ServiceManager
from appvss.sources.local import LocalSource
from appvss.v1 import admin_pb2, types_pb2
from appvss.witness.witness import Witness
from tests.support.running_broker import short_directory

BOUND = 20
SECOND = timedelta(seconds=1)


class Rig:
    """A broker's parts without servers; its apps are streams that nobody reads."""

    def __init__(self, folder: Path, directory: RuntimeDirectory, **options: Any) -> None:
        self.clock = SystemClock()
        broker = BrokerOptions(runtime_directory=folder / "run", state_directory=folder / "state")
        self.configuration = Configuration(broker=broker, origin="/etc/x.toml", **options)
        self.opened = open_state(broker.state_directory, keep=200, boot="this boot", wall=self.clock.wall)
        self.witness = Witness(self.clock)
        self.parts = Parts(
            self.configuration,
            self.clock,
            RingHandler(),
            directory,
            self.opened,
            "this boot",
            self.witness,
            ServiceManager(None, None),
        )
        self.loop, self.news, self.view = self.parts.loop, self.parts.news, self.parts.view
        self.registry = self.parts.apps.registry
        self._watcher = self.parts.watchers.add()
        self._reader: asyncio.Task[object] = asyncio.create_task(asyncio.Event().wait())

    @property
    def local(self) -> LocalSource:
        source = self.parts.sources["local"]
        assert isinstance(source, LocalSource)
        return source

    def register(self, registration: Registration, *, paths: tuple[str, ...] = ()) -> AppStream:
        async def write(message: bytes) -> None:
            pass

        stream = AppStream(registration, "1" * 16, write, self._reader, self.clock.now(), None, paths=paths)
        self.registry.add(stream)
        self.news.registered(registration)
        return stream

    async def reaches(self, phase: Phase) -> None:
        """Wait until the cycle has come into this phase."""
        while (event := await self._watcher.get()) is not None and event.phase != contract.phase_message(phase):
            pass

    def keep(self, cycle: str, *outcomes: AppOutcome, events: int = 0) -> None:
        """A cycle that has ended so."""
        happened = PastEvent("input_refused", timedelta(0), timedelta(0), detail="\u00e4" * 500)
        verdict = Verdict(cycle, Level.APPLICATION, outcomes, ())
        past = PastCycle(
            cycle, "local", "me", self.clock.wall(), SECOND, Phase.COMPLETED, verdict, (happened,) * events
        )
        self.parts.cycle_ended(past)

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait({self._reader})
        for stream in self.registry:
            await stream.flushed()
        await self.loop.close()
        self.witness.close(SECOND)
        self.opened.history.close(BOUND * SECOND)


@asynccontextmanager
async def rig(**options: Any) -> AsyncIterator[Rig]:
    folder = short_directory()
    directory = RuntimeDirectory(folder / "run", None)
    made = Rig(folder, directory, **options)
    serving = asyncio.create_task(made.local.run(made.news))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(BOUND):
            yield made
    finally:
        serving.cancel()
        await asyncio.wait({serving})
        await made.close()
        directory.close()
        shutil.rmtree(folder)


def outcome(
    name: str, what: Outcome = Outcome.HELD, reason: str = "", evidence: dict[str, str] | None = None
) -> AppOutcome:
    return AppOutcome(AppId(name), what, Requirement.REQUIRED, 50, reason, evidence=evidence or {})


async def test_status_at_rest_and_in_a_hold() -> None:
    quick = CycleOptions(return_grace=timedelta(0))
    async with rig(apps=AppOptions(required=("billing",)), cycle=quick) as made:
        made.register(Registration(AppId("a")))
        status = made.view.status()
        assert (status.broker, status.apps, list(status.absent_apps)) == (f"appvss/{VERSION}", 1, ["billing"])
        run, state = made.configuration.broker.runtime_directory, made.configuration.broker.state_directory
        assert (status.runtime_directory, status.configuration) == (str(run), "/etc/x.toml")
        assert (status.history.directory, status.history.condition) == (str(state), "keeping")
        assert (status.phase, status.cycle, status.HasField("phase_for")) == (types_pb2.PHASE_IDLE, "", False)
        made.loop.machine.replace_settings(CycleSettings())
        hold = made.local.begin("me", None, None)
        await made.reaches(Phase.FREEZING_APPS)
        status = made.view.status()
        assert status.phase == types_pb2.PHASE_FREEZING_APPS
        assert status.cycle == made.loop.machine.cycle
        assert status.HasField("phase_for")
        assert not status.HasField("last_cycle")
        assert not status.HasField("hold_left")
        made.news.froze(AppId("a"), status.cycle, {})
        assert await hold.held()
        status = made.view.status()
        assert status.held_for.ToTimedelta() + status.hold_left.ToTimedelta() <= hold.hold_limit
        assert status.hold_left.ToTimedelta() > hold.hold_limit - BOUND * SECOND
        assert made.view.apps().apps[0].state == "held"
        made.news.left(AppId("a"), "its stream broke", False)
        stream = made.registry.get(AppId("a"))
        assert stream is not None
        made.registry.remove(stream)
        (away,) = made.view.apps().apps
        assert (away.name, away.state, away.library) == ("a", "away", "")
        made.news.left(AppId("a"), "its process is gone", True)
        assert (await hold.ended()).level is Level.CRASH


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
        assert (a.last_outcome.outcome, a.last_error) == (types_pb2.OUTCOME_VETOED, "vetoed in cycle 1: busy")
        assert (b.last_outcome.outcome, b.last_error) == (
            types_pb2.OUTCOME_HOLD_LOST,
            "hold_lost in cycle 2: session gone",
        )
        assert not c.HasField("last_outcome")
        stream = made.registry.get(AppId("a"))
        assert stream is not None
        stream.note_error("ack_twice: it did", made.clock.now())
        assert made.view.apps().apps[0].last_error == "ack_twice: it did"


async def test_cycle_that_runs_has_no_summary_yet() -> None:
    async with rig() as made:
        hold = made.local.begin("me", None, None)
        assert await hold.held()
        assert await made.view.cycle(hold.cycle) is None
        assert list((await made.view.cycles(0, None)).cycles) == []
        hold.finish()
        await hold.ended()
        detail = await made.view.cycle(hold.cycle)
        assert detail is not None
        assert detail.summary.requester == "me"
        assert "certificate" in detail.certificate
        assert [event.kind for event in detail.events][:2] == ["phase_changed", "cycle_began"]


async def test_cycles_since_a_time() -> None:
    async with rig() as made:
        made.keep("1")
        between = made.clock.wall()
        made.keep("2")
        assert [cycle.cycle for cycle in (await made.view.cycles(0, None)).cycles] == ["2", "1"]
        assert [cycle.cycle for cycle in (await made.view.cycles(0, between)).cycles] == ["2"]
        assert [cycle.cycle for cycle in (await made.view.cycles(1, None)).cycles] == ["2"]


async def test_what_an_app_did_is_shown_with_what_went_wrong() -> None:
    async with rig() as made:
        made.register(Registration(AppId("a")))
        made.keep("1", outcome("a"))
        made.keep("2", outcome("a", Outcome.TIMED_OUT, "no ack within 3s"))
        made.keep("3", outcome("a", Outcome.VETOED, "busy"))
        (app,) = made.view.apps().apps
        assert app.failures_in_row == 2
        assert [(part.cycle, part.outcome, part.reason) for part in app.past] == [
            ("3", types_pb2.OUTCOME_VETOED, "busy"),
            ("2", types_pb2.OUTCOME_TIMED_OUT, "no ack within 3s"),
            ("1", types_pb2.OUTCOME_HELD, ""),
        ]
        assert app.HasField("last_error_ago")
        assert admin_pb2.PolicyValue(key="requirement", value='"required"', origin="built-in") in app.policy


async def test_answers_fit_into_their_limit() -> None:
    evidence = {f"key-{number}": "x" * 250 for number in range(16)}
    async with rig() as made:
        for number in range(1000):
            made.register(Registration(AppId(f"a-{number}")), paths=("/" + "p" * 900,) * 4)
        everybody = [outcome(f"a-{number}", evidence=evidence) for number in range(1000)]
        for number in range(20):
            made.keep(str(number), *everybody)
        made.keep("events", *everybody, events=5000)
        limit = contract.ADMIN_RESPONSE_LIMIT
        apps = made.view.apps()
        assert (len(apps.apps), apps.ByteSize() < limit) == (1000, True)
        assert apps.apps[0].paths
        cycles = await made.view.cycles(0, None)
        assert cycles.ByteSize() < limit
        assert len(cycles.cycles) > 10
        assert cycles.cycles[0].cycle == "events"
        detail = await made.view.cycle("events")
        assert detail is not None
        assert detail.ByteSize() < limit
        assert len(detail.events) > 1000
        assert len((await made.view.cycles(1, None)).cycles) == 1
        assert made.view.status().ByteSize() < limit
