"""The freezer of hosts where somebody else freezes the file systems, or nobody does.

On FreeBSD the kernel asks its own daemon after the apps' ack (facts/freebsd-vss.md section 3.2), so the broker neither
can nor should.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from appvss.freezer.base import FreezeFailed, Frozen, Prepared, Thawed
from appvss.freezer.plan import Plan
from appvss.model.filesystem import FilesystemChoice, FreezerState, Scope

_NOBODY = "this broker freezes no file systems"


class NullFreezer:
    """Freezes nothing, and says so: no verdict claims file-system consistency on its word."""

    @property
    def state(self) -> FreezerState:
        """It is off."""
        return FreezerState()

    async def start(self) -> None:
        """Nothing is needed."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def survey(self, choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        """Nothing would be frozen; whoever insists would be refused."""
        return Plan(veto=_NOBODY if choice.scope in (Scope.NAMED, Scope.ALL) else "")

    async def prepare(
        self, cycle: str, choice: FilesystemChoice, declared: Sequence[str], budget: timedelta
    ) -> Prepared:
        """Nothing can be frozen here.

        Raises:
            FreezeFailed: the requester names file systems, or wants all.
        """
        if choice.scope in (Scope.NAMED, Scope.ALL):
            raise FreezeFailed(_NOBODY)
        return Prepared()

    async def freeze(self, cycle: str, budget: timedelta, hold_limit: timedelta) -> Frozen:
        """Nothing was frozen here."""
        return Frozen()

    async def thaw(self, cycle: str) -> Thawed:
        """Nothing is frozen here."""
        return Thawed(unbroken=True)
