"""The dead-lock of facts/database-quiesce.md section 1.5: "a Redis GET during the freeze waited for a server that was
waiting for the thaw". All three databases stood still for over ten minutes, until somebody thawed by hand.

Here a process that does no I/O on the frozen volume thaws in time, and the volumes' keeper does after it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appvss.adapters import redis
from appvss.sdk.freeze import Freeze
from tests.adapters.redis_stage import Relay
from tests.databases.support.pool import Pool, Volume
from tests.databases.support.servers import SERVER_USER, RedisServer
from tests.databases.support.triple import BUDGET, HOLD_LIMIT

pytestmark = [
    pytest.mark.skipif(bool(RedisServer.why_not()), reason=RedisServer.why_not() or "-"),
    pytest.mark.xdist_group("redis-triples"),
]

FROZEN_FOR = 1.5
"""Seconds after which the independent process thaws."""
AOF = {"appendonly": "yes", "appendfsync": "everysec"}


@contextmanager
def thawed_by_another_process(volume: Volume, after: float) -> Iterator[subprocess.Popen[str]]:
    """The watchdog that section 1.5 asks for. It says when it has thawed, on the clock of this machine."""
    program = (
        "import fcntl, os, sys, time\n"
        "volume = os.open(sys.argv[1], os.O_RDONLY)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "time.sleep(float(sys.argv[2]))\n"
        "fcntl.ioctl(volume, 0xC0045878, 0)\n"  # FITHAW
        "print(time.monotonic(), flush=True)\n"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", program, str(volume.path), str(after)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


class Asking(threading.Thread):
    """A client that asks one thing and notes when it was answered."""

    def __init__(self, server: RedisServer, *words: str) -> None:
        super().__init__(name=f"asks {words[0]}", daemon=True)
        self._client: Any = server.connect(socket_timeout=30.0)  # connected before anything is frozen
        self._words = words
        self.began = self.answered = 0.0

    def run(self) -> None:
        self.began = time.monotonic()
        self._client.execute_command(*self._words)
        self.answered = time.monotonic()
        self._client.close()


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def thawed_at(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(process.stdout.readline())


@pytest.fixture
def volume(pool: Pool) -> Volume:
    return pool.volume(f"deadlock{len(pool.volumes)}", owner=SERVER_USER)


def is_stuck(pid: int) -> bool:
    """Whether the process's main thread waits in the kernel and cannot be interrupted (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


def test_without_a_pause_even_a_read_waits_for_the_thaw(pool: Pool, volume: Volume) -> None:
    """A coordinator that made this GET and was itself to thaw would have waited for ever."""
    with RedisServer(volume.path / "data", settings=AOF) as server, thawed_by_another_process(volume, FROZEN_FOR) as by:
        write, read = Asking(server, "SET", "k", "v"), Asking(server, "GET", "k")
        pool.freeze(volume)
        begin(by)
        write.start()
        deadline = time.monotonic() + FROZEN_FOR
        while not is_stuck(server.pid) and time.monotonic() < deadline:
            time.sleep(0.005)  # the kernel has no event for it
        was_stuck = is_stuck(server.pid)
        read.start()
        thaw = thawed_at(by)
        read.join(30.0)
        write.join(30.0)
        assert was_stuck
        assert read.began < thaw < read.answered
        assert write.began < thaw < write.answered
        assert server.connect().get("k") == b"v"  # and then it went on as if nothing had happened


async def test_in_the_adapters_hold_reads_are_answered_the_adapter_is_silent_and_the_thaw_comes_in_time(
    pool: Pool, volume: Volume
) -> None:
    with (
        RedisServer(volume.path / "data", settings=AOF) as server,
        Relay(server.socket) as relay,
        thawed_by_another_process(volume, FROZEN_FOR) as by,
    ):
        write, read = Asking(server, "SET", "k", "v"), Asking(server, "GET", "k")
        freeze = Freeze("a-cycle", "the tests", BUDGET, HOLD_LIMIT)
        async with redis.Adapter(redis.Settings(url=f"unix://{relay.path}")).quiesce(freeze):
            relay.said.clear()
            freeze.filesystem_freeze.set()
            await asyncio.to_thread(pool.freeze, volume)
            begin(by)
            write.start()
            read.start()
            thaw = await asyncio.to_thread(thawed_at, by)
            assert relay.said == b""
        await asyncio.to_thread(write.join, 30.0)
        read.join(30.0)
        assert read.answered < thaw - FROZEN_FOR / 2  # at once: 2 to 4 ms on a quiet machine
        assert write.began < thaw < write.answered
        assert server.connect().get("k") == b"v"
