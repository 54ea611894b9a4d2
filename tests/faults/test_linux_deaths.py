"""Whoever dies or is stopped at whichever step of a Linux cycle: every file system takes a write again, the verdict is
true, and nothing is left.

Here each step is played once with SIGKILL for the broker, and each other death at least once. `python -m
tests.faults.linux_soak` plays as many as one likes.
"""

from __future__ import annotations

import pytest

from appvss.model.phase import Phase
from tests.faults.linux_plan import STEPS, Death, DeathPlan
from tests.faults.linux_run import play

SELECTION = (
    *(DeathPlan.of_seed(seed, Death.BROKER_KILLED, step) for seed, step in enumerate(STEPS, 1)),
    DeathPlan.of_seed(8, Death.BOTH_KILLED, Phase.HOLDING),
    DeathPlan.of_seed(9, Death.ALL_KILLED, Phase.HOLDING),
    DeathPlan.of_seed(10, Death.ALL_KILLED, Phase.FREEZING_FILESYSTEMS),
    DeathPlan.of_seed(11, Death.BROKER_STOPPED, Phase.HOLDING),
    DeathPlan.of_seed(12, Death.GUARDIAN_KILLED, Phase.HOLDING),
    DeathPlan.of_seed(13, Death.GUARDIAN_STOPPED, Phase.HOLDING),
)


@pytest.mark.usefixtures("requires_fuse", "requires_loop_disks")
@pytest.mark.parametrize("plan", [pytest.param(plan, id=f"{plan.death}-{plan.step}") for plan in SELECTION])
async def test_every_file_system_takes_a_write_again_and_no_verdict_is_false(plan: DeathPlan) -> None:
    result = await play(plan)
    assert not result.violations, "\n".join([str(plan), *result.violations, result.report])


# -- the plans


def test_a_seed_always_gives_the_same_plan() -> None:
    assert [DeathPlan.of_seed(seed) for seed in range(200)] == [DeathPlan.of_seed(seed) for seed in range(200)]


def test_what_is_given_is_not_drawn_and_changes_nothing_else() -> None:
    for seed in range(200):
        drawn = DeathPlan.of_seed(seed)
        assert DeathPlan.of_seed(seed, drawn.death, drawn.step) == drawn
        given = DeathPlan.of_seed(seed, Death.BROKER_KILLED)
        assert (given.death, given.step, given.kind) == (Death.BROKER_KILLED, drawn.step, drawn.kind)


def test_a_hundred_runs_strike_every_step_and_everybody() -> None:
    plans = [DeathPlan.of_seed(seed) for seed in range(1, 101)]
    assert {plan.step for plan in plans} == set(STEPS)
    assert {plan.death for plan in plans} == set(Death)
    assert {plan.is_stuck for plan in plans} == {True, False}
    stuck = {plan.step for plan in plans if plan.is_stuck}
    assert stuck == {Phase.FREEZING_FILESYSTEMS, Phase.THAWING_FILESYSTEMS}


def test_every_step_between_the_hosts_freeze_and_the_end_of_its_thaw_is_there() -> None:
    others = {Phase.IDLE, Phase.REQUESTED, Phase.PREPARED, Phase.COMPLETED, Phase.ABORTING, Phase.ABORTED}
    assert set(STEPS) == set(Phase) - others


@pytest.mark.parametrize("seed", [1, 17, 103])
def test_a_plan_is_shown_in_one_line_with_its_seed(seed: int) -> None:
    line = str(DeathPlan.of_seed(seed))
    assert line.startswith(f"seed={seed} step=")
    assert "\n" not in line
