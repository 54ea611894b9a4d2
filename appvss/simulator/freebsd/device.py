"""The two device nodes as files of a FUSE folder: every system call on them, answered as the kernel driver does."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

from appvss.simulator.freebsd import fuse_abi
from appvss.simulator.freebsd.callers import Opener, StillRunning, Waiting, waiting_by_events, waiting_of
from appvss.simulator.freebsd.event import Event, EventKind, Side
from appvss.simulator.freebsd.fuse import FuseConnection
from appvss.simulator.freebsd.fuse_abi import Attributes, Opcode, Request
from appvss.simulator.freebsd.machine import Machine
from appvss.sources.wire.freebsd import APP_DEVICE, FREEBSD, FS_DEVICE, LINUX, MESSAGE_SIZE

NODE_NAMES: Final = {Side.APP: os.path.basename(APP_DEVICE), Side.FS: os.path.basename(FS_DEVICE)}
"""What the nodes are called in the folder."""

_NODE_MODE: Final = stat.S_IFREG | 0o640
_ROOT_MODE: Final = stat.S_IFDIR | 0o755
_POLLIN, _POLLHUP = 0x1, 0x10
_TRIES_TO_SEE_A_SLEEPER: Final = 100
_SECONDS_BETWEEN_TRIES: Final = 0.001
_REFUSED: Final = frozenset(
    {
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.MKDIR,
        Opcode.UNLINK,
        Opcode.RMDIR,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
        Opcode.CREATE,
    }
)


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
        self._attributes: dict[int, Attributes] = {}
        self._handlers: dict[int, Callable[[Request], bytes]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.OPENDIR: lambda _: fuse_abi.open_reply(0),
            Opcode.READDIR: self._readdir,
            Opcode.RELEASEDIR: lambda _: b"",
            Opcode.STATFS: lambda _: fuse_abi.STATFS_OUT,
            Opcode.DESTROY: lambda _: b"",
            Opcode.OPEN: self._open,
            Opcode.RELEASE: self._release,
            Opcode.READ: self._no_such_operation,
            Opcode.WRITE: self._no_such_operation,
            Opcode.IOCTL: self._ioctl,
        }

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

    def handle(self, request: Request, answer: Callable[[bytes], None]) -> bytes | None:
        """Answer one request; only a poll may be answered later."""
        if request.opcode == Opcode.POLL:
            return self._poll(request, answer, _TRIES_TO_SEE_A_SLEEPER)
        if request.opcode in _REFUSED:
            raise OSError(errno.EPERM, "the folder has the driver's nodes and nothing else")
        handler = self._handlers.get(request.opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, "not part of the protocol that was agreed on")
        return handler(request)

    def undelivered(self, request: Request) -> None:
        """Undo an open whose opener never got the descriptor."""
        if request.opcode == Opcode.OPEN:
            for handle, file in list(self._files.items()):
                if file.request == request.unique:
                    self._close(handle)

    # Names and attributes

    def _node(self, side: Side) -> int:
        """The node's number: two for each attachment, so that a descriptor of an earlier one is told apart."""
        return 2 * self._machine.attachment + (0 if side is Side.APP else 1)

    def _side(self, node: int) -> Side | None:
        """The side whose node it is at present."""
        if not self._machine.attached:
            return None
        return next((side for side in Side if self._node(side) == node), None)

    def _attributes_of(self, node: int) -> Attributes:
        if node == fuse_abi.ROOT_NODE:
            return Attributes(node, _ROOT_MODE, os.geteuid(), os.getegid(), links=2)
        fresh = Attributes(node, _NODE_MODE, os.geteuid(), os.getegid())
        known = self._attributes.get(node, fresh)
        return known if self._side(node) is not None else replace(known, links=0)

    def _lookup(self, request: Request) -> bytes:
        name = fuse_abi.parse_name(request.body)
        for side in Side:
            if self._machine.attached and name == NODE_NAMES[side].encode() and request.node == fuse_abi.ROOT_NODE:
                return fuse_abi.entry_reply(self._attributes_of(self._node(side)), self._machine.attachment)
        raise OSError(errno.ENOENT, "no such node")

    def _getattr(self, request: Request) -> bytes:
        return fuse_abi.attributes_reply(self._attributes_of(request.node))

    def _setattr(self, request: Request) -> bytes:
        """Take chmod and chown of a node, as devfs does; the kernel has checked that the caller may."""
        if self._side(request.node) is None:
            raise OSError(errno.EPERM, "only the nodes can be changed")
        wanted = fuse_abi.parse_setattr(request.body)
        now = self._attributes_of(request.node)
        if wanted.valid & fuse_abi.SET_MODE:
            now = replace(now, mode=stat.S_IFREG | stat.S_IMODE(wanted.mode))
        if wanted.valid & fuse_abi.SET_UID:
            now = replace(now, uid=wanted.uid)
        if wanted.valid & fuse_abi.SET_GID:
            now = replace(now, gid=wanted.gid)
        self._attributes[request.node] = now
        return fuse_abi.attributes_reply(now)

    def _readdir(self, request: Request) -> bytes:
        folder = stat.S_IFDIR >> 12
        entries = [(fuse_abi.ROOT_NODE, folder, b"."), (fuse_abi.ROOT_NODE, folder, b"..")]
        if self._machine.attached:
            entries += [(self._node(side), stat.S_IFREG >> 12, NODE_NAMES[side].encode()) for side in Side]
        return fuse_abi.directory_reply(request.body, entries)

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
        return fuse_abi.open_reply(handle, fuse_abi.OPEN_FLAGS)

    def _release(self, request: Request) -> bytes:
        self._close(fuse_abi.parse_handle(request.body))
        return b""

    def _close(self, handle: int) -> None:
        file = self._files.pop(handle, None)
        if file is not None and self._is_current(file):
            self._machine.close_side(file.side, file.process)

    def _no_such_operation(self, request: Request) -> bytes:
        self._current(fuse_abi.parse_handle(request.body))
        raise OSError(errno.ENODEV, "the driver has no read and no write")

    def _ioctl(self, request: Request) -> bytes:
        ioctl = fuse_abi.parse_ioctl(request.body)
        if ioctl.flags & fuse_abi.IOCTL_ON_DIRECTORY:
            raise OSError(errno.ENOTTY, "the folder takes no ioctl")
        file = self._current(ioctl.handle)
        if ioctl.command == LINUX.read:
            return fuse_abi.ioctl_reply(self._machine.read(file.side, file.process))
        if ioctl.command == LINUX.write and len(ioctl.data) == MESSAGE_SIZE:
            self._machine.write(file.side, ioctl.data, file.process)
            return fuse_abi.ioctl_reply()
        detail = f"ioctl {ioctl.command:#x} does nothing; the caller is told that it worked"
        if ioctl.command in (FREEBSD.read, FREEBSD.write):
            detail += f"; that is FreeBSD's number, here READ is {LINUX.read:#x} and WRITE {LINUX.write:#x}"
        self._note(EventKind.UNKNOWN_IOCTL, file, detail)
        return fuse_abi.ioctl_reply(ioctl.data[: ioctl.output_size].ljust(ioctl.output_size, b"\0"))

    # Poll

    def _poll(self, request: Request, answer: Callable[[bytes], None], tries: int) -> bytes | None:
        poll = fuse_abi.parse_poll(request.body)
        file = self._files.get(poll.handle)
        if file is None or not self._is_current(file):
            return fuse_abi.poll_reply(_POLLHUP)
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
            return fuse_abi.poll_reply(0)
        if self._machine.readable(file.side):
            return fuse_abi.poll_reply(_POLLIN)
        if file.wakeup is not None and not file.sleeps:
            file.sleeps = True
            self._note(EventKind.WAITS, file, "")
        return fuse_abi.poll_reply(0)

    def _poll_again(self, request: Request, answer: Callable[[bytes], None], tries: int) -> None:
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
