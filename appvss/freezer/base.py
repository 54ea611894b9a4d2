"""What a freezer is to the broker: the one that freezes and thaws file systems between the apps' ack and their thaw."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


class FreezeFailed(Exception):
    """The file systems could not be frozen; whatever was frozen is thawed again. Its text is one sentence."""


@dataclass(frozen=True, slots=True)
class Thawed:
    """How a thaw went."""

    unbroken: bool
    """Whether everything had been frozen until the thaw was asked for."""
    reason: str = ""
    """Why not, one sentence."""


class Freezer(Protocol):
    """Freezes file systems for one cycle at a time. Both calls are tasks of the broker's loop and must not block it."""

    async def freeze(self, cycle: str, budget: timedelta) -> bool:
        """Freeze; True when any file system was frozen, False when that is somebody else's work here.

        Raises:
            FreezeFailed: see there.
        """

    async def thaw(self, cycle: str) -> Thawed:
        """Thaw everything that may be frozen. Harmless when nothing is; never raises."""
