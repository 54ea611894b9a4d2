"""What the fault matrix has found: each failure as a test of its own, named after what must be so."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from appvss import contract
from appvss.model.phase import Phase
from appvss.model.verdict import Level
from appvss.sdk.admin_values import status_of
from tests.end_to_end.support.children import ObservedApp
from tests.faults.fault_stage import FaultStage
from tests.faults.plan import Fault, Plan, SourceName, Victim
from tests.faults.relay import Strangers
from tests.faults.supervised import SupervisedBroker
from tests.support.running_broker import BOUND

_QUIET = replace(Plan.of_seed(1), phase=Phase.IDLE, fault=Fault.NONE, victim=Victim.BROKER, source=SourceName.LOCAL)
_CUT = replace(_QUIET, fault=Fault.CLOSED_SOCKET, victim=Victim.APP, hold_limit=timedelta(seconds=2))
_RESTARTED = replace(
    _QUIET,
    phase=Phase.HOLDING,
    fault=Fault.KILL,
    victim=Victim.SUPERVISOR,
    source=SourceName.FREEBSD,
    hold_limit=timedelta(seconds=8),
)


@pytest.fixture
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[FaultStage]:
    """A stage that is built for the plan of its test."""
    stage = FaultStage(request.param)
    try:
        await stage.build()
        yield stage
    finally:
        left = await stage.close()
    assert left == []


def _connections(app: ObservedApp) -> int:
    found = 0
    for entry in os.listdir(f"/proc/{app.pid}/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{app.pid}/fd/{entry}").startswith("socket:")
    return found


@pytest.mark.parametrize(
    "stage", [replace(_CUT, app="first"), replace(_CUT, app="second")], ids=["async", "threads"], indirect=True
)
async def test_an_app_keeps_no_connection_of_an_attempt_to_attach_that_failed(stage: FaultStage) -> None:
    name = stage.plan.app
    app, relay = stage.apps[name], stage.relays[name]
    before = _connections(app)
    for _ in range(3):
        after, heard = stage.events.count, len(app.err)
        relay.is_shut = True
        relay.cut()
        await stage.events.sees("app_left", app=name, after=after)
        async with asyncio.timeout(BOUND):
            while not any("not attached" in line.text for line in app.err[heard:]):
                await stage.broker.status()
        relay.is_shut = False
        await stage.events.sees("app_registered", app=name, after=after)
    async with asyncio.timeout(BOUND):
        while _connections(app) > before:
            await stage.broker.status()


@pytest.mark.parametrize("stage", [_QUIET], ids=["local"], indirect=True)
async def test_a_stranger_who_talks_nonsense_leaves_nothing_behind_in_the_broker(stage: FaultStage) -> None:
    before = len(stage.broker.descriptors())
    strangers = Strangers(stage.directory / "run")
    await strangers.come()
    strangers.go()
    async with asyncio.timeout(BOUND):  # less than the life of a token, which would clean up in the end
        while len(stage.broker.descriptors()) > before:
            await stage.broker.status()
    await stage.attached()


@pytest.mark.usefixtures("requires_fuse")
@pytest.mark.parametrize("stage", [_RESTARTED], ids=["freebsd"], indirect=True)
async def test_a_new_broker_opens_the_device_in_the_hold_that_it_adopts_and_answers_the_thaw(stage: FaultStage) -> None:
    host, broker = stage.simulator, stage.broker
    assert isinstance(broker, SupervisedBroker)
    await host.agrees("check")
    acked = (await host.agrees("freeze"))["heard_at"]
    old, place = broker.pid, len(host.out)
    broker.signal(signal.SIGKILL)
    await broker.replaced(old)
    await stage.meet_broker()
    await host.until(place, kind="opened", side="app")
    await stage.attached()
    assert status_of(await broker.status()).phase is Phase.HOLDING
    thaw_asked = time.monotonic_ns()
    await host.agrees("thaw")
    assert stage.written_in_hold(acked, thaw_asked) == []
    (cycle,) = [cycle for cycle in await broker.cycles() if cycle.source == "freebsd"]
    assert contract.verdict_of(cycle.verdict).level is Level.APPLICATION
    await stage.all_write()
