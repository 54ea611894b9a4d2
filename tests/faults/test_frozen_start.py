"""A broker that is killed in a hold and started again while its state and its log lie on the frozen file system: it
takes the cycle up all the same, and writes all of it down once the disk lets it.
"""

from __future__ import annotations

import pytest

from appvss.model.phase import Phase
from appvss.model.verdict import Level
from appvss.sdk.admin_values import summary_of
from tests.end_to_end.support.stage import configuration
from tests.faults.frozen_disk import disk
from tests.faults.frozen_stage import FrozenStage, answered, stage

__all__ = ["disk", "stage"]

pytestmark = pytest.mark.usefixtures("requires_fuse")

CONFIGURATION = configuration(hold_limit="40s", grace="15s")
APPS = (("orders", "async", "--hold-limit", "40"), ("stock", "threads", "--hold-limit", "40"))


async def start_broker(stage: FrozenStage) -> None:
    """A broker that serves the host's device."""
    await stage.start_quiet_broker(CONFIGURATION, "--device", str(stage.simulator.device))


async def hold(stage: FrozenStage) -> tuple[str, str]:
    """Two apps are held for the host; the cycle, and its certificate."""
    await stage.start_simulator()
    await start_broker(stage)
    await stage.start_apps(*APPS)
    await stage.simulator.agrees("check")
    await stage.simulator.agrees("freeze")
    return (await stage.broker.status()).cycle, stage.certificate.read_text()


async def take_up(stage: FrozenStage, cycle: str) -> None:
    """Kill the broker, and start one that takes the cycle up; the apps are back."""
    await stage.broker.kill()
    await start_broker(stage)
    status = await answered(stage.broker.status())
    assert (status.cycle, status.history.condition, status.history.detail) == (cycle, "keeping", "")
    for name, *_ in APPS:
        after = stage.events.count
        if name not in {app.name for app in await stage.broker.apps() if app.state == "held"}:
            await stage.events.sees("app_returned", app=name, after=after)
    await stage.the_past_is_known()


async def thaw(stage: FrozenStage, cycle: str) -> None:
    """The host thaws, and hears that its snapshot is good."""
    await stage.simulator.agrees("thaw")
    await stage.rests()
    summary = summary_of((await answered(stage.broker.status())).last_cycle)
    assert (summary.cycle, summary.phase) == (cycle, Phase.COMPLETED)
    assert (summary.verdict.level, summary.verdict.reasons) == (Level.APPLICATION, ())
    await stage.all_write()


async def is_written_once(stage: FrozenStage, cycle: str, certificate: str) -> None:
    """The history has the cycle with its certificate, nothing else is left, and nobody adopts it once more."""
    await stage.history_is_kept(1)
    found = await stage.broker.cycle(cycle)
    assert (summary_of(found.summary).verdict.level, found.certificate) == (Level.APPLICATION, certificate)
    assert not stage.certificate.exists()
    assert await stage.broker.terminate() == 0
    assert stage.cycles_on_disk() == {cycle}
    assert any(f"cycle {cycle} was under way when the former broker ended" in line for line in stage.log())
    await start_broker(stage)
    assert (await stage.broker.status()).cycle == ""
    assert [each.cycle for each in await stage.broker.cycles()] == [cycle]


async def test_the_disk_is_thawed_after_the_host_was_answered(stage: FrozenStage) -> None:
    cycle, certificate = await hold(stage)
    async with stage.disk.frozen():
        await take_up(stage, cycle)
        await thaw(stage, cycle)
        await stage.the_past_is_known(cycle)
        await stage.history_hangs()
    await is_written_once(stage, cycle, certificate)


async def test_the_disk_is_thawed_before_the_host_asks_for_it(stage: FrozenStage) -> None:
    cycle, certificate = await hold(stage)
    async with stage.disk.frozen():
        await take_up(stage, cycle)
    status = await answered(stage.broker.status())
    assert (status.cycle, status.history.condition) == (cycle, "keeping")
    assert stage.certificate.read_text() == certificate
    await thaw(stage, cycle)
    await is_written_once(stage, cycle, certificate)


async def test_a_broker_that_dies_twice_under_a_frozen_disk_is_taken_up_twice(stage: FrozenStage) -> None:
    cycle, certificate = await hold(stage)
    async with stage.disk.frozen():
        for _ in range(2):
            await take_up(stage, cycle)
        await thaw(stage, cycle)
    await is_written_once(stage, cycle, certificate)
