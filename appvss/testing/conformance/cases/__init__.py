"""Every case, in the order in which they are played: first what is simple, last what ends the process."""

from __future__ import annotations

from typing import Final

from appvss.testing.conformance.case import Case
from appvss.testing.conformance.cases import (
    attaching,
    away,
    deaths,
    ending,
    freezing,
    lasting,
    preparing,
    strange,
    writing,
)

CASES: Final[tuple[Case, ...]] = (
    *attaching.CASES,
    *preparing.CASES,
    *freezing.CASES,
    *ending.CASES,
    *strange.CASES,
    *away.CASES,
    *lasting.CASES,
    *writing.CASES,
    *deaths.CASES,
)
