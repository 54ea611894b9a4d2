"""Where a cycle is."""

from __future__ import annotations

from appvss.model.phase import Phase


def test_three_phases_rest() -> None:
    assert {phase for phase in Phase if phase.is_resting} == {Phase.IDLE, Phase.COMPLETED, Phase.ABORTED}


def test_the_phases_are_in_the_order_of_a_cycle() -> None:
    assert [phase.value for phase in Phase] == [
        "idle",
        "requested",
        "preparing",
        "prepared",
        "freezing_apps",
        "certifying",
        "freezing_filesystems",
        "holding",
        "thawing_filesystems",
        "thawing_apps",
        "completed",
        "aborting",
        "aborted",
    ]
