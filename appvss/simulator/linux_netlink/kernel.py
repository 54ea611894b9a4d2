"""What kernels of different age do differently over netlink (facts/linux-hv-vss.md sections 1.5, 2 and 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss.model.errors import UsageError
from appvss.model.names import printable
from appvss.simulator.linux.kernel import Kernel
from appvss.sources.wire.linux_hv_vss import Operation, kernel_version

OLDEST: Final = (3, 10)
"""The first kernel with the driver."""
_SECOND_EDITION: Final = (4, 2)
_FIRST_TIMER: Final = (3, 19)


@dataclass(frozen=True, slots=True)
class NetlinkKernel(Kernel):
    """One kernel's driver, as it is reached over netlink."""

    @property
    def has_states(self) -> bool:
        """Since 4.2 it answers registration 129, checks lengths, and has a character device, too."""
        return self.version >= _SECOND_EDITION

    @property
    def has_timer(self) -> bool:
        """Before 3.19 it waits for every answer for ever, and takes nothing else."""
        return self.version >= _FIRST_TIMER

    @property
    def callback(self) -> str:
        """Its name in the connector's list."""
        return "vmbus/hv_vss" if self.has_states else "vss_kernel_module"

    def limit(self, operation: int) -> timedelta | None:
        """How long it waits for the answer to an operation; None: for ever."""
        if not self.has_timer:
            return None
        return self.limits.freeze if operation == Operation.FREEZE else self.limits.thaw


MODERN: Final = NetlinkKernel((6, 1))
"""Debian 12's."""


def kernel_of(text: str) -> NetlinkKernel:
    """The kernel of a version such as `3.10` or `6.1.0-18-amd64`.

    Raises:
        UsageError: it is no version, or older than `OLDEST`.
    """
    version = kernel_version(text)
    if version is None or version < OLDEST:
        raise UsageError(
            f"{printable(text, 40)!r} is no kernel that has the driver",
            f"Write a version from {NetlinkKernel(OLDEST)} on, such as 4.1 or {MODERN}.",
        )
    return NetlinkKernel(version)
