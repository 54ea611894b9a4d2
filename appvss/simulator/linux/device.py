"""The device node as a file of a FUSE folder: every system call on it, answered as the kernel driver does."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from appvss.simulator.event import Event, EventKind
from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import FuseConnection, Respond
from appvss.simulator.fuse.nodes import NodeFolder
from appvss.simulator.fuse.process import process_of
from appvss.simulator.linux.machine import Machine
from appvss.sources.wire.linux_hv_vss import DEVICE

NODE_NAME: Final = os.path.basename(DEVICE)
"""What the node is called in the folder."""

_NODE_MODE: Final = 0o600
_POLLIN: Final = 0x1 | 0x40
"""EPOLLIN and EPOLLRDNORM. Never POLLOUT (facts/linux-hv-vss.md section 1.3)."""
_POLLHUP: Final = 0x8 | 0x10
"""EPOLLERR and EPOLLHUP."""
_NUMBER_OF_FIRST_NODE: Final = abi.ROOT_NODE


@dataclass(slots=True)
class _OpenFile:
    """The one successful open of the node."""

    process: int
    request: int
    """The unique number of its OPEN."""
    wakeup: int | None = None
    """How to wake its pollers, when they want it."""
    sleeps: bool = False
    """Whether a sleeping poller was recorded since the last wake-up."""


@dataclass(frozen=True, slots=True)
class _Sleeper:
    """A read that waits for a message."""

    file: _OpenFile
    size: int
    answer: Respond


class Device:
    """Answers the FUSE requests of one mount with one machine.

    Args:
        machine: the driver behind the node.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._connection: FuseConnection | None = None
        self._handles = count(1)
        self._files: dict[int, _OpenFile] = {}
        self._sleepers: dict[int, _Sleeper] = {}
        """The reads that wait, by the unique number of their request, the oldest first."""
        handlers: dict[int, Callable[[Request], bytes]] = {
            Opcode.OPEN: self._open,
            Opcode.RELEASE: self._release,
            Opcode.WRITE: self._write,
            Opcode.IOCTL: self._no_ioctl,
        }
        self._folder = NodeFolder(self._present, _NODE_MODE, handlers)

    def serve(self, descriptor: int) -> FuseConnection:
        """Begin to answer on a mount's descriptor. The caller closes the connection."""
        self._connection = FuseConnection(descriptor, self)
        return self._connection

    def notice(self, event: Event) -> None:
        """Wake whoever polls or reads, when there is a message or the device is being removed."""
        if event.kind not in (EventKind.WOKEN, EventKind.LEAVING):
            return
        for file in self._files.values():
            if file.wakeup is not None and self._connection is not None:
                self._connection.wake(file.wakeup)
                file.wakeup, file.sleeps = None, False
        sleepers, self._sleepers = self._sleepers, {}
        for sleeper in sleepers.values():
            sleeper.answer(self._read_now(sleeper.file, sleeper.size) or _error(errno.EAGAIN))

    # FileSystem

    def handle(self, request: Request, answer: Respond) -> bytes | None:
        """Answer one request; a read without a message is answered later."""
        if request.opcode == Opcode.POLL:
            return self._poll(request)
        if request.opcode == Opcode.READ:
            return self._read(request, answer)
        return self._folder.handle(request)

    def interrupted(self, unique: int) -> None:
        """A read that waits ends with EINTR, whatever SA_RESTART says (section 1.3)."""
        sleeper = self._sleepers.pop(unique, None)
        if sleeper is not None:
            sleeper.answer(_error(errno.EINTR))

    def undelivered(self, request: Request) -> None:
        """Undo an open whose opener never got the descriptor."""
        if request.opcode == Opcode.OPEN:
            for handle, file in list(self._files.items()):
                if file.request == request.unique:
                    self._close(handle)

    # System calls

    def _present(self) -> dict[int, str]:
        return {_NUMBER_OF_FIRST_NODE + self._machine.attachment: NODE_NAME} if self._machine.attached else {}

    def _open(self, request: Request) -> bytes:
        if request.node not in self._present():
            raise _error(errno.ENXIO)
        process = process_of(request.thread)
        self._machine.open(process)
        handle = next(self._handles)
        self._files[handle] = _OpenFile(process, request.unique)
        return abi.open_reply(handle, abi.OPEN_FLAGS | abi.OPEN_STREAM)

    def _release(self, request: Request) -> bytes:
        self._close(abi.parse_handle(request.body))
        return b""

    def _close(self, handle: int) -> None:
        file = self._files.pop(handle, None)
        if file is not None:
            self._machine.release(file.process)

    def _read(self, request: Request, answer: Respond) -> bytes | None:
        handle, size = abi.parse_read(request.body)
        file = self._file(handle)
        now = self._read_now(file, size)
        if isinstance(now, OSError):
            raise now
        if now is None:
            self._sleepers[request.unique] = _Sleeper(file, size, answer)
            self._note_waits(file, "in read")
        return now

    def _read_now(self, file: _OpenFile, size: int) -> bytes | OSError | None:
        try:
            return self._machine.read(size, file.process)
        except OSError as error:
            return error

    def _write(self, request: Request) -> bytes:
        handle, data = abi.parse_write(request.body)
        return abi.write_reply(self._machine.write(data, self._file(handle).process))

    def _no_ioctl(self, request: Request) -> bytes:
        raise _error(errno.ENOTTY)

    def _poll(self, request: Request) -> bytes:
        poll = abi.parse_poll(request.body)
        file = self._files.get(poll.handle)
        if file is None or self._machine.is_hung_up:
            return abi.poll_reply(_POLLHUP)
        if poll.wants_wakeup:
            file.wakeup = poll.wakeup
        if self._machine.is_readable:
            return abi.poll_reply(_POLLIN)
        if file.wakeup is not None and not file.sleeps:
            file.sleeps = True
            self._note_waits(file, "in poll")
        return abi.poll_reply(0)

    def _note_waits(self, file: _OpenFile, detail: str) -> None:
        self._machine.note(Event(EventKind.WAITS, self._machine.moment(), process=file.process, detail=detail))

    def _file(self, handle: int) -> _OpenFile:
        file = self._files.get(handle)
        if file is None:
            raise _error(errno.EBADF)
        return file


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
