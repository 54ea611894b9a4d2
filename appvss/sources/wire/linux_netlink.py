"""The datagrams in which Linux's Hyper-V VSS driver speaks over the netlink connector, and the kernel's two lists.

One datagram is a netlink header, a connector header, and what the character device carries, too: the 12 bytes of an
operation or a reply, or the 4 bytes that answer a registration. Source of all facts: facts/linux-hv-vss.md section 3.2.
Pure: bytes and values only. Host byte order, as the kernel reads and writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

NETLINK_FAMILY: Final = 16
"""AF_NETLINK."""
CONNECTOR: Final = 11
"""NETLINK_CONNECTOR, the protocol of the socket."""
SOL_NETLINK: Final = 270
ADD_MEMBERSHIP: Final = 1
"""NETLINK_ADD_MEMBERSHIP: the option, with the group's number as an int."""
DROP_MEMBERSHIP: Final = 2
"""NETLINK_DROP_MEMBERSHIP, likewise."""
GROUP: Final = 10
"""CN_VSS_IDX, which is the number of the multicast group as well."""
GROUP_MASK: Final = 1 << (GROUP - 1)
"""The group in a socket address, and in the table of sockets: 0x200."""
VALUE: Final = 1
"""CN_VSS_VAL."""
KERNEL: Final = 0
"""The port id of the kernel. No process can have it."""
DONE: Final = 3
"""NLMSG_DONE, the one type that the driver sends."""
MAX_PAYLOAD: Final = 16384
"""The longest connector message that the kernel takes (CONNECTOR_MAX_MSG_SIZE)."""

NETLINK_HEADER: Final = struct.Struct("=IHHII")
"""Length of everything, type, flags, sequence number, port id; only the first two are looked at."""
CONNECTOR_HEADER: Final = struct.Struct("=IIIIHH")
"""idx, val, sequence number, ack, length of the payload, flags."""
HEADERS: Final = NETLINK_HEADER.size + CONNECTOR_HEADER.size
PAYLOAD_SIZES: Final = (4, 12)
"""The answer to a registration; everything else."""
RECEIVE_SIZE: Final = 256
"""How many bytes of a datagram are read. The driver's have 48 at most; what does not fit is none of its."""

_COLUMNS: Final = 10


class DatagramRefused(Exception):
    """A datagram that is none of the driver's, and why: one lower-case sentence."""


def encode(payload: bytes, portid: int = KERNEL) -> bytes:
    """The datagram with this payload.

    Args:
        payload: at most 65535 bytes; the driver's and the daemon's have 4 or 12.
        portid: of the sender, for the field that nobody checks; the kernel itself leaves 0 there.
    """
    header = NETLINK_HEADER.pack(HEADERS + len(payload), DONE, 0, 0, portid)
    return header + CONNECTOR_HEADER.pack(GROUP, VALUE, 0, 0, len(payload), 0) + payload


def decode(data: bytes) -> bytes:
    """The payload in a datagram: 4 or 12 bytes. What lies behind its own length is not looked at (vector N9).

    Raises:
        DatagramRefused: it is truncated, contradicts itself, or is not about VSS.
    """
    if len(data) < HEADERS:
        raise DatagramRefused(f"it has {len(data)} bytes, and the headers alone have {HEADERS}")
    length, kind, _, _, _ = NETLINK_HEADER.unpack_from(data)
    if length > len(data):
        raise DatagramRefused(f"it has {len(data)} bytes, and its header says {length}")
    if kind != DONE:
        raise DatagramRefused(f"its type is {kind} instead of {DONE}")
    group, value, _, _, size, _ = CONNECTOR_HEADER.unpack_from(data, NETLINK_HEADER.size)
    if (group, value) != (GROUP, VALUE):
        raise DatagramRefused(f"it is about {group}:{value} instead of {GROUP}:{VALUE}")
    if size not in PAYLOAD_SIZES:
        raise DatagramRefused(f"its message has {size} bytes instead of 4 or 12")
    if HEADERS + size > length:
        raise DatagramRefused(f"its message has {size} bytes, and the datagram's length of {length} has no room for it")
    return data[HEADERS : HEADERS + size]


def driver_name(connector: str) -> str:
    """The name at 10:1 in `/proc/net/connector`, which has lines of a name and `idx:val`; empty: there is none."""
    for line in connector.splitlines():
        name, _, identity = line.rpartition(" ")
        if identity == f"{GROUP}:{VALUE}":
            return name.strip()
    return ""


def members(sockets: str) -> Mapping[int, int]:
    """Port id and inode of each connector socket in the driver's group, from `/proc/net/netlink`.

    Its columns are: address, protocol, port id, groups in hexadecimal, five others, inode. A line that is not like this
    is passed over.
    """
    found = {}
    for line in sockets.splitlines():
        fields = line.split()
        if len(fields) == _COLUMNS and fields[1] == str(CONNECTOR) and int(fields[3], 16) & GROUP_MASK:
            found[int(fields[2])] = int(fields[9])
    return found
