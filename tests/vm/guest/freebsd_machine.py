"""FreeBSD's app device as a character device: the simulator behind CUSE in the place of a FUSE folder.

CUSE passes an ioctl on without decoding its number, so the device knows FreeBSD's own numbers, and no others. All above
the kernel's requests is `appvss simulate freebsd`: the driver, the host, the commands.

usage: python3 freebsd_machine.py FOLDER        FOLDER.control has the socket for `appvss simulate host FOLDER COMMAND`
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

from appvss.simulator.event import Side
from appvss.simulator.freebsd import session, simulator
from appvss.simulator.freebsd.device import NODE_NAMES, Device
from appvss.simulator.fuse import mount
from appvss.simulator.fuse.abi import Opcode, Request
from appvss.simulator.fuse.connection import Respond
from appvss.sources.wire.freebsd import FREEBSD, LINUX, MESSAGE_SIZE

# Linux's include/uapi/linux/fuse.h.
CUSE_INIT: Final = 4096
UNRESTRICTED_IOCTL: Final = 1
IOCTL_RETRY: Final = 4
_INIT_OUT: Final = struct.Struct("=IIIIIIII40x")
_IOCTL_IN: Final = struct.Struct("=QIIQII")
_IOCTL_OUT: Final = struct.Struct("=iIII")
_AREA: Final = struct.Struct("=QQ")
_LARGEST: Final = 4096

_MEANT: Final = {
    FREEBSD.read: LINUX.read,
    FREEBSD.write: LINUX.write,
    LINUX.read: FREEBSD.read,
    LINUX.write: FREEBSD.write,
}
"""The simulator knows Linux's numbers: each is exchanged for the other platform's, so that Linux's are unknown here."""


class CharacterDevice(Device):
    """The simulator's device, for the one node that a CUSE connection has."""

    def handle(self, request: Request, answer: Respond) -> bytes | None:
        """Answer one request."""
        if request.opcode == CUSE_INIT:
            self._connection.ready.set()
            name = f"DEVNAME={NODE_NAMES[Side.APP]}\0".encode()
            return _INIT_OUT.pack(7, 31, 0, UNRESTRICTED_IOCTL, _LARGEST, _LARGEST, 0, 0) + name
        if request.opcode == Opcode.OPEN:
            request = replace(request, node=self._node(Side.APP))
        if request.opcode == Opcode.IOCTL:
            handle, flags, command, argument, input_size, output_size = _IOCTL_IN.unpack_from(request.body)
            if command in (FREEBSD.read, FREEBSD.write) and not input_size and not output_size:
                return _ask_for_area(argument, command)
            head = _IOCTL_IN.pack(handle, flags, _MEANT.get(command, command), argument, input_size, output_size)
            request = replace(request, body=head + request.body[_IOCTL_IN.size :])
        return super().handle(request, answer)


def _ask_for_area(argument: int, command: int) -> bytes:
    """Have the kernel repeat the ioctl with the caller's 64 bytes copied in, or with room to copy ours out."""
    inputs, outputs = (1, 0) if command == FREEBSD.write else (0, 1)
    return _IOCTL_OUT.pack(0, IOCTL_RETRY, inputs, outputs) + _AREA.pack(argument, MESSAGE_SIZE)


def main(folder: Path) -> None:
    simulator.Device = CharacterDevice
    mount.mount = lambda _: os.open("/dev/cuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    mount.unmount = lambda _: None
    asyncio.run(session.run(folder, automatic_fs=True, silent_fs=False, debug_kernel=False, as_json=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
