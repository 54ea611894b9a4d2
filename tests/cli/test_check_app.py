"""`appvss check-app` as a command: what it prints, its JSON, its codes, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import click
import pytest

from appvss.cli import check_app
from appvss.model.errors import ExitCode
from appvss.testing.conformance import CASES, check
from tests.cli.command_line import ROOT, ended, run_apart, start
from tests.docs.tables import page, rows, section
from tests.sdk.broker_peer import BOUND
from tests.testing.subjects import PROGRAMS, raw_lock

RAW = str(PROGRAMS / "raw_lock.py")
HERE = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
QUICK = ("--only", "freeze_and_thaw", "--only", "unknown_message", "--only", "writable_after_thaw")


async def test_an_app_that_keeps_the_contract_is_told_case_by_case(tmp_path: Path) -> None:
    done = await run_apart("check-app", *QUICK, "--", sys.executable, RAW, str(tmp_path / "file"), environment=HERE)
    assert (done.code, done.err) == (ExitCode.SUCCESS, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("passed   freeze_and_thaw: frozen after ")
    assert lines[1].startswith("passed   unknown_message: ")
    assert lines[2].startswith("skipped  writable_after_thaw: no --writable COMMAND was given")
    assert lines[-1] == "raw-lock: 3 cases: 2 passed, 0 failed, 1 skipped"


async def test_a_failed_case_is_told_with_what_to_do_and_what_the_program_wrote(tmp_path: Path) -> None:
    command = (sys.executable, RAW, str(tmp_path / "file"), "ends_at_unknown")
    done = await run_apart("check-app", *QUICK, "--", *command, environment=HERE)
    assert done.code == ExitCode.UNFIT
    assert "appvss: 1 of 3 cases failed: unknown_message" in done.err
    assert "HINT: " in done.err
    assert "failed   unknown_message: " in done.out
    assert "         expected: " in done.out
    assert "         hint: Pass over what you do not know" in done.out
    assert "         | ValueError: what is that" in done.out


async def test_with_json_it_writes_one_object_with_every_field_of_the_page(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = await run_apart(
        *("check-app", "--json", *QUICK, "--writable", f"flock -n {file} true", "--holds-writes"),
        *("--hold-limit", "500ms", "--budget", "20s", "--margin", "5s", "--released-within", "20s", "--cycles", "3"),
        *("--attach-within", "60s", "--end-within", "20s", "--app", "raw-lock", "--", sys.executable, RAW, str(file)),
        environment=HERE,
    )
    assert (done.code, done.err) == (ExitCode.SUCCESS, "")
    assert len(done.out.splitlines()) == 1
    document = done.document
    assert (document.pop("message_type"), document["passed"], document["fit"]) == ("check_app", 3, True)
    assert [row[0].strip("`") for row in rows(section("reference/json.md", "## `check_app`"))] == list(document)
    fields = [row[0].strip("`") for row in rows(section("reference/json.md", "### checked case"))]
    assert all(list(case) == fields for case in document["cases"])


def test_the_object_of_a_failure_has_the_same_fields(tmp_path: Path) -> None:
    subject = raw_lock(tmp_path, "always_vetoes")
    report = check(subject, [case for case in CASES if case.name == "freeze_and_thaw"])
    (case,) = check_app.document(subject, report)["cases"]  # type: ignore[misc]  # it is a list
    assert list(case) == [row[0].strip("`") for row in rows(section("reference/json.md", "### checked case"))]
    assert (case["status"], case["seen"]) == ("failed", "a veto: it is busy")


async def test_the_cases_are_listed_and_stand_on_the_page() -> None:
    done = await run_apart("check-app", "--list", "--json")
    listed = {case["name"]: case["expected"] for case in done.document["cases"]}
    assert listed == {case.name: case.expected for case in CASES}
    assert {row[0].strip("`"): row[1] for row in rows(section("check-app.md", "## The cases"))} == listed
    plain = await run_apart("check-app", "--list", "--only", "hold_limit")
    assert plain.out.startswith("hold_limit  held past its limit")


def test_the_defaults_that_the_page_names_are_those_of_a_subject() -> None:
    from appvss.model.duration import format_duration
    from appvss.testing.conformance import Subject

    subject = Subject(("true",))
    text = page("check-app.md")
    for name in ("released_within", "attach_within", "margin", "hold_limit", "budget"):
        length = format_duration(getattr(subject, name)).replace(".0", "")
        option = f"`--{name.replace('_', '-')}` ({length})"
        assert option in text, option


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], ExitCode.USAGE, "no COMMAND was named"),
        (["--only", "nonsense", "--", "true"], ExitCode.USAGE, "there is no case nonsense"),
        (["--writable", "'", "--", "true"], ExitCode.USAGE, "cannot be read"),
        (["--hold-limit", "5", "--", "true"], ExitCode.USAGE, "500ms"),
        (["--", "/there/is/no/program"], ExitCode.NOT_FOUND, "cannot be started: no such file"),
        (["--attach-within", "1s", "--", "sleep", "60"], ExitCode.UNAVAILABLE, "brought no app within 1"),
    ],
    ids=["no command", "unknown case", "torn line", "no unit", "no program", "no app"],
)
async def test_what_cannot_be_played_is_an_error_with_a_hint(arguments: list[str], code: int, words: str) -> None:
    done = await run_apart("check-app", *arguments)
    assert done.code == code, done
    assert words in done.err
    assert "HINT: " in done.err
    assert "Traceback" not in done.err


async def test_a_command_of_writable_that_cannot_be_started_ends_the_check(tmp_path: Path) -> None:
    command = (sys.executable, RAW, str(tmp_path / "file"))
    done = await run_apart("check-app", *QUICK, "--writable", "/no/such", "--", *command, environment=HERE)
    assert done.code == ExitCode.NOT_FOUND
    assert "the command of --writable, /no/such, cannot be started" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_together_with_the_program(number: signal.Signals, tmp_path: Path) -> None:
    left = tmp_path / "left"
    script = f"echo $$ > {left}; trap '' TERM INT; while :; do sleep 1; done"
    process = await start("check-app", "--", "sh", "-c", script)
    pid = await asyncio.to_thread(written, left)
    assert Path(f"/proc/{pid}").exists()  # noqa: ASYNC240 - it is no disk
    process.send_signal(number)
    done = await ended(process)
    assert done.code == 128 + number
    assert not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240 - it is no disk


async def test_a_signal_while_the_program_starts_leaves_none_behind(tmp_path: Path) -> None:
    for turn in range(4):
        left = tmp_path / f"left-{turn}"
        script = f"echo $$ > {left}; trap '' TERM; kill -TERM $PPID; while :; do sleep 1; done"
        done = await ended(await start("check-app", "--", "sh", "-c", script))
        assert done.code == 128 + signal.SIGTERM
        pid = await asyncio.to_thread(written, left)
        assert not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240 - it is no disk


def test_a_second_signal_does_not_keep_it_from_ending_the_program() -> None:
    ended: list[str] = []

    def check_until_a_signal_comes() -> None:
        with check_app._ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    os.kill(os.getpid(), number)
                ended.append("the program")

    with pytest.raises(click.exceptions.Exit) as left:
        check_until_a_signal_comes()
    assert (left.value.exit_code, ended) == (128 + signal.SIGTERM, ["the program"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def written(file: Path) -> str:
    """What stands in the file, as soon as it does."""
    until = time.monotonic() + BOUND
    while not (file.exists() and file.read_text().endswith("\n")):
        assert time.monotonic() < until, f"nothing was written to {file}"
        time.sleep(0.02)
    return file.read_text().strip()
