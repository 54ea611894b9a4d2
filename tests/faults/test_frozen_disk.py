"""The frozen disk itself: it blocks writers, and it is thawed whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults import disk_keeper, frozen_disk
from tests.faults.frozen_disk import FrozenDisk, disk, run
from tests.support.running_broker import BOUND

__all__ = ["disk"]

WRITER = "import sys; open(sys.argv[1], 'w').close(); print('written', flush=True)"


async def writer(path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
    )


async def has_written(process: asyncio.subprocess.Process) -> bool:
    async with asyncio.timeout(BOUND):
        said, _ = await process.communicate()
    return said == b"written\n"


def is_blocked(pid: int) -> bool:
    """Whether the process is in the state that no signal ends."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


async def until_blocked(pid: int) -> None:
    """There is no event for it."""
    deadline = time.monotonic() + BOUND
    while not is_blocked(pid):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_writer_waits_for_the_thaw(disk: FrozenDisk) -> None:
    async with disk.frozen():
        process = await writer(disk.path / "new")
        await until_blocked(process.pid)
    assert await has_written(process)


async def test_it_is_thawed_when_its_caller_dies(disk: FrozenDisk) -> None:
    await disk.freeze()
    process = await writer(disk.path / "new")
    await until_blocked(process.pid)
    disk._keeper.stdin.close()  # type: ignore[union-attr]  # as the caller's death would
    assert await has_written(process)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_it_is_thawed_whatever_is_done_to_its_keeper(disk: FrozenDisk, number: signal.Signals) -> None:
    await disk.freeze()
    process = await writer(disk.path / "new")
    await until_blocked(process.pid)
    disk._keeper.send_signal(number)
    if number is signal.SIGKILL:
        assert await has_written(process)  # and the end of the test sees to it that it is unmounted
    else:
        await disk.thaw()
        assert await has_written(process)


def test_it_is_thawed_at_its_limit(disk: FrozenDisk) -> None:
    keeper = [sys.executable, "-I", "-S", disk_keeper.__file__, str(disk.path), "0.2"]
    with subprocess.Popen(keeper, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("freeze\n")
        process.stdin.flush()
        assert process.stdout.readline() == "freeze\n"
        run(sys.executable, "-I", "-S", "-c", WRITER, str(disk.path / "new"))
        process.stdin.write("thaw\n")
        process.stdin.flush()
        assert process.stdout.readline() == "expired\n"


def test_a_machine_that_cannot_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in frozen_disk.why_not()
