"""The side socket, from the app's side. That a forked child does not keep the connection is in test_fork.py."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appvss.sdk.peer_token import TokenUnreadable, token, token_async

GOOD = "0123456789abcdefABCDEF" + "7" * 42
BOUND = 10.0


@contextmanager
def side_socket(directory: Path, *pieces: bytes, close: bool = False) -> Iterator[tuple[str, list[socket.socket]]]:
    """A side socket that answers one connection with these bytes, piece by piece."""
    path = str(directory / "apps.peer.sock")
    accepted: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(BOUND)

        def serve() -> None:
            connection, _ = listener.accept()
            connection.settimeout(BOUND)
            accepted.append(connection)
            for piece in pieces:
                connection.sendall(piece)
            if close:
                connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, accepted
        thread.join(BOUND)
        for connection in accepted:
            connection.close()


def fetch(path: str) -> str | None:
    with token(path) as fetched:
        return fetched


def fetch_on_a_loop(path: str) -> str | None:
    async def program() -> str | None:
        async with token_async(path) as fetched:
            return fetched

    return asyncio.run(program())


BOTH = pytest.mark.parametrize("way", [fetch, fetch_on_a_loop])


@BOTH
def test_a_token_may_come_in_pieces(way: Callable[[str], str | None], tmp_path: Path) -> None:
    line = GOOD.encode() + b"\n"
    with side_socket(tmp_path, line[:10], line[10:64], line[64:]) as (path, accepted):
        assert way(path) == GOOD
        assert accepted[0].recv(1) == b""


@BOTH
def test_no_side_socket_is_no_token(way: Callable[[str], str | None], tmp_path: Path) -> None:
    assert way(str(tmp_path / "apps.peer.sock")) is None


@BOTH
def test_a_side_socket_that_nobody_serves_is_an_error(way: Callable[[str], str | None], tmp_path: Path) -> None:
    path = str(tmp_path / "apps.peer.sock")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)
    with pytest.raises(ConnectionRefusedError):
        way(path)


@BOTH
@pytest.mark.parametrize("said", [b"", b"0123\n", GOOD.encode(), b"x" * 64 + b"\n", b"0" * 200])
def test_what_is_no_token_is_an_error(way: Callable[[str], str | None], said: bytes, tmp_path: Path) -> None:
    with side_socket(tmp_path, said, close=True) as (path, _), pytest.raises(TokenUnreadable):
        way(path)
