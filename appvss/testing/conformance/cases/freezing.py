"""Getting quiet: the ack, what proves it, and the time for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.model.names import printable
from appvss.testing.conformance.case import Case, Unmet
from appvss.testing.conformance.stage import LONG_HOLD, REQUESTER, Stage

TINY: Final = timedelta(milliseconds=1)
ABORTED_AFTER: Final = (0.0, 0.3, 0.7)
"""Parts of the time that it takes to get quiet."""
_PARTS: Final = (0.6, 0.3, 0.1)


def freeze_and_thaw(stage: Stage) -> str:
    """One whole cycle."""
    cycle, frozen = stage.freeze()
    thawed = stage.thaw(cycle, unbroken=True)
    return f"frozen after {format_duration(frozen.took)}, thawed after {format_duration(thawed.took)}, unbroken"


def evidence(stage: Stage) -> str:
    """What it gives with its ack."""
    cycle, frozen = stage.freeze()
    stage.thaw(cycle, unbroken=True)
    changed = ", ".join(printable(name) for name in frozen.evidence_changed)
    stage.must(not changed, f"evidence that is too long or not printable: {changed}")
    if not frozen.evidence:
        return "it gives none, which it may"
    return "; ".join(f"{name}={value}" for name, value in frozen.evidence.items())


def frozen_twice(stage: Stage) -> str:
    """The same freeze again, while it is held."""
    cycle, first = stage.freeze()
    again = stage.answer(
        stage.app.ask_freeze(cycle, requester=REQUESTER, budget=stage.subject.budget, hold_limit=LONG_HOLD),
        "the same freeze again",
        stage.subject.budget,
    )
    stage.must(again.frozen, f"a veto: {again.reason}", "frozen again: a veto says that nothing is held")
    stage.must(again.evidence == first.evidence, f"other evidence: {dict(again.evidence)}", f"{dict(first.evidence)}")
    stage.thaw(cycle, unbroken=True)
    return "frozen again, with the same evidence, and the hold was unbroken"


def other_cycle_while_held(stage: Stage) -> str:
    """The freeze of another cycle, while it is held."""
    cycle, _ = stage.freeze()
    budget = stage.subject.budget
    other = stage.cycle()
    answer = stage.answer(
        stage.app.ask_freeze(other, requester=REQUESTER, budget=budget, hold_limit=LONG_HOLD),
        "the other freeze",
        budget,
    )
    if answer.frozen:
        raise Unmet("frozen, for two cycles at the same time", "a veto: it is held already")
    gone = stage.answer(stage.app.ask_abort("it was vetoed", other), "the abort of the other cycle")
    stage.must(not gone.unbroken, "unbroken = true for the cycle that it vetoed", "unbroken = false")
    stage.thaw(cycle, unbroken=True)
    return f"a veto: {answer.reason}; the first hold was unbroken"


def tiny_budget(stage: Stage) -> str:
    """Hardly any time to get quiet."""
    said = _freeze_within(stage, TINY)
    stage.works()
    return f"with {format_duration(TINY)}: {said}; the next cycle was held"


def budget_runs_out(stage: Stage) -> str:
    """The budget ends while it gets quiet: parts of the time that it took before are all that it gets."""
    cycle, frozen = stage.freeze()
    stage.thaw(cycle, unbroken=True)
    said = []
    for part in _PARTS:
        budget = max(TINY, frozen.took * part)
        said.append(f"with {format_duration(budget)}: {_freeze_within(stage, budget)}")
        stage.works()
    return "; ".join(said)


def _freeze_within(stage: Stage, budget: timedelta) -> str:
    """Freeze with this budget and let go again, whatever the answer is; the answer in words."""
    cycle, answer = stage.freeze_in_time(budget)
    if answer is not None and not answer.frozen:
        return f"a veto after {format_duration(answer.took)}"
    if answer is None:
        stage.answer(stage.app.ask_abort("the ack came too late", cycle), "the abort")
        return "an ack at the end of the budget"
    stage.thaw(cycle, unbroken=True)
    return f"frozen after {format_duration(answer.took)}"


def abort_while_freezing(stage: Stage) -> str:
    """An abort comes before the ack, at different moments."""
    stage.tolerated.add("ack_too_late")  # an ack that was under way when the abort came
    stage.works()
    said = []
    for part in ABORTED_AFTER:
        cycle = stage.cycle()
        asked = stage.app.ask_freeze(cycle, requester=REQUESTER, budget=stage.subject.budget, hold_limit=LONG_HOLD)
        stage.pass_time(stage.time_to_freeze * part)
        refused = len(stage.app.refusals)
        thawed = stage.answer(stage.app.ask_abort("the check aborts it", cycle), "the abort", stage.subject.budget)
        stage.barrier()
        late = [one for one in stage.app.refusals[refused:] if one.name == "ack_too_late"]
        stage.must(
            not any(one.after_thawed for one in late),
            "an ack after the abort was answered",
            "nothing is held of a cycle whose abort was answered with thawed",
        )
        crossed = bool(late)
        answered = asked.done() or crossed
        asked.cancel()
        stage.must(answered, "no answer to the freeze that was aborted", "a veto or an ack, and thawed for the abort")
        is_frozen = not asked.cancelled() and asked.result().frozen
        stage.must(
            is_frozen or crossed or not thawed.unbroken,
            "a veto, and thawed with unbroken = true",
            "unbroken = false: there was no hold",
        )
        said.append("frozen before it" if is_frozen else "an ack crossed it" if crossed else "a veto")
    stage.works()
    return f"thawed each time ({', '.join(said)}); the next cycle was held"


CASES: Final = (
    Case(
        "freeze_and_thaw",
        "freeze -> frozen within the budget; thaw -> thawed, unbroken = true",
        "Answer freeze with frozen once everything is on the disk, and the thaw with thawed.",
        freeze_and_thaw,
    ),
    Case(
        "evidence",
        "freeze -> evidence of at most 16 entries of 64 and 256 printable characters",
        "Give less, or shorter, evidence: too many entries end the call, and what is too long is cut.",
        evidence,
    ),
    Case(
        "frozen_twice",
        "held, and the same freeze again -> frozen again, the same hold, unbroken",
        "A freeze that you hold already is answered with frozen, and nothing else is done.",
        frozen_twice,
    ),
    Case(
        "other_cycle_while_held",
        "held, and the freeze of another cycle -> a veto; the first hold is unharmed",
        "Hold one cycle at a time, and veto the other.",
        other_cycle_while_held,
    ),
    Case(
        "tiny_budget",
        "freeze with a budget of 1ms -> frozen in time or a veto, never silence; the next cycle is held",
        "Count the budget from the arrival of the question; when it ends, let go and veto.",
        tiny_budget,
    ),
    Case(
        "budget_runs_out",
        "the budget ends while it gets quiet -> it lets go and vetoes, or was quiet in time; the next cycle is held",
        "Give every lock and statement the rest of the budget as its time-out, and undo what was done half-way.",
        budget_runs_out,
    ),
    Case(
        "abort_while_freezing",
        "an abort while it gets quiet -> a veto and thawed, nothing is held; the next cycle is held",
        "Look for the abort while you get quiet, let go, and answer both questions.",
        abort_while_freezing,
    ),
)
