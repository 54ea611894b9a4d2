"""SIGKILL and SIGSTOP for a local requester, `appvss freeze`, in every phase of its cycle."""

from __future__ import annotations

import signal

import pytest

from appvss.model.errors import ExitCode
from appvss.model.phase import Phase
from tests.end_to_end.support.stage import OFF, Stage
from tests.end_to_end.support.write_log import SECOND
from tests.faults.phases import LOCAL_PHASES, local_reaches, start_for_local


@pytest.mark.parametrize("phase", LOCAL_PHASES)
async def test_a_requester_that_is_killed_ends_the_hold_at_once(stage: Stage, phase: Phase) -> None:
    await start_for_local(stage, OFF, "--hold-limit", "60")
    requester = await local_reaches(stage, phase)
    after = stage.events.count
    await requester.kill()
    if phase is not Phase.THAWING_APPS:
        await stage.events.reaches(Phase.ABORTING, after)
    await stage.open_gates()
    await stage.all_write()
    assert await stage.rests() is (Phase.COMPLETED if phase is Phase.THAWING_APPS else Phase.ABORTED)
    for app in stage.apps.values():
        for quiet in app.log().quiets:
            assert quiet.released < quiet.since + 30 * SECOND, "by its limit, and not at once"
    await stage.freezes()


@pytest.mark.parametrize("phase", LOCAL_PHASES)
async def test_a_requester_that_is_stopped_holds_to_its_limit(stage: Stage, phase: Phase) -> None:
    await start_for_local(stage, OFF, "--hold-limit", "60")
    requester = await local_reaches(stage, phase, "--hold-limit", "1s")
    requester.signal(signal.SIGSTOP)
    await stage.open_gates()
    if phase in (Phase.PREPARING, Phase.FREEZING_APPS):
        await stage.events.reaches(Phase.HOLDING)
    await stage.all_write()
    assert await stage.rests() is (Phase.COMPLETED if phase is Phase.THAWING_APPS else Phase.ABORTED)
    for app in stage.apps.values():
        for quiet in app.log().quiets:
            assert quiet.released < quiet.since + 30 * SECOND, "by the app's own limit"
    requester.signal(signal.SIGCONT)
    code = await requester.ended()
    if phase is Phase.THAWING_APPS:
        assert code == ExitCode.SUCCESS
    else:
        assert code in (ExitCode.NOT_CONSISTENT, ExitCode.REFUSED)
        assert requester.document["verdict"]["level"] != "application"
    await stage.freezes()
