"""The FUSE protocol's bytes, as far as a folder with two device-like files needs them. Pure.

Source: Linux's include/uapi/linux/fuse.h, protocol 7.31; all numbers in host byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

ROOT_NODE: Final = 1
MAJOR, MINOR = 7, 31
READ_SIZE: Final = 1 << 16
"""How much one read of /dev/fuse may bring; far above what `_MAX_WRITE` makes the kernel send."""
OPEN_FLAGS: Final = 1 | 32
"""FOPEN_DIRECT_IO: read, write and shared mmap do not go to the page cache. FOPEN_NOFLUSH: a close waits for nobody."""
OPEN_STREAM: Final = 4 | 16
"""FOPEN_NONSEEKABLE and FOPEN_STREAM: there are no positions, so that a read that waits does not hold up a write."""
SCHEDULE_NOTIFY: Final = 1
"""FUSE_POLL_SCHEDULE_NOTIFY: somebody sleeps in poll and wants a wake-up."""
SET_MODE, SET_UID, SET_GID = 1, 2, 4
IOCTL_ON_DIRECTORY: Final = 16

_MAX_WRITE: Final = 4096
_NOTIFY_POLL: Final = 1

_HEADER = struct.Struct("=IIQQIIIHH")
_REPLY = struct.Struct("=IiQ")
_INIT_IN = struct.Struct("=III")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTRIBUTES_OUT = struct.Struct("=QII")
_OPEN_OUT = struct.Struct("=QII")
_READ_IN = struct.Struct("=QQI")
_HANDLE_IN = struct.Struct("=Q")
_WRITE_IN = struct.Struct("=QQIIQII")
_WRITE_OUT = struct.Struct("=II")
_IOCTL_IN = struct.Struct("=QIIQII")
_IOCTL_OUT = struct.Struct("=iIII")
_POLL_IN = struct.Struct("=QQII")
_POLL_OUT = struct.Struct("=II")
_SETATTR_IN = struct.Struct("=I64xI4xII4x")
_DIRENT = struct.Struct("=QQII")
STATFS_OUT: Final = bytes(80)


class Opcode(IntEnum):
    """The requests that are answered or passed over in silence; to all others ENOSYS is the right answer."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    BATCH_FORGET = 42
    RENAME2 = 45


UNANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""Requests that get no reply."""
INTERRUPT_SIZE: Final = 8
"""fuse_interrupt_in: the unique number of the request whose thread was sent a signal; `parse_handle` reads it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the kernel on behalf of a thread that waits for the answer."""

    opcode: int
    unique: int
    node: int
    thread: int
    """The thread's id, 0 when it is outside of our process-id namespace."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` shows of a node."""

    node: int
    mode: int
    uid: int
    gid: int
    links: int = 1

    def pack(self) -> bytes:
        """fuse_attr."""
        no_size_no_times = (0,) * 8
        return _ATTRIBUTES.pack(self.node, *no_size_no_times, self.mode, self.links, self.uid, self.gid, 0, 4096, 0)


@dataclass(frozen=True, slots=True)
class Ioctl:
    """fuse_ioctl_in with its input."""

    handle: int
    flags: int
    command: int
    data: bytes
    output_size: int


@dataclass(frozen=True, slots=True)
class Poll:
    """fuse_poll_in."""

    handle: int
    wakeup: int
    """What `notify_poll` takes to wake the sleeper."""
    wants_wakeup: bool
    events: int


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """fuse_setattr_in: which of the three are to be set, and to what."""

    valid: int
    mode: int
    uid: int
    gid: int


def parse_request(message: bytes) -> Request:
    """The request in what one read of /dev/fuse brought.

    Raises:
        struct.error: it is shorter than a header.
    """
    _, opcode, unique, node, _, _, thread, _, _ = _HEADER.unpack_from(message)
    return Request(opcode, unique, node, thread, message[_HEADER.size :])


def reply(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    """The answer to a request: a body, or a positive errno."""
    return _REPLY.pack(_REPLY.size + len(body), -error, unique) + body


def notify_poll(wakeup: int) -> bytes:
    """Wake whoever sleeps in poll on the file of that wake-up number."""
    return _REPLY.pack(_REPLY.size + 8, _NOTIFY_POLL, 0) + _HANDLE_IN.pack(wakeup)


def init_reply(body: bytes) -> bytes:
    """fuse_init_out: our version, no optional feature."""
    _, _, readahead = _INIT_IN.unpack_from(body)
    return _INIT_OUT.pack(MAJOR, MINOR, readahead, 0, 12, 9, _MAX_WRITE, 1, 0, 0, 0)


def entry_reply(attributes: Attributes, generation: int) -> bytes:
    """fuse_entry_out with no time to live, so that a node that vanishes is missed at once."""
    return _ENTRY.pack(attributes.node, generation, 0, 0, 0, 0) + attributes.pack()


def attributes_reply(attributes: Attributes) -> bytes:
    """fuse_attr_out, not to be cached."""
    return _ATTRIBUTES_OUT.pack(0, 0, 0) + attributes.pack()


def open_reply(handle: int, flags: int = 0) -> bytes:
    """fuse_open_out."""
    return _OPEN_OUT.pack(handle, flags, 0)


def parse_handle(body: bytes) -> int:
    """The handle that a request of an open file begins with."""
    (handle,) = _HANDLE_IN.unpack_from(body)
    return int(handle)


def parse_name(body: bytes) -> bytes:
    """The name that a request about a folder's entry ends with."""
    return body.partition(b"\0")[0]


def parse_setattr(body: bytes) -> SetAttributes:
    """fuse_setattr_in."""
    return SetAttributes(*_SETATTR_IN.unpack_from(body))


def parse_ioctl(body: bytes) -> Ioctl:
    """fuse_ioctl_in and the bytes that the kernel copied in for it."""
    handle, flags, command, _, input_size, output_size = _IOCTL_IN.unpack_from(body)
    return Ioctl(handle, flags, command, body[_IOCTL_IN.size : _IOCTL_IN.size + input_size], output_size)


def parse_read(body: bytes) -> tuple[int, int]:
    """fuse_read_in: the handle, and how many bytes fit into the caller's buffer."""
    handle, _, size = _READ_IN.unpack_from(body)
    return handle, size


def parse_write(body: bytes) -> tuple[int, bytes]:
    """fuse_write_in and what follows it: the handle and the bytes."""
    handle, _, size, *_ = _WRITE_IN.unpack_from(body)
    return handle, body[_WRITE_IN.size : _WRITE_IN.size + size]


def write_reply(size: int) -> bytes:
    """fuse_write_out: how many bytes were taken."""
    return _WRITE_OUT.pack(size, 0)


def ioctl_reply(data: bytes = b"") -> bytes:
    """fuse_ioctl_out: return value 0 and what is to be copied out."""
    return _IOCTL_OUT.pack(0, 0, 0, 0) + data


def parse_poll(body: bytes) -> Poll:
    """fuse_poll_in."""
    handle, wakeup, flags, events = _POLL_IN.unpack_from(body)
    return Poll(handle, wakeup, bool(flags & SCHEDULE_NOTIFY), events)


def poll_reply(events: int) -> bytes:
    """fuse_poll_out."""
    return _POLL_OUT.pack(events, 0)


def directory_reply(body: bytes, entries: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The part of a folder that a fuse_read_in asks for.

    Args:
        body: the request's.
        entries: inode, type (mode >> 12) and name of each.
    """
    _, offset, size = _READ_IN.unpack_from(body)
    result = b""
    for position, (node, kind, name) in enumerate(entries, start=1):
        if position <= offset:
            continue
        entry = _DIRENT.pack(node, position, len(name), kind) + name
        entry += bytes(-len(entry) % 8)
        if len(result) + len(entry) > size:
            break
        result += entry
    return result
