"""Opens a device in a small child process that may be killed in our place, and gets the descriptor from it.

FreeBSD's VSS driver sends SIGKILL to whoever opened a device when it detaches, even if that process closed the device
long ago (facts/freebsd-vss.md section 0, trap 10, and section 1, "Close or death"). So the opener must not be the
process that knows what is frozen, and must live on while the device is in use, lest the signal go to whoever got its
process id. The state belongs to the device, not to the process: a descriptor may be passed through a Unix socket.

The child's death is also the one prompt sign of a detach, since the driver does not wake a poller:
`OpenedDevice.channel` becomes readable.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
from array import array
from datetime import timedelta
from pathlib import Path

from appvss.model.duration import format_duration
from appvss.model.errors import SourceError
from appvss.sources.device_holder import ERRNO

OPEN_LIMIT = timedelta(seconds=10)
"""How long the start of the child and its open(2) may take together."""
END_LIMIT = timedelta(seconds=2)
"""How long a killed child may take to be gone. Only a child that hangs inside the kernel takes longer than moments."""

_logger = logging.getLogger("appvss.sources.device_opener")
_HOLDER = Path(__file__).with_name("device_holder.py")


class OpenedDevice:
    """A device in use: the descriptor, and the child that opened it. Whoever gets one owes a `close`."""

    def __init__(self, descriptor: int, holder: _Holder) -> None:
        self.descriptor = descriptor
        """Of the device; close-on-exec. A plain fork would still copy it, and a copy keeps the device in use."""
        self._holder = holder

    @property
    def channel(self) -> int:
        """The descriptor that polls as readable when the child is gone."""
        return self._holder.channel.fileno()

    @property
    def pid(self) -> int:
        """The child's process id: who the driver takes for the device's user."""
        return self._holder.pid

    def close(self) -> None:
        """Release the device, then end the child. Takes `END_LIMIT` at most."""
        with contextlib.suppress(OSError):  # whatever the driver says to it, the descriptor is closed
            os.close(self.descriptor)
        self._holder.end()


class DeviceOpener:
    """Opens one path, again and again, with at most one child process at any time.

    Its methods block, for `OPEN_LIMIT` and `END_LIMIT` at most: call them in a thread, and in one thread at a time.
    Every `open` starts a process; while file systems are frozen that should not be done.

    Args:
        path: the device.
        limit: how long an open may take in all.
    """

    def __init__(self, path: str, limit: timedelta = OPEN_LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._last: _Holder | None = None

    def open(self, interrupt: int) -> OpenedDevice | None:
        """The device, opened; None when `interrupt` became readable meanwhile.

        Args:
            interrupt: a descriptor that becomes readable (or reports its end) when the open is no longer wanted.

        Raises:
            OSError: open(2) was refused; its errno says why.
            SourceError: the child could not be started, died, or did not answer in time.
        """
        if self._last is not None and not self._last.end():
            raise SourceError(
                f"process {self._last.pid}, which tried to open {self.path} before, cannot be ended",
                f"It hangs inside the kernel: find out what {self.path} is; if it is the device, restart the machine.",
            )
        holder = self._last = _Holder(self.path)
        try:
            opened = self._receive(holder, interrupt)
        except BaseException:
            holder.end()
            raise
        if opened is None:
            holder.end()
        return opened

    def _receive(self, holder: _Holder, interrupt: int) -> OpenedDevice | None:
        poller = select.poll()
        poller.register(holder.channel, select.POLLIN)
        poller.register(interrupt, select.POLLIN)
        ready = [descriptor for descriptor, _ in poller.poll(self._limit / timedelta(milliseconds=1))]
        if interrupt in ready:
            return None
        if not ready:
            raise SourceError(
                f"opening {self.path} took longer than {format_duration(self._limit)}",
                f"Find out what {self.path} is: the open of the real device never waits.",
            )
        data, descriptors = holder.receive()
        if len(data) != ERRNO.size:
            raise SourceError(
                f"process {holder.pid} ended before it had opened {self.path}",
                f"Run {sys.executable!r} -I -S {_HOLDER} by hand: it should complain of missing arguments only.",
            )
        (number,) = ERRNO.unpack(data)
        if number:
            raise OSError(number, os.strerror(number), self.path)
        if not descriptors:
            # The kernel drops what the receiver has no room for, and says nothing more than "truncated".
            raise SourceError(
                f"{self.path} was opened, and this process has no descriptor left for it",
                "Raise this process's limit of open files.",
            )
        return OpenedDevice(descriptors[0], holder)


class _Holder:
    """The child process and our end of its channel."""

    def __init__(self, path: str) -> None:
        try:
            self.channel, theirs = socket.socketpair()
        except OSError as error:
            raise _cannot_start(path, error) from error
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", str(_HOLDER), str(theirs.fileno()), path],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                self.channel.close()
                raise _cannot_start(path, error) from error
        self.pid = self._process.pid

    def receive(self) -> tuple[bytes, array[int]]:
        """The child's message, and the descriptor that came with it, if one did."""
        descriptors = array("i")
        # Not socket.recv_fds: it passes no flags on, and the descriptor must not be inherited for one moment.
        data, ancillary, _, _ = self.channel.recvmsg(
            ERRNO.size, socket.CMSG_SPACE(descriptors.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) // descriptors.itemsize * descriptors.itemsize])
        return data, descriptors

    def end(self) -> bool:
        """Kill the process and reap it; False if it is not gone within `END_LIMIT`. May be repeated.

        SIGKILL at once: the process has nothing to put in order, and holds no copy of the device once it has answered.
        """
        self.channel.close()
        self._process.kill()
        try:
            self._process.wait(END_LIMIT.total_seconds())
        except subprocess.TimeoutExpired:
            _logger.error("process %d, which opens the device, was killed and hangs inside the kernel", self.pid)
            return False
        return True


def _cannot_start(path: str, error: OSError) -> SourceError:
    return SourceError(
        f"the process that opens {path} cannot be started: {error.strerror}",
        f"Look at this process's limits (files, processes, memory), and whether {sys.executable!r} can be run.",
    )
