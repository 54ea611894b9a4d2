"""A program of one's own as an app (facts/database-quiesce.md section 6.7): for what no other adapter knows.

    async with exec.quiesce(["/usr/local/libexec/orders-hook"]) as evidence:
        take_snapshot()

No shell is asked, what is executed can have been written by root and this user alone (`trust.py`), it finds little in
its environment, what it prints is bounded, and what it leaves behind is ended (`keeper.py`). `talking.py` is the way of
a program that runs through the hold, `pair.py` that of two commands.
"""

from __future__ import annotations

from appvss.adapters.exec.adapter import Adapter, quiesce
from appvss.adapters.exec.settings import Settings

__all__ = ["Adapter", "Settings", "quiesce"]
