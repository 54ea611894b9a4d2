"""What differs from one Linux kernel to the next, as far as the VSS driver goes (facts/linux-hv-vss.md section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appvss.model.errors import UsageError
from appvss.model.names import printable
from appvss.sources.wire.linux_hv_vss import Limits, kernel_version, limits_of

OLDEST: Final = (4, 2)
"""The first kernel with the character device (section 1.1)."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel's driver."""

    version: tuple[int, int]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def limits(self) -> Limits:
        """How long it waits for a reply (section 1.5)."""
        return limits_of(str(self))

    @property
    def is_ready_at_write(self) -> bool:
        """Up to 4.7 a registration counts when it is written, the old one too; since then the new one alone, when its
        answer has been read (sections 1.4 and 3.3).
        """
        return self.version <= (4, 7)

    @property
    def every_error_is_efault(self) -> bool:
        """Up to 4.4 whatever is wrong with a write is EFAULT (section 1.3)."""
        return self.version <= (4, 4)

    @property
    def survives_removal(self) -> bool:
        """Before 4.5 a removal while the device is open crashes the kernel (section 1.3)."""
        return self.version >= (4, 5)

    @property
    def asks_for_hot_backup(self) -> bool:
        """Since 4.9 the daemon is asked; before, the kernel agrees by itself (section 2)."""
        return self.version >= (4, 9)

    @property
    def tells_of_hibernation(self) -> bool:
        """Since 5.7 the daemon is sent a THAW that nobody asked for (section 1.6)."""
        return self.version >= (5, 7)


MODERN: Final = Kernel((6, 1))
"""Debian 12's."""


def kernel_of(text: str) -> Kernel:
    """The kernel of a version such as `4.9` or `6.1.0-18-amd64`.

    Raises:
        UsageError: it is no version, or older than `OLDEST`.
    """
    version = kernel_version(text)
    if version is None or version < OLDEST:
        raise UsageError(
            f"{printable(text, 40)!r} is no kernel that has the device",
            f"Write a version from {Kernel(OLDEST)} on, such as 4.9 or {MODERN}.",
        )
    return Kernel(version)
