"""The conversation with the kernel over /dev/fuse, on the event loop, with nothing but the standard library.

Requests are read and answered one after the other in the order in which the kernel queued them. So the RELEASE of a
descriptor that was closed is always seen before the OPEN that followed it, although close waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import struct
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Opcode, Request

_BATCH: Final = 64
"""Requests that are answered before the event loop gets its turn."""


Respond: TypeAlias = Callable[[bytes | OSError], None]
"""Takes the body of a reply that comes later, or the error to reply."""


class FileSystem(Protocol):
    """What answers the requests."""

    def handle(self, request: Request, answer: Respond) -> bytes | None:
        """The body of the reply, or None if `answer` will be called with it later.

        Raises:
            OSError: the error to reply, with its errno.
        """

    def interrupted(self, unique: int) -> None:
        """The thread whose request has that unique number was sent a signal; it still waits for its answer, which may
        have been given already.
        """

    def undelivered(self, request: Request) -> None:
        """The reply to `request` did not reach anybody any more."""


class FuseConnection:
    """One mounted folder, seen from the side that answers.

    Args:
        descriptor: of /dev/fuse, non-blocking; belongs to this object from now on.
        filesystem: what answers.
    """

    def __init__(self, descriptor: int, filesystem: FileSystem) -> None:
        self._descriptor = descriptor
        self._filesystem = filesystem
        self._loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        """The kernel has introduced itself: the mount is in use."""
        self.gone = asyncio.Event()
        """The folder was unmounted, by us or by somebody else."""
        self._open = True
        self._loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """End the conversation: every call that still waits on the mount fails with ENOTCONN or ECONNABORTED."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self.gone.set()

    def wake(self, wakeup: int) -> None:
        """Wake whoever sleeps in poll on the file of that wake-up number; nobody is fine too."""
        self._send(abi.notify_poll(wakeup))

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if not self._open:
                return
            try:
                message = os.read(self._descriptor, abi.READ_SIZE)
            except BlockingIOError:
                return
            except FileNotFoundError:
                continue  # the request was taken back before it could be read
            except OSError:
                # ENODEV: unmounted. Whatever else /dev/fuse may say, there is no conversation without it.
                self.close()
                return
            self._answer(message)

    def _answer(self, message: bytes) -> None:
        try:
            request = abi.parse_request(message)
        except struct.error:
            return  # without a header there is nobody to answer
        if request.opcode in abi.UNANSWERED:
            if request.opcode == Opcode.INTERRUPT and len(request.body) >= abi.INTERRUPT_SIZE:
                self._filesystem.interrupted(abi.parse_handle(request.body))
            return
        if request.opcode == Opcode.INIT:
            self._send(abi.reply(request.unique, abi.init_reply(request.body)))
            self.ready.set()
            return
        try:
            body = self._filesystem.handle(request, lambda late: self._deliver(request, late))
        except OSError as error:
            self._deliver(request, error)
        except struct.error:
            self._send(abi.reply(request.unique, error=errno.EIO))
        else:
            if body is not None:
                self._deliver(request, body)

    def _deliver(self, request: Request, answer: bytes | OSError) -> None:
        if isinstance(answer, OSError):
            self._send(abi.reply(request.unique, error=answer.errno or errno.EIO))
        elif not self._send(abi.reply(request.unique, answer)):
            self._filesystem.undelivered(request)

    def _send(self, message: bytes) -> bool:
        """Whether the kernel took it. ENOENT: the caller is gone. ENODEV: so is the mount."""
        if not self._open:
            return False
        with contextlib.suppress(FileNotFoundError, OSError):
            return os.write(self._descriptor, message) == len(message)
        return False
