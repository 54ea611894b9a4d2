"""The two device nodes as files of a FUSE folder: every system call on them, answered as the kernel driver does."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.freebsd.callers import Opener, StillRunning, Waiting, waiting_by_events, waiting_of
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.fuse import abi
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import FuseConnection, Respond
from appvss.simulator.fuse.nodes import NodeFolder
from appvss.sources.wire.freebsd import APP_DEVICE, FREEBSD, FS_DEVICE, LINUX, MESSAGE_SIZE

NODE_NAMES: Final = {Side.APP: os.path.basename(APP_DEVICE), Side.FS: os.path.basename(FS_DEVICE)}
"""What the nodes are called in the folder."""

_NODE_MODE: Final = 0o640
_POLLIN, _POLLHUP = 0x1, 0x10
_TRIES_TO_SEE_A_SLEEPER: Final = 100
_SECONDS_BETWEEN_TRIES: Final = 0.001


@dataclass(slots=True)
class _OpenFile:
    """One successful open of a node."""

    side: Side
    attachment: int
    process: int
    request: int
    """The unique number of its OPEN."""
    wakeup: int | None = None
    """How to wake its pollers, when they want it."""
    sleeps: bool = False
    """Whether a sleeping poller was recorded since the last wake-up."""
    told: set[Waiting] = field(default_factory=set)
    """The ways of waiting in vain that were recorded of it already."""


class Device:
    """Answers the FUSE requests of one mount with one machine.

    Args:
        machine: the driver behind the nodes.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._connection: FuseConnection | None = None
        self._handles = count(1)
        self._files: dict[int, _OpenFile] = {}
        self._folder = NodeFolder(
            self._present,
            _NODE_MODE,
            {
                Opcode.OPEN: self._open,
                Opcode.RELEASE: self._release,
                Opcode.READ: self._no_such_operation,
                Opcode.WRITE: self._no_such_operation,
                Opcode.IOCTL: self._ioctl,
            },
        )

    def serve(self, descriptor: int) -> FuseConnection:
        """Begin to answer on a mount's descriptor. The caller closes the connection."""
        self._connection = FuseConnection(descriptor, self)
        return self._connection

    def notice(self, event: Event) -> None:
        """Wake the pollers of a side that has something to read. A detaching wakes nobody, as in the driver."""
        if event.kind is not EventKind.WOKEN or self._connection is None:
            return
        for file in self._files.values():
            if file.side is event.side and self._is_current(file) and file.wakeup is not None:
                self._connection.wake(file.wakeup)
                file.wakeup, file.sleeps = None, False

    # FileSystem

    def handle(self, request: Request, answer: Respond) -> bytes | None:
        """Answer one request; only a poll may be answered later."""
        if request.opcode == Opcode.POLL:
            return self._poll(request, answer, _TRIES_TO_SEE_A_SLEEPER)
        return self._folder.handle(request)

    def interrupted(self, unique: int) -> None:
        """Nothing to do: no call of this device sleeps in the kernel for longer than its answer takes."""

    def undelivered(self, request: Request) -> None:
        """Undo an open whose opener never got the descriptor."""
        if request.opcode == Opcode.OPEN:
            for handle, file in list(self._files.items()):
                if file.request == request.unique:
                    self._close(handle)

    # Names

    def _node(self, side: Side) -> int:
        """The node's number: two for each attachment, so that a descriptor of an earlier one is told apart."""
        return 2 * self._machine.attachment + (0 if side is Side.APP else 1)

    def _side(self, node: int) -> Side | None:
        """The side whose node it is at present."""
        if not self._machine.attached:
            return None
        return next((side for side in Side if self._node(side) == node), None)

    def _present(self) -> dict[int, str]:
        return {self._node(side): NODE_NAMES[side] for side in Side} if self._machine.attached else {}

    # Descriptors

    def _open(self, request: Request) -> bytes:
        side = self._side(request.node)
        if side is None:
            raise OSError(errno.ENXIO, "the driver is not attached")
        opener = Opener(request.thread)
        handle = next(self._handles)
        try:
            self._machine.open(side, opener)
        except OSError:
            opener.close()
            raise
        self._files[handle] = _OpenFile(side, self._machine.attachment, opener.process, request.unique)
        return abi.open_reply(handle, abi.OPEN_FLAGS)

    def _release(self, request: Request) -> bytes:
        self._close(abi.parse_handle(request.body))
        return b""

    def _close(self, handle: int) -> None:
        file = self._files.pop(handle, None)
        if file is not None and self._is_current(file):
            self._machine.close_side(file.side, file.process)

    def _no_such_operation(self, request: Request) -> bytes:
        self._current(abi.parse_handle(request.body))
        raise OSError(errno.ENODEV, "the driver has no read and no write")

    def _ioctl(self, request: Request) -> bytes:
        ioctl = abi.parse_ioctl(request.body)
        if ioctl.flags & abi.IOCTL_ON_DIRECTORY:
            raise OSError(errno.ENOTTY, "the folder takes no ioctl")
        file = self._current(ioctl.handle)
        if ioctl.command == LINUX.read:
            return abi.ioctl_reply(self._machine.read(file.side, file.process))
        if ioctl.command == LINUX.write and len(ioctl.data) == MESSAGE_SIZE:
            self._machine.write(file.side, ioctl.data, file.process)
            return abi.ioctl_reply()
        detail = f"ioctl {ioctl.command:#x} does nothing; the caller is told that it worked"
        if ioctl.command in (FREEBSD.read, FREEBSD.write):
            detail += f"; that is FreeBSD's number, here READ is {LINUX.read:#x} and WRITE {LINUX.write:#x}"
        self._note(EventKind.UNKNOWN_IOCTL, file, detail)
        return abi.ioctl_reply(ioctl.data[: ioctl.output_size].ljust(ioctl.output_size, b"\0"))

    # Poll

    def _poll(self, request: Request, answer: Respond, tries: int) -> bytes | None:
        poll = abi.parse_poll(request.body)
        file = self._files.get(poll.handle)
        if file is None or not self._is_current(file):
            return abi.poll_reply(_POLLHUP)
        if poll.wants_wakeup:
            file.wakeup = poll.wakeup
        try:
            waiting = waiting_of(request.thread, poll.events) if tries else waiting_by_events(poll.events)
        except StillRunning:
            # The sleeper has handed its request over and not fallen asleep yet.
            asyncio.get_running_loop().call_later(_SECONDS_BETWEEN_TRIES, self._poll_again, request, answer, tries - 1)
            return None
        if waiting is not Waiting.POLL:
            self._waits_in_vain(file, waiting)
            return abi.poll_reply(0)
        if self._machine.readable(file.side):
            return abi.poll_reply(_POLLIN)
        if file.wakeup is not None and not file.sleeps:
            file.sleeps = True
            self._note(EventKind.WAITS, file, "")
        return abi.poll_reply(0)

    def _poll_again(self, request: Request, answer: Respond, tries: int) -> None:
        body = self._poll(request, answer, tries)
        if body is not None:
            answer(body)

    def _waits_in_vain(self, file: _OpenFile, waiting: Waiting) -> None:
        if waiting in file.told:
            return
        file.told.add(waiting)
        if waiting is Waiting.SELECT:
            detail = "select(2) never sees this device ready; use poll(2) with POLLIN"
        else:
            detail = "epoll stands for kqueue, which refuses this device with ENODEV; use poll(2) with POLLIN"
        self._note(EventKind.WAIT_IN_VAIN, file, detail)

    # How it works

    def _is_current(self, file: _OpenFile) -> bool:
        return self._machine.attached and file.attachment == self._machine.attachment

    def _current(self, handle: int) -> _OpenFile:
        """The open file of that handle, if its driver is still there."""
        file = self._files.get(handle)
        if file is None or not self._is_current(file):
            raise OSError(errno.ENXIO, "the driver that this descriptor belongs to is gone")
        return file

    def _note(self, kind: EventKind, file: _OpenFile, detail: str) -> None:
        self._machine.note(Event(kind, self._machine.moment(), side=file.side, process=file.process, detail=detail))
