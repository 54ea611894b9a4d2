"""FreeBSD's Hyper-V VSS devices: the 64-byte message, the two ioctl numbers, the driver's limits.

Source of all facts: facts/freebsd-vss.md, sections 1 (nodes), 2.1 (numbers), 3.4 (timer), 4 (message); the driver's own
names are those of sys/dev/hyperv/utilities/hv_snapshot.h. Pure: bytes and values only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final

from appvss.model.errors import DeviceAbsent, DeviceWrong

APP_DEVICE: Final = "/dev/hv_appvss_dev"
"""The node for one application or broker: root:wheel 0640, one open at a time (section 1)."""
FS_DEVICE: Final = "/dev/hv_fsvss_dev"
"""The node for the file-system side, `hv_vss_daemon(8)`; until it was opened once the driver reads no host message."""

SUCCESS: Final = 0
"""The status of a message that brings a request, and of an answer that agrees."""
FAILURE: Final = 1
"""The status of an empty READ, and of an answer that refuses."""

LIMIT: Final = timedelta(seconds=15)
"""What the driver allows one request, app and file-system stage together, from its own receipt of it (section 3.4)."""
LAST_MOMENT: Final = timedelta(milliseconds=500)
"""How long before the end of `LIMIT` nothing may be written any more: a WRITE that races the timer makes the driver
answer the host twice and breaks its free list (trap 13, section 10)."""

LAYOUT: Final = struct.Struct("=IIQ48x")
"""opt, status, msgid, 48 reserved bytes; host byte order, natural alignment (section 4)."""
MESSAGE_SIZE: Final = LAYOUT.size
"""Length of a message in bytes: 64, for both ioctls."""

_UINT32_MAX: Final = 2**32 - 1
_UINT64_MAX: Final = 2**64 - 1
_MICROSECOND: Final = timedelta(microseconds=1)
_HINT: Final = "Check that the configured path is FreeBSD's hv_appvss_dev or hv_fsvss_dev, or the simulator's."


class Operation(IntEnum):
    """What the host asks for: the field `opt`."""

    NONE = 0
    """Nothing is waiting."""
    CHECK = 1
    FREEZE = 2
    THAW = 3


@dataclass(frozen=True, slots=True)
class Message:
    """What READ brings and what WRITE takes.

    An answer is the message that was read with its status replaced: `opt` and `msgid` go back verbatim, because the
    driver trusts both (section 2.3).
    """

    operation: Operation
    status: int
    """`SUCCESS` or `FAILURE`; 32 bits, of which the driver reads only the low 8 on the app device (section 2.3)."""
    msgid: int
    """The driver's key for the request, 64 bits: nanoseconds since 1970 by the guest's wall clock at its receipt."""


EMPTY: Final = Message(Operation.NONE, FAILURE, 0)
"""What READ brings when nothing is waiting: it neither blocks nor fails (section 2.2)."""


def encode(message: Message) -> bytes:
    """The 64 bytes of a message; the reserved ones are zero.

    Raises:
        DeviceWrong: status or msgid does not fit into its field.
    """
    if not 0 <= message.status <= _UINT32_MAX:
        raise DeviceWrong(f"status {message.status} does not fit into 32 bits", _HINT)
    if not 0 <= message.msgid <= _UINT64_MAX:
        raise DeviceWrong(f"msgid {message.msgid} does not fit into 64 bits", _HINT)
    return LAYOUT.pack(message.operation, message.status, message.msgid)


def decode(data: bytes | bytearray) -> Message:
    """The message in 64 bytes; the reserved ones are not looked at, as in the driver.

    Raises:
        DeviceWrong: `data` is not 64 bytes long, or its operation is none of `Operation`.
    """
    if len(data) != MESSAGE_SIZE:
        raise DeviceWrong(f"the device's message has {len(data)} bytes instead of {MESSAGE_SIZE}", _HINT)
    opt, status, msgid = LAYOUT.unpack(data)
    try:
        operation = Operation(opt)
    except ValueError:
        raise DeviceWrong(f"the device's message has the unknown operation {opt}", _HINT) from None
    return Message(operation, status, msgid)


@dataclass(frozen=True, slots=True)
class IoctlNumbers:
    """The request numbers of the two ioctls, positive, as `fcntl.ioctl` takes them."""

    read: int
    """IOCHVVSSREAD, `_IOR('v', 2, 64 bytes)`: the driver fills the buffer."""
    write: int
    """IOCHVVSSWRITE, `_IOW('v', 3, 64 bytes)`: the driver takes the buffer and gives nothing back."""


_READ_NUMBER: Final = 2
_WRITE_NUMBER: Final = 3


def _number(direction: int, number: int) -> int:
    """One ioctl number: direction at the top, then the length at bit 16, the group `v` at bit 8, the number."""
    return direction | MESSAGE_SIZE << 16 | ord("v") << 8 | number


# FreeBSD's sys/ioccom.h: IOC_OUT 0x40000000, IOC_IN 0x80000000, 13 bits of length. Linux's asm-generic/ioctl.h:
# _IOC_WRITE 1 and _IOC_READ 2 at bit 30, 14 bits of length. So the directions are mirrored: each platform's READ looks
# like the other's write.
FREEBSD: Final = IoctlNumbers(read=_number(0x40000000, _READ_NUMBER), write=_number(0x80000000, _WRITE_NUMBER))
"""The real device."""
LINUX: Final = IoctlNumbers(read=_number(2 << 30, _READ_NUMBER), write=_number(1 << 30, _WRITE_NUMBER))
"""The simulator on Linux: FUSE lets the kernel decode the number to know what to copy, so it must be Linux's own
(x86_64, aarch64 and the other users of asm-generic/ioctl.h)."""


def ioctl_numbers(platform: str) -> IoctlNumbers:
    """The numbers for a `sys.platform`, such as `freebsd14` or `linux`.

    Raises:
        DeviceAbsent: neither the device nor its simulator exists on that platform.
    """
    if platform.startswith("freebsd"):
        return FREEBSD
    if platform.startswith("linux"):
        return LINUX
    raise DeviceAbsent(
        f"there is no FreeBSD VSS device on the platform {platform!r}",
        "Run on FreeBSD under Hyper-V, or on Linux with `appvss simulate freebsd`; else set this source to `off`.",
    )


def time_left(msgid: int, wall: timedelta) -> timedelta:
    """What is left of the driver's 15 s for a request, between zero and `LIMIT`.

    The msgid is a reading of the wall clock, which may have jumped since (time sync, resume, restored checkpoint), so
    the result is clamped; measure on from it with the monotonic clock (section 4).

    Args:
        msgid: the request's, as read.
        wall: time since 1970-01-01 UTC by the wall clock, now.
    """
    gone = wall // _MICROSECOND - msgid // 1000
    left = LIMIT // _MICROSECOND - gone
    return min(max(left, 0), LIMIT // _MICROSECOND) * _MICROSECOND
