"""Calls that may hang, in threads of their own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from appvss.freezer.aside import Aside
from tests.freezer.held_disks import until


async def test_its_result_or_its_error_comes_back() -> None:
    assert await Aside(lambda: 7, "seven").result() == 7

    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Aside(fail, "fail").result()


async def test_one_that_hangs_is_left_behind_and_what_it_brings_is_discarded() -> None:
    go_on = threading.Event()
    discarded: list[str] = []

    def hang() -> str:
        go_on.wait()
        return "late"

    aside = Aside(hang, "hang", discarded.append)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await aside.result()
    assert not aside.is_over
    go_on.set()
    await until(lambda: aside.is_over)
    await until(lambda: discarded == ["late"])


async def test_an_error_that_nobody_waits_for_is_dropped() -> None:
    go_on = threading.Event()

    def hang() -> None:
        go_on.wait()
        raise KeyError("x")

    aside = Aside(hang, "hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await aside.result()
    go_on.set()
    await until(lambda: aside.is_over)


def test_what_comes_after_the_loop_has_ended_is_discarded() -> None:
    go_on = threading.Event()
    discarded: list[str] = []

    def hang() -> str:
        go_on.wait()
        return "late"

    async def begin() -> Aside[str]:
        return Aside(hang, "hang", discarded.append)

    aside = asyncio.run(begin())
    go_on.set()
    aside._thread.join(20)  # there is no loop to wait with
    assert discarded == ["late"]
