"""`appvss freeze -- COMMAND` with a broker and apps, each a process of its own."""

from __future__ import annotations

import os
import time

import pytest

from appvss.model.errors import ExitCode
from appvss.model.phase import Phase
from tests.end_to_end.support.stage import OFF, Stage

APPS = (("orders", "async", "--order", "40", "--prepares"), ("stock", "threads", "--order", "60"))
NOTHING_IS_READ = ("sh", "-c", 'echo "held $APPVSS_CYCLE $$"; exec sleep 600')


@pytest.fixture
async def running(stage: Stage) -> Stage:
    await stage.start_broker(OFF, device=False)
    await stage.start_apps(*APPS)
    return stage


async def test_the_command_runs_while_nobody_writes(running: Stage) -> None:
    requester = await running.start_requester()
    acked = (await requester.held()).at
    sizes = running.sizes()
    assert {app.state for app in await running.broker.apps()} == {"held"}
    assert running.sizes() == sizes
    thaw_asked = time.monotonic_ns()
    requester.finish()
    assert await requester.ended() == ExitCode.SUCCESS
    assert running.written_in_hold(acked, thaw_asked) == []
    verdict = requester.document["verdict"]
    assert (verdict["level"], {part["outcome"] for part in verdict["outcomes"]}) == ("application", {"held"})
    await running.all_write()


async def test_the_commands_failure_is_told_and_the_apps_were_held_all_the_same(running: Stage) -> None:
    requester = await running.start_requester()
    await requester.held()
    requester.finish(3)
    assert await requester.ended() == ExitCode.COMMAND_FAILED
    assert requester.document["command_exit_code"] == 3
    assert requester.document["verdict"]["level"] == "application"
    await running.all_write()


async def test_a_veto_keeps_the_command_from_being_run(running: Stage) -> None:
    await running.apps["stock"].told("veto")
    marker = running.directory / "was-run"
    requester = await running.start_requester(command=("touch", str(marker)))
    assert await requester.ended() == ExitCode.REFUSED
    assert not marker.exists()
    await running.all_write()
    await running.apps["stock"].told("agree")
    again = await running.start_requester(command=("touch", str(marker)))
    assert await again.ended() == ExitCode.SUCCESS
    assert marker.exists()


async def test_a_hold_that_reaches_its_limit_ends_the_command(running: Stage) -> None:
    requester = await running.start_requester("--hold-limit", "1s", command=NOTHING_IS_READ)
    command = int((await requester.held()).text.split()[2])
    await running.all_write()
    assert await requester.ended() == ExitCode.NOT_CONSISTENT
    assert requester.document["ended_early"]
    with pytest.raises(ProcessLookupError):
        os.kill(command, 0)
    assert await running.rests() is Phase.ABORTED


@pytest.mark.parametrize("victim", ["orders", "stock"])
async def test_an_app_that_dies_in_the_hold_ends_it_and_the_command(running: Stage, victim: str) -> None:
    requester = await running.start_requester(command=NOTHING_IS_READ)
    await requester.held()
    await running.apps[victim].kill()
    assert await requester.ended() == ExitCode.NOT_CONSISTENT
    assert requester.document["ended_early"]
    (reason,) = (part["reason"] for part in requester.document["verdict"]["outcomes"] if part["name"] == victim)
    assert "died in its hold" in reason
    await running.all_write()


async def test_a_second_requester_is_refused_and_disturbs_nothing(running: Stage) -> None:
    first = await running.start_requester()
    acked = (await first.held()).at
    second = await running.start_requester(command=("true",))
    assert await second.ended() == ExitCode.REFUSED
    thaw_asked = time.monotonic_ns()
    first.finish()
    assert await first.ended() == ExitCode.SUCCESS
    assert running.written_in_hold(acked, thaw_asked) == []
    await running.all_write()
