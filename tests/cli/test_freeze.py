"""`appvss freeze` in a process of its own, with real commands and real signals, against a real server."""

from __future__ import annotations

import asyncio
import os
import pty
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from appvss import contract
from appvss.freezer import mountinfo
from appvss.model.app import AppId, Requirement
from appvss.model.errors import ExitCode
from appvss.model.filesystem import FilesystemChoice, Scope
from appvss.model.grade import Grade
from appvss.model.verdict import APART, AppOutcome, Level, Outcome, Verdict
from appvss.v1 import types_pb2
from tests.cli.command_line import PROGRAM, ROOT, Done, ended, start
from tests.sdk.broker_peer import BOUND, DOUBTFUL, FAILED, GOOD, HELD, BrokerPeer, reached

Freeze = Callable[..., "asyncio.Future[asyncio.subprocess.Process]"]

SAY_AND_STAY = "echo running $$; exec sleep 600"
"""A command that says its process id and ends when it is told to."""
SAY_AND_IGNORE = "trap '' TERM; echo running $$; while :; do sleep 600; done"
"""A command that does not want to end."""


@pytest.fixture(autouse=True)
def plain(peer: BrokerPeer) -> None:
    """There is nothing to say of the file systems beforehand, unless a test says otherwise."""
    peer.filesystems.ClearField("left")
    peer.filesystems.ClearField("warnings")


@pytest.fixture
async def freeze(peer: BrokerPeer) -> AsyncIterator[Freeze]:
    started: list[asyncio.subprocess.Process] = []

    async def freeze(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        process = await start("freeze", "--runtime-directory", str(peer.directory), *arguments, **options)
        started.append(process)
        return process

    yield freeze
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def run(freeze: Freeze):
    async def run(*arguments: str, **options: object) -> Done:
        return await ended(await freeze(*arguments, **options))

    return run


async def said(process: asyncio.subprocess.Process) -> int:
    """Wait for the command's word; its process id."""
    assert process.stdout is not None
    word, pid = (await asyncio.wait_for(process.stdout.readline(), BOUND)).split()
    assert word == b"running"
    return int(pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_command_runs_in_the_hold_and_the_verdict_follows(peer: BrokerPeer, run) -> None:
    done = await run(
        "--freeze-budget", "2s", "--hold-limit", "1m30s", "--", "sh", "-c", "echo in $APPVSS_CYCLE; echo e >&2"
    )
    assert (done.code, done.out) == (0, "in c-1\n")
    assert done.err == "e\nappvss: cycle c-1: application, held for 3.0s\n"
    assert peer.begin is not None
    assert (peer.begin.freeze_budget.seconds, peer.begin.hold_limit.seconds) == (2, 90)
    assert peer.begin.requester.startswith(f"appvss freeze (user {os.getuid()}, process ")
    assert not peer.broken.is_set()


async def test_the_command_has_our_standard_input(run) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from us\n")
    os.close(writer)
    done = await run("cat", stdin=reader)
    os.close(reader)
    assert (done.code, done.out) == (0, "from us\n")


async def test_options_of_the_command_are_the_commands(run) -> None:
    assert (await run("printf", "%s\n", "--json")).out == "--json\n"


async def test_a_failing_command_is_thawed_and_named(peer: BrokerPeer, run) -> None:
    done = await run("sh", "-c", "exit 3")
    assert done.code == ExitCode.COMMAND_FAILED
    assert "appvss: the command ended with code 3\n" in done.err
    assert "application" in done.err
    assert peer.finished.is_set()


async def test_a_command_that_a_signal_ended(run) -> None:
    done = await run("--json", "sh", "-c", "kill -KILL $$")
    assert done.code == ExitCode.COMMAND_FAILED
    document = done.document
    assert (document["command_exit_code"], document["command_signal"]) == (None, signal.SIGKILL)
    assert document["notes"] == ["the command was ended by SIGKILL"]


async def test_a_verdict_below_application_is_code_10_with_every_doubt(peer: BrokerPeer, run) -> None:
    peer.hold_script = ["held", "finish", DOUBTFUL]
    done = await run("true")
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.err.splitlines() == [
        "appvss: cycle c-1: filesystem, held for 3.0s",
        "  - web vetoed: a deployment is running",
        "  cache (ignored) timed_out",
        "  frozen: /srv",
        "  /media/stick (exfat) unfreezable: exfat has no freeze",
    ]


async def test_who_was_not_asked_and_whose_copy_is_worth_less(peer: BrokerPeer, run) -> None:
    outside = "it has files in /wal, which is not in the freeze"
    outcomes = (
        replace(HELD, grade=Grade.APP),
        AppOutcome(AppId("mail"), Outcome.SKIPPED, Requirement.REQUIRED, 50, APART),
        AppOutcome(AppId("web"), Outcome.HELD, Requirement.TOLERATED, 50, outside, grade=Grade.FS),
        AppOutcome(AppId("log"), Outcome.HELD, Requirement.IGNORED, 50, outside, grade=Grade.RAW),
    )
    reason = f"web (tolerated) was held, and its copy is worth less: {outside}"
    peer.hold_script = ["held", "finish", Verdict("c-1", Level.APPLICATION, outcomes, (reason,), timedelta(seconds=3))]
    done = await run("true")
    assert done.code == ExitCode.SUCCESS
    assert done.err.splitlines() == [
        "appvss: cycle c-1: application, held for 3.0s",
        f"  - {reason}",
        "  mail (required) skipped: none of its paths is on a named file system",
        f"  log (ignored) held: {outside}",
        "  worth less than `app`: web fs, log raw",
    ]


async def test_json_comes_last_after_what_the_command_wrote(run) -> None:
    done = await run("--json", "echo", "mine")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "mine"
    document = done.document
    assert (document["message_type"], document["command"], document["cycle"]) == ("freeze", ["echo", "mine"], "c-1")
    assert (document["was_held"], document["hold_limit_seconds"], document["command_exit_code"]) == (True, 30.0, 0)
    assert (document["verdict"]["level"], document["exit_code"]) == ("application", 0)
    assert document["verdict"]["outcomes"][0]["evidence"] == {"lsn": "0/16B3748"}


@pytest.mark.parametrize("command", ["no-such-command-here", "/etc/passwd", "/tmp", "./nothing"])
async def test_a_command_that_cannot_be_run_freezes_nothing(peer: BrokerPeer, run, command: str) -> None:
    done = await run("--", command)
    assert done.code == ExitCode.USAGE
    assert done.err.startswith(f"appvss: the command {command} is not")
    assert "Nothing was frozen" in done.err
    assert peer.begin is None


async def test_a_command_that_the_kernel_refuses_is_thawed_at_once(peer: BrokerPeer, run, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF nothing of the kind")
    program.chmod(0o755)
    done = await run("--json", str(program))
    assert done.code == ExitCode.COMMAND_FAILED
    assert "could not be started" in done.document["error"]["sentence"]
    assert done.document["verdict"]["level"] == "application"
    assert peer.finished.is_set()


async def test_apps_that_cannot_all_be_frozen_keep_the_command_from_running(
    peer: BrokerPeer, run, tmp_path: Path
) -> None:
    peer.hold_script = [FAILED]
    done = await run("touch", str(tmp_path / "ran"))
    assert done.code == ExitCode.REFUSED
    assert not (tmp_path / "ran").exists()
    assert done.err.splitlines()[0] == "appvss: the apps are not held; the command was not run"
    assert "  - web vetoed: a deployment is running" in done.err


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.ABORTED, ExitCode.REFUSED),
        (grpc.StatusCode.PERMISSION_DENIED, ExitCode.REFUSED),
        (grpc.StatusCode.INVALID_ARGUMENT, ExitCode.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, ExitCode.BROKER_UNREACHABLE),
    ],
)
async def test_a_refusal_of_the_broker_keeps_the_command_from_running(
    peer: BrokerPeer, run, tmp_path: Path, code: grpc.StatusCode, exit_code: ExitCode
) -> None:
    peer.failure = (code, "it says no")
    done = await run("touch", str(tmp_path / "ran"))
    assert done.code == exit_code
    assert not (tmp_path / "ran").exists()
    assert "it says no" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_hold_and_the_command(peer: BrokerPeer, freeze: Freeze, number: signal.Signals) -> None:
    process = await freeze("sh", "-c", SAY_AND_STAY)
    pid = await said(process)
    process.send_signal(number)
    await reached(peer.finished)
    done = await ended(process)
    assert done.code == 128 + number
    assert f"appvss: {number.name}: the hold was ended and the command terminated\n" in done.err
    assert not is_alive(pid)


async def test_the_hold_ends_at_once_even_if_the_command_does_not(peer: BrokerPeer, freeze: Freeze) -> None:
    process = await freeze("sh", "-c", SAY_AND_IGNORE)
    pid = await said(process)
    process.send_signal(signal.SIGTERM)
    await reached(peer.finished)
    assert is_alive(pid)
    process.send_signal(signal.SIGTERM)  # a second one does not wait for the command's good will
    assert (await ended(process)).code == 128 + signal.SIGTERM
    assert not is_alive(pid)


async def test_everything_that_the_command_started_is_terminated_with_it(peer: BrokerPeer, freeze: Freeze) -> None:
    process = await freeze("sh", "-c", "sleep 600 & echo running $!; wait")
    await said(process)
    process.send_signal(signal.SIGINT)
    # `ended` reads to the end of the output, which the grandchild holds open as long as it lives.
    assert (await ended(process)).code == 128 + signal.SIGINT


async def test_a_stopped_command_can_still_tidy_up(peer: BrokerPeer, freeze: Freeze) -> None:
    process = await freeze("--json", "sh", "-c", "trap 'exit 7' TERM; sleep 600 & echo running $$; wait")
    pid = await said(process)
    os.kill(pid, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert done.code == 128 + signal.SIGINT
    assert done.document["command_exit_code"] == 7
    assert not is_alive(pid)


async def test_a_signal_before_the_hold_gives_the_freeze_up(peer: BrokerPeer, freeze: Freeze, tmp_path: Path) -> None:
    peer.hold_script = ["hang"]
    process = await freeze("touch", str(tmp_path / "ran"))
    await reached(peer.begun)
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    await reached(peer.broken)
    assert done.code == 128 + signal.SIGINT
    assert "the freeze was given up, the command was not run" in done.err
    assert not (tmp_path / "ran").exists()


async def test_a_hold_that_the_broker_ends_terminates_the_command(peer: BrokerPeer, freeze: Freeze) -> None:
    peer.hold_script = ["held", "wait", DOUBTFUL]
    process = await freeze("sh", "-c", SAY_AND_STAY)
    pid = await said(process)
    peer.go_on.set()
    done = await ended(process)
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.err.startswith("appvss: the hold was ended before the command was done; the command is terminated\n")
    assert "filesystem" in done.err
    assert not is_alive(pid)


async def test_a_command_that_ended_in_time_is_not_undone_by_a_broker_that_goes_away(peer: BrokerPeer, run) -> None:
    peer.hold_script = ["held", "finish"]
    done = await run("--json", "true")
    assert done.code == ExitCode.NOT_CONSISTENT
    document = done.document
    assert (document["verdict"], document["error"]["name"], document["command_exit_code"]) == (None, "BrokerRefused", 0)


async def test_when_freeze_itself_is_killed_the_call_breaks_and_the_command_goes_on(
    peer: BrokerPeer, freeze: Freeze
) -> None:
    process = await freeze("sh", "-c", SAY_AND_STAY)
    pid = await said(process)
    process.kill()
    await reached(peer.broken)
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


async def test_an_ignored_hangup_stays_ignored(peer: BrokerPeer, freeze: Freeze) -> None:
    script = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        sys.executable,
        "-c",
        "from appvss.cli.main import main; main()",
        "freeze",
        "--runtime-directory",
        str(peer.directory),
        "sh",
        "-c",
        "echo running $$; read word; echo $word",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await said(process)
        process.send_signal(signal.SIGHUP)
        assert process.stdin is not None
        process.stdin.write(b"done\n")
        done = await ended(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (done.code, done.out) == (0, "done\n")


async def test_a_command_that_reads_from_the_terminal_is_terminated(peer: BrokerPeer) -> None:
    ours, theirs = pty.openpty()
    script = (
        "import fcntl, os, sys, termios\n"
        "os.setsid()\n"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'from appvss.cli.main import main; main()', *sys.argv[1:]])\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        "freeze",
        "--runtime-directory",
        str(peer.directory),
        "cat",
        stdin=theirs,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(theirs)
    try:
        done = await ended(process)
    finally:
        os.close(ours)
    assert done.code == ExitCode.COMMAND_FAILED
    assert "the command wants the terminal, which it cannot have in a hold; it was terminated" in done.err
    assert GOOD.level in done.err
    assert peer.finished.is_set()


# -- file systems


def chosen(peer: BrokerPeer) -> FilesystemChoice:
    """What the hold was asked for with, and the same beforehand."""
    assert peer.begin is not None
    choice = contract.choice_of(peer.begin.filesystems)
    assert peer.choices == ([] if choice.scope is Scope.NONE else [choice])
    return choice


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ([], FilesystemChoice(Scope.DECLARED, spares_root=True)),
        (["--force"], FilesystemChoice(Scope.DECLARED)),
        (["--all"], FilesystemChoice(Scope.ALL)),
        (["--no-filesystems"], FilesystemChoice(Scope.NONE)),
        (["--mount", "/srv", "--mount", "/a/../b/", "--mount", "/srv"], FilesystemChoice(Scope.NAMED, ("/srv", "/b"))),
        (["--mount", "data"], FilesystemChoice(Scope.NAMED, (f"{ROOT}/data",))),
    ],
)
async def test_which_file_systems_are_asked_for(
    peer: BrokerPeer, run, options: list[str], choice: FilesystemChoice
) -> None:
    assert (await run(*options, "true")).code == 0
    assert chosen(peer) == choice


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--all", "--mount", "/srv"], "--all and --mount exclude each other"),
        (["--all", "--no-filesystems"], "--all and --no-filesystems exclude each other"),
    ],
)
async def test_options_that_exclude_each_other(peer: BrokerPeer, run, options: list[str], sentence: str) -> None:
    done = await run(*options, "true")
    assert done.code == ExitCode.USAGE
    assert done.err.startswith(f"appvss: {sentence}\n")
    assert peer.begin is None


async def test_a_path_that_is_no_mount_point_freezes_nothing(peer: BrokerPeer, run, tmp_path: Path) -> None:
    peer.failure = (grpc.StatusCode.INVALID_ARGUMENT, "/nowhere is no mount point")
    done = await run("--mount", "/nowhere", "touch", str(tmp_path / "ran"))
    assert done.code == ExitCode.REFUSED
    assert done.err.startswith("appvss: the broker refused: /nowhere is no mount point\n")
    assert (peer.begin, (tmp_path / "ran").exists()) == (None, False)


def plan(peer: BrokerPeer, path: str) -> None:
    """Make the file system that carries `path` one that would be frozen."""
    mount = mountinfo.read().carrying(os.fsencode(os.path.realpath(path)))
    assert mount is not None
    del peer.filesystems.planned[1:]
    peer.filesystems.planned[0].path = os.fsdecode(mount.path)
    peer.filesystems.planned[0].device = mount.device


@pytest.mark.parametrize("options", [["--mount", "/"], ["--all"]])
async def test_the_root_file_system_is_refused_without_force(peer: BrokerPeer, run, options: list[str]) -> None:
    plan(peer, "/")
    done = await run(*options, "true")
    assert done.code == ExitCode.USAGE
    assert done.err.startswith("appvss: / would be frozen, which carries the root file system: this terminal, every ")
    assert "--force" in done.err
    assert peer.begin is None
    assert (await run(*options, "--force", "true")).code == 0
    assert peer.begin is not None


async def test_what_is_left_out_is_said_before_and_in_json(peer: BrokerPeer, run) -> None:
    left = peer.filesystems.left.add(path="/", device="8:1", type="ext4", reason="the terminal might hang")
    left.outcome = types_pb2.FILESYSTEM_OUTCOME_EXCLUDED
    assert (await run("true")).err.startswith("appvss: / is not frozen: the terminal might hang\nappvss: cycle c-1: ")
    assert (await run("--json", "true")).document["notes"] == ["/ is not frozen: the terminal might hang"]
    assert "/ is not frozen" not in (await run("--all", "true")).err


async def test_output_to_a_file_that_would_be_frozen_is_refused(
    peer: BrokerPeer, freeze: Freeze, tmp_path: Path
) -> None:
    plan(peer, str(tmp_path))
    with (tmp_path / "out").open("wb") as out:
        done = await ended(await freeze("--force", "echo", "x", stdout=out))
    assert done.code == ExitCode.USAGE
    assert done.err.startswith(f"appvss: stdout goes to {tmp_path}/out on /")
    assert "the thaw for the command" in done.err
    assert peer.begin is None
    with (tmp_path / "err").open("wb") as err:
        done = await ended(await freeze("--force", "true", stderr=err))
    assert done.code == ExitCode.USAGE
    assert (tmp_path / "err").read_text().startswith("appvss: stderr goes to ")
    with (tmp_path / "out").open("wb") as out:  # what is not frozen is no matter
        assert (await ended(await freeze("--no-filesystems", "echo", "x", stdout=out))).code == 0
    assert (tmp_path / "out").read_text() == "x\n"


async def test_a_working_directory_that_would_be_frozen_is_told(peer: BrokerPeer, run) -> None:
    plan(peer, str(ROOT))
    done = await run("--force", "true")
    assert done.code == 0
    assert "is frozen: the command must write elsewhere\n" in done.err


async def test_a_freeze_inside_a_hold_is_refused_at_once(peer: BrokerPeer, run) -> None:
    inner = f"{shlex.join(PROGRAM)} freeze --runtime-directory {peer.directory} true"
    done = await run("sh", "-c", inner)
    assert done.code == ExitCode.COMMAND_FAILED
    assert done.err.startswith("appvss: this is the inside of a hold already: APPVSS_CYCLE is c-1\nHINT: Nothing was ")
    assert f"the command ended with code {int(ExitCode.REFUSED)}" in done.err


def only_child(pid: int) -> tuple[int, str]:
    """The child of a process, and its command line."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child), Path(f"/proc/{child}/cmdline").read_text()


async def test_the_command_waits_for_the_hold_in_the_process_that_runs_it(peer: BrokerPeer, freeze: Freeze) -> None:
    peer.hold_script = ["wait", "held", "finish", GOOD]
    process = await freeze("sh", "-c", SAY_AND_STAY)
    await reached(peer.begun)
    waiting, line = await asyncio.to_thread(only_child, process.pid)
    assert "gate.py" in line
    peer.go_on.set()
    assert await said(process) == waiting
    process.send_signal(signal.SIGTERM)
    assert (await ended(process)).code == 128 + signal.SIGTERM
