from __future__ import annotations

from pathlib import Path

import pytest

from appvss.broker.configuration_text import sample
from appvss.cli.main import run
from appvss.model.errors import ExitCode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.toml"


def test_a_good_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('[apps]\nrequired = ["orders-db"]\n')
    assert run(["config", "check", str(path)]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == f"{path} has no problem\n"


def test_every_problem_has_a_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('[sources.freebsd]\nbudget = "20s"\n[apps]\nlimits = 3\n')
    assert run(["config", "check", str(path)]) == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:3] == [
        f"appvss: {path} has 2 problems:",
        "  sources.freebsd.budget: '20s' is over 15s: the kernel gives apps and file systems 15s together",
        "  apps.limits: there is no such key; did you mean apps.limit?",
    ]
    assert err.splitlines()[3].startswith("HINT: `appvss config sample`")


def test_one_problem_is_one_sentence(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("[apps]\nlimit =\n")
    assert run(["config", "check", str(path)]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.startswith(f"appvss: {path} has 1 problem: line 2, column 8: invalid value\nHINT: ")


def test_a_file_that_is_not_there(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", str(path)]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.startswith(f"appvss: the configuration {path} cannot be read: no such file")


def test_the_sample_is_the_file_to_begin_with(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "sample"]) == ExitCode.SUCCESS
    text = capsys.readouterr().out
    assert text == sample()
    path.write_text(text)
    assert run(["config", "check", str(path)]) == ExitCode.SUCCESS


def test_what_can_hardly_be_meant_is_a_note_and_no_problem(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('[[apps.policy]]\nname = "orders-*"\nfreeze_timeout = "20s"\n[[apps.policy]]\nname = "x"\n')
    assert run(["config", "check", str(path)]) == ExitCode.SUCCESS
    assert capsys.readouterr().out.splitlines() == [
        f"{path} has no problem",
        "note: apps.policy rule 1, freeze_timeout: 20s cannot fit into the 9.4s that sources.freebsd has for the apps; "
        "an app that is required fails every such freeze, any other is left out",
        'note: apps.policy rule 2: it decides nothing about "x"',
    ]


def test_one_app_with_two_values_is_a_problem(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('[[apps.policy]]\nname = "a"\norder = 1\n[[apps.policy]]\nname = "a"\norder = 2\n')
    assert run(["config", "check", str(path)]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.startswith(
        f'appvss: {path} has 1 problem: apps.policy rule 2, order: 2 for "a" contradicts rule 1, which says 1; '
        "keep one of them\nHINT: "
    )
