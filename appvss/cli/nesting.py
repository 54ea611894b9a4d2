"""What a command that runs in a hold can know of it."""

from __future__ import annotations

import os
from typing import Final

from appvss.model.errors import CycleBusy
from appvss.model.names import printable

CYCLE_VARIABLE: Final = "APPVSS_CYCLE"
"""Environment variable that tells a command in which cycle it runs."""


def refuse_nesting() -> None:
    """A freeze inside a hold would wait for the end of that hold, which waits for it.

    Raises:
        CycleBusy: this process runs in a hold.
    """
    cycle = printable(os.environ.get(CYCLE_VARIABLE, ""), 64)
    if cycle:
        raise CycleBusy(
            f"this is the inside of a hold already: {CYCLE_VARIABLE} is {cycle}",
            f"Nothing was frozen. Name all file systems in the outer command; or unset {CYCLE_VARIABLE}, if that hold "
            "is over.",
        )
