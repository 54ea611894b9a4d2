"""The fixtures of this room."""

from tests.support.loop_disks import loop_disks

__all__ = ["loop_disks"]
