"""How a hold ends: by a thaw, by an abort, by its limit."""

from __future__ import annotations

from typing import Final

from appvss.model.duration import format_duration
from appvss.sdk.clock import now
from appvss.testing.conformance.case import Case
from appvss.testing.conformance.stage import ON_TIME, TRIES, Stage


def thawed_twice(stage: Stage) -> str:
    """The thaw comes again."""
    cycle, _ = stage.freeze()
    stage.thaw(cycle, unbroken=True)
    again = stage.answer(stage.app.ask_thaw(cycle), "the same thaw again")
    return f"thawed again, unbroken = {str(again.unbroken).lower()}"


def thaw_without_freeze(stage: Stage) -> str:
    """A thaw of a cycle that was never frozen, and an abort."""
    stage.thaw(stage.cycle(), unbroken=False)
    aborted = stage.answer(stage.app.ask_abort("the check aborts it", stage.cycle()), "the abort")
    stage.must(not aborted.unbroken, "unbroken = true", "unbroken = false: there was no hold")
    return "thawed both times, unbroken = false"


def thaw_of_other_cycle(stage: Stage) -> str:
    """The thaw and the abort of another cycle, while it is held."""
    cycle, _ = stage.freeze()
    stage.thaw(stage.cycle(), unbroken=False)
    stage.answer(stage.app.ask_abort("the check aborts another cycle", stage.cycle()), "the abort of another cycle")
    stage.must(not stage.app.losses.get(cycle), "its hold is lost", "the hold goes on")
    stage.thaw(cycle, unbroken=True)
    return "thawed, unbroken = false; its own hold was unbroken"


def abort_in_hold(stage: Stage) -> str:
    """An abort in place of the thaw."""
    cycle, _ = stage.freeze()
    thawed = stage.answer(stage.app.ask_abort("the check aborts it", cycle), "the abort")
    stage.works()
    return f"thawed after {format_duration(thawed.took)}; the next cycle was held"


def hold_limit(stage: Stage) -> str:
    """No thaw comes before the limit. An ack that is heard late makes a hold look short, but not time after time."""
    limit, within = stage.hold_limit, stage.hold_limit + stage.subject.margin
    for _ in range(TRIES):
        cycle, _ = stage.freeze(hold_limit=limit)
        try:
            reason = stage.app.hold_lost(cycle, within=within)
        except TimeoutError:
            stage.must(False, f"no hold_lost within {format_duration(within)}, at a limit of {format_duration(limit)}")
            raise
        after = now() - stage.acked_at
        if after >= limit * ON_TIME:
            break
        stage.thaw(cycle, unbroken=False)
    stage.must(
        after >= limit * ON_TIME,
        f"hold_lost after {format_duration(after)}: {reason}",
        f"it holds until its limit of {format_duration(limit)}",
        "Count the limit from your ack.",
    )
    stage.thaw(cycle, unbroken=False)
    stage.works()
    return f"hold_lost after {format_duration(after)} of {format_duration(limit)}: {reason}; then thawed, not unbroken"


CASES: Final = (
    Case(
        "thawed_twice",
        "thawed, and the same thaw again -> thawed again",
        "Answer every thaw with thawed, whatever you hold.",
        thawed_twice,
    ),
    Case(
        "thaw_without_freeze",
        "a thaw or an abort without a freeze -> thawed, unbroken = false",
        "Answer every thaw with thawed; unbroken is true only of a hold that there was.",
        thaw_without_freeze,
    ),
    Case(
        "thaw_of_other_cycle",
        "held, and the thaw of another cycle -> thawed, unbroken = false; the own hold is unharmed",
        "Let go of what the thaw names, and of nothing else.",
        thaw_of_other_cycle,
    ),
    Case(
        "abort_in_hold",
        "held, then an abort -> thawed; the next cycle is held",
        "Treat an abort as a thaw.",
        abort_in_hold,
    ),
    Case(
        "hold_limit",
        "held past its limit -> hold_lost, by itself and not before; the later thaw -> unbroken = false",
        "Keep the limit yourself, counted from your ack on a monotonic clock, and go on without being asked.",
        hold_limit,
    ),
)
