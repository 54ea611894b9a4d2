"""The fixtures of this room."""

from __future__ import annotations

from tests.support.loop_disks import loop_disks

__all__ = ["loop_disks"]
