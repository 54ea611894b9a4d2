"""What a freezer is to the broker: the one that freezes and thaws file systems between the apps' ack and their thaw.

Prepare looks up, opens and syncs, and holds nothing: beside the apps' prepare. Freeze is for all that was prepared, or
nothing: after the last app's ack. Thaw is for all that may be frozen, in reverse, and lets go of what was prepared:
before the first app's thaw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from appvss.freezer.plan import Plan
from appvss.model.filesystem import DeclaredPath, FilesystemChoice, FilesystemPart, FreezerState


class FreezeFailed(Exception):
    """The file systems could not be prepared or frozen; whatever was frozen is thawed again, or its thaw is under way.

    Args:
        reason: one lower-case sentence that names the file system.
        parts: what became of each that is known.
    """

    def __init__(self, reason: str, parts: tuple[FilesystemPart, ...] = ()) -> None:
        super().__init__(reason)
        self.parts = parts


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is left out of the freeze that follows, by its nature or by the administrator's word."""

    parts: tuple[FilesystemPart, ...] = ()
    doubts: tuple[str, ...] = ()
    """One sentence for each file system that is left out and lowers the verdict by the administrator's word."""
    places: Mapping[str, tuple[DeclaredPath, ...]] | None = None
    """Where each declared path lies, and what is mounted below it; None: this freezer does not tell."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a freeze came to."""

    parts: tuple[FilesystemPart, ...] = ()
    """Every file system that was prepared, first frozen first; empty: there was none."""
    doubts: tuple[str, ...] = ()
    """One sentence for each that turned out to have no freeze and lowers the verdict by the administrator's word."""


@dataclass(frozen=True, slots=True)
class Thawed:
    """How a thaw went."""

    unbroken: bool
    """Whether everything had been frozen until the thaw was asked for."""
    reason: str = ""
    """Why not, one sentence."""
    lost: tuple[str, ...] = ()
    """The paths of those that were not."""


class Freezer(Protocol):
    """Freezes file systems for one cycle at a time. All calls run on the broker's event loop and must not block it."""

    @property
    def state(self) -> FreezerState:
        """How it does at this moment."""

    async def start(self) -> None:
        """Get ready, once, before anything else. Never raises: what is missing is in `state`."""

    async def close(self) -> None:
        """Thaw everything, and let go of all that it has. In a bounded time."""

    async def survey(self, choice: FilesystemChoice, declared: Sequence[str]) -> Plan:
        """What a freeze of `choice` would do now. Opens and holds nothing.

        Raises:
            PlanRefused: a named path is no mount point, or cannot be frozen.
            OSError: the mount table cannot be read.
        """

    async def prepare(
        self, cycle: str, choice: FilesystemChoice, declared: Sequence[str], budget: timedelta
    ) -> Prepared:
        """Find, open and sync what is to be frozen. Nothing is held after it but open descriptors, which `thaw` closes.

        Args:
            cycle: for which.
            choice: what the requester wants.
            declared: the paths that the apps of the cycle declare; they need not exist.
            budget: how long it may take; the caller gives up then.

        Raises:
            FreezeFailed: a named path is no mount point, or something that must be frozen cannot be.
        """

    async def freeze(self, cycle: str, budget: timedelta, hold_limit: timedelta) -> Frozen:
        """Freeze all that was prepared for this cycle; nothing when nothing was, or it is somebody else's work here.

        Args:
            cycle: for which.
            budget: how long it may take; the caller gives up then, and calls `thaw`.
            hold_limit: how long the hold may last after it. What is still frozen then is thawed by whoever can.

        Raises:
            FreezeFailed: see there.
        """

    async def thaw(self, cycle: str) -> Thawed:
        """Thaw everything that may be frozen, and let go of what was prepared. Harmless when there is nothing; never
        raises.
        """
