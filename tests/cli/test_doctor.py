"""`appvss doctor`: without a broker, against a peer, and with everything broken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from appvss.cli.main import run
from appvss.model.errors import ExitCode
from tests.cli.command_line import ROOT, Ask
from tests.sdk.broker_peer import BOUND, BrokerPeer

CONFIGURATION = (
    '[broker]\nsocket_group = ""\nstate_directory = "{directory}/state"\n\n[sources.freebsd]\nmode = "off"\n'
)


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="av", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def file(directory: Path) -> Path:
    path = directory / "broker.toml"
    path.write_text(CONFIGURATION.format(directory=directory))
    return path


def grades(out: str) -> dict[str, str]:
    """The gravest grade of each check."""
    found: dict[str, str] = {}
    for one in json.loads(out)["findings"]:
        if found.get(one["check"]) != "problem":
            found[one["check"]] = one["grade"]
    return found


def test_without_a_broker_it_looks_at_what_there_is(
    directory: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--json", "--config", str(file), "--runtime-directory", str(directory / "run")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert (document["message_type"], document["fit"]) == ("doctor", True)
    found = grades(out)
    assert found["broker"] == "warning"
    assert {"configuration", "runtime_directory", "socket_group", "state_directory", "history"} <= set(found)
    assert {"device_freebsd", "descriptors", "clock", "clock_steps", "boot"} <= set(found)
    assert not (directory / "run").exists()
    assert not (directory / "state").exists()


def test_for_people_each_finding_begins_with_its_grade(
    directory: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "--config", str(file), "--runtime-directory", str(directory / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 problems, ")
    assert all(line.split()[0] in {"ok", "warning"} for line in lines[:-2] if not line.startswith(" "))
    assert any("HINT: Start the broker" in line for line in lines)


def test_a_problem_is_code_13_and_named(directory: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "run").mkdir()
    (directory / "run").chmod(0o777)
    (directory / "state").write_text("")
    line = ["doctor", "--config", str(file), "--runtime-directory", str(directory / "run")]
    assert run(line) == ExitCode.UNFIT
    out, err = capsys.readouterr()
    assert "problem  runtime_directory" in out
    assert err.splitlines() == [
        "appvss: 2 problems would fail a freeze or leave it unproven: runtime_directory, state_directory",
        "HINT: Each has a hint of its own, above.",
    ]
    assert run([*line, "--json"]) == ExitCode.UNFIT
    out, err = capsys.readouterr()
    assert (json.loads(out)["fit"], json.loads(err)["name"]) == (False, "MachineUnfit")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[broker]\nlog_level = 'loud'\nstop_timeout = 5\n", "log_level"),
        ("[", "line 1"),
        (None, "broker.toml"),
    ],
)
def test_a_configuration_that_is_no_use_hides_nothing_else(
    directory: Path, capsys: pytest.CaptureFixture[str], text: str | None, sentence: str
) -> None:
    file = directory / "broker.toml"
    if text is not None:
        file.write_text(text)
    line = ["doctor", "--json", "--config", str(file), "--runtime-directory", str(directory)]
    assert run(line) == ExitCode.UNFIT
    out = capsys.readouterr().out
    problems = [one["sentence"] for one in json.loads(out)["findings"] if one["grade"] == "problem"]
    assert any(sentence in problem for problem in problems)
    assert {"broker", "clock", "boot"} <= set(grades(out))


def test_a_history_that_is_none_is_a_problem(directory: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "state").mkdir(mode=0o700)
    (directory / "state" / "history.sqlite").write_text(
        "this is no database, and it is long enough to be looked at" * 9
    )
    code = run(["doctor", "--json", "--config", str(file), "--runtime-directory", str(directory / "run")])
    assert code == ExitCode.UNFIT
    assert grades(capsys.readouterr().out)["history"] == "problem"


async def test_a_running_broker_is_asked_and_what_it_says_is_graded(
    peer: BrokerPeer, ask: Ask, file: Path, directory: Path
) -> None:
    peer.status.pid = os.getpid()
    peer.status.history.directory = str(directory)
    done = await ask("doctor", "--json", "--config", str(file))
    assert done.code == ExitCode.UNFIT
    found = grades(done.out)
    assert found["apps_absent"] == "problem"
    assert found["sockets"] == "problem"  # the peer has the admin socket alone, and leaves it open
    assert (found["history"], found["source_local"], found["version"]) == ("ok", "ok", "ok")
    assert found["apps_failing"] == "warning"
    assert found["agreement"] == "warning"


async def test_a_broker_of_which_nothing_can_be_seen_from_here_is_no_traceback(
    peer: BrokerPeer, ask: Ask, file: Path
) -> None:
    peer.status.pid = 4194400
    done = await ask("doctor", "--config", str(file))
    assert done.code == ExitCode.UNFIT
    assert "Traceback" not in done.err


async def test_a_broker_that_answers_with_a_failure_is_a_problem(peer: BrokerPeer, ask: Ask, file: Path) -> None:
    peer.failure = (grpc.StatusCode.INTERNAL, "something broke")
    done = await ask("doctor", "--json", "--config", str(file))
    assert (done.code, grades(done.out)["broker"]) == (ExitCode.UNFIT, "problem")


def test_a_socket_that_nobody_listens_at_means_that_none_is_running(
    directory: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "admin.sock"))
    code = run(["doctor", "--json", "--config", str(file), "--runtime-directory", str(directory)])
    assert code in (ExitCode.SUCCESS, ExitCode.UNFIT)
    assert grades(capsys.readouterr().out)["broker"] == "warning"


# All of it, and gRPC loads the rest of itself with the first channel: it may lie where only root can read.
PRELOADED = """
import encodings.ascii, encodings.idna, grpc, os, sys
import appvss.broker.configuration, appvss.broker.policy, appvss.cli.doctor, appvss.history, appvss.sdk.admin
from appvss.cli.preflight import devices, filesystems, linux, machine, mounts, places, running
from appvss.cli.main import run
grpc.insecure_channel("unix:/nowhere").close()
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(run(sys.argv[1:]))
"""


def test_another_user_is_told_what_is_not_looked_at(directory: Path, file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    directory.chmod(0o755)
    file.chmod(0o644)
    line = ["doctor", "--json", "--config", str(file), "--runtime-directory", str(directory / "run")]
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED, *line], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode in (ExitCode.SUCCESS, ExitCode.UNFIT), done.stderr
    found = grades(done.stdout)
    assert (found["user"], found["runtime_directory"]) == ("warning", "warning")
