"""Linux's Hyper-V VSS device: the 12-byte message, the 4-byte handshake answer, the driver's limits.

Source of all facts: facts/linux-hv-vss.md, sections 1.2 (layout), 1.4 (handshake), 1.5 (limits), 2 (operations); the
kernel's own names are those of include/uapi/linux/hyperv.h and drivers/hv/hv_snapshot.c. Pure: bytes and values only.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final

from appvss.model.errors import DeviceWrong

DEVICE: Final = "/dev/vmbus/hv_vss"
"""The node: root:root 0600, one open at a time (section 1.1)."""

REGISTER: Final = 129
"""VSS_OP_REGISTER1: a daemon registers, and is answered by its own number. The only one that works since 4.8."""
REGISTER_LEGACY: Final = 128
"""VSS_OP_REGISTER: not answered; kernels since 4.8 accept it and never become ready (section 0, fact 6)."""

SUCCESS: Final = 0
"""HV_S_OK."""
FAILURE: Final = 0x80004005
"""HV_E_FAIL: what the kernel itself tells the host when nobody answers, and what every refusal is."""
NO_AUTO_RECOVERY: Final = 5
"""VSS_HBU_NO_AUTO_RECOVERY, the flags of the host's HOT_BACKUP that kernels up to 4.8 answer with (facts 2 and 3)."""

_MESSAGE: Final = struct.Struct("<B7xI")
_STATUS: Final = struct.Struct("<I8x")
_HANDSHAKE: Final = struct.Struct("<I")
MESSAGE_SIZE: Final = _MESSAGE.size
"""Length of a message in bytes, in both directions: 12, in one system call."""
HANDSHAKE_SIZE: Final = _HANDSHAKE.size
"""Length of the answer to a registration: 4."""

_UINT32_MAX: Final = 2**32 - 1
_HINT: Final = f"Check that the configured path is Linux's {DEVICE}, or the simulator's."
_RELEASE: Final = re.compile(r"(\d{1,6})\.(\d{1,6})")


class Operation(IntEnum):
    """What the host can ask for. The kernel passes HOT_BACKUP, FREEZE and THAW on and answers all others itself."""

    CREATE = 0
    DELETE = 1
    HOT_BACKUP = 2
    """Would a freeze work? Passed on since 4.9."""
    GET_DM_INFO = 3
    BU_COMPLETE = 4
    FREEZE = 5
    THAW = 6
    AUTO_RECOVER = 7


@dataclass(frozen=True, slots=True)
class Handshake:
    """The kernel's answer to a registration. There is no negotiation: it always says the same number."""

    version: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A message that waits for a reply. It has no id: a reply answers whatever is open when it comes."""

    number: int
    """The operation's number, 0 to 255."""

    @property
    def operation(self) -> Operation | None:
        """The operation; None: one that this code does not know."""
        try:
            return Operation(self.number)
        except ValueError:
            return None


def decode(data: bytes) -> Handshake | Asked:
    """What one read brought. All bytes of a message but the first are passed over, as the kernel leaves them zero.

    Raises:
        DeviceWrong: `data` is neither 4 nor 12 bytes long.
    """
    if len(data) == HANDSHAKE_SIZE:
        return Handshake(*_HANDSHAKE.unpack(data))
    if len(data) == MESSAGE_SIZE:
        number, _ = _MESSAGE.unpack(data)
        return Asked(number)
    raise DeviceWrong(f"the device's message has {len(data)} bytes, which is neither 4 nor 12", _HINT)


def encode_registration(operation: int = REGISTER) -> bytes:
    """The 12 bytes with which a daemon registers."""
    return _MESSAGE.pack(operation, 0)


def encode_reply(status: int) -> bytes:
    """The 12 bytes that answer whatever operation is open.

    Args:
        status: an HRESULT, which the host receives unchanged. A low byte of 2 also makes the kernel answer with
            `NO_AUTO_RECOVERY`, because that byte lies where the operation was (section 0, fact 3).

    Raises:
        DeviceWrong: it does not fit into 32 bits, or the kernel would take it for a registration, refuse it and leave
            the operation open until its limit (vector C16).
    """
    if not 0 <= status <= _UINT32_MAX:
        raise DeviceWrong(f"status {status:#x} does not fit into 32 bits", _HINT)
    if status & 0xFF in (REGISTER_LEGACY, REGISTER):
        raise DeviceWrong(
            f"status {status:#x} would be taken for a registration, because its low byte is {status & 0xFF:#x}",
            f"Answer with another status, such as {FAILURE:#x}.",
        )
    return _STATUS.pack(status)


def encode_operation(number: int) -> bytes:
    """The 12 bytes with which the kernel passes an operation on (for the simulator)."""
    return _MESSAGE.pack(number, 0)


def encode_handshake(version: int = REGISTER) -> bytes:
    """The 4 bytes with which the kernel answers a registration (for the simulator)."""
    return _HANDSHAKE.pack(version)


def status_of(data: bytes) -> int:
    """The status in the 12 bytes of a reply, as the kernel reads it (for the simulator)."""
    (status,) = _STATUS.unpack(data)
    return int(status)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the kernel waits for a reply, from the moment at which it queues the operation (section 1.5)."""

    freeze: timedelta
    thaw: timedelta
    check: timedelta


LONG_LIMITS: Final = Limits(timedelta(seconds=900), timedelta(seconds=30), timedelta(seconds=30))
"""Since 4.10 (b357fd3908c1), and in older kernels of some distributions."""
SHORT_LIMITS: Final = Limits(timedelta(seconds=10), timedelta(seconds=10), timedelta(seconds=10))
"""Before 4.10."""


def kernel_version(release: str) -> tuple[int, int] | None:
    """The first two numbers of a release such as `6.1.0-18-cloud-amd64`; None: there are none."""
    found = _RELEASE.match(release)
    return (int(found[1]), int(found[2])) if found else None


def limits_of(release: str) -> Limits:
    """The limits of a kernel's release, as os.uname tells it. One that cannot be read counts as old.

    A distribution may have the long ones in an older kernel; nothing tells of that, and too short a limit is only a
    refusal, while too long a one is an answer that comes too late.
    """
    version = kernel_version(release)
    return LONG_LIMITS if version is not None and version >= (4, 10) else SHORT_LIMITS
