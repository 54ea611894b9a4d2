"""The deaths in a Linux cycle for as long as one likes: seeded runs, two at a time, and what they have shown.

    python -m tests.faults.linux_soak --count 100 --seed 1 --death broker_killed
    python -m tests.faults.linux_soak --count 1 --seed 77        # that run alone, with its plan and its report

The runs have the seeds SEED, SEED + 1 and so on. The code is 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from tests.faults.linux_plan import STEPS, Death, DeathPlan
from tests.faults.linux_run import DeathResult, play
from tests.support.loop_disks import why_not


@dataclass
class DeathFigures:
    """What all runs have shown together."""

    results: list[DeathResult] = field(default_factory=list)

    def lines(self, took: timedelta) -> Iterator[str]:
        """For people."""
        results = self.results
        yield f"runs: {len(results)} in {took.total_seconds():.0f} s"
        yield f"struck: {_counts(Counter(each.plan.death for each in results))}"
        yield f"phases in which they were: {_counts(Counter(each.seen for each in results))}"
        hung = Counter(each.seen for each in results for _ in range(each.hung))
        yield f"writes of the observer that waited at that moment, by phase: {_counts(hung)}"
        yield f"verdicts by level: {_counts(sum((each.levels for each in results), Counter()))}"
        for death in Death:
            if its := [each for each in results if each.plan.death is death]:
                longest = max(its, key=lambda each: each.longest)
                yield (
                    f"longest time until a write was taken, {death}: {longest.longest.total_seconds():.3f} s "
                    f"(seed {longest.plan.seed}, {longest.plan.step}, {longest.plan.slowness})"
                )
        violations = [f"seed {each.plan.seed}: {violation}" for each in results for violation in each.violations]
        yield f"violations: {len(violations)}"
        yield from violations


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counter.items())) or "none"


async def soak(plans: list[DeathPlan], workers: int, *, with_report: bool) -> DeathFigures:
    """All runs, by several workers."""
    figures, numbers = DeathFigures(), itertools.count()

    async def work() -> None:
        while (number := next(numbers)) < len(plans):
            result = await play(plans[number])
            figures.results.append(result)
            if result.violations or with_report:
                _say(f"{result.plan}\n  struck in {result.seen}, {result.took.total_seconds():.2f} s")
                for violation in result.violations:
                    _say(f"  VIOLATION {violation}")
                _say(result.report)

    async with asyncio.TaskGroup() as tasks:
        for number in range(workers):
            tasks.create_task(work(), name=f"worker {number}")
    return figures


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.linux_soak")
    parser.add_argument("--count", type=int, default=100, help="how many runs")
    parser.add_argument("--seed", type=int, default=1, help="of the first")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time")
    parser.add_argument("--death", type=Death, choices=list(Death), help="only this one")
    parser.add_argument("--step", choices=list(STEPS), help="only at this step")
    parser.add_argument("--report", action="store_true", help="show what everybody said, also when all is well")
    arguments = parser.parse_args()
    if reason := why_not("ext4"):
        _say(f"not played: {reason}")
        return 0
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    plans = [DeathPlan.of_seed(seed, arguments.death, arguments.step) for seed in seeds]
    began = time.monotonic()
    figures = asyncio.run(soak(plans, arguments.workers, with_report=arguments.report))
    for line in figures.lines(timedelta(seconds=time.monotonic() - began)):
        _say(line)
    return 1 if any(each.violations for each in figures.results) else 0


if __name__ == "__main__":
    sys.exit(main())
