"""The one clock of the SDK: monotonic, as `proto/appvss/v1/app.proto` asks for the hold limit.

On Linux and FreeBSD this clock stands still while the machine itself is suspended, and goes on from where it was when
a memory snapshot is restored. Nothing on the machine can write in that time either, so a suspension does not use up a
hold. A process that alone is stopped (SIGSTOP, a debugger) finds on waking that the clock went on.
"""

from __future__ import annotations

import time
from datetime import timedelta

from appvss.model.instant import Instant


def now() -> Instant:
    """This instant, cut to whole microseconds."""
    return Instant(timedelta(microseconds=time.monotonic_ns() // 1_000))
