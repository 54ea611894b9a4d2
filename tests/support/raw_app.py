"""An app made of `appvss.v1` and grpc.aio alone, so that every misbehaviour can be played.

    async with attached(broker.runtime_directory, "orders-db") as app:
        freeze = await app.hear("freeze")
        await app.say(frozen=app_pb2.Frozen(cycle=freeze.cycle))

Nothing is done on its own: no answer, no reconnecting, no limit of its own. Every wait has a bound (`BOUND`).
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from appvss import contract
from appvss.v1 import app_pb2

BOUND = 20.0
"""Seconds after which a wait of a test has failed."""
ATTACH = "/appvss.v1.AppService/Attach"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ended."""

    code: grpc.StatusCode
    sentence: str
    error: str
    """`appvss-error` of the trailing metadata."""
    hint: str
    """`appvss-hint` of the trailing metadata."""


class SideConnection:
    """A connection to `apps.peer.sock`: the token, and the sign of life of this process as long as it is open."""

    def __init__(self, connection: socket.socket, token: str) -> None:
        self.connection = connection
        self.token = token

    @classmethod
    async def open(cls, directory: Path) -> SideConnection:
        """Fetch a token.

        Raises:
            EOFError: the broker gave none.
        """
        loop = asyncio.get_running_loop()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        line = b""
        try:
            async with asyncio.timeout(BOUND):
                await loop.sock_connect(connection, str(directory / contract.PEER_SOCKET))
                while not line.endswith(b"\n"):
                    received = await loop.sock_recv(connection, 128)
                    if not received:
                        raise EOFError("the side socket was closed without a token")
                    line += received
        except BaseException:
            connection.close()
            raise
        return cls(connection, line.decode().strip())

    def close(self) -> None:
        self.connection.close()


class RawApp:
    """One `Attach` call on a connection of its own, not yet with a hello.

    Args:
        directory: the broker's runtime directory.
        token: what is sent as `appvss-token`; None: nothing.
    """

    def __init__(self, directory: Path, token: str | None = None) -> None:
        self.channel = grpc.aio.insecure_channel(
            f"unix:{directory / contract.APPS_SOCKET}",
            # A peer that keeps to nothing: its own limit must not stand before the broker's.
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
        )
        self.incarnation = secrets.token_hex(16)
        self.side: SideConnection | None = None
        metadata = ((contract.TOKEN_METADATA, token),) if token is not None else ()
        # Without serializers: bytes go out as they are.
        self.call: Any = self.channel.stream_stream(ATTACH)(metadata=metadata)

    def hello_message(self, name: str = "orders-db", **fields: Any) -> app_pb2.Hello:
        """A hello with this stream's incarnation; `fields` go before what stands here."""
        return app_pb2.Hello(
            **{"protocol_versions": [1], "name": name, "incarnation": self.incarnation, "library": "raw/1", **fields}
        )

    async def hello(self, name: str = "orders-db", **fields: Any) -> app_pb2.Welcome:
        """Say hello and take the welcome."""
        await self.say(hello=self.hello_message(name, **fields))
        welcome = await self.hear("welcome")
        assert isinstance(welcome, app_pb2.Welcome)
        return welcome

    async def say(self, **message: Any) -> None:
        """Send one `AttachRequest`, named by its field: `say(ready=app_pb2.Ready(cycle=...))`."""
        await self.say_bytes(app_pb2.AttachRequest(**message).SerializeToString())

    async def say_bytes(self, data: bytes) -> None:
        """Send whatever bytes."""
        async with asyncio.timeout(BOUND):
            await self.call.write(data)

    async def hear_any(self) -> app_pb2.AttachResponse | None:
        """The next message; None at the end of the stream."""
        async with asyncio.timeout(BOUND):
            return await self.hear_whenever()

    async def hear_whenever(self) -> app_pb2.AttachResponse | None:
        """The same without a bound: the caller has one, or may wait for ever."""
        try:
            data = await self.call.read()
        except grpc.aio.AioRpcError:
            return None
        return None if data is grpc.aio.EOF else app_pb2.AttachResponse.FromString(data)

    async def hear(self, kind: str) -> Any:
        """The next message, which must be of this kind (`freeze`, `thaw`...); the inner message. That the file systems
        are about to be frozen asks for no answer, and is passed over by whoever waits for something else.
        """
        message = await self.hear_any()
        while message is not None and message.WhichOneof("message") == "filesystem_freeze" != kind:
            message = await self.hear_any()
        if message is None:
            raise AssertionError(f"the stream ended where a {kind} was due: {await self.ending()}")
        assert message.WhichOneof("message") == kind, f"not a {kind}: {message}"
        return getattr(message, kind)

    async def freeze(self) -> app_pb2.Freeze:
        """Hear a freeze and ack it."""
        freeze = await self.hear("freeze")
        await self.say(frozen=app_pb2.Frozen(cycle=freeze.cycle))
        assert isinstance(freeze, app_pb2.Freeze)
        return freeze

    async def thaw(self, kind: str = "thaw") -> Any:
        """Hear the thaw (or the abort) and confirm an unbroken hold."""
        thaw = await self.hear(kind)
        await self.say(thawed=app_pb2.Thawed(cycle=thaw.cycle, unbroken=True))
        return thaw

    async def ending(self) -> Ending:
        """Wait for the end of the call. What was not heard yet is passed over: the end comes after it."""
        while await self.hear_any() is not None:
            pass
        async with asyncio.timeout(BOUND):
            code = await self.call.code()
            trailing: dict[str, Any] = dict(await self.call.trailing_metadata() or ())
            sentence = await self.call.details()
        return Ending(code, sentence, trailing.get("appvss-error", ""), trailing.get("appvss-hint", ""))

    async def hang_up(self) -> None:
        """Half-close: nothing more will be said."""
        async with asyncio.timeout(BOUND):
            await self.call.done_writing()

    async def close(self) -> None:
        """Break the stream, then close the side connection. May be called twice."""
        self.call.cancel()
        await self.channel.close()
        if self.side is not None:
            self.side.close()


@asynccontextmanager
async def raw_app(directory: Path, *, token: str | None = None, identified: bool = False) -> AsyncIterator[RawApp]:
    """A stream without a hello.

    Args:
        directory: the broker's runtime directory.
        token: what is sent as the token.
        identified: fetch a token, and keep the side connection open as long as the stream.
    """
    side = await SideConnection.open(directory) if identified else None
    app = RawApp(directory, side.token if side is not None else token)
    app.side = side
    try:
        yield app
    finally:
        await app.close()


@asynccontextmanager
async def attached(
    directory: Path, name: str = "orders-db", *, identified: bool = False, **hello: Any
) -> AsyncIterator[RawApp]:
    """An app that has its welcome. `hello`: further fields of the hello."""
    async with raw_app(directory, identified=identified) as app:
        await app.hello(name, **hello)
        yield app
