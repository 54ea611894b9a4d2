"""The kernel driver vanishes in every phase of a host's cycle (SIGKILL for the simulator), or does not answer."""

from __future__ import annotations

import signal

import pytest

from appvss.model.phase import Phase
from tests.end_to_end.support.stage import Stage
from tests.faults.phases import HOST_PHASES, host_reaches, start_for_host

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.mark.parametrize("phase", HOST_PHASES)
async def test_the_apps_go_on_and_the_next_device_is_served(stage: Stage, phase: Phase) -> None:
    await start_for_host(stage)
    await host_reaches(stage, phase)
    after = stage.events.count
    await stage.simulator.kill()
    await stage.events.sees("source_changed", detail="freebsd lost", after=after)
    if phase is not Phase.THAWING_APPS:
        await stage.events.reaches(Phase.ABORTING, after)
    await stage.open_gates()
    await stage.all_write()
    await stage.rests()
    (reason, *_) = (await stage.broker.cycles(1))[0].verdict.reasons or [""]
    assert ("is gone" in reason) is (phase is not Phase.THAWING_APPS), reason
    after = stage.events.count
    await stage.start_simulator()
    await stage.events.sees("source_changed", detail="freebsd serving", after=after)
    if phase is Phase.HOLDING:
        await stage.simulator.refuses("thaw")
    await stage.backs_up()


async def test_a_device_that_does_not_answer_keeps_nobody_frozen(stage: Stage) -> None:
    await start_for_host(stage)
    await host_reaches(stage, Phase.HOLDING)
    stage.simulator.signal(signal.SIGSTOP)
    await stage.all_write()
    await stage.rests()
    stage.simulator.signal(signal.SIGCONT)
    await stage.simulator.refuses("thaw")
    await stage.backs_up()
