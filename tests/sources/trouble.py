"""A simulated device that does what its driver never does: it lies, fails, or hangs a system call for good."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.fuse import mount
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import FuseConnection, Respond
from tests.sources.device_support import WAIT


class Usual(Exception):
    """No trouble for this request."""


class Troubled:
    """Goes before a simulator's device among the bases of a class, and replaces some of its answers."""

    trouble: Callable[[Request], bytes | None] | None = None
    """Answers instead of the device; raises `Usual` to let the device answer, returns None to never answer."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.struck = asyncio.Event()
        """Trouble has happened."""

    def handle(self, request: Request, answer: Respond) -> bytes | None:
        if self.trouble is None:
            return super().handle(request, answer)
        try:
            body = self.trouble(request)
        except Usual:
            return super().handle(request, answer)
        except OSError:
            self.struck.set()
            raise
        self.struck.set()
        return body


def on(opcode: Opcode, answer: bytes | int | None) -> Callable[[Request], bytes | None]:
    """Answer that request with these bytes, with this errno, or never."""

    def trouble(request: Request) -> bytes | None:
        if request.opcode != opcode:
            raise Usual
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    return trouble


class Served(Protocol):
    def serve(self, descriptor: int) -> FuseConnection: ...


@asynccontextmanager
async def mounted(device: Served, attach: Callable[[], None]) -> AsyncIterator[tuple[Path, FuseConnection]]:
    """A folder of its own with the device in it, until the end of the block; skips where nothing can be mounted."""
    parent = Path(tempfile.mkdtemp(prefix="vss-", dir="/tmp"))
    try:
        descriptor = await asyncio.to_thread(mount.mount, parent / "dev")
    except SimulatorUnavailable as error:
        shutil.rmtree(parent)
        pytest.skip(f"no FUSE here: {error.sentence}")
    connection = device.serve(descriptor)
    attach()
    async with asyncio.timeout(WAIT):
        await connection.ready.wait()
    yield parent / "dev", connection
    connection.close()
    await asyncio.to_thread(mount.unmount, parent / "dev")
    shutil.rmtree(parent)
