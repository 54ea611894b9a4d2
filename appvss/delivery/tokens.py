"""The side socket that hands out one-time tokens, so that the broker knows who attaches.

An app connects to a plain socket beside the one of gRPC, the broker reads the peer's credentials from the kernel, and
hands out a token that the app sends with its `Attach` call. The connection stays open as long as the app's stream
(`proto/appvss/v1/app.proto`, "IDENTITY").
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from appvss.contract import TOKEN_LENGTH
from appvss.delivery.identity import Identity

_log = logging.getLogger("appvss.delivery")

TOKEN_LIFETIME: Final = timedelta(seconds=30)
"""How long a token may wait for its call (`proto/appvss/v1/app.proto`, "IDENTITY")."""
WAITING_LIMIT: Final = 4096
"""Side connections whose token has not been used; more are closed at once."""
WAITING_LIMIT_PER_UID: Final = WAITING_LIMIT * 3 // 4
"""Those of one user: whatever it does, others get their tokens. More than the apps of one user that come back at once
after a restart of the broker; who is too early tries again."""
ACCEPTED_AT_ONCE: Final = 32
"""Connections that are accepted before others get their turn on the loop: about 2 ms."""
ACCEPT_PAUSE: Final = timedelta(seconds=1)
"""How long no connection is accepted after one could not be for want of descriptors or memory."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TokenDesk:
    """Hands out tokens on the side socket and redeems them.

    Args:
        died: called when the process of a redeemed identity has died.
        lifetime: how long a token may wait for its call.
    """

    def __init__(self, died: Callable[[Identity], None], lifetime: timedelta = TOKEN_LIFETIME) -> None:
        self._died = died
        self._lifetime = lifetime
        self._waiting: dict[str, tuple[Identity, asyncio.TimerHandle]] = {}
        self._tokens: dict[Identity, str] = {}
        self._uids: Counter[int] = Counter()
        self._listener: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None

    def open(self, path: str) -> None:
        """Listen at `path`, in the place of a socket that a dead broker left there. The caller holds the broker's lock.

        Raises:
            OSError: the socket cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(path)
        self._listener.listen(1024)
        self._listen()

    def _listen(self) -> None:
        self._pause = None
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening and forget every token that was not used. May be called twice."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        for token in list(self._waiting):
            self._expire(token)

    def redeem(self, token: str) -> Identity | None:
        """The process that was given this token; None when nobody was, or it has been used, or is too old."""
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return None
        identity, timer = waiting
        timer.cancel()
        del self._tokens[identity]
        self._uids[identity.peer.uid] -= 1
        if not self._uids[identity.peer.uid]:
            del self._uids[identity.peer.uid]
        return identity

    def _accept(self) -> None:
        if self._listener is None:
            return
        # Many: after a broker's restart all apps come at once. Those that are left wake the loop again.
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            self._hand_out(connection)

    def _cannot_accept(self, error: OSError) -> None:
        _log.warning("no connection accepted on the side socket: %s", error)
        if error.errno in _EXHAUSTED and self._listener is not None:
            # Whoever waits would wake the loop again at once, for ever.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            self._pause = loop.call_later(ACCEPT_PAUSE.total_seconds(), self._listen)

    def _hand_out(self, connection: socket.socket) -> None:
        if len(self._waiting) >= WAITING_LIMIT:
            connection.close()
            return
        connection.setblocking(False)
        token = secrets.token_hex(TOKEN_LENGTH // 2)
        try:
            identity = Identity(connection, self._ended, self._died)
        except OSError as error:
            _log.info("an app has no token, since the kernel does not tell who it is: %s", error)
            return
        uid = identity.peer.uid
        if self._uids[uid] >= WAITING_LIMIT_PER_UID:
            identity.close()
            return
        try:
            identity.send(f"{token}\n".encode())
        except OSError as error:
            _log.info("an app went away before it had its token: %s", error)
            identity.close()
            return
        timer = asyncio.get_running_loop().call_later(self._lifetime.total_seconds(), self._expire, token)
        self._waiting[token] = (identity, timer)
        self._tokens[identity] = token
        self._uids[uid] += 1

    def _expire(self, token: str) -> None:
        identity = self.redeem(token)
        if identity is not None:
            identity.close()

    def _ended(self, identity: Identity) -> None:
        """A side connection was closed: its token, if it was not used, is worth nothing any more."""
        token = self._tokens.get(identity)
        if token is not None:
            self._expire(token)
