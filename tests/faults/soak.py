"""The fault matrix for as long as one likes: seeded runs, two at a time, and what they have shown.

    python -m tests.faults.soak --count 500 --seed 1
    python -m tests.faults.soak --count 1 --seed 77        # that run alone, with its plan

The runs have the seeds SEED, SEED + 1 and so on. The code is 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.faults.fault_stage import cannot
from tests.faults.plan import Fault, Plan
from tests.faults.run import Result, play

_LIMIT = 120.0
"""Seconds that one run may take: far more than all its own bounds."""


@dataclass
class Figures:
    """What all runs have shown together."""

    runs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    levels: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    longest_seed: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, line: dict[str, Any]) -> None:
        """One run's line."""
        if line["skipped"]:
            self.skipped[line["skipped"]] += 1
            return
        self.runs += 1
        self.faults[line["fault"]] += 1
        self.victims[line["victim"]] += 1
        self.phases[line["seen"]] += 1
        self.levels.update(line["levels"])
        if line["longest"] > self.longest:
            self.longest, self.longest_seed = line["longest"], line["seed"]
        self.violations += [f"seed {line['seed']}: {violation}" for violation in line["violations"]]

    def lines(self, took: timedelta) -> Iterator[str]:
        """For people."""

        def counts(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {number}" for name, number in sorted(counter.items())) or "none"

        each = took / max(self.runs, 1)
        yield f"runs: {self.runs} in {took.total_seconds():.0f} s, one every {each.total_seconds():.2f} s"
        yield f"faults: {counts(self.faults)}"
        yield f"victims: {counts(self.victims)}"
        yield f"phases in which they struck: {counts(self.phases)}"
        yield f"verdicts by level: {counts(self.levels)}"
        yield f"longest time to write again after the limit: {self.longest:.3f} s (seed {self.longest_seed})"
        for reason, number in self.skipped.items():
            yield f"not played: {number}, because {reason}"
        yield f"violations: {len(self.violations)}"
        yield from self.violations


def line_of(result: Result, skipped: str = "", *, with_report: bool = False) -> dict[str, Any]:
    """A result in JSON, from a worker to the one that counts."""
    return {
        "seed": result.plan.seed,
        "fault": result.plan.fault,
        "victim": result.plan.victim,
        "seen": result.seen,
        "levels": dict(result.levels),
        "longest": result.longest.total_seconds(),
        "took": result.took.total_seconds(),
        "violations": result.violations,
        "report": result.report if result.violations or with_report else "",
        "skipped": skipped,
    }


async def _work(arguments: argparse.Namespace) -> None:
    """Play a worker's part of the runs, one after the other, and write a line for each."""
    fault = arguments.fault
    first, last = arguments.seed + arguments.worker, arguments.seed + arguments.count
    for seed in range(first, last, arguments.workers):
        plan = Plan.of_seed(seed)
        if fault and (plan.fault == Fault.NONE) != (fault == Fault.NONE):
            continue
        reason = cannot(plan)
        if reason:
            line = line_of(Result(plan), reason)
        else:
            try:
                async with asyncio.timeout(_LIMIT):
                    line = line_of(await play(plan), with_report=arguments.report)
            except TimeoutError:
                line = line_of(Result(plan, violations=[f"the run has not ended within {_LIMIT:.0f} s"]))
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


async def _hear_worker(number: int, arguments: argparse.Namespace, figures: Figures) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.soak",
        *("--count", str(arguments.count), "--seed", str(arguments.seed), "--workers", str(arguments.workers)),
        *("--fault", arguments.fault, "--worker", str(number)),
        *(["--report"] if arguments.report else []),
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    assert process.stdout is not None
    while text := await process.stdout.readline():
        line = json.loads(text)
        figures.add(line)
        _show(line, arguments.verbose or arguments.count == 1)
    if await process.wait() != 0:
        figures.violations.append(f"worker {number} has ended with {process.returncode}")


def _show(line: dict[str, Any], in_full: bool) -> None:
    if line["violations"] or in_full:
        _say(f"{Plan.of_seed(line['seed'])}")
        _say(f"  struck in {line['seen'] or '-'}, {line['took']:.2f} s, {line['levels']} {line['skipped']}")
    for violation in line["violations"]:
        _say(f"  VIOLATION {violation}")
    if line["report"]:
        _say(line["report"])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def soak(arguments: argparse.Namespace) -> Figures:
    """All runs, by several workers."""
    figures = Figures()
    workers = min(arguments.workers, arguments.count)
    arguments.workers = workers
    async with asyncio.TaskGroup() as tasks:
        for number in range(workers):
            tasks.create_task(_hear_worker(number, arguments, figures), name=f"worker {number}")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--count", type=int, default=100, help="how many runs")
    parser.add_argument("--seed", type=int, default=1, help="of the first")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time")
    parser.add_argument(
        "--fault", choices=["", "none", "some"], default="", help="only runs with no fault, or with one"
    )
    parser.add_argument("--verbose", action="store_true", help="show every plan")
    parser.add_argument("--report", action="store_true", help="show what everybody said, also when all is well")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        asyncio.run(_work(arguments))
        return 0
    began = time.monotonic()
    figures = asyncio.run(soak(arguments))
    for line in figures.lines(timedelta(seconds=time.monotonic() - began)):
        _say(line)
    return 1 if figures.violations else 0


if __name__ == "__main__":
    sys.exit(main())
