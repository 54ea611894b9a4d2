"""A relay between a client and a server on a Unix socket: it counts what passes, changes it, and can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

BOUND = 10.0
"""Seconds after which a wait has failed."""


class ByteRelay:
    """What stands between. `byte_relay` makes them.

    Attributes:
        from_client: all bytes that the client has sent.
        from_server: all bytes that the server has sent.
    """

    def __init__(self, server: Path, change: Callable[[bytes], bytes]) -> None:
        self.from_client = bytearray()
        self.from_server = bytearray()
        self._server = server
        self._change = change
        self._writers: list[asyncio.StreamWriter] = []
        self._passing = 0
        self._all_ended = asyncio.Event()
        self._all_ended.set()

    def cut(self) -> None:
        """End every connection at once, on both sides."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._passing += 1
        self._all_ended.clear()
        try:
            await self._serve(reader, writer)
        finally:
            self._passing -= 1
            if not self._passing:
                self._all_ended.set()

    async def ended(self) -> None:
        """Wait until no connection is left."""
        async with asyncio.timeout(BOUND):
            await self._all_ended.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server_reader, to_server = await asyncio.open_unix_connection(self._server)
        self._writers += [writer, to_server]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass(reader, to_server, self.from_client, lambda data: data))
            group.create_task(self._pass(to_server_reader, writer, self.from_server, self._change))

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: bytearray,
        change: Callable[[bytes], bytes],
    ) -> None:
        with suppress(ConnectionError, OSError):
            while data := await reader.read(65536):
                seen += data
                writer.write(change(data))
                await writer.drain()
        with suppress(ConnectionError, OSError):
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def byte_relay(
    listen: Path, server: Path, change: Callable[[bytes], bytes] = lambda data: data
) -> AsyncIterator[ByteRelay]:
    """A relay that listens at one path and connects to another; `change` is applied to what the server sends."""
    relay = ByteRelay(server, change)
    listener = await asyncio.start_unix_server(relay.serve, listen)
    try:
        yield relay
    finally:
        listener.close()
        relay.cut()
        await relay.ended()
