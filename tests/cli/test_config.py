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
