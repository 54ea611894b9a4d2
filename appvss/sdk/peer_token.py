"""The side socket: where an app gets the token that tells the broker who it is (`app.proto`, IDENTITY).

The connection stays open as long as the stream: its end tells the broker that the process died. A child that was forked
meanwhile would keep it open beyond the parent's death, so it is closed in every child.
"""

from __future__ import annotations

import asyncio
import os
import socket
import string
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Final

from appvss.contract import TOKEN_LENGTH

TOKEN_LIMIT: Final = timedelta(seconds=5)
"""How long the broker may take to hand out a token."""
_LINE: Final = TOKEN_LENGTH + 1
_HEXADECIMAL: Final = frozenset(string.hexdigits.encode())

_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
# Held over every fork, so that no child is born between the making of a socket and its entry into the set. Reentrant,
# because a signal handler may fork in just that moment.
_making = threading.RLock()


def _after_fork_in_child() -> None:
    for inherited in list(_open):
        inherited.close()
    _open.clear()
    _making.release()


os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_after_fork_in_child)


@contextmanager
def _connection() -> Iterator[socket.socket]:
    with _making:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _open.add(connection)
    try:
        yield connection
    finally:
        _open.discard(connection)
        connection.close()


class TokenUnreadable(OSError):
    """The side socket gave something that is no token."""


def _token_of(line: bytes) -> str:
    if len(line) != _LINE or not line.endswith(b"\n") or not _HEXADECIMAL.issuperset(line[:-1]):
        raise TokenUnreadable(f"the side socket gave {len(line)} bytes that are no token")
    return line[:-1].decode("ascii")


@contextmanager
def token(path: str) -> Iterator[str | None]:
    """A fresh token; the connection that it came from is open inside the context. None: there is no side socket.

    Raises:
        OSError: the side socket is there and gives no token.
    """
    with _connection() as connection:
        yield _fetch(connection, path)


def _fetch(connection: socket.socket, path: str) -> str | None:
    until = time.monotonic() + TOKEN_LIMIT.total_seconds()
    connection.settimeout(TOKEN_LIMIT.total_seconds())
    try:
        connection.connect(path)
    except FileNotFoundError:
        return None
    line = b""
    while len(line) < _LINE and (received := connection.recv(_LINE - len(line))):
        line += received
        connection.settimeout(max(0.001, until - time.monotonic()))
    return _token_of(line)


@asynccontextmanager
async def token_async(path: str) -> AsyncIterator[str | None]:
    """The same on an event loop.

    Raises:
        OSError: the side socket is there and gives no token.
    """
    with _connection() as connection:
        async with asyncio.timeout(TOKEN_LIMIT.total_seconds()):
            fetched = await _fetch_async(connection, path)
        yield fetched


async def _fetch_async(connection: socket.socket, path: str) -> str | None:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    try:
        await loop.sock_connect(connection, path)
    except FileNotFoundError:
        return None
    line = b""
    while len(line) < _LINE and (received := await loop.sock_recv(connection, _LINE - len(line))):
        line += received
    return _token_of(line)
