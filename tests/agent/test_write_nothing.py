"""While a file system stands still on which the agent has everything: log, configuration and temporary files."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from appvss.sdk.testing import FakeBroker
from tests.agent.running_agent import launch, places, until
from tests.agent.test_agent import Stage, came_back, kill_in_hold, pid_of
from tests.faults.frozen_disk import FrozenDisk, disk
from tests.support.running_broker import BOUND

__all__ = ["disk"]


async def test_a_frozen_disk_stops_neither_the_agent_nor_an_undo_nor_a_thaw(disk: FrozenDisk) -> None:
    log, temporary = disk.path / "log", disk.path / "tmp"
    temporary.mkdir()
    async with places() as (directory, memory), FakeBroker(broker_place(directory)) as broker:
        stage = Stage(broker, directory, memory)
        (disk.path / "run").symlink_to(directory / "run")
        apps = stage.pair("one") + stage.pair("two")
        with log.open("wb") as stderr:
            environment = {"TMPDIR": str(temporary), "HOME": str(temporary)}
            agent = await launch(disk.path, memory, apps, stderr=stderr.fileno(), **environment)
        try:
            one, two = await stage.app("one"), await stage.app("two")
            former = one.incarnation
            for name in (b"one", b"two"):
                await until(lambda: b"INFO %s: attached" % name in log.read_bytes(), "the log has what was before")  # noqa: B023
            for app in (one, two):
                assert (await app.freeze()).frozen
            before = log.read_bytes()
            async with disk.frozen():
                agent.process.send_signal(signal.SIGHUP)  # it says something, which must wait
                os.kill(pid_of(one), signal.SIGKILL)
                await stage.released("one")
                assert stage.held("two")
                assert log.read_bytes() == before
                assert (await two.thaw()).unbroken
                await came_back(one, former)
                for app in (one, two):
                    assert (await app.freeze()).frozen
                    assert (await app.thaw()).unbroken
                assert log.read_bytes() == before
            await until(lambda: b"is undone" in log.read_bytes(), "what was said in the hold is written")
            assert b"the configuration was reloaded" in log.read_bytes()
            assert await agent.terminate() == 0
        finally:
            await agent.close()


async def test_a_frozen_disk_does_not_keep_the_guardian_from_undoing_all_that_is_held(disk: FrozenDisk) -> None:
    """What it has to say of the first one must not keep it from the second one."""
    log = disk.path / "log"
    async with places() as (directory, memory), FakeBroker(broker_place(directory)) as broker:
        stage = Stage(broker, directory, memory)
        (disk.path / "run").symlink_to(directory / "run")
        with log.open("wb") as stderr:
            agent = await launch(
                disk.path, memory, stage.pair("one") + stage.pair("two"), stderr=stderr.fileno(), TMPDIR=str(directory)
            )
        try:
            one, two = await stage.app("one"), await stage.app("two")
            for app in (one, two):
                assert (await app.freeze()).frozen
            async with disk.frozen():
                kill_in_hold(agent, one, two)
                await stage.released("one")
                await stage.released("two")
            await until(lambda: log.read_bytes().count(b"is undone") == 2, "what there was to say is said")
        finally:
            await agent.close()


def broker_place(directory: Path) -> Path:
    place = directory / "run"
    place.mkdir()
    return place


async def test_such_a_disk_does_stop_who_writes_to_it(disk: FrozenDisk) -> None:
    """Or else the test above shows nothing."""
    async with disk.frozen():
        writing = asyncio.create_task(asyncio.to_thread((disk.path / "log").write_bytes, b"x"))
        done, _ = await asyncio.wait({writing}, timeout=0.3)
        assert not done
    async with asyncio.timeout(BOUND):
        assert await writing == 1
