from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.cli.held_command import CommandState, HeldCommand, Wakeup
from tests.cli.command_line import ROOT
from tests.sdk.broker_peer import BOUND

LIMIT = timedelta(seconds=BOUND)
SHELL = shutil.which("sh") or "/bin/sh"


def test_a_wait_ends_at_its_limit() -> None:
    with Wakeup() as wakeup:
        assert not wakeup.wait(lambda: False, timedelta(milliseconds=1))


def test_a_condition_that_holds_is_not_waited_for() -> None:
    with Wakeup() as wakeup:
        assert wakeup.wait(lambda: True, timedelta(0))


def test_another_thread_ends_a_wait() -> None:
    news: list[str] = []

    def tell() -> None:
        news.append("news")
        wakeup.wake()

    with Wakeup() as wakeup:
        thread = threading.Thread(target=tell)
        thread.start()
        assert wakeup.wait(lambda: bool(news), LIMIT)
        thread.join()


def test_any_number_of_wakes_is_no_harm_and_one_after_the_end_neither() -> None:
    with Wakeup() as wakeup:
        for _ in range(100_000):
            wakeup.wake()
        assert wakeup.wait(lambda: True, LIMIT)
    wakeup.wake()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_counted_and_the_former_handler_comes_back(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with Wakeup() as wakeup:
        os.kill(os.getpid(), number)
        assert wakeup.wait(lambda: bool(wakeup.signals), LIMIT)
        assert wakeup.signals == [number]
    assert signal.getsignal(number) is former


def started(script: str, environment: dict[str, str] | None = None) -> HeldCommand:
    """A shell that was let through its gate."""
    command = HeldCommand(SHELL, ["sh", "-c", script], environment or {})
    assert command.wait_loaded(LIMIT)
    command.let_through("c-1")
    return command


def test_a_command_from_its_start_to_its_collection() -> None:
    with Wakeup() as wakeup:
        command = started("kill -STOP $$")
        assert command.collect() is None
        assert command.state is CommandState.RUNNING
        command.terminate()
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == -signal.SIGTERM
        assert command.has_ended
        command.kill()  # harmless: there is nobody left


def test_the_exit_code_is_the_commands_own() -> None:
    with Wakeup() as wakeup:
        command = started('test "$APPVSS_CYCLE" = c-1 && exit $CODE', {"CODE": "5"})
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == 5


def test_ending_the_command_does_not_end_us() -> None:
    with Wakeup() as wakeup:
        command = started("kill -STOP $$")
        command.kill()
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == -signal.SIGKILL
        assert wakeup.signals == []


@pytest.mark.parametrize(("executable", "error"), [("/nowhere/program", FileNotFoundError), ("/", PermissionError)])
def test_a_program_that_cannot_be_executed(executable: str, error: type[OSError]) -> None:
    with Wakeup() as wakeup:
        command = HeldCommand(executable, ["program"], {})
        assert command.wait_loaded(LIMIT)
        command.let_through("c-1")
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        with pytest.raises(error):
            command.collect()


def test_arguments_that_are_too_long_are_refused_at_the_gate_already() -> None:
    with pytest.raises(OSError, match="Argument list too long"):
        HeldCommand(SHELL, ["sh", "x" * 4_000_000], {})


def test_a_cycle_that_no_environment_can_hold() -> None:
    with Wakeup() as wakeup:
        command = HeldCommand(SHELL, ["sh"], {})
        assert command.wait_loaded(LIMIT)
        command.let_through("c\0")
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        with pytest.raises(OSError, match="cannot be given these arguments"):
            command.collect()


# -- the gate


def test_nothing_runs_at_the_gate_and_whoever_is_sent_away_never_will(tmp_path: Path) -> None:
    command = HeldCommand(SHELL, ["sh", "-c", f"touch {tmp_path}/ran"], {})
    assert command.wait_loaded(LIMIT)
    assert command.state is CommandState.RUNNING
    command.send_away(LIMIT)
    command.send_away(LIMIT)
    assert command.has_ended
    assert not (tmp_path / "ran").exists()


def test_a_gate_that_does_not_go_away_is_killed() -> None:
    command = HeldCommand(SHELL, ["sh"], {})
    assert command.wait_loaded(LIMIT)
    os.kill(command._process.pid, signal.SIGSTOP)
    command.send_away(timedelta(milliseconds=50))
    assert command.has_ended


def test_whoever_is_let_through_is_not_sent_away() -> None:
    with Wakeup() as wakeup:
        command = started("kill -STOP $$")
        command.let_through("c-2")
        command.send_away(timedelta(0))
        assert not command.has_ended
        command.kill()
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        command.collect()


def test_the_death_of_the_program_that_started_it_opens_no_gate(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from datetime import timedelta\n"
        "from appvss.cli.held_command import HeldCommand\n"
        "command = HeldCommand('/bin/sh', ['sh', '-c', f'touch {sys.argv[1]}/ran'], {})\n"
        "assert command.wait_loaded(timedelta(seconds=20))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    # The gate has the same output, so that this waits for its end as well.
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, timeout=BOUND, check=False, cwd=ROOT
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "ran").exists()


def test_a_gate_that_is_killed_is_a_command_that_was_killed() -> None:
    with Wakeup() as wakeup:
        command = HeldCommand(SHELL, ["sh"], {})
        command.kill()
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert not command.wait_loaded(LIMIT)
        command.let_through("c-1")
        assert command.collect() == -signal.SIGKILL


def test_the_command_has_the_signals_and_the_environment_of_a_program_that_was_just_started(tmp_path: Path) -> None:
    with Wakeup() as wakeup:
        command = started(f"cat /proc/self/status > {tmp_path}/status; env > {tmp_path}/env", {"PATH": os.defpath})
        assert wakeup.wait(lambda: command.has_ended, LIMIT)
        assert command.collect() == 0
    ignored = next(line for line in (tmp_path / "status").read_text().splitlines() if line.startswith("SigIgn"))
    assert int(ignored.split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"} == {"PATH", "APPVSS_CYCLE"}
