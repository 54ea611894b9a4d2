"""The socket of the netlink connector: joined to the driver's group, never blocking, believing the driver alone.

Any program with CAP_NET_ADMIN can send to it, whatever it likes. What is not the driver's is told apart by the sender's
port id, which the kernel fills in (facts/linux-hv-vss.md sections 3.4 and 7.2).
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import Self

from appvss.sources.linux_netlink.refusal import refused_join, refused_registration, refused_socket
from appvss.sources.wire.linux_netlink import (
    ADD_MEMBERSHIP,
    CONNECTOR,
    GROUP,
    NETLINK_FAMILY,
    RECEIVE_SIZE,
    SOL_NETLINK,
    DatagramRefused,
    decode,
    encode,
)

MOST_READS = 64
"""How many datagrams are read at once, so that a flood of them leaves time for everything else."""


class Overrun(Exception):
    """The kernel had no room for datagrams and has dropped some; requests may have been among them."""


@dataclass(frozen=True, slots=True)
class Received:
    """One datagram."""

    portid: int
    """Who sent it."""
    payload: bytes
    """4 or 12 bytes; empty: it is none of the driver's kind."""
    reason: str = ""
    """Why it is none."""


class NetlinkChannel:
    """One socket, from its joining the group to `close`. No call blocks.

    Args:
        kernel_portid: whom to send to.
    """

    def __init__(self, kernel_portid: int, connection: socket.socket) -> None:
        self._kernel = kernel_portid
        self._socket = connection
        self.portid: int = connection.getsockname()[0]
        """Ours: the process's id, or another number if that is taken."""

    @classmethod
    def open(cls, kernel_portid: int) -> Self:
        """Make the socket and join the group: before any registration, since a request may follow it at once.

        Raises:
            SourceError: the kernel refuses.
        """
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            connection = socket.socket(NETLINK_FAMILY, kind, CONNECTOR)
        except OSError as error:
            raise refused_socket(error) from error
        try:
            try:
                connection.bind((0, 0))
            except OSError as error:
                raise refused_socket(error) from error
            try:
                connection.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP)
            except OSError as error:
                raise refused_join(error) from error
            return cls(kernel_portid, connection)
        except BaseException:
            connection.close()
            raise

    def fileno(self) -> int:
        """The descriptor, to be watched for reading."""
        return self._socket.fileno()

    def register(self, payload: bytes) -> None:
        """Send a registration.

        Raises:
            SourceError: nobody is there to take it, or the kernel refuses.
        """
        try:
            self.send(payload)
        except OSError as error:
            raise refused_registration(self._kernel, error) from error

    def send(self, payload: bytes) -> None:
        """Send to the driver. That this succeeds says nothing about what the driver makes of it (section 3.3).

        Raises:
            OSError: nobody is there to take it, or the kernel refuses.
        """
        self._socket.sendto(encode(payload, self.portid), (self._kernel, 0))

    def receive(self) -> list[Received]:
        """What has come, at most `MOST_READS` datagrams; fewer than that: there is no more.

        Raises:
            Overrun: some were dropped.
            OSError: the socket is of no use any more.
        """
        received: list[Received] = []
        while len(received) < MOST_READS:
            try:
                data, _, flags, address = self._socket.recvmsg(RECEIVE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise Overrun from error
                raise
            received.append(_judged(address[0], data, flags))
        return received

    def close(self) -> None:
        """Leave the group and close the socket."""
        self._socket.close()


def _judged(portid: int, data: bytes, flags: int) -> Received:
    if flags & socket.MSG_TRUNC:
        return Received(portid, b"", f"it has more than {RECEIVE_SIZE} bytes")
    try:
        return Received(portid, decode(data))
    except DatagramRefused as refused:
        return Received(portid, b"", str(refused))
