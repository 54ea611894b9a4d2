"""The kernel's port, played by a socket: it sends to the group, and takes what is sent to it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appvss.model.errors import SimulatorUnavailable
from appvss.sources.wire.linux_netlink import (
    ADD_MEMBERSHIP,
    CONNECTOR,
    DROP_MEMBERSHIP,
    GROUP,
    GROUP_MASK,
    HEADERS,
    MAX_PAYLOAD,
    NETLINK_FAMILY,
    SOL_NETLINK,
    encode,
    members,
)

PORTID: Final = 10_000_001
"""The port id of the simulator's socket, where the real kernel has 0, which no process can have. It is above every
process id, so nobody gets it by chance; the digits are those of VSS, 10:1."""
_INITIAL: Final = Path("/proc/self/net/connector")
"""Is there in the first network namespace alone, in which the kernel has its own connector."""
_SOCKETS: Final = Path("/proc/self/net/netlink")
_CREDENTIALS: Final = struct.Struct("3i")
_MOST_READS: Final = 64
_HINT: Final = (
    "Run it with `unshare --net` as root, or with `unshare --net --map-root-user` as anybody, and the broker too."
)


class KernelPort:
    """A connector socket in the place of the kernel's.

    Raises:
        SimulatorUnavailable: this is the machine's own network namespace, the port is taken, there is no connector, or
            no right to send to a group.
    """

    def __init__(self) -> None:
        if _INITIAL.exists():
            raise SimulatorUnavailable("this network namespace has the kernel's own connector", _HINT)
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(NETLINK_FAMILY, kind, CONNECTOR)
        except OSError as error:
            raise SimulatorUnavailable(
                f"this kernel has no netlink connector: {error.strerror}", "Use a kernel with CONFIG_CONNECTOR."
            ) from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind((PORTID, 0))
            # Who may join a group may send to it, too.
            self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP)
            self._socket.setsockopt(SOL_NETLINK, DROP_MEMBERSHIP, GROUP)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.EADDRINUSE:
                hint = "Stop that one first, or use another network namespace."
                raise SimulatorUnavailable("another simulator serves this network namespace", hint) from None
            raise SimulatorUnavailable(f"nothing can be sent to a netlink group: {error.strerror}", _HINT) from None

    def fileno(self) -> int:
        """The descriptor, to be watched for reading."""
        return self._socket.fileno()

    def multicast(self, payload: bytes) -> bool:
        """Send to everybody in the group, as the kernel does; whether anybody is in it.

        Raises:
            OSError: it is not allowed.
        """
        # Before the send: whoever hears it may have answered and left the group by the time that we look.
        heard = bool(members(_SOCKETS.read_text(encoding="ascii")))
        # Without the kernel's own socket in this namespace, the send reports that nobody is at port 0, and reaches the
        # group all the same (facts/linux-hv-vss.md section 3.5, test 1).
        with contextlib.suppress(ConnectionRefusedError):
            self._socket.sendto(encode(payload), (0, GROUP_MASK))
        return heard

    def receive(self) -> Iterator[tuple[bytes, int, int]]:
        """What has come: data, process id and port id of the sender."""
        size = HEADERS + MAX_PAYLOAD + 1
        for _ in range(_MOST_READS):
            try:
                data, ancillary, _, address = self._socket.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # what was dropped is lost, as it would be in the kernel
            yield data, _process(ancillary), address[0]

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def _process(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            process: int = _CREDENTIALS.unpack(data)[0]
            return process
    return os.getpid()
