"""The three ways in which a copy is taken, so that what each is worth can be compared (section 3 of the facts).

    taken = await take(Way.APP, pool, [data, log], adapter.quiesce, prepare=adapter.prepare)

Between freeze and thaw nobody is called but the keeper and cp(1); that is done in a thread, so that an adapter which
does something there, although it should not, can.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from appvss.sdk.freeze import Freeze, Prepare
from tests.databases.support.pool import Pool, Volume, VolumesCopy

BUDGET = timedelta(seconds=30)
HOLD_LIMIT = timedelta(seconds=60)

Quiesce = Callable[[Freeze], AbstractAsyncContextManager[Mapping[str, str]]]


class Way(StrEnum):
    """How a copy is taken; also the grade that it can have, at least."""

    RAW = "raw"
    """Without a freeze: what a power cut would have left."""
    FS = "fs"
    """With the file systems frozen: what a kill of everything at one instant would have left."""
    APP = "app"
    """In the adapter's hold, with the file systems frozen."""


@dataclass(frozen=True)
class Taken:
    """One copy, and how it came about."""

    way: Way
    copy: VolumesCopy
    instant: float
    """`time.monotonic()` just before the freeze, or before the copy where nothing is frozen: what was acknowledged
    before that must be in the copy."""
    done: float
    """`time.monotonic()` when the file systems were thawed and the hold was released."""
    cycle: str
    evidence: Mapping[str, str] = field(default_factory=dict)
    """What the adapter said; empty with the other ways."""
    times: Mapping[str, timedelta] = field(default_factory=dict)
    """How long each step took: `prepare`, `hold`, `freeze`, `copy`, `thaw`, `release`; those that there were."""


class _Watch:
    """Measures the steps."""

    def __init__(self) -> None:
        self.times: dict[str, timedelta] = {}
        self._last = time.monotonic()

    def begin(self) -> float:
        self._last = time.monotonic()
        return self._last

    def done(self, step: str) -> None:
        now = time.monotonic()
        self.times[step] = timedelta(seconds=now - self._last)
        self._last = now


async def take(
    way: Way,
    pool: Pool,
    volumes: Sequence[Volume],
    quiesce: Quiesce | None = None,
    *,
    prepare: Callable[[Prepare], Awaitable[None]] | None = None,
    cycle: str = "",
    hold_limit: timedelta = HOLD_LIMIT,
) -> Taken:
    """Take a copy.

    Args:
        way: how.
        pool: where the volumes are.
        volumes: all that belong to the application; frozen in this order, all before the first is copied.
        quiesce: the adapter's; needed for `Way.APP`, and not used otherwise.
        prepare: the adapter's; called before, if there is one.
        cycle: the id of the cycle; empty: a new one.
        hold_limit: how long the adapter has to hold.
    """
    cycle = cycle or str(uuid.uuid4())
    watch = _Watch()
    if way is not Way.APP:
        copy, instant = await asyncio.to_thread(_copy, way, pool, volumes, watch)
        return Taken(way, copy, instant, time.monotonic(), cycle, times=watch.times)
    assert quiesce is not None, "an adapter is needed"
    if prepare is not None:
        await prepare(Prepare(cycle, "the tests", BUDGET))
        watch.done("prepare")
    freeze = Freeze(cycle, "the tests", BUDGET, hold_limit)
    watch.begin()
    async with quiesce(freeze) as evidence:
        watch.done("hold")
        freeze.filesystem_freeze.set()
        copy, instant = await asyncio.to_thread(_copy, way, pool, volumes, watch)
        watch.begin()
    watch.done("release")
    return Taken(way, copy, instant, time.monotonic(), cycle, dict(evidence), watch.times)


def _copy(way: Way, pool: Pool, volumes: Sequence[Volume], watch: _Watch) -> tuple[VolumesCopy, float]:
    instant = watch.begin()
    if way is Way.RAW:
        copy = pool.copy(*volumes)
        watch.done("copy")
        return copy, instant
    frozen: list[Volume] = []
    try:
        for volume in volumes:
            pool.freeze(volume)
            frozen.append(volume)
        watch.done("freeze")
        copy = pool.copy(*volumes)
        watch.done("copy")
    finally:
        pool.thaw(*frozen)
    watch.done("thaw")
    return copy, instant
