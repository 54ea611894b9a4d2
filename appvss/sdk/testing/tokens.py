"""The fake broker's side socket: who connects gets a token and is known by its credentials (app.proto, IDENTITY)."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss.model.app import Peer
from appvss.model.instant import Instant
from appvss.sdk.clock import now

TOKEN_LIFE: Final = timedelta(seconds=30)
_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred of unix(7): pid, uid, gid."""


@dataclass(slots=True)
class Issued:
    """One token, and the connection that it was given to."""

    token: str
    peer: Peer | None
    at: Instant
    used: bool = False
    open: bool = True
    """Whether the connection is still there."""


class TokenDesk:
    """Hands out tokens on a Unix socket, in threads of its own.

    Args:
        path: where the socket is made.
        lock: guards what is issued.
        gone: called with the lock held when the connection of a token has ended.
    """

    def __init__(self, path: str, lock: threading.RLock, gone: Callable[[Issued], None]) -> None:
        self._lock = lock
        self._gone = gone
        self._issued: dict[str, Issued] = {}
        self._connections: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(128)
        self._thread = threading.Thread(target=self._accept, name="fake broker tokens", daemon=True)
        self._thread.start()

    def redeem(self, token: str) -> Issued | None:
        """What was issued with this token, if it is good: known, not used before, not too old."""
        with self._lock:
            issued = self._issued.get(token)
            if issued is None or issued.used or now() - issued.at > TOKEN_LIFE:
                return None
            issued.used = True
            return issued

    def close(self) -> None:
        """End every connection and the socket."""
        # A thread that sleeps in accept() or recv() is woken by a shutdown, not by a close.
        with self._lock:
            ending = [self._listener, *self._connections]
        for each in ending:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # The other side was faster.
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="fake broker token", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        issued = Issued(secrets.token_hex(32), _peer_of(connection), now())
        with connection:
            with self._lock:
                self._issued[issued.token] = issued
                self._connections.add(connection)
            try:
                connection.sendall(issued.token.encode() + b"\n")
                while connection.recv(64):
                    pass
            except OSError:
                pass  # Its end is all that was awaited.
            finally:
                with self._lock:
                    self._connections.discard(connection)
                    issued.open = False
                    self._gone(issued)


def _peer_of(connection: socket.socket) -> Peer | None:
    """Who is on the other side, where the platform's Python can tell (Linux)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))
    return Peer(uid, gid, pid)
