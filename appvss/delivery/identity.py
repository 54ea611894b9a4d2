"""Who an app is, and whether it still lives, by the kernel's word.

gRPC does not know the process behind a Unix socket (facts/libraries.md section 3, measured), so this is read from the
side connection over which an app fetches its token (`delivery/tokens.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from appvss.model.app import Peer

DEATH_LIMIT: Final = timedelta(milliseconds=100)
"""How much later than the end of a killed process's first connection the kernel may call the process dead."""

# FreeBSD's unix(4): getsockopt(SOL_LOCAL, LOCAL_PEERCRED) fills a struct xucred of sys/ucred.h: version, uid, number of
# groups, 16 groups, then a union of a pointer and the pid.
_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED: Final = struct.Struct("@IIh16I0Pi0P")
_UCRED: Final = struct.Struct("@iII")
_SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, Linux 6.5 and later; not named in Python's socket module


def peer_of(connection: socket.socket) -> Peer:
    """The credentials of the process at the other end of a Unix socket, at the time when it connected.

    Raises:
        OSError: the kernel does not tell.
    """
    if sys.platform != "linux":
        return peer_of_xucred(connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
    else:  # noqa: RET505 - a type checker sees one of the two branches
        pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return Peer(uid, gid, pid)


def peer_of_xucred(data: bytes) -> Peer:
    """A FreeBSD `struct xucred` as a peer: the first group is the effective one; the pid is known from FreeBSD 13
    on, and 0 before.
    """
    _version, uid, _groups, *rest = _XUCRED.unpack(data)
    return Peer(uid, rest[0], rest[16])


def process_handle(connection: socket.socket, pid: int) -> int | None:
    """A descriptor that polls as readable when the process at the other end is gone; None where there is none.

    It stands for the process itself: its id may be used again, and a zombie still answers to signal 0.
    """
    try:
        return _handle_of(connection, pid)
    except OSError:
        return None  # it is gone already, or this process has no descriptor left


if sys.platform == "linux":

    def _handle_of(connection: socket.socket, pid: int) -> int:
        try:
            return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
        return os.pidfd_open(pid)

else:

    def _handle_of(connection: socket.socket, pid: int) -> int:
        exits = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        queue = select.kqueue()
        try:
            queue.control([exits], 0)
            return os.dup(queue.fileno())
        finally:
            queue.close()


class Identity:
    """One process that has asked for a token, and is known as long as this object is kept.

    Close it when its stream has ended.

    Args:
        connection: the side connection; it belongs to this object from now on.
        ended: called when the process has closed the side connection.
        died: called, once, when the process is gone for certain.
        handle_of: how a handle on the process is had.

    Raises:
        OSError: the kernel does not tell who is there. The connection is closed.
    """

    __slots__ = ("_connection", "_death", "_died", "_ended", "_process", "peer")

    def __init__(
        self,
        connection: socket.socket,
        ended: Callable[[Identity], None],
        died: Callable[[Identity], None],
        handle_of: Callable[[socket.socket, int], int | None] = process_handle,
    ) -> None:
        try:
            self.peer = peer_of(connection)
        except OSError:
            connection.close()
            raise
        self._connection = connection
        self._ended, self._died = ended, died
        self._process = handle_of(connection, self.peer.pid)
        self._death = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(connection.fileno(), self._readable)
        if self._process is not None:
            loop.add_reader(self._process, self._process_ended)

    def has_died(self) -> bool:
        """Whether the process is gone for certain. False also when nobody knows."""
        if self._death.is_set():
            return True
        if self._process is not None:
            poll = select.poll()
            poll.register(self._process, select.POLLIN)
            return bool(poll.poll(0))
        return self._has_no_process()

    async def has_died_with_its_stream(self) -> bool:
        """Whether the process is gone, now that its stream has ended. Takes `DEATH_LIMIT` at most.

        The kernel closes the descriptors of a process that is killed, one after the other, before it calls the process
        dead. So a living process, too, is waited for.
        """
        if not self.has_died():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEATH_LIMIT.total_seconds()):
                    await self._death.wait()
        return self.has_died()

    def send(self, data: bytes) -> None:
        """Say something on the side connection.

        Raises:
            OSError: the other end is closed.
        """
        self._connection.send(data)

    def _has_no_process(self) -> bool:
        if self.peer.pid <= 0:
            return False  # of another process namespace, or a kernel that does not tell
        try:
            os.kill(self.peer.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _readable(self) -> None:
        """The app has nothing to say here: it has closed, or died, or talks nonsense."""
        try:
            data = self._connection.recv(1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._ended(self)
        if not data and self._process is None and self._has_no_process():
            self._tell_death()

    def _process_ended(self) -> None:
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process)
        self._tell_death()

    def _tell_death(self) -> None:
        self._death.set()
        self._died(self)

    def close(self) -> None:
        """Let the process go. May be called twice."""
        loop = asyncio.get_running_loop()
        if self._connection.fileno() >= 0:
            loop.remove_reader(self._connection.fileno())
            self._connection.close()
        if self._process is not None:
            loop.remove_reader(self._process)
            os.close(self._process)
            self._process = None
