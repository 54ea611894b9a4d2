"""The program that opens a device on behalf of another process, and then only exists.

Run as a file of its own, `python -I -S -B device_holder.py CHANNEL PATH`, where CHANNEL is the number of an inherited
Unix stream socket; `appvss.sources.device_opener` does so and says why. It answers with one message: four bytes, the
errno of the open or zero, and with zero the descriptor. Then it waits for the end of file on the channel, which comes
when the other process closes its end or dies, and for nothing else: the signals that ask a program to stop are
ignored.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys

ERRNO = struct.Struct("=i")
"""The message on the channel."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""Reading is right enough for both ioctls (facts/freebsd-vss.md section 1). The last two do nothing to the device, and
keep what is not the device harmless: a FIFO would block, a terminal would become ours."""


def main(channel_number: int, path: str) -> None:
    """Open `path`, pass it on, close the own copy (the device is released by the last close), stay."""
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(request, signal.SIG_IGN)
    with socket.socket(fileno=channel_number) as channel:
        try:
            device = os.open(path, _FLAGS)
        except OSError as error:
            channel.sendall(ERRNO.pack(error.errno or 0))
            return
        socket.send_fds(channel, [ERRNO.pack(0)], [device])
        os.close(device)
        channel.recv(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
