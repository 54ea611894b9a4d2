"""Writes journal entries and ended cycles as fast as it can, and says each that is on disk. Killed by its test."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from appvss.model.journal import Stage
from tests.history.values import BOUND, certificate, entry, opened, past


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    history = opened(Path(sys.argv[1]), keep=50).history
    begin = int(sys.argv[2])
    for number in count(begin):
        cycle = f"c{number}"
        history.write_journal(entry(cycle, Stage.FREEZING, number % 40 + 1)).result(BOUND)
        say(f"{cycle} freezing")
        history.write_journal(entry(cycle, Stage.HELD, number % 40 + 1), certificate(cycle)).result(BOUND)
        say(f"{cycle} held")
        history.end_cycle(past(cycle, number, certificate(cycle), number % 40))


if __name__ == "__main__":
    main()
