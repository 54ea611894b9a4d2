"""The plans of the fault matrix: the same for the same seed, all possible, and the short selection is enough."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.faults.plan import (
    NOT_APPLICABLE,
    PHASES,
    Fault,
    Phase,
    Plan,
    SourceName,
    Victim,
    pairs,
    selection,
    wanted_pairs,
)

SEEDS = range(3000)


def test_a_seed_always_gives_the_same_plan() -> None:
    assert [Plan.of_seed(seed) for seed in range(200)] == [Plan.of_seed(seed) for seed in range(200)]


def test_every_step_every_fault_and_every_victim_is_drawn() -> None:
    plans = [Plan.of_seed(seed) for seed in SEEDS]
    assert {plan.phase for plan in plans} == set(PHASES)
    assert {(plan.fault, plan.victim) for plan in plans if plan.fault is not Fault.NONE} == set(pairs())
    assert {plan.source for plan in plans} == set(SourceName)
    assert any(plan.fault is Fault.NONE for plan in plans)


def test_each_step_of_the_table_in_which_something_is_under_way_is_there() -> None:
    assert set(PHASES) == set(Phase) - {Phase.COMPLETED, Phase.ABORTED}


def test_no_plan_contains_what_means_nothing() -> None:
    for plan in map(Plan.of_seed, SEEDS):
        assert (plan.fault, plan.victim) not in NOT_APPLICABLE
        if plan.source is SourceName.LOCAL:
            assert plan.phase is not Phase.PREPARED
            assert plan.fault is not Fault.DEVICE_GONE
        if plan.victim is Victim.SOURCE and plan.fault is Fault.DISK_FULL:
            assert plan.source is SourceName.LOCAL


def test_the_short_selection_strikes_every_victim_in_every_phase_and_with_every_fault() -> None:
    plans = [Plan.of_seed(seed) for seed in selection()]
    played = {(plan.phase, plan.victim) for plan in plans} | {(plan.fault, plan.victim) for plan in plans}
    assert wanted_pairs() <= played
    assert len(plans) < 60, "it would not be short"


@pytest.mark.parametrize("seed", [1, 17, 103])
def test_a_plan_is_shown_in_one_line_with_its_seed(seed: int) -> None:
    line = str(Plan.of_seed(seed))
    assert line.startswith(f"seed={seed} phase=")
    assert "\n" not in line


def test_what_must_succeed_is_over_before_anybody_runs_out_of_time() -> None:
    for plan in map(Plan.of_seed, SEEDS):
        if plan.leaves_the_cycle_alone:
            assert plan.length <= timedelta(milliseconds=250)
