"""Who is on the other end of a request, seen through /proc, with real threads and processes."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from appvss.simulator.freebsd.callers import Opener, StillRunning, Waiting, process_of, waiting_by_events, waiting_of
from tests.simulator.children import OPEN_AND_WAIT, RUN_FOR_EVER, child

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and pidfd are Linux's")

READABLE = 0x1 | 0x8 | 0x10
NOBODY = 2**22 + 1
"""Above the highest process id that Linux gives."""


class Sleeper:
    """A thread that sleeps in a system call on an empty pipe until it is woken."""

    def __init__(self, call: Callable[[int], object]) -> None:
        self._reader, self._writer = os.pipe()
        self._call = call
        self._thread = threading.Thread(target=lambda: self._call(self._reader))

    def __enter__(self) -> int:
        self._thread.start()
        assert self._thread.native_id is not None
        return self._thread.native_id

    def __exit__(self, *_: object) -> None:
        os.write(self._writer, b"x")
        self._thread.join()
        os.close(self._reader)
        os.close(self._writer)


def by_poll(descriptor: int) -> None:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll()


def by_select(descriptor: int) -> None:
    select.select([descriptor], [], [])


def by_epoll(descriptor: int) -> None:
    with select.epoll() as epoll:
        epoll.register(descriptor, select.EPOLLIN)
        epoll.poll()


async def seen(thread: int, events: int, wanted: Waiting) -> bool:
    """Look until the thread has arrived in its call; on its way there it runs, or waits for a lock."""
    deadline = time.monotonic() + timedelta(seconds=10).total_seconds()
    while time.monotonic() < deadline:
        try:
            if await asyncio.to_thread(waiting_of, thread, events) is wanted:
                return True
        except StillRunning:
            pass
    return False


@pytest.mark.parametrize(
    ("call", "wanted"), [(by_poll, Waiting.POLL), (by_select, Waiting.SELECT), (by_epoll, Waiting.EPOLL)]
)
@pytest.mark.parametrize("events", [READABLE, READABLE | 0x80], ids=["without band", "with band"])
async def test_the_system_call_tells_how_a_thread_waits(
    call: Callable[[int], None], wanted: Waiting, events: int
) -> None:
    with Sleeper(call) as thread:
        assert await seen(thread, events, wanted)


def test_where_nothing_can_be_seen_the_events_tell() -> None:
    assert waiting_of(NOBODY, READABLE) is Waiting.POLL
    assert waiting_of(NOBODY, READABLE | 0x80) is Waiting.SELECT
    assert waiting_by_events(READABLE) is Waiting.POLL
    assert waiting_by_events(READABLE | 0x80) is Waiting.SELECT


async def test_a_thread_that_runs_is_asked_again() -> None:
    async with child(RUN_FOR_EVER) as process:
        with pytest.raises(StillRunning):
            waiting_of(process.pid, READABLE)


async def test_the_process_of_a_thread() -> None:
    with Sleeper(by_poll) as thread:
        assert thread != os.getpid()
        assert process_of(thread) == os.getpid()
    assert process_of(os.getpid()) == os.getpid()
    assert process_of(NOBODY) == 0
    assert process_of(0) == 0


async def test_an_opener_can_be_killed_once() -> None:
    async with child(OPEN_AND_WAIT, os.devnull) as process:
        opener = Opener(process.pid)
        assert opener.process == process.pid
        assert not opener.ours
        assert opener.kill()
        assert await process.wait() == -signal.SIGKILL
        assert not opener.kill()
        opener.close()
        opener.close()
        assert not opener.kill()


@pytest.mark.parametrize("thread", [0, NOBODY])
def test_an_opener_that_cannot_be_seen_is_not_killed(thread: int) -> None:
    opener = Opener(thread)
    assert opener.process == 0
    assert not opener.kill()
    opener.close()


def test_our_own_process_is_known() -> None:
    opener = Opener(threading.get_native_id())
    assert opener.ours
    opener.close()
