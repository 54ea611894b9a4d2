"""A door between one process and the broker's socket that a test can shut, slow down, or pour garbage through."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from appvss import contract
from tests.support.running_broker import BOUND

_CHUNK = 1 << 16


class Relay:
    """A runtime directory of its own for one process, with one socket in it; the others are the broker's.

    Args:
        folder: is made; it takes the place of the runtime directory.
        behind: the broker's runtime directory.
        name: which socket is relayed.
    """

    def __init__(self, folder: Path, behind: Path, name: str) -> None:
        self.folder = folder
        self.latency = timedelta(0)
        """How late every piece is handed on."""
        self.is_shut = False
        """Whether connections are refused."""
        self._target = behind / name
        self._name = name
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        folder.mkdir()
        for other in (contract.APPS_SOCKET, contract.PEER_SOCKET, contract.ADMIN_SOCKET):
            if other != name:
                (folder / other).symlink_to(behind / other)

    async def start(self) -> None:
        """Open the door."""
        self._server = await asyncio.start_unix_server(self._meet, self.folder / self._name)

    async def close(self) -> None:
        """Cut every connection, and take no more."""
        if self._server is not None:
            self._server.close()
        self.is_shut = True
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=BOUND)

    def cut(self) -> None:
        """Break every connection, both sides of it, with whatever is under way."""
        for writer in list(self._writers):
            writer.transport.abort()

    def pour(self, garbage: bytes) -> None:
        """Into every connection, both ways."""
        for writer in list(self._writers):
            if not writer.is_closing():
                writer.write(garbage)

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: asyncio would start it a moment later, and nobody would close a connection of that moment.
        task = asyncio.create_task(self._serve(reader, writer), name="relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self.is_shut:
                with suppress(OSError):
                    await self._connect(reader, writer)
        finally:
            await _broken(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        with self._known(writer), self._known(far_writer):
            ways = {
                asyncio.create_task(self._hand_on(reader, far_writer), name="relay to the broker"),
                asyncio.create_task(self._hand_on(far_reader, writer), name="relay from the broker"),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
                await _broken(far_writer)

    @contextmanager
    def _known(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(_CHUNK):
                if self.latency:
                    await asyncio.sleep(self.latency.total_seconds())
                writer.write(piece)
                await writer.drain()


async def _broken(writer: asyncio.StreamWriter) -> None:
    """Break a connection, and wait until it is closed: an abort alone is done by the loop, later."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


class Strangers:
    """Programs that connect to the broker's sockets and talk nonsense.

    Args:
        directory: the broker's runtime directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writers: list[asyncio.StreamWriter] = []

    async def come(self) -> None:
        """Several to each socket: noise, half a greeting, a greeting and noise, and one that says nothing."""
        greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        said = (
            os.urandom(4096),
            greeting[:11],
            greeting + os.urandom(512),
            greeting + b"\xff" * 64,
            b"GET / \r\n\r\n",
            b"",
        )
        for name in (contract.APPS_SOCKET, contract.PEER_SOCKET, contract.ADMIN_SOCKET):
            for noise in said:
                with suppress(OSError):
                    _reader, writer = await asyncio.open_unix_connection(self._directory / name)
                    self._writers.append(writer)
                    writer.write(noise)

    def go(self) -> None:
        """All of them leave."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
