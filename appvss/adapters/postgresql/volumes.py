"""The file systems that a server's files lie on, as this machine sees them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from appvss.adapters.postgresql.server import Server
from appvss.adapters.postgresql.session import seconds


async def sync(server: Server) -> None:
    """Write out what the kernel holds for the server's file systems, so that the freeze has little to do. Nothing is
    done for files that this process cannot see, and where there is no syncfs(2): the file-system freeze does it then.
    """
    paths = list((await asyncio.to_thread(server.place.file_systems)).values()) if server.place else []
    if paths and hasattr(_library, "syncfs"):
        await _in_a_thread(lambda: _sync(paths))


async def sync_for(server: Server, limit: timedelta) -> None:
    """As `sync`, and go on when it takes longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds(limit)):
            await sync(server)


_library = ctypes.CDLL(None, use_errno=True)


def _sync(paths: list[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _library.syncfs(descriptor)
        finally:
            os.close(descriptor)


async def _in_a_thread(work: Callable[[], None]) -> None:
    """In a thread that nobody waits for at the end of the process: a sync on a disk that hangs cannot be ended."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        with suppress(OSError):  # what cannot be synced ahead is synced by the freeze
            work()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="appvss syncfs", daemon=True).start()
    await done.wait()
