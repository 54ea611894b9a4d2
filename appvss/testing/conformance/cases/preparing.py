"""The slow work ahead."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.testing.conformance.case import Case
from appvss.testing.conformance.stage import Stage

SHORT: Final = timedelta(milliseconds=50)


def _must_prepare(stage: Stage) -> None:
    if not stage.app.registration.prepares:
        stage.skip("its hello does not ask for prepare messages: it is never sent one")


def prepare(stage: Stage) -> str:
    """It is asked to prepare, then to freeze."""
    _must_prepare(stage)
    budget = stage.subject.budget
    cycle, answer = stage.prepare_in_time(budget)
    if answer is None or not answer.ready:
        reason = "an ack that came too late" if answer is None else f"a veto: {answer.reason}"
        stage.must(False, reason, "ready")
        raise AssertionError
    stage.freeze(cycle)
    stage.thaw(cycle, unbroken=True)
    return f"ready after {format_duration(answer.took)}, and held in the same cycle"


def short_prepare(stage: Stage) -> str:
    """It gets less time to prepare than it may want."""
    _must_prepare(stage)
    _, answer = stage.prepare_in_time(SHORT)
    stage.barrier()
    stage.works()
    if answer is None or answer.ready:
        return f"ready within {format_duration(SHORT)}"
    return f"a veto after {format_duration(answer.took)}: {answer.reason}"


def abort_after_prepare(stage: Stage) -> str:
    """It is ready, and no freeze follows."""
    _must_prepare(stage)
    budget = stage.subject.budget
    cycle, _ = stage.prepare_in_time(budget)
    thawed = stage.answer(stage.app.ask_abort("the check ends it", cycle), "the abort")
    stage.must(not thawed.unbroken, "thawed, unbroken = true", "thawed, unbroken = false: there was no hold")
    stage.works()
    return "thawed, nothing was held, and the next cycle was held"


CASES: Final = (
    Case(
        "prepare",
        "prepare -> ready within the budget; the freeze of the same cycle -> held",
        "Do the slow work and answer ready, or veto with the reason.",
        prepare,
    ),
    Case(
        "short_prepare",
        "prepare with a budget of 50ms -> ready in time or a veto, never silence; the next cycle is held",
        "Count the budget, and veto when it ends, also if the work itself cannot be interrupted.",
        short_prepare,
    ),
    Case(
        "abort_after_prepare",
        "ready, then an abort -> thawed, unbroken = false; the next cycle is held",
        "Not every prepare is followed by a freeze: answer the abort with thawed.",
        abort_after_prepare,
    ),
)
