"""The freezer of hosts where somebody else freezes the file systems, or nobody does.

On FreeBSD the kernel asks its own daemon after the apps' ack (facts/freebsd-vss.md section 3.2), so the broker neither
can nor should; a local request of this version covers apps alone.
"""

from __future__ import annotations

from datetime import timedelta

from appvss.freezer.base import Thawed


class NullFreezer:
    """Freezes nothing, and says so: no verdict claims file-system consistency on its word."""

    async def freeze(self, cycle: str, budget: timedelta) -> bool:
        """Nothing was frozen here."""
        return False

    async def thaw(self, cycle: str) -> Thawed:
        """Nothing is frozen here."""
        return Thawed(unbroken=True)
