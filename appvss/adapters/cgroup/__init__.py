"""The processes of a systemd unit, or of any cgroup, stand still: for programs without any hook.

    async with cgroup.quiesce(unit="shop.service"):
        take_snapshot()

It flushes nothing: what a program has in its memory is missing in the copy, as after a file-system freeze alone, so
the grade is `fs`. What it is good for is several programs at one instant, and programs that get upset about a disk that
does not answer. Measured: 0.5 to 3.6 ms until all stand still; PostgreSQL with asynchronous commits lost 9, 21 and 26
of them all the same (facts/database-quiesce.md section 6.6).

Processes first, the file system second: a process that waits for a frozen file system cannot be frozen. The kernel
keeps a cgroup frozen when whoever has frozen it dies, so an undo record is written first.
"""

from __future__ import annotations

from appvss.adapters.cgroup.adapter import Adapter, Settings, quiesce

__all__ = ["Adapter", "Settings", "quiesce"]
