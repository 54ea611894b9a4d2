"""SIGSTOP for the broker, in every phase: nobody is thawed by it, and nobody hears that it is away."""

from __future__ import annotations

import signal

import pytest

from appvss.model.errors import ExitCode
from appvss.model.phase import Phase
from tests.end_to_end.support.stage import Stage, configuration
from tests.faults.phases import (
    LOCAL_PHASES,
    host_is_refused,
    host_reaches,
    local_reaches,
    start_for_host,
    start_for_local,
)

LOCAL = configuration(mode="off", freeze_budget="4s")


@pytest.mark.parametrize("phase", LOCAL_PHASES)
async def test_the_apps_go_on_by_their_own_limits_and_the_verdict_falls(stage: Stage, phase: Phase) -> None:
    await start_for_local(stage, LOCAL)
    requester = await local_reaches(stage, phase)
    stage.broker.signal(signal.SIGSTOP)
    await stage.all_write()
    stage.broker.signal(signal.SIGCONT)
    await stage.open_gates()
    if phase is Phase.PREPARING:  # nothing was held yet, so nothing was lost
        await requester.held()
        requester.finish()
    code = await requester.ended()
    assert (
        code
        == {
            Phase.PREPARING: ExitCode.SUCCESS,
            Phase.FREEZING_APPS: ExitCode.REFUSED,
            Phase.HOLDING: ExitCode.NOT_CONSISTENT,
            Phase.THAWING_APPS: ExitCode.NOT_CONSISTENT,
        }[phase]
    ), requester.document
    await stage.all_write()
    await stage.rests()
    await stage.freezes()


@pytest.mark.usefixtures("requires_fuse")
async def test_a_check_stays_good(stage: Stage) -> None:
    await start_for_host(stage)
    await host_reaches(stage, Phase.PREPARED)
    stage.broker.signal(signal.SIGSTOP)
    await stage.all_write()
    stage.broker.signal(signal.SIGCONT)
    await stage.simulator.agrees("freeze")
    await stage.simulator.agrees("thaw")
    await stage.backs_up()


@pytest.mark.usefixtures("requires_fuse")
async def test_the_thaw_that_comes_meanwhile_is_told_that_the_hold_was_lost(stage: Stage) -> None:
    await start_for_host(stage)
    waiting = await host_reaches(stage, Phase.HOLDING)
    stage.broker.signal(signal.SIGSTOP)
    begun = stage.simulator.begin("thaw")
    await stage.all_write()
    stage.broker.signal(signal.SIGCONT)
    await host_is_refused(stage, type(waiting)("thaw", begun))
    await stage.rests()
    await stage.backs_up()
