"""The adapters of this machine's own means as apps, asked by a broker: what the SDK does with them, they bear."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

import appvss
from appvss.adapters import exec as hook
from appvss.adapters import undo
from appvss.sdk.testing import FakeApp, FakeBroker
from tests.support.memory_directory import memory

__all__ = ["memory"]

SAMPLE = Path(__file__).parents[2] / "samples" / "hooks" / "orders-hook.sh"
BOUND = timedelta(seconds=20)
SHORT = timedelta(milliseconds=400)


@dataclass(frozen=True)
class Stage:
    """An app at a broker, and whether what it looks after is held."""

    app: FakeApp
    is_held: Callable[[], bool]
    memory: Path


def _free(lock: Path) -> bool:
    import fcntl

    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@asynccontextmanager
async def staged(way: str, home: Path, memory: Path) -> AsyncIterator[Stage]:
    (home / "lock").touch()
    (home / "journal").touch()
    if way == "command":
        adapter = hook.Adapter(hook.Settings(command=(str(SAMPLE), str(home)), grace=SHORT))
        is_held: Callable[[], bool] = lambda: not _free(home / "lock")  # noqa: E731 - one of two
    else:
        for name, text in (("freeze", "touch"), ("thaw", "rm -f")):
            (home / name).write_text(f"#!/bin/sh\n{text} {home}/held\n")
            (home / name).chmod(0o755)
        adapter = hook.Adapter(hook.Settings(freeze=(str(home / "freeze"),), thaw=(str(home / "thaw"),), grace=SHORT))
        is_held = (home / "held").exists
    adapter.app, adapter.undo_directory = "orders", memory
    async with FakeBroker() as broker:
        serving = asyncio.create_task(
            appvss.serve("orders", adapter.quiesce, prepare=adapter.prepare, runtime_directory=broker.runtime_directory)
        )
        try:
            yield Stage(await broker.app("orders"), is_held, memory)
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
            await adapter.close()
    assert not is_held()
    assert undo.pending(memory) == ()


ways = pytest.mark.parametrize("way", ["command", "pair"])


@ways
async def test_two_cycles_are_held_unbroken(way: str, tmp_path: Path, memory: Path) -> None:
    async with staged(way, tmp_path, memory) as stage:
        for cycle in ("c-1", "c-2"):
            assert (await stage.app.prepare(cycle, budget=BOUND)).ready
            assert not stage.is_held()
            frozen = await stage.app.freeze(cycle, budget=BOUND)
            assert frozen.frozen, frozen.reason
            assert frozen.evidence["engine"] == "exec"
            assert stage.is_held()
            thawed = await stage.app.thaw(cycle, within=BOUND)
            assert thawed.unbroken, thawed.reason
            assert not stage.is_held()


@ways
async def test_an_abort_lets_go(way: str, tmp_path: Path, memory: Path) -> None:
    async with staged(way, tmp_path, memory) as stage:
        assert (await stage.app.freeze("c-1", budget=BOUND)).frozen
        await stage.app.abort(within=BOUND)
        assert not stage.is_held()


@ways
async def test_the_hold_limit_lets_go(way: str, tmp_path: Path, memory: Path) -> None:
    async with staged(way, tmp_path, memory) as stage:
        assert (await stage.app.freeze("c-1", budget=BOUND, hold_limit=SHORT)).frozen
        assert await stage.app.hold_lost(within=BOUND)
        await stage.app.thaw("c-1", within=BOUND)
        assert not stage.is_held()


@ways
async def test_a_broker_that_goes_away_leaves_nothing_held(way: str, tmp_path: Path, memory: Path) -> None:
    async with staged(way, tmp_path, memory) as stage:
        assert (await stage.app.freeze("c-1", budget=BOUND)).frozen
        assert stage.is_held()
        # and `staged` ends the app in its hold
