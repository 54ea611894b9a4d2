"""A broker that is killed with SIGKILL while it writes: what is on disk is whole, and is what it had been told."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from appvss.history.directory import CERTIFICATE
from appvss.model.certificate import read_certificate
from appvss.model.journal import Stage
from tests.history.conftest import Open
from tests.history.values import BOUND, LIMIT, certificate, entry, past

ROOT = Path(__file__).parents[2]
ROUNDS = 12


def run_and_kill(directory: Path, begin: int, lines: int) -> list[str]:
    """What the program said that was killed after that many lines, and whatever it came to until it was gone."""
    program = (sys.executable, "-m", "tests.history.writer_program", str(directory), str(begin))
    child = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.read().splitlines(keepends=True)
    finally:
        child.kill()
        child.wait(BOUND)
        child.stdout.close()
    return [line.strip() for line in said if line.endswith("\n")]


def test_entry_on_disk_is_always_a_whole_one_and_never_older_than_what_was_said(directory: Path, start: Open) -> None:
    chance, begin = random.Random(3), 0
    for _ in range(ROUNDS):
        said = run_and_kill(directory, begin, chance.randint(1, 60))
        told = [(int(line.split()[0][1:]), line.endswith("held")) for line in said]
        found = start(directory)
        assert found.notes == ()
        last = max(told)
        if found.open_cycle is None:
            assert last[1]  # the end of a cycle that was held
            reached = last[0]
        else:
            reached, is_held = int(found.open_cycle.cycle[1:]), found.open_cycle.stage is Stage.HELD
            assert (reached, is_held) >= last
            assert found.open_cycle == entry(f"c{reached}", found.open_cycle.stage, reached % 40 + 1)
            assert found.certificate == (certificate(f"c{reached}") if is_held else found.certificate)
        if (directory / CERTIFICATE).exists():
            read_certificate((directory / CERTIFICATE).read_text())
        for line in found.history.cycles().result(BOUND):
            number = int(line.cycle[1:])
            whole = past(line.cycle, number, certificate(line.cycle), number % 40)
            assert found.history.cycle(line.cycle).result(BOUND) == whole
        found.history.end_cycle(past(f"c{reached}", reached, certificate(f"c{reached}"), reached % 40))
        found.history.close(LIMIT)
        begin = reached + 1
