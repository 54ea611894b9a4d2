"""Waiting for what must not be left half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_ResultT = TypeVar("_ResultT")


async def to_the_end(work: Coroutine[Any, Any, _ResultT] | asyncio.Task[_ResultT]) -> _ResultT:
    """Wait for what must not be left half-way, also when cancelled: that comes through afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
