"""While anything is held the broker writes nothing: its state and its log lie on a file system that is frozen then.

Two proofs: the disk itself, on which every write would hang for ever and take the broker along, and a trace of the
broker's system calls. Who freezes the disk is an independent process that thaws it whatever happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss import contract
from appvss.model.phase import Phase
from appvss.v1 import app_pb2, types_pb2
from tests.end_to_end.support.stage import configuration
from tests.faults import system_calls
from tests.faults.frozen_disk import disk
from tests.faults.frozen_stage import ANSWER_LIMIT, REFUSED, FrozenStage, answered, stage
from tests.faults.system_calls import Trace, tracing
from tests.support.holds import HoldCall
from tests.support.raw_app import RawApp, attached
from tests.support.running_broker import RunningBroker

__all__ = ["disk", "stage"]

JOURNAL_LIMIT = 1.0
"""Seconds that a cycle waits for its journal."""
HOST = configuration(hold_limit="40s")
LOCAL = configuration(hold_limit="40s", mode="off")
APPS = ("first", "second", "third")


@pytest.fixture
def trace_file(tmp_path: Path) -> Iterator[Path]:
    """Where a trace goes."""
    if reason := system_calls.why_not():
        pytest.skip(reason)
    return tmp_path / "trace"


@asynccontextmanager
async def three_apps(broker: RunningBroker) -> AsyncIterator[list[RawApp]]:
    """Apps in this process, freezing one after the other."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                attached(broker.runtime_directory, name, identified=True, order=40 + 10 * number)
            )
            for number, name in enumerate(APPS)
        ]


async def begin_hold(broker: RunningBroker, apps: list[RawApp]) -> tuple[HoldCall, str]:
    """A hold of a local requester; its cycle."""
    hold = await HoldCall.begin(broker, hold_limit=timedelta(seconds=40))
    for app in apps:
        await app.freeze()
    return hold, (await answered(hold.held())).cycle


async def let_go(hold: HoldCall, apps: list[RawApp]) -> Any:
    """Ask for the thaw; every app hears it at once, and the requester the verdict."""
    await answered(hold.finish())
    for app in reversed(apps):
        await answered(app.thaw())
    return await answered(hold.verdict())


# -- the disk is frozen


async def test_a_local_hold_needs_no_disk_from_its_beginning_to_its_end(stage: FrozenStage) -> None:
    broker = await stage.start_quiet_broker(LOCAL)
    async with three_apps(broker) as apps:
        hold, before = await begin_hold(broker, apps)
        await let_go(hold, apps)
        hold, cycle = await begin_hold(broker, apps)
        assert cycle in stage.certificate.read_text()  # the image carries it
        after = stage.events.count
        async with stage.disk.frozen():
            await stage.everything_answers(cycle)
            await stage.the_past_is_known(before)
            verdict = await let_go(hold, apps)
            assert verdict.level == types_pb2.LEVEL_APPLICATION, verdict
            await stage.events.reaches(Phase.COMPLETED, after)
            # Now the broker writes what it has kept, and that hangs. Only who asks for the past has to wait.
            past = asyncio.create_task(broker.cycles(), name="past cycles")
            assert (await answered(broker.status())).last_cycle.cycle == cycle
            assert await answered(broker.apps())
            await stage.history_hangs()
        assert [each.cycle for each in await answered(past)] == [cycle, before]
        await stage.history_is_kept(2)
    assert await broker.terminate() == 0
    assert stage.cycles_on_disk() == {cycle, before}
    assert not stage.certificate.exists()
    log_is_whole(stage, cycle)


@pytest.mark.usefixtures("requires_fuse")
async def test_a_hold_of_the_host_needs_no_disk_either(stage: FrozenStage) -> None:
    await stage.start_simulator()
    broker = await stage.start_quiet_broker(HOST, "--device", str(stage.simulator.device))
    await stage.start_apps(("orders", "async"), ("stock", "threads"))
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    cycle = (await broker.status()).cycle
    async with stage.disk.frozen():
        await stage.everything_answers(cycle)
        await stage.the_past_is_known()
        async with asyncio.timeout(ANSWER_LIMIT):
            await stage.simulator.agrees("thaw")
            await stage.all_write()
        assert (await answered(broker.status())).last_cycle.cycle == cycle
    await stage.history_is_kept(1)
    assert await broker.terminate() == 0
    assert stage.cycles_on_disk() == {cycle}
    log_is_whole(stage, cycle)


async def test_a_forced_thaw_needs_no_disk(stage: FrozenStage) -> None:
    broker = await stage.start_quiet_broker(LOCAL)
    async with three_apps(broker) as apps:
        hold, cycle = await begin_hold(broker, apps)
        async with stage.disk.frozen(), asyncio.TaskGroup() as tasks:
            thaw = tasks.create_task(answered(broker.force_thaw("the disk hangs")))
            for app in reversed(apps):
                await answered(app.thaw("abort"))
            assert (await answered(hold.verdict())).level != types_pb2.LEVEL_APPLICATION
            assert await thaw == cycle


async def test_a_disk_that_hangs_before_the_freeze_keeps_nobody_frozen(stage: FrozenStage) -> None:
    broker = await stage.start_quiet_broker(LOCAL)
    async with three_apps(broker) as apps:
        async with stage.disk.frozen():
            began = time.monotonic()
            hold = await HoldCall.begin(broker, hold_limit=timedelta(seconds=40))
            while (phase := (await answered(broker.status())).phase) == types_pb2.PHASE_IDLE:
                pass  # the two calls have connections of their own
            assert phase == types_pb2.PHASE_REQUESTED
            freeze = await answered(apps[0].hear("freeze"))
            assert JOURNAL_LIMIT / 2 < time.monotonic() - began < JOURNAL_LIMIT + ANSWER_LIMIT
            await apps[0].say(frozen=app_pb2.Frozen(cycle=freeze.cycle))
            for app in apps[1:]:
                await app.freeze()
            cycle = (await answered(hold.held())).cycle
            await stage.everything_answers(cycle)
            verdict = await let_go(hold, apps)
            assert verdict.level == types_pb2.LEVEL_APPLICATION, verdict
            assert any("journal" in reason for reason in verdict.reasons), verdict
        await stage.history_is_kept(1)
        hold, second = await begin_hold(broker, apps)
        assert second in stage.certificate.read_text()
        verdict = await let_go(hold, apps)
        assert not any("journal" in reason for reason in verdict.reasons), verdict
        await stage.history_is_kept(2)
    assert await broker.terminate() == 0
    assert stage.cycles_on_disk() == {cycle, second}


async def test_a_broker_that_starts_while_its_disk_hangs_serves_without_it(stage: FrozenStage) -> None:
    broker = await stage.start_quiet_broker(LOCAL)
    async with three_apps(broker) as apps:
        hold, before = await begin_hold(broker, apps)
        await let_go(hold, apps)
    await stage.history_is_kept(1)
    await broker.kill()
    async with stage.disk.frozen():
        broker = await stage.start_quiet_broker(LOCAL)
        history = (await answered(broker.status())).history
        assert history.condition == "failing"
        assert "does not answer" in history.detail
        async with three_apps(broker) as apps:
            await stage.the_past_is_known(before)
            hold, cycle = await begin_hold(broker, apps)
            verdict = await let_go(hold, apps)
            assert verdict.level == types_pb2.LEVEL_APPLICATION
            assert any("does not answer" in reason for reason in verdict.reasons), verdict
            assert (await answered(broker.status())).history.waiting == 1
            await stage.the_past_is_known(cycle, before)
    await stage.history_is_kept(2)
    await stage.the_past_is_known(cycle, before)
    assert await broker.terminate() == 0
    assert stage.cycles_on_disk() == {before, cycle}
    assert any("the history is keeping" in line for line in stage.log())


def log_is_whole(stage: FrozenStage, cycle: str) -> None:
    """Everything that the broker wanted to say in the hold was written afterwards, and nothing was dropped."""
    lines = stage.log()
    assert sum("refused: " in line for line in lines) >= REFUSED
    assert sum("passer-by" in line and "has registered" in line for line in lines) == 1
    assert sum("passer-by" in line and "has left" in line for line in lines) == 1
    assert sum(f"cycle {cycle}: application" in line for line in lines) == 1
    assert not [line for line in lines if "were dropped" in line or "Traceback" in line]
    assert any("the broker stops" in line for line in lines)


# -- the system calls of the broker


async def test_no_file_is_written_in_a_local_hold(stage: FrozenStage, trace_file: Path) -> None:
    stage.before = tracing(trace_file)
    broker = await stage.start_quiet_broker(LOCAL, watched=False)
    async with three_apps(broker) as apps:
        hold, cycle = await begin_hold(broker, apps)
        await stage.everything_answers(cycle)
        await stage.the_past_is_known()
        ends = time.time_ns() / 1e9
        await let_go(hold, apps)
    assert await broker.terminate() == 0
    trace = Trace.read(trace_file)
    begins = trace.first("sendmsg", contract.ADMIN_SOCKET, cycle).at  # it tells the requester that all is held
    assert trace.between(begins, ends).forbidden == []
    nothing_was_missed(trace, stage, begins)


@pytest.mark.usefixtures("requires_fuse")
async def test_no_file_is_written_in_a_hold_of_the_host(stage: FrozenStage, trace_file: Path) -> None:
    await stage.start_simulator()
    stage.before = tracing(trace_file)
    broker = await stage.start_quiet_broker(HOST, "--device", str(stage.simulator.device))
    await stage.start_apps(("orders", "async"), ("stock", "threads"))
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    held = time.time_ns() / 1e9
    await stage.everything_answers((await broker.status()).cycle)
    await stage.the_past_is_known()
    ends = time.time_ns() / 1e9
    await stage.simulator.agrees("thaw")
    assert await broker.terminate() == 0
    trace = Trace.read(trace_file)
    begins = trace.between(0, held).last("ioctl", str(stage.simulator.device), "0x76, 0x3").at  # the ack of the freeze
    assert trace.between(begins, ends).forbidden == []
    nothing_was_missed(trace, stage, begins)


def nothing_was_missed(trace: Trace, stage: FrozenStage, begins: float) -> None:
    """The same trace does show what was written before the hold and after it: the proof is not empty."""
    for part in ("history.sqlite", stage.certificate.name, stage.log_file.name):
        assert any(part in text for text in trace.between(0, begins).forbidden), part
    for part in ("history.sqlite", stage.log_file.name):
        assert any(part in text for text in trace.between(begins, time.time_ns() / 1e9).forbidden), part
