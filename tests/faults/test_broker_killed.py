"""SIGKILL for the broker, in every phase of a host's cycle. Its sockets and its lock file stay behind."""

from __future__ import annotations

import os

import pytest

from appvss import contract
from appvss.model.errors import ExitCode
from appvss.model.phase import Phase
from tests.end_to_end.support.stage import Stage
from tests.faults.phases import HOST_PHASES, LOCAL_PHASES, host_reaches, local_reaches, start_for_host, start_for_local


@pytest.mark.usefixtures("requires_fuse")
@pytest.mark.parametrize("phase", HOST_PHASES)
@pytest.mark.parametrize("restart", ["at once", "after the hold"])
async def test_the_apps_go_on_and_the_next_broker_serves_them(stage: Stage, restart: str, phase: Phase) -> None:
    await start_for_host(stage)
    waiting = await host_reaches(stage, phase)
    await stage.broker.kill()
    assert set(os.listdir(stage.broker.runtime_directory)) >= {contract.ADMIN_SOCKET, contract.LOCK_FILE}
    if restart == "after the hold":
        await stage.all_write()  # by their own limits, with nobody to thaw them
    await stage.start_broker()
    await stage.open_gates()
    await stage.all_write()
    await stage.attached()
    await stage.rests()
    if phase is Phase.HOLDING:
        await stage.simulator.refuses("thaw")  # nobody can vouch for the hold of the broker that died
        await stage.simulator.agrees("check")
        await stage.simulator.refuses("thaw")
    if phase in (Phase.PREPARED, Phase.HOLDING):
        await stage.backs_up()
    else:
        # The driver never forgets a request that was read: until its 15 s are over it takes no other.
        await stage.freezes()
        assert stage.simulator.found(waiting.begun, message_type="result", outcome="ok") == []


@pytest.mark.parametrize("phase", LOCAL_PHASES)
async def test_its_local_requester_is_told_and_the_next_broker_serves_the_next(stage: Stage, phase: Phase) -> None:
    await start_for_local(stage)
    requester = await local_reaches(stage, phase)
    await stage.broker.kill()
    assert await requester.ended() != ExitCode.SUCCESS
    await stage.all_write()
    await stage.open_gates()
    await stage.start_broker(device=False)
    await stage.attached()
    await stage.freezes()
