"""SIGKILL for an app, in every phase of a host's cycle."""

from __future__ import annotations

import pytest

from appvss.model.phase import Phase
from tests.end_to_end.support.stage import Stage
from tests.faults.phases import HOST_PHASES, SLOW, host_is_refused, host_reaches, start_for_host

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.mark.parametrize("phase", HOST_PHASES)
@pytest.mark.parametrize("style", ["async", "threads"])
async def test_the_others_go_on_and_the_host_is_told(stage: Stage, style: str, phase: Phase) -> None:
    await start_for_host(stage, style=style)
    waiting = await host_reaches(stage, phase)
    await stage.apps[SLOW].kill()
    await host_is_refused(stage, waiting)
    await stage.all_write()
    await stage.rests()
    await stage.start_app(SLOW, style, "--order", "60", "--prepares")
    await stage.backs_up()
