"""The machine below the broker."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appvss.broker import main
from appvss.cli.preflight import machine
from appvss.cli.preflight.finding import Daemon, Grade, Plan

SECOND = timedelta(seconds=1)
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="this looks at Linux's /proc")


def plan(apps: int) -> Plan:
    return Plan(Path("/run"), Path("/var"), "", apps, Path("/dev/x"), "off", SECOND, "")


def us() -> Daemon:
    return Daemon(os.getpid(), os.geteuid())


def test_the_numbers_are_the_brokers_own() -> None:
    assert machine.PRIORITY == main.PRIORITY
    assert machine.DESCRIPTORS_AN_APP == main._DESCRIPTORS_AN_APP
    assert machine.DESCRIPTORS_BESIDE == main._DESCRIPTORS_BESIDE


@linux
@pytest.mark.parametrize("daemon", [None, us()])
def test_descriptors_for_few_apps_and_for_too_many(daemon: Daemon | None) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this process may open as many files as it likes")
    assert machine.descriptors(plan(1), daemon).grade is Grade.OK
    found = machine.descriptors(plan(hard), daemon)
    assert (found.grade, f"may open {hard} files" in found.sentence) == (Grade.WARNING, True)


def test_a_broker_that_does_not_go_first() -> None:
    assert list(machine.priority(None)) == []
    (found,) = machine.priority(us())
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    assert (found.grade is Grade.OK) is (nice <= machine.PRIORITY)
    assert list(machine.priority(Daemon(4194400, 0))) == []


@linux
@pytest.mark.parametrize(
    ("target", "grade", "text"),
    [
        ("/dev/null", Grade.WARNING, "nobody can read it"),
        ("pipe", Grade.OK, "another process"),
        ("file", Grade.OK, "nothing is written to it in a hold"),
        ("deleted", Grade.WARNING, "was removed"),
    ],
)
def test_where_the_log_goes(tmp_path: Path, target: str, grade: Grade, text: str) -> None:
    file = tmp_path / "log"
    options = {"/dev/null": subprocess.DEVNULL, "pipe": subprocess.PIPE}
    stderr = options[target] if target in options else file.open("w")
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1, stderr=stderr)
    try:
        if target == "deleted":
            file.unlink()
        (found,) = machine.log(Daemon(process.pid, os.geteuid()))
        assert (found.grade, text in found.sentence) == (grade, True), found
    finally:
        process.communicate(b"")
        if not isinstance(stderr, int):
            stderr.close()


def test_a_log_of_nobody() -> None:
    assert list(machine.log(None)) == []
    assert list(machine.log(Daemon(4194400, 0))) == []


def test_a_wall_clock_that_cannot_be_true() -> None:
    assert machine.wall_clock(NOW, None).grade is Grade.OK
    assert machine.wall_clock(NOW, NOW).grade is Grade.OK
    assert machine.wall_clock(NOW.replace(year=1970), None).grade is Grade.PROBLEM
    found = machine.wall_clock(NOW, NOW + SECOND)
    assert (found.grade, "the clock was set back" in found.sentence) == (Grade.WARNING, True)


def test_a_wall_clock_that_is_set_meanwhile() -> None:
    assert machine.clock_steps(SECOND, SECOND * 1.1).grade is Grade.OK
    found = machine.clock_steps(-SECOND, SECOND)
    assert (found.grade, "went -2.0s" in found.sentence) == (Grade.WARNING, True)


def test_whether_the_time_is_synchronised_is_known_or_not_said() -> None:
    assert all(found.check == "time_synchronised" for found in machine.synchronised())


def test_a_boot_that_is_known_and_one_that_is_not() -> None:
    assert (machine.boot(True).grade, machine.boot(False).grade) == (Grade.OK, Grade.WARNING)
