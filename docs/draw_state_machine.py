"""Draw docs/state-machine.md from the table of the cycle: `python docs/draw_state_machine.py`. A test compares them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "state-machine.md"
sys.path.insert(0, str(PAGE.parent.parent))

from appvss.cycle.inputs import CycleAdopted, Input  # noqa: E402 - the script runs from any directory
from appvss.cycle.table import RESTING, TABLE, Step  # noqa: E402 - see above
from appvss.model.phase import Phase  # noqa: E402 - see above

INPUTS: tuple[type[Input], ...] = Input.__args__
REST = "rest"
"""The phases without a running cycle as one: they answer every input alike, which `_columns` asserts. `CycleAdopted` is
the exception: it comes first of all, or never.
"""

_HEAD = """\
# The state machine of a cycle

Drawn by `docs/draw_state_machine.py` from `appvss/cycle/table.py`; change that, then draw again.

The machine is in one *phase*. It is told what has happened, an *input*, and the table names the *step* that deals with
that input in that phase. A pair that is not in the table is refused by the name `not_now` and changes nothing. The
phases `idle`, `completed` and `aborted` have no cycle under way and answer every input alike: they are `rest` below.
Only `CycleAdopted` has a row in `idle` alone, because a new broker takes up a former one's cycle before anything else.

`requested` and `certifying` wait for the disk: for the journal before anything is frozen, and for journal and
certificate when every app is held. A check and a rehearsal need less: a check writes nothing and passes through
`requested` within its step; a rehearsal goes from `freezing_apps` straight to `holding`, and through
`thawing_filesystems` without waiting for file systems.

A broker that starts and finds the journal of a former one (`CycleAdopted`) goes on in `holding`, with every app away
until it comes back with its claim, if all apps were held and the requester can still ask for the thaw. Otherwise it
lets everything go, through `aborting`. So that no hold is taken up as good that had been given up before, giving it up
is noted in the journal, too; nobody waits for that.

## Where a step can lead

An arrow says that the inputs on it can end in that phase. An arrow that passes over phases is a cycle that had nothing
to do in them: no app prepares, or nothing is left to undo.
"""
_TABLE = """
## Which step deals with an input

An empty cell is a refusal, `not_now`.
"""
_STEPS = """
## What the steps do
"""


def page() -> str:
    """The whole page as Markdown."""
    lines = [_HEAD, "```mermaid", "stateDiagram-v2", *_arrows(), "```", _TABLE, *_matrix(), _STEPS, *_steps()]
    return "\n".join(lines) + "\n"


def _columns() -> dict[str, Phase]:
    """The columns of the table: each phase that lasts, with the resting ones as one."""
    for input in INPUTS:
        if input is not CycleAdopted and len({TABLE.get((phase, input)) for phase in RESTING}) != 1:
            raise AssertionError(f"the resting phases differ in {input.__name__}: draw them one by one")
    running = (phase for phase in Phase if phase not in RESTING)
    return {REST: RESTING[0]} | {phase.value: phase for phase in running}


def _arrows() -> Iterator[str]:
    """One line for each pair of phases between which a step can lead."""
    yield "    direction TB"
    yield "    state rest {"
    yield from (f"        {phase}" for phase in RESTING)
    yield "    }"
    yield f"    [*] --> {RESTING[0]}"
    for name, phase in _columns().items():
        for target in Phase:
            inputs = [input for input in INPUTS if (row := TABLE.get((phase, input))) and target in row.leads_to]
            if inputs:
                yield f"    {name} --> {target}: {', '.join(_names(inputs))}"


def _matrix() -> Iterator[str]:
    columns = _columns()
    yield _row(["input", *columns])
    yield _row(["---"] * (len(columns) + 1))
    for input in INPUTS:
        rows = [TABLE.get((phase, input)) for phase in columns.values()]
        yield _row([f"`{input.__name__}`", *(f"`{row.step.__name__}`" if row else "" for row in rows)])


def _steps() -> Iterator[str]:
    steps: dict[Step, None] = dict.fromkeys(row.step for row in TABLE.values())
    yield _row(["step", "where", "what it does"])
    yield _row(["---"] * 3)
    for step in sorted(steps, key=lambda step: (step.__module__, step.__name__)):
        text = " ".join((inspect.getdoc(step) or "").split())
        yield _row([f"`{step.__name__}`", f"`{step.__module__.rpartition('.')[2]}`", text])


def _names(inputs: Iterable[type[Input]]) -> list[str]:
    return [input.__name__ for input in inputs]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
