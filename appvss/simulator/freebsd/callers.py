"""Who is on the other end of a FUSE request: the process behind a thread, and the system call that it waits in.

The FUSE header names a thread; that thread sleeps in its system call until it is answered, so what /proc says of it is
true at that moment. Reading /proc waits for no disk.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from enum import StrEnum
from typing import Final

from appvss.simulator.fuse.process import process_of

POLLRDBAND: Final = 0x80
"""select(2) asks for it among others; poll(2) does not, unless the program names it."""


class Waiting(StrEnum):
    """How a program waits for the device."""

    POLL = "poll"
    SELECT = "select"
    EPOLL = "epoll"


def _table(poll: tuple[int, ...], select: tuple[int, ...], epoll: tuple[int, ...]) -> dict[int, Waiting]:
    return {
        **dict.fromkeys(poll, Waiting.POLL),
        **dict.fromkeys(select, Waiting.SELECT),
        **dict.fromkeys(epoll, Waiting.EPOLL),
    }


# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h:
# poll, ppoll; select, pselect6; epoll_ctl, epoll_wait, epoll_pwait, epoll_pwait2.
_SYSTEM_CALLS: Final = {
    "x86_64": _table((7, 271), (23, 270), (233, 232, 281, 441)),
    "aarch64": _table((73,), (72,), (21, 22, 441)),
}


class StillRunning(Exception):
    """The thread has not gone to sleep yet: ask again in a moment."""


def waiting_of(thread: int, events: int) -> Waiting:
    """How a thread waits that sleeps in a poll of ours.

    Where the system call cannot be seen (another architecture, no right to look), the events decide: what asks for
    `POLLRDBAND` is taken for select, all else for poll.

    Args:
        thread: its id.
        events: what it asks for.

    Raises:
        StillRunning: the kernel does not know it as sleeping yet.
    """
    calls = _SYSTEM_CALLS.get(platform.machine(), {})
    try:
        with open(f"/proc/{thread}/syscall", encoding="ascii") as file:
            first = file.read(256).split(maxsplit=1)[0]
    except (OSError, IndexError):
        first = "-1"
    if first == "running":
        raise StillRunning
    return calls.get(int(first)) or waiting_by_events(events)


def waiting_by_events(events: int) -> Waiting:
    """How a program seems to wait, by what it asks for alone."""
    return Waiting.SELECT if events & POLLRDBAND else Waiting.POLL


class Opener:
    """A process that opened a device, held so that it cannot be mistaken for a later one of the same id.

    Args:
        thread: the thread that sleeps in its open.
    """

    def __init__(self, thread: int) -> None:
        self.process = process_of(thread)
        self._handle = -1
        if self.process > 0:
            with contextlib.suppress(OSError):  # gone already: there is nobody to kill
                self._handle = os.pidfd_open(self.process)

    @property
    def ours(self) -> bool:
        """Whether it is this very process."""
        return self.process == os.getpid()

    def kill(self) -> bool:
        """Send SIGKILL. False when the process is gone already."""
        if self._handle < 0:
            return False
        try:
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the process."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
