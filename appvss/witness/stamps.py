"""When the change time of a file may be compared with the wall clock.

An app may change its files between its ack and the first look at them. Their change times show that, if they come from
the clock that the ack was read on: on file systems of this machine that is so, and such a time is never later than the
wall clock (measured on ext4 and tmpfs). A file server has a clock of its own, and a step back of ours makes old times
look like new ones: then nothing is concluded, since an app that keeps its word must never be accused.
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from typing import Final, Protocol

from appvss.model.instant import Instant

MARGIN: Final = timedelta(milliseconds=1)
"""How much later than the ack a change must be. Smaller steps of the wall clock go unnoticed."""
_STAMPED_BY_US: Final = frozenset({"ext2", "ext3", "ext4", "tmpfs"})
"""Types of file systems, as in proc_pid_mountinfo(5), whose times come from this machine's clock alone."""
_MOUNTS: Final = "/proc/self/mountinfo"
_MOUNTS_LIMIT: Final = 1 << 20


class Clock(Protocol):
    """The two clocks of a machine, passed in so that a test can hold them."""

    def now(self) -> Instant:
        """The monotonic clock."""

    def wall(self) -> timedelta:
        """Time since 1970-01-01 UTC by the wall clock, which may jump."""


class WallClock:
    """The wall clock, and since when it has not been set back.

    Args:
        clock: both clocks.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lead = clock.wall() - clock.now().since_origin
        self._steady_from = clock.now()

    def read(self) -> tuple[timedelta, bool]:
        """The time, and whether everything that is stamped with a later one was changed later.

        Both clocks run at one pace (clock_gettime(2)), so that their distance shows each step. After a step back, times
        from before it lie in the future for as long as the step was.
        """
        now, wall = self._clock.now(), self._clock.wall()
        lead = wall - now.since_origin
        if self._lead - lead > MARGIN:
            self._steady_from = max(self._steady_from, now + (self._lead - lead) + MARGIN)
        self._lead = lead
        return wall, now >= self._steady_from


def is_stamped_by_us(device: int) -> bool:
    """Whether this machine's clock stamps the files of a device (`st_dev`). False also when nobody knows: on other
    kernels than Linux, and for file systems that hide their device, such as btrfs.
    """
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open(_MOUNTS, encoding="utf-8", errors="replace") as mounts:
        for line in mounts.read(_MOUNTS_LIMIT).splitlines():
            mount, _, kind = line.partition(" - ")
            fields = mount.split()
            if len(fields) > 2 and fields[2] == wanted:
                return kind.split(" ", 1)[0] in _STAMPED_BY_US
    return False
