"""SIGSTOP for an app, in every phase of a host's cycle: it answers nothing, and its connection stays."""

from __future__ import annotations

import signal

import pytest

from appvss.model.phase import Phase
from tests.end_to_end.support.stage import Stage, configuration
from tests.faults.phases import HOST_PHASES, SLOW, host_is_refused, host_reaches, start_for_host

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.mark.parametrize("phase", HOST_PHASES)
@pytest.mark.parametrize("style", ["async", "threads"])
async def test_the_others_go_on_and_it_comes_back(stage: Stage, style: str, phase: Phase) -> None:
    await start_for_host(stage, configuration(budget="3s", reserve="500ms"), style)
    waiting = await host_reaches(stage, phase)
    slow = stage.apps[SLOW]
    slow.signal(signal.SIGSTOP)
    await host_is_refused(stage, waiting)
    await stage.all_write(SLOW)
    await stage.rests()
    after = stage.events.count
    slow.signal(signal.SIGCONT)
    await stage.open_gates()
    await slow.writes()
    await stage.events.sees("app_thawed", app=SLOW, after=after)
    stage.excuse(SLOW)
    await stage.backs_up(patiently=True)
