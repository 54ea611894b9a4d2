"""Sharing one limit among several steps that come one after the other.

The source's limit is one number (FreeBSD: 15 s for apps and file systems together, facts/freebsd-vss.md section 3.4).
What is left of it after the reserve is cut into one grant for every wave of apps, here, before anything is frozen, and
a grant never grows: so the sum of the grants cannot exceed what the source gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

LEAST_GRANT = timedelta(milliseconds=100)
"""Less than this is no time to freeze anything; a budget that cannot give it to every wave is refused."""


def share_budget(budget: timedelta, needs: Sequence[timedelta | None]) -> tuple[timedelta, ...] | None:
    """A grant for each wave, in the same order, or None when the budget cannot cover what the waves need.

    Args:
        budget: what there is for all waves together.
        needs: for each wave the longest declared need, or None where no app of the wave declared any.

    A wave that declared gets at least its need; one that did not gets at least `LEAST_GRANT`. What is left over is
    shared equally. The sum of the grants is never more than `budget`.
    """
    if not needs:
        return ()
    least = [max(LEAST_GRANT, need or LEAST_GRANT) for need in needs]
    left = budget - sum(least, timedelta(0))
    if left < timedelta(0):
        return None
    # Whole microseconds, rounded down: rounding up could make the sum larger than the budget.
    extra = timedelta(microseconds=left // timedelta(microseconds=1) // len(needs))
    return tuple(grant + extra for grant in least)
