"""The agent's systemd unit and its rc.d script: what systemd says of them, and that they agree with the code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appvss.adapters import exec as hook
from appvss.agent.options import AgentOptions
from appvss.agent.process import TICK
from appvss.agent.supervised import KILL_LIMIT
from appvss.model.errors import ExitCode
from tests.agent.running_agent import PATIENCE
from tests.packaging.test_freebsd_rc import FAKES, is_there, program
from tests.packaging.test_systemd import run, tool
from tests.packaging.unit import PACKAGING, Unit
from tests.support.memory_directory import in_memory
from tests.support.running_broker import ROOT

SERVICE = PACKAGING / "systemd" / "appvss-agent.service"
SCRIPT = PACKAGING / "freebsd" / "appvss_agent"
APPS = '[apps.orders]\nadapter = "exec"\nfreeze = ["/bin/true"]\nthaw = ["/bin/true"]\n'


@pytest.fixture
def unit() -> Unit:
    return Unit(SERVICE)


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    installed = shutil.which("true")
    for name in (SERVICE.name, "appvss-broker.service"):
        text = (PACKAGING / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("=appvss ", f"={installed} ").replace("=-appvss ", f"=-{installed} "))
    done = run(tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / SERVICE.name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_the_service_may_do_is_bounded() -> None:
    done = run(tool("systemd-analyze"), "security", "--offline=yes", "--threshold=45", str(SERVICE))
    assert done.returncode == 0, done.stdout


def test_the_values_agree_with_the_code(unit: Unit) -> None:
    options = AgentOptions()
    longest = hook.Adapter(hook.Settings(freeze=("/bin/true",), thaw=("/bin/true",))).undo_limit
    assert unit.length("TimeoutStopSec") > options.stop_timeout + KILL_LIMIT + longest
    assert unit.length("WatchdogSec") > 10 * TICK
    assert str(options.undo_directory) in (f"/run/{unit.value('RuntimeDirectory')}/undo", "/var/run/appvss-agent/undo")
    assert int(unit.value("RuntimeDirectoryMode"), 8) & 0o011, "apps of other users enter their directories in it"
    assert {int(code) for code in unit.words("RestartPreventExitStatus")} == {ExitCode.USAGE, ExitCode.CONFIGURATION}


def test_the_guardian_and_the_undo_records_outlive_the_agent(unit: Unit) -> None:
    assert unit.value("KillMode") == "process"
    assert unit.value("RuntimeDirectoryPreserve") == "yes"
    assert unit.value("ExecStopPost") == "-appvss agent undo"


# -- FreeBSD


class Machine:
    """A FreeBSD machine in a folder, with stand-ins for rc.subr(8) and daemon(8)."""

    def __init__(self, folder: Path, memory: Path) -> None:
        self.folder = folder
        self.configuration = folder / "agent.toml"
        self.head = f'[agent]\nundo_directory = "{memory}/undo"\nruntime_directory = "{folder}/run"\n'
        self.configuration.write_text(self.head + APPS)
        self.pid_file = folder / "appvss_agent.pid"
        self.log = folder / "syslog"
        words = "from appvss.cli.main import main; main()"
        appvss = program(folder / "appvss", f"PYTHONPATH={ROOT} exec {sys.executable} -c '{words}' \"$@\"")
        supervisor = program(folder / "daemon", f'exec {sys.executable} -I {FAKES / "daemon.py"} "$@"')
        text = SCRIPT.read_text()
        for theirs, ours in (
            ("/etc/rc.subr", FAKES / "rc.subr"),
            ("/usr/sbin/daemon", supervisor),
            ("/var/run/appvss_agent.pid", self.pid_file),
        ):
            assert theirs in text
            text = text.replace(theirs, str(ours))
        self.script = folder / "appvss_agent"
        self.script.write_text(text)
        (folder / "rc.conf").write_text(
            f'appvss_agent_enable="YES"\nappvss_agent_config="{self.configuration}"\nappvss_agent_appvss="{appvss}"\n'
        )
        self.environment = {
            **os.environ,
            "RC_CONF": str(folder / "rc.conf"),
            "FAKE_SYSLOG": str(self.log),
            "FAKE_DAEMON": "patient",
        }

    def service(self, verb: str) -> subprocess.CompletedProcess[str]:
        """`service appvss_agent VERB`."""
        command = ["sh", str(self.script), verb]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    def logged(self, text: str, times: int = 1) -> None:
        """Wait until the agent has said something so often."""
        deadline = time.monotonic() + PATIENCE
        while not self.log.exists() or self.log.read_text().count(text) < times:
            assert time.monotonic() < deadline, self.log.read_text() if self.log.exists() else "nothing was logged"
            time.sleep(0.02)  # the agent needs the processor more

    def agent(self) -> int:
        supervisor = self.pid_file.read_text()
        return int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0])


@pytest.fixture
def machine(directory: Path) -> Iterator[Machine]:
    if shutil.which("pgrep") is None:
        pytest.skip("pgrep is not installed (sh scripts/setup tools)")
    with in_memory() as memory:
        machine = Machine(directory, memory)
        yield machine
        if machine.pid_file.exists():
            machine.service("onestop")
        assert not machine.pid_file.exists()


def test_start_reload_and_stop(machine: Machine) -> None:
    started = machine.service("start")
    assert (started.returncode, started.stderr) == (0, "")
    machine.logged("the agent is ready")
    pid = machine.agent()
    assert machine.service("reload").returncode == 0
    machine.logged("the configuration was reloaded")
    assert machine.agent() == pid
    stopped = machine.service("stop")
    assert stopped.returncode == 0, stopped
    assert not is_there(pid)
    machine.logged("the agent stops")


def test_an_agent_that_dies_is_started_again(machine: Machine) -> None:
    assert machine.service("start").returncode == 0
    machine.logged("the agent is ready")
    os.kill(machine.agent(), signal.SIGKILL)
    machine.logged("the agent is ready", times=2)


def test_a_wrong_file_is_said_and_nothing_is_started_and_an_application_that_is_down_is_no_wrong_file(
    machine: Machine,
) -> None:
    machine.configuration.write_text("[apps.orders]\nadapter = 7\n")
    assert machine.service("configtest").returncode == ExitCode.CONFIGURATION
    started = machine.service("start")
    assert (started.returncode, "apps.orders.adapter" in started.stderr) == (1, True)
    assert not machine.pid_file.exists()
    machine.configuration.write_text(machine.head + '[apps.orders]\nadapter = "sqlite"\nfiles = ["/nowhere/at/all"]\n')
    assert machine.service("configtest").returncode == 0


def test_the_script_is_one_that_rc_d_takes() -> None:
    text = SCRIPT.read_text()
    assert SCRIPT.stat().st_mode & 0o777 == 0o755
    for line in ("# PROVIDE: appvss_agent", "# REQUIRE: FILESYSTEMS syslogd appvss_broker", "# KEYWORD: shutdown"):
        assert f"\n{line}\n" in text
    assert text.rstrip().endswith('run_rc_command "$@"')
    assert f'name="{SCRIPT.name}"' in text
    assert subprocess.run(["sh", "-n", str(SCRIPT)], check=False).returncode == 0
