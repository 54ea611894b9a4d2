"""The kit against apps that keep the contract: they pass, whoever starts them, and nothing is left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import AppNotAttached, CommandUnusable, UsageError
from appvss.testing.conformance import CASES, Case, Report, Result, Status, Subject, Trial, check
from tests.testing.subjects import PROGRAMS, ROOT, python, raw_lock

SAMPLES = ROOT / "samples"
NODE = SAMPLES / "nodejs"
WRITING = {case.name for case in CASES if case.name.startswith("writ")}
PREPARING = {"prepare", "short_prepare", "abort_after_prepare", "stream_cut_while_preparing"}


def cases(*names: str) -> list[Case]:
    found = [case for case in CASES if case.name in names]
    assert len(found) == len(names)
    return found


def skipped(report: Report) -> set[str]:
    return {result.case.name for result in report.of(Status.SKIPPED)}


def insert(database: Path) -> tuple[str, ...]:
    """A command that writes to a SQLite database as another program does: it waits for a lock, but not for ever."""
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], 0.3, isolation_level=None); "
        "d.execute('INSERT INTO orders (written_at) VALUES (0)')"
    )
    return (sys.executable, "-c", program, str(database))


def test_an_app_that_keeps_the_contract_passes_every_case(tmp_path: Path) -> None:
    report = check(raw_lock(tmp_path))
    assert report.fit, report
    assert skipped(report) == set()
    assert (report.app, report.library) == ("raw-lock", "raw/1")
    assert [result.case for result in report.results] == list(CASES)


def test_the_smallest_sample_passes_and_what_was_not_played_is_named(tmp_path: Path) -> None:
    # The one with threads is what the page's example plays against: see test_guide.py.
    report = check(python(SAMPLES / "smallest_asyncio.py", tmp_path / "lines"))
    assert report.fit, report
    assert skipped(report) == WRITING | PREPARING
    assert all("--writable" in each.seen for each in report.of(Status.SKIPPED) if each.case.name in WRITING)


def test_the_sample_with_a_database_passes_and_is_writable_again_after_every_end(tmp_path: Path) -> None:
    database = tmp_path / "orders.db"
    report = check(
        python(SAMPLES / "sqlite_database.py", database, writable=insert(database), holds_writes=True),
        [case for case in CASES if case.name in WRITING | {"budget_runs_out", "many_cycles", "killed_in_hold"}],
    )
    assert report.fit, report
    assert skipped(report) == set()


@pytest.mark.skipif(not (NODE / "node_modules" / "@grpc").is_dir(), reason="samples/nodejs has no packages: make test")
def test_the_sample_in_another_language_passes(tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node is not None
    template = python(Path())
    report = check(replace(template, command=(node, str(NODE / "app.js"), str(tmp_path / "lines"))))
    assert report.fit, report
    assert skipped(report) >= WRITING


def test_an_app_without_a_token_is_checked_as_well_and_its_identity_is_not_known(tmp_path: Path) -> None:
    names = ("identity", "writable_after_kill", "stopped_past_limit", "killed_in_hold", "all_killed_in_hold")
    report = check(raw_lock(tmp_path, "brings_no_token"), cases(*names))
    assert report.fit, report
    assert skipped(report) == {"identity"}


# Who is killed, and who starts it again.


def supervised(directory: Path) -> Subject:
    """The raw app below a shell that starts it again whenever it ends."""
    subject = raw_lock(directory)
    line = f"echo start >> {directory}/starts; while :; do {' '.join(map(repr, subject.command))}; done"
    return replace(subject, command=("sh", "-c", line))


def test_the_process_that_the_kernel_names_is_killed_and_its_supervisor_brings_it_back(tmp_path: Path) -> None:
    names = ("stopped_past_limit", "killed_in_hold", "writable_after_kill", "all_killed_in_hold", "sigterm_in_hold")
    with Trial(supervised(tmp_path)) as trial:
        results = {case.name: trial.play(case) for case in cases(*names)}
    assert all(result.status is Status.PASSED for result in results.values()), results
    starts = (tmp_path / "starts").read_text().split()
    # The first one, and one after each end of the whole program; a kill of the app alone is the supervisor's affair.
    assert len(starts) == 1 + len({"all_killed_in_hold", "sigterm_in_hold"})


def test_another_command_may_start_it_again(tmp_path: Path) -> None:
    subject = raw_lock(tmp_path)
    again = ("sh", "-c", f"touch {tmp_path}/again; exec {' '.join(map(repr, subject.command))}")
    report = check(replace(subject, restart_with=again), cases("killed_in_hold"))
    assert report.fit, report
    assert (tmp_path / "again").exists()


def test_who_has_ended_and_is_collected_by_nobody_is_not_left_behind(tmp_path: Path) -> None:
    """In a container whose first process collects nobody, as the kit itself may be."""
    program = (
        "import ctypes; from pathlib import Path; from tests.testing import test_conformance as here; "
        "subreaper = 36; assert ctypes.CDLL(None).prctl(subreaper, 1, 0, 0, 0) == 0; "
        f"report = here.check(here.supervised(Path({str(tmp_path)!r})), here.cases('sigterm_in_hold')); "
        "assert report.fit, report"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr


# Several apps.


def two_apps(directory: Path) -> tuple[str, ...]:
    (one, other) = (
        f"{sys.executable} {SAMPLES}/{name}.py {directory}/{name}" for name in ("smallest_asyncio", "smallest_threads")
    )
    return ("sh", "-c", f"{one} & {other}; wait")


def test_a_program_with_several_apps_must_name_one(tmp_path: Path) -> None:
    subject = replace(python(Path()), command=two_apps(tmp_path))
    # However late the second one comes: nobody shall read a report of whichever came first.
    with pytest.raises(UsageError, match=r"several apps: smallest-.*, smallest-.*"):
        check(subject, 5000 * cases("thaw_without_freeze"))
    report = check(replace(subject, app="smallest-threads"), cases("freeze_and_thaw", "broker_back"))
    assert report.app == "smallest-threads"
    assert report.fit, report


# On a slow machine: what is right passes, and what is wrong does not.


@pytest.mark.parametrize("how", ["hears_late_at_times", "hears_every_word_late"])
def test_an_app_to_which_words_come_late_is_not_blamed_for_it(how: str, tmp_path: Path) -> None:
    names = ("short_prepare", "tiny_budget", "budget_runs_out", "writable_after_veto")
    report = check(raw_lock(tmp_path, how), cases(*names))
    assert report.fit, report
    assert skipped(report) == set()


def test_an_ack_that_is_heard_late_makes_no_hold_too_short(tmp_path: Path) -> None:
    report = check(raw_lock(tmp_path, "is_heard_late_at_times"), cases("hold_limit"))
    assert report.fit, report
    assert skipped(report) == set()


def test_an_app_whose_limit_passes_meanwhile_is_not_blamed_for_going_on(tmp_path: Path) -> None:
    names = ("stream_cut_in_hold", "freeze_and_thaw", "broker_back", "hold_limit")
    report = check(raw_lock(tmp_path, "bears_short_holds"), cases(*names))
    assert report.fit, report
    assert skipped(report) == {"stream_cut_in_hold", "broker_back"}
    assert all("its hold limit of 200.0ms was over" in result.seen for result in report.of(Status.SKIPPED))


def slow_from_the_fourth_on(directory: Path, delay: float) -> tuple[str, ...]:
    """A write that asks for no lock, and that takes long after those by which the kit learns how long it takes."""
    line = f"echo >> {directory}/runs; test $(wc -l < {directory}/runs) -le 3 || sleep {delay}"
    return ("sh", "-c", line)


def test_a_write_that_is_slow_is_not_taken_for_one_that_is_held_back(tmp_path: Path) -> None:
    write = slow_from_the_fourth_on(tmp_path, 0.7)
    subject = raw_lock(tmp_path, "never_holds", writable=write)
    report = check(subject, cases("writes_held"))
    assert [result.seen for result in report.of(Status.FAILED)] == ["a write went through in the hold"]


# What goes wrong before and beside the cases.


def test_a_failed_case_does_not_keep_the_later_ones_from_being_played(tmp_path: Path) -> None:
    told: list[Result] = []
    names = ("freeze_and_thaw", "unknown_message", "filesystem_freeze", "killed_in_hold")
    report = check(raw_lock(tmp_path, "ends_at_unknown"), cases(*names), told=told.append)
    assert [result.status for result in report.results] == [
        Status.PASSED,
        Status.FAILED,
        Status.PASSED,
        Status.PASSED,
    ]
    assert not report.fit
    assert list(report.results) == told
    (failed,) = report.of(Status.FAILED)
    assert "ValueError: what is that" in failed.output
    assert "ValueError: what is that" in str(failed)


def test_an_app_that_does_not_come_back_after_a_failure_leaves_the_rest_unknown(tmp_path: Path) -> None:
    subject = replace(raw_lock(tmp_path, "ends_at_unknown"), restart_with=("false",))
    report = check(subject, cases("unknown_message", "filesystem_freeze", "killed_in_hold"))
    assert [result.status for result in report.results] == [Status.FAILED, Status.SKIPPED, Status.SKIPPED]
    assert "did not come back" in report.results[-1].seen


def test_a_command_of_writable_that_never_succeeds_is_a_failure_and_not_a_proof(tmp_path: Path) -> None:
    subject = replace(raw_lock(tmp_path), writable=("false",))
    report = check(subject, cases("writable_at_rest", "writes_held", "writable_after_thaw"))
    assert [result.status for result in report.results] == 3 * [Status.FAILED]
    assert "while nothing was held" in report.results[1].seen


def test_without_the_promise_to_hold_writes_nobody_looks_whether_it_does(tmp_path: Path) -> None:
    subject = replace(raw_lock(tmp_path, "never_holds"), holds_writes=False)
    report = check(subject, cases("writes_held", "writable_after_thaw"))
    assert [result.status for result in report.results] == [Status.SKIPPED, Status.PASSED]


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (("/there/is/no/program",), CommandUnusable, "no such file"),
        (("sh", "-c", "echo first; echo last words; exit 3"), AppNotAttached, "code 3.*last words"),
        (("sleep", "60"), AppNotAttached, "brought no app within 1"),
        ((sys.executable, str(PROGRAMS / "raw_lock.py"), "/dev/null", "bad_name"), AppNotAttached, "INVALID_ARGUMENT"),
    ],
    ids=["no program", "ends", "never comes", "wrong hello"],
)
def test_what_cannot_be_checked_is_an_error(command: tuple[str, ...], error: type[Exception], words: str) -> None:
    subject = replace(python(Path()), command=command)
    if command[0] == "sleep":
        subject = replace(subject, attach_within=timedelta(seconds=1))
    with pytest.raises(error, match=words):
        check(subject)


def test_of_a_program_that_prints_without_end_the_last_lines_are_kept(tmp_path: Path) -> None:
    with Trial(raw_lock(tmp_path, "prints_a_lot")) as trial:
        (case,) = cases("freeze_and_thaw")
        failing = replace(case, play=_fail)
        output = trial.play(failing).output
    assert output.endswith("last words")
    assert len(output) < 5000


def _fail(_stage: object) -> str:
    raise TimeoutError("the test says so")


def in_threads(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_library_needs_nothing_of_the_command() -> None:
    program = "import sys; sys.modules.update(click=None, rich=None, pytest=None); import appvss.testing.conformance"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_two_kits_do_not_meet(tmp_path: Path) -> None:
    reports: list[Report] = []
    names = ("attaches", "freeze_and_thaw", "broker_back", "many_cycles", "killed_in_hold")

    def play(name: str) -> None:
        (tmp_path / name).mkdir()
        reports.append(check(raw_lock(tmp_path / name), cases(*names)))

    in_threads(lambda: play("one"), lambda: play("two"))
    assert [report.fit for report in reports] == [True, True], reports
