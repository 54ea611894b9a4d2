"""What the tests of the sources with a device share: clocks, the broker's end, a look at what was left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.instant import Instant
from appvss.model.request import Request
from appvss.model.source import SourceCondition, SourceState
from appvss.sources.device_source import DeviceSource

WAIT = 10
"""Seconds: the bound of every wait."""


class MachineClock:
    """The machine's clocks."""

    def now(self) -> Instant:
        return Instant(timedelta(microseconds=time.monotonic_ns() // 1000))

    def wall(self) -> timedelta:
        return timedelta(microseconds=time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000)


class VirtualClock:
    """Both clocks of a machine, moved by hand."""

    def __init__(self) -> None:
        self._now = Instant(timedelta(hours=7))
        self._wall = timedelta(seconds=1_700_000_000)
        self._owner = threading.get_ident()
        self._free = threading.Event()
        self._free.set()

    def now(self) -> Instant:
        if threading.get_ident() != self._owner:
            assert self._free.wait(WAIT)
        return self._now

    @contextmanager
    def held_for_others(self) -> Iterator[None]:
        """Until the end of the block, other threads that look at the clock wait."""
        self._free.clear()
        yield
        self._free.set()

    def wall(self) -> timedelta:
        return self._wall

    def move(self, by: timedelta) -> None:
        self._now += by
        self._wall += by


@dataclass(frozen=True)
class Lapse:
    """A request that alone was lost."""

    request: str


class Listener:
    """The broker's end: it keeps what comes, in order."""

    def __init__(self) -> None:
        self.states: list[SourceState] = []
        self.requests: list[Request] = []
        self.losses: list[tuple[str, str]] = []
        self.lapsed: list[tuple[str, str]] = []
        """Id and reason of each request that alone was lost."""
        self._news: asyncio.Queue[Request | SourceState | Lapse] = asyncio.Queue()

    def ask(self, request: Request) -> None:
        self.requests.append(request)
        self._news.put_nowait(request)

    def lost(self, source: str, reason: str, request: str = "") -> None:
        if request:
            self.lapsed.append((request, reason))
            self._news.put_nowait(Lapse(request))
        else:
            self.losses.append((source, reason))

    def changed(self, state: SourceState) -> None:
        self.states.append(state)
        self._news.put_nowait(state)

    async def next_request(self) -> Request:
        """The next request; what was told of states before it is passed over."""
        async with asyncio.timeout(WAIT):
            while not isinstance(news := await self._news.get(), Request):
                pass
            return news

    async def next_lapse(self) -> str:
        """The id of the next request that alone is lost; what came before it is passed over."""
        async with asyncio.timeout(WAIT):
            while not isinstance(news := await self._news.get(), Lapse):
                pass
            return news.request

    async def next_state(self, condition: SourceCondition | None = None) -> SourceState:
        """The next state, or the next with that condition; what came before it is passed over."""
        async with asyncio.timeout(WAIT):
            while True:
                news = await self._news.get()
                if isinstance(news, SourceState) and condition in (None, news.condition):
                    return news


@asynccontextmanager
async def running(source: DeviceSource, listener: Listener) -> AsyncIterator[asyncio.Task[None]]:
    """The source, served until the end of the block, then cancelled."""
    task = asyncio.create_task(source.run(listener), name="source")
    try:
        yield task
    finally:
        task.cancel()
        async with asyncio.timeout(WAIT):
            with suppress(asyncio.CancelledError):
                await task


def left_behind() -> tuple[set[str], list[str], bool]:
    """Descriptors, the source's threads, and whether there is a child process, running or not reaped."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        child = True
    except ChildProcessError:
        child = False
    # Threads of asyncio's own pool come and stay; they are the loop's.
    threads = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio")]
    return set(os.listdir("/dev/fd")), sorted(threads), child


NOTHING: tuple[set[str], list[str], bool] = (set(), [], False)
"""What should be new after the source has ended."""


def new_since(before: tuple[set[str], list[str], bool]) -> tuple[set[str], list[str], bool]:
    """What `left_behind` shows now and did not show then: what another test left in this process may go meanwhile."""
    descriptors, threads, child = left_behind()
    return descriptors - before[0], sorted((Counter(threads) - Counter(before[1])).elements()), child and not before[2]


def without_override() -> list[str]:
    """What to put before a command so that root, too, may not open everything; skips where that cannot be had."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("root that cannot give up its rights here")
    return command


def make_path(folder: Path, kind: str) -> Path:
    """A path with something at it that is not the device."""
    path = folder / kind
    match kind:
        case "plain":
            path.write_text("somebody's file")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "null":
            path = Path("/dev/null")
        case "loop":
            path.symlink_to(path)
        case "below a file":
            (folder / "file").touch()
            path = folder / "file" / "device"
    return path
