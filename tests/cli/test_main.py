from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest

from appvss.cli.invocation import LazyCommand
from appvss.cli.main import COMMANDS, appvss, run
from appvss.model.errors import ExitCode
from appvss.sdk.declaration import VERSION
from tests.cli.command_line import PROGRAM, ROOT, run_apart
from tests.sdk.broker_peer import BOUND, BrokerPeer


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == ExitCode.SUCCESS
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out for name in COMMANDS)


def test_help_costs_neither_grpc_nor_rich() -> None:
    script = (
        "import sys\n"
        "from appvss.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "print(sorted({'grpc', 'google.protobuf', 'rich', 'asyncio'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_commands_say(name: str) -> None:
    command = appvss.get_command(click.Context(appvss), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=1000) == COMMANDS[name].summary


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.SUCCESS
    assert capsys.readouterr().out == f"appvss {VERSION}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        ([], "no command was named", "`appvss --help`"),
        (["config"], "no command was named", "`appvss config --help`"),
        (["stauts"], "no such command 'stauts'", "`appvss --help`"),
        (["status", "--jsn"], "no such option", "`appvss status --help`"),
        (["thaw", "extra"], "extra argument (extra)", "`appvss thaw --help`"),
        (["freeze"], "missing argument 'COMMAND...'", "`appvss freeze --help`"),
        (["freeze", "--hold-limit", "20", "true"], "'20' is not a length of time; write 500ms", "freeze --help"),
        (["freeze", "--hold-limit", "0s", "true"], "'0s' is not above zero and at most 24h", "freeze --help"),
        (["freeze", "--freeze-budget", "25h", "true"], "'25h' is not above zero", "freeze --help"),
        (["freeze", "--freeze-budget", "999999999d999999999d", "true"], "is not a length of time", "freeze --help"),
    ],
)
def test_a_wrong_command_line_is_a_sentence_a_hint_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str, hint: str
) -> None:
    assert run(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first.startswith("appvss: ")
    assert sentence in first
    assert second.startswith("HINT: ")
    assert hint in second


@pytest.mark.parametrize("command", ["status", "apps", "watch", "thaw", "history", "why", "rehearse"])
def test_without_a_broker_every_question_is_a_sentence_a_hint_and_code_4(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    assert run([command, "--runtime-directory", str(tmp_path)]) == ExitCode.BROKER_UNREACHABLE
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first == f"appvss: no broker is running: there is no socket {tmp_path}/admin.sock"
    assert second.startswith("HINT: Start the broker with `appvss broker`")


def test_with_json_an_error_is_an_object_on_stderr(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["status", "--json", "--runtime-directory", str(tmp_path)]) == ExitCode.BROKER_UNREACHABLE
    out, err = capsys.readouterr()
    error = json.loads(err)
    assert out == ""
    assert (error["message_type"], error["name"], error["exit_code"]) == ("error", "BrokerUnreachable", 4)


def test_a_runtime_directory_whose_sockets_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--runtime-directory", "/" + "x" * 120]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.startswith("appvss: the socket path /xxx")


def test_an_error_never_writes_what_is_not_printable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--runtime-directory", "/tmp/\x1b[31m"]) == ExitCode.BROKER_UNREACHABLE
    assert run(["status", "\x1b[31m"]) == ExitCode.USAGE
    assert run(["freeze", "no\x1bprogram"]) == ExitCode.USAGE
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["before", "after", "environment"])
async def test_the_runtime_directory_may_be_named_in_three_places(peer: BrokerPeer, place: str) -> None:
    option = ["--runtime-directory", str(peer.directory)]
    arguments = {"before": [*option, "status"], "after": ["status", *option], "environment": ["status"]}[place]
    environment = {"APPVSS_RUNTIME_DIRECTORY": str(peer.directory) if place == "environment" else "/nowhere"}
    done = await run_apart(*arguments, environment=environment)
    assert (done.code, done.err) == (0, "")


def test_a_failure_of_our_own_is_called_a_bug_and_the_traceback_is_for_those_who_ask(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command("broken")
    def broken() -> None:
        raise ZeroDivisionError("one by \x1bnothing")

    module = types.ModuleType("appvss_broken_command")
    module.broken = broken  # type: ignore[attr-defined]  # a module has what it is given
    known = appvss.lazy
    sys.modules[module.__name__] = module
    appvss.lazy = {"broken": LazyCommand(module.__name__, "broken", "")}
    try:
        assert run(["broken"]) == ExitCode.INTERNAL
        err = capsys.readouterr().err
        assert err.startswith("appvss: this is a bug in appvss: ZeroDivisionError: one by ?nothing\nHINT: ")
        assert "Traceback" not in err
        assert run(["--debug", "broken"]) == ExitCode.INTERNAL
        assert "Traceback" in capsys.readouterr().err
    finally:
        appvss.lazy = known
        del sys.modules[module.__name__]


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*PROGRAM, "--version"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=BOUND, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_output_that_cannot_be_written_is_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "--version"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, timeout=BOUND, check=False
        )
    assert done.returncode == ExitCode.INTERNAL
    assert done.stderr.startswith(b"appvss: the output cannot be written: no space left on device\nHINT: ")
