"""What both sides of `benchmarks.fanout` share: the rounds, and how one file is several processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

WARM_UP = 3
PRIORITY = -10
"""The nice value of the serving process, as `appvss.broker.main` has it."""
PAUSE = 0.02
"""Seconds between rounds, so that one round's end is not the next one's beginning."""

Side = Callable[[str, int, int], Coroutine[Any, Any, list[float]]]
"""Serves at a path until so many apps are there, plays so many rounds, and returns their seconds."""
App = Callable[[str, int], Coroutine[Any, Any, None]]
"""One app at a path, with its number."""


async def run_rounds(one: Callable[[int], Awaitable[float]], rounds: int) -> list[float]:
    """Play the rounds, after some to warm up."""
    took = []
    for number in range(WARM_UP + rounds):
        took.append(await one(number))
        await asyncio.sleep(PAUSE)
    return took[WARM_UP:]


def be_a_process(side: Side, app: App) -> bool:
    """Be what the command line says, a serving side or a process of apps; False when it says neither."""
    match sys.argv[1:]:
        case ["--serve", path, apps, rounds]:
            # Both sides alike: the broker gives itself this priority, and without the right to it neither has it.
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
            asyncio.run(_serve(side, path, int(apps), int(rounds)))
        case ["--clients", path, first, count]:
            asyncio.run(_clients(app, path, int(first), int(count)))
        case _:
            return False
    return True


async def _serve(side: Side, path: str, apps: int, rounds: int) -> None:
    took = await side(path, apps, rounds)
    print(json.dumps(took), flush=True)
    os._exit(0)  # a thousand streams need not be closed one by one


async def _clients(app: App, path: str, first: int, count: int) -> None:
    tasks = []
    for number in range(first, first + count):
        tasks.append(asyncio.create_task(app(path, number), name=f"app {number}"))
        if number % 64 == 63:
            await asyncio.sleep(0.005)
    await asyncio.wait(tasks, timeout=300)
