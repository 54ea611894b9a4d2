"""The fault matrix: real processes, seeded, and the four promises after each run.

Here the short selection is played, in which every victim is struck in every phase and by every fault; and a few runs
with no fault, in which the verdict must be `application`. `python -m tests.faults.soak` plays as many as one likes.
"""

from __future__ import annotations

import itertools

import pytest

from tests.faults.fault_stage import cannot
from tests.faults.plan import Fault, Plan, selection
from tests.faults.run import play

_QUIET = 12


def _name(seed: int) -> str:
    plan = Plan.of_seed(seed)
    return f"{plan.phase}-{plan.fault}-{plan.victim}-{plan.source}-seed{seed}"


def _quiet_seeds() -> list[int]:
    """The first seeds without any fault, in which nobody ends the hold by force either."""
    plans = map(Plan.of_seed, itertools.count())
    quiet = (plan.seed for plan in plans if plan.fault is Fault.NONE and plan.leaves_the_cycle_alone)
    return list(itertools.islice(quiet, _QUIET))


async def _is_kept(seed: int) -> None:
    plan = Plan.of_seed(seed)
    if reason := cannot(plan):
        pytest.skip(reason)
    result = await play(plan)
    assert not result.violations, "\n".join([str(plan), *result.violations, result.report])


@pytest.mark.parametrize("seed", [pytest.param(seed, id=_name(seed)) for seed in selection()])
async def test_nothing_stays_frozen_and_every_verdict_is_true(seed: int) -> None:
    await _is_kept(seed)


@pytest.mark.parametrize("seed", [pytest.param(seed, id=_name(seed)) for seed in _quiet_seeds()])
async def test_application_is_said_when_nothing_goes_wrong(seed: int) -> None:
    await _is_kept(seed)
