"""Many cycles in a row: what leaks shows, and how fast they go."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.testing.conformance.case import Case, Unmet
from appvss.testing.conformance.figures import Figures, figures_of
from appvss.testing.conformance.stage import Stage

_WARM_UP: Final = 5
"""Cycles before the first look: what is loaded once is no leak."""
_RESIDENT_PER_CYCLE: Final = 512
"""Kibibytes for each cycle: more is a leak, less may be the allocator's."""


def many_cycles(stage: Stage) -> str:
    """Cycle after cycle, without a pause."""
    cycles = stage.subject.cycles
    for _ in range(_WARM_UP):
        stage.works()
    before = _figures(stage)
    freezes: list[timedelta] = []
    thaws: list[timedelta] = []
    for _ in range(cycles):
        cycle, frozen = stage.freeze()
        thaws.append(stage.thaw(cycle, unbroken=True).took)
        freezes.append(frozen.took)
    after = _figures(stage)
    said = [f"{cycles} cycles held: freeze {_speed(freezes)}, thaw {_speed(thaws)}"]
    for pid, first in before.items():
        last = after.get(pid)
        if last is not None:
            _must_not_grow(pid, first, last, cycles)
            said.append(f"process {pid}: {first}, then {last}")
    if not before:
        said.append("what its process uses cannot be read here")
    return "; ".join(said)


def _figures(stage: Stage) -> dict[int, Figures]:
    pids = [stage.program.pid, *([stage.process.pid] if stage.process is not None else [])]
    found = {pid: figures_of(pid) for pid in dict.fromkeys(pids)}
    return {pid: figures for pid, figures in found.items() if figures is not None}


def _speed(lengths: list[timedelta]) -> str:
    return f"{format_duration(sorted(lengths)[len(lengths) // 2])} (longest {format_duration(max(lengths))})"


def _must_not_grow(pid: int, first: Figures, last: Figures, cycles: int) -> None:
    room = max(2, cycles // 2)  # one leaked in every second cycle is a leak; a pool that fills is not
    for what, was, is_now in (
        ("descriptors", first.descriptors, last.descriptors),
        ("threads", first.threads, last.threads),
    ):
        if is_now - was >= room:
            raise Unmet(f"process {pid} had {was} {what} before and has {is_now} after {cycles} cycles")
    if last.resident - first.resident >= _RESIDENT_PER_CYCLE * cycles:
        grown = (last.resident - first.resident) / 1024
        raise Unmet(f"the memory of process {pid} has grown by {grown:.1f} MiB in {cycles} cycles")


CASES: Final = (
    Case(
        "many_cycles",
        "one cycle after the other -> each is held, and descriptors, threads and memory do not grow",
        "Close what each hold opens: files, connections, threads.",
        many_cycles,
    ),
)
