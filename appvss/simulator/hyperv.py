"""The host's messages: integration-component header, VSS body, version negotiation. Pure.

Source: facts/freebsd-vss.md sections 5.1 to 5.4, facts/linux-hv-vss.md section 1.7; the drivers' counterparts are
FreeBSD's sys/dev/hyperv/utilities/vmbus_ic.c and Linux's drivers/hv/channel_mgmt.c.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

RING_SIZE: Final = 4 * 4096
"""Bytes of the ring from the host to the driver, and of the driver's receive buffer (section 5.1)."""
PACKET_OVERHEAD: Final = 16 + 8
"""What a message costs in the ring on top of its length, padded to 8: the packet's header and its closing index."""

REPLY_FLAGS: Final = 5
"""Flags of every reply: transaction and response."""
REQUEST_FLAGS: Final = 3
"""Flags of a request: transaction and request (assumed, section 5.5)."""
NO_AUTO_RECOVERY: Final = 5
"""body.flags that the driver puts into every answer to a CHECK: hot backup, no auto recovery."""

_HEADER: Final = struct.Struct("<IIIHIHIBBH")
_BODY: Final = struct.Struct("<B7xI")
_COUNTS: Final = struct.Struct("<HHI")
_VERSION: Final = struct.Struct("<I")
HEADER_SIZE: Final = _HEADER.size
"""28: pipe header and integration-component header together."""
MESSAGE_SIZE: Final = _HEADER.size + _BODY.size
"""40: a VSS message."""
_VERSIONS_AT: Final = HEADER_SIZE + _COUNTS.size
_ANSWER_SIZE: Final = _VERSIONS_AT + 2 * _VERSION.size

_TYPE_AT, _DATA_SIZE_AT, _STATUS_AT, _FLAGS_AT, _OPERATION_AT, _BODY_FLAGS_AT = 12, 18, 20, 25, 28, 36
_TYPE_NEGOTIATE, _TYPE_VSS = 0, 5

# FreeBSD's numbers, which go to the host as they are: Linux's ENOTSUP is another.
_MALFORMED: Final = errno.EINVAL
_NO_COMMON_VERSION: Final = 45


class HostOperation(IntEnum):
    """What the host can ask for (section 5.4)."""

    CREATE = 0
    DELETE = 1
    CHECK = 2
    """HOT_BACKUP: would a freeze work?"""
    DM_INFO = 3
    """GET_DM_INFO, which the driver answers by itself."""
    COMPLETE = 4
    FREEZE = 5
    THAW = 6
    AUTO_RECOVER = 7


_NAMES: Final = {operation.value: operation.name.lower() for operation in HostOperation}


class HostStatus(IntEnum):
    """What the driver answers."""

    OK = 0
    FAIL = 0x80004005


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version of the framework or of the messages."""

    major: int
    minor: int

    @property
    def number(self) -> int:
        """As it travels: the major version in the low half."""
        return self.major | self.minor << 16

    @classmethod
    def of(cls, number: int) -> Version:
        """The version that travels as `number`."""
        return cls(number & 0xFFFF, number >> 16)


FRAMEWORK_VERSION: Final = Version(3, 0)
MESSAGE_VERSION: Final = Version(5, 0)


@dataclass(frozen=True, slots=True)
class Packet:
    """A message in the VMBus channel, with the transaction id that its reply will carry."""

    vmbus_id: int
    data: bytes

    @property
    def ring_space(self) -> int:
        """The bytes that it takes up in the ring."""
        return PACKET_OVERHEAD + (len(self.data) + 7) // 8 * 8


@dataclass(frozen=True, slots=True)
class HostMessage:
    """The fields of a message that mean something to the driver or to the host."""

    type: int
    status: int
    transaction: int
    flags: int
    operation: int
    body_flags: int


def vss_message(operation: int, *, transaction: int, body_flags: int = 0) -> bytes:
    """A VSS request of the host.

    Args:
        operation: one of `HostOperation`, or any other number up to 255.
        transaction: the integration component's own id, up to 255, echoed in the reply.
        body_flags: what the request carries where the reply has the CHECK's result.
    """
    header = _HEADER.pack(
        0,
        MESSAGE_SIZE - 8,
        FRAMEWORK_VERSION.number,
        _TYPE_VSS,
        MESSAGE_VERSION.number,
        _BODY.size,
        0,
        transaction,
        REQUEST_FLAGS,
        0,
    )
    return header + _BODY.pack(operation, body_flags)


def negotiation_message(framework: Sequence[Version], messages: Sequence[Version], *, transaction: int) -> bytes:
    """The host's offer of versions."""
    versions = b"".join(_VERSION.pack(version.number) for version in (*framework, *messages))
    body = _COUNTS.pack(len(framework), len(messages), 0) + versions
    length = HEADER_SIZE + len(body)
    header = _HEADER.pack(0, length - 8, 0, _TYPE_NEGOTIATE, 0, len(body), 0, transaction, REQUEST_FLAGS, 0)
    return header + body


def parse(data: bytes | bytearray) -> HostMessage:
    """The fields of a message; what is missing at its end reads as zero."""
    padded = bytes(data[:MESSAGE_SIZE]).ljust(MESSAGE_SIZE, b"\0")
    _, _, _, message_type, _, _, status, transaction, flags, _ = _HEADER.unpack_from(padded)
    operation, body_flags = _BODY.unpack_from(padded, HEADER_SIZE)
    return HostMessage(message_type, status, transaction, flags, operation, body_flags)


def is_negotiation(buffer: bytearray) -> bool:
    """Whether the driver takes the message for a negotiation; every other type counts as VSS (section 5.2)."""
    return int.from_bytes(buffer[_TYPE_AT : _TYPE_AT + 2], "little") == _TYPE_NEGOTIATE


def operation_of(buffer: bytearray) -> int:
    """The VSS operation of the message in the buffer."""
    return buffer[_OPERATION_AT]


def name_of(buffer: bytearray) -> str:
    """What the message in the buffer asks for, as a word."""
    if is_negotiation(buffer):
        return "negotiate"
    code = operation_of(buffer)
    return _NAMES.get(code, f"operation {code}")


def set_status(buffer: bytearray, status: int) -> None:
    """Make a reply of the message in the buffer."""
    buffer[_STATUS_AT : _STATUS_AT + 4] = status.to_bytes(4, "little")
    buffer[_FLAGS_AT] = REPLY_FLAGS


def set_body_flags(buffer: bytearray, flags: int) -> None:
    """Set the field that carries a CHECK's result."""
    buffer[_BODY_FLAGS_AT : _BODY_FLAGS_AT + 4] = flags.to_bytes(4, "little")


def negotiate(buffer: bytearray, length: int) -> tuple[int, int]:
    """Answer a negotiation in place, as the driver does (section 5.3).

    Returns:
        The status for the reply, 0 or FreeBSD's EINVAL or EOPNOTSUPP, and the reply's length.
    """
    if length < _VERSIONS_AT:
        return _MALFORMED, length
    frameworks, messages, _ = _COUNTS.unpack_from(buffer, HEADER_SIZE)
    total = frameworks + messages
    if not frameworks or not messages or length < _VERSIONS_AT + total * _VERSION.size:
        return _MALFORMED, length
    versions = bytes(buffer[_VERSIONS_AT : _VERSIONS_AT + total * _VERSION.size])
    offered = [Version.of(number) for (number,) in _VERSION.iter_unpack(versions)]
    framework = max((v for v in offered[:frameworks] if v <= FRAMEWORK_VERSION), default=None)
    message = max((v for v in offered[frameworks:] if v <= MESSAGE_VERSION), default=None)
    if framework is None or message is None:
        return _NO_COMMON_VERSION, length
    buffer[HEADER_SIZE : HEADER_SIZE + 4] = b"\1\0\1\0"
    _VERSION.pack_into(buffer, _VERSIONS_AT, framework.number)
    _VERSION.pack_into(buffer, _VERSIONS_AT + _VERSION.size, message.number)
    buffer[_DATA_SIZE_AT : _DATA_SIZE_AT + 2] = (_ANSWER_SIZE - HEADER_SIZE).to_bytes(2, "little")
    return 0, max(length, _ANSWER_SIZE)
