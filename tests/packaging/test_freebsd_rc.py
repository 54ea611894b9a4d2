"""FreeBSD's rc.d script, run with a stand-in for rc.subr(8) and daemon(8) and a real broker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.broker.configuration import CycleOptions
from appvss.model.errors import ExitCode
from tests.packaging.unit import PACKAGING
from tests.support.running_broker import BOUND, QUIET, ROOT

SCRIPT = PACKAGING / "freebsd" / "appvss_broker"
FAKES = Path(__file__).with_name("fake_freebsd")

pytestmark = [
    pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep is not installed (sh scripts/setup tools)"),
    pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh"),
]


def program(path: Path, *lines: str) -> Path:
    path.write_text("#!/bin/sh\n" + "".join(f"{line}\n" for line in lines))
    path.chmod(0o755)
    return path


class Machine:
    """A FreeBSD machine in a folder.

    Args:
        folder: short, since sockets lie in it.
        daemon: which of the two daemon(8) it has.
    """

    def __init__(self, folder: Path, daemon: str) -> None:
        self.folder = folder
        self.configuration = folder / "broker.toml"
        self.configuration.write_text(QUIET)
        self.pid_file = folder / "appvss_broker.pid"
        self.log = folder / "syslog"
        words = "from appvss.cli.main import main; main()"
        self.appvss = program(folder / "appvss", f"PYTHONPATH={ROOT} exec {sys.executable} -c '{words}' \"$@\"")
        supervisor = program(folder / "daemon", f'exec {sys.executable} -I {FAKES / "daemon.py"} "$@"')
        text = SCRIPT.read_text()
        for theirs, ours in (
            ("/etc/rc.subr", FAKES / "rc.subr"),
            ("/usr/sbin/daemon", supervisor),
            ("/var/run/appvss_broker.pid", self.pid_file),
        ):
            assert theirs in text
            text = text.replace(theirs, str(ours))
        self.script = folder / "appvss_broker"
        self.script.write_text(text)
        self.environment = {
            **os.environ,
            "RC_CONF": str(folder / "rc.conf"),
            "FAKE_SYSLOG": str(self.log),
            "FAKE_DAEMON": daemon,
            "APPVSS_RUNTIME_DIRECTORY": str(folder / "run"),
        }
        self.write_rc_conf()

    def write_rc_conf(self, **more: str) -> None:
        values = {
            "appvss_broker_enable": "YES",
            "appvss_broker_config": str(self.configuration),
            "appvss_broker_flags": f"--state-directory {self.folder}/state",
            "appvss_broker_appvss": str(self.appvss),
            **more,
        }
        text = "".join(f'{name}="{value}"\n' for name, value in values.items())
        (self.folder / "rc.conf").write_text(text)

    def service(self, verb: str) -> subprocess.CompletedProcess[str]:
        """`service appvss_broker VERB`."""
        return subprocess.run(
            ["sh", str(self.script), verb],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """What the broker says, as soon as it serves."""
        deadline = time.monotonic() + BOUND
        while True:
            done = subprocess.run(
                [str(self.appvss), "status", "--json"],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=BOUND,
                check=False,
            )
            if done.returncode == 0:
                document = json.loads(done.stdout)
                assert isinstance(document, dict)
                return document
            assert done.returncode == ExitCode.BROKER_UNREACHABLE, done.stderr
            assert time.monotonic() < deadline, self.log.read_text()

    @property
    def is_supervised(self) -> bool:
        return self.pid_file.exists()


@pytest.fixture
def machine(request: pytest.FixtureRequest, directory: Path) -> Iterator[Machine]:
    machine = Machine(directory, getattr(request, "param", "patient"))
    yield machine
    if machine.is_supervised:
        machine.service("onestop")
    assert not machine.is_supervised


both_daemons = pytest.mark.parametrize("machine", ["patient", "hasty"], indirect=True)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@both_daemons
def test_start_status_and_stop(machine: Machine) -> None:
    started = machine.service("start")
    assert (started.returncode, started.stderr) == (0, "")
    assert started.stdout.endswith("Starting appvss_broker.\n")
    status = machine.status()
    assert status["runtime_directory"] == str(machine.folder / "run")
    assert status["configuration"] == str(machine.configuration)
    assert machine.service("status").stdout == f"appvss_broker is running as pid {machine.pid_file.read_text()}.\n"
    again = machine.service("start")
    assert (again.returncode, "already running" in again.stderr) == (1, True)
    assert machine.service("quietstart").stderr == ""  # what devd(8) does
    stopped = machine.service("stop")
    assert (stopped.returncode, stopped.stdout) == (0, "Stopping appvss_broker.\n")
    assert not is_there(status["pid"])
    assert "the broker stops" in machine.log.read_text()
    assert (machine.service("status").returncode, machine.service("stop").returncode) == (1, 1)


def test_a_broker_that_dies_is_back_before_its_apps_are_given_up(machine: Machine) -> None:
    machine.service("start")
    pid = machine.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + BOUND
    while (again := machine.status()["pid"]) == pid:
        assert time.monotonic() < until
    assert again != pid
    # The supervisor's wait is what the script decides of it; how long a start takes is the machine's.
    (wait,) = re.findall(r"^command_args=.* -R (\d+) ", SCRIPT.read_text(), re.MULTILINE)
    assert timedelta(seconds=int(wait)) <= CycleOptions().return_grace / 4


@both_daemons
def test_restart(machine: Machine) -> None:
    machine.service("start")
    pid = machine.status()["pid"]
    assert machine.service("restart").returncode == 0
    assert machine.status()["pid"] != pid
    assert not is_there(pid)
    assert "another broker" not in machine.log.read_text()


def test_reload_reaches_the_broker_and_not_its_supervisor(machine: Machine) -> None:
    machine.service("start")
    before = machine.status()
    assert before["absent_apps"] == []
    machine.configuration.write_text(QUIET + '[apps]\nrequired = ["orders-db"]\n')
    assert machine.service("reload").returncode == 0
    while (after := machine.status())["absent_apps"] != ["orders-db"]:
        pass
    assert after["pid"] == before["pid"]
    machine.configuration.write_text("[broker]\nlog_level = 7\n")
    refused = machine.service("reload")
    assert (refused.returncode, "log_level" in refused.stderr) == (1, True)
    assert machine.status()["pid"] == before["pid"]


def test_a_wrong_configuration_is_said_and_nothing_is_started(machine: Machine) -> None:
    machine.configuration.write_text("[broker]\nlog_level = 7\n")
    assert machine.service("configtest").returncode == ExitCode.CONFIGURATION
    started = machine.service("start")
    assert (started.returncode, "log_level" in started.stderr) == (1, True)
    assert not machine.is_supervised
    machine.write_rc_conf(appvss_broker_config=str(machine.folder / "absent.toml"))
    assert machine.service("start").returncode == 1
    assert not machine.is_supervised


def test_a_service_that_is_not_enabled_is_not_started(machine: Machine) -> None:
    machine.write_rc_conf(appvss_broker_enable="NO")
    started = machine.service("start")
    assert (started.returncode, "appvss_broker_enable" in started.stdout) == (0, True)
    assert machine.service("quietstart").stdout == ""  # what devd(8) does
    assert not machine.is_supervised


def test_the_flags_are_the_broker_s_and_not_the_supervisor_s(machine: Machine) -> None:
    machine.write_rc_conf(appvss_broker_flags=f"--runtime-directory {machine.folder}/else")
    machine.environment["APPVSS_RUNTIME_DIRECTORY"] = str(machine.folder / "else")
    machine.environment["APPVSS_STATE_DIRECTORY"] = str(machine.folder / "state")
    assert machine.service("start").returncode == 0
    assert machine.status()["runtime_directory"] == str(machine.folder / "else")


def test_an_unknown_verb(machine: Machine) -> None:
    assert machine.service("frobnicate").returncode == 1


def test_the_script_is_one_that_rc_d_takes() -> None:
    text = SCRIPT.read_text()
    assert text.startswith("#!/bin/sh\n")
    assert stat.S_IMODE(SCRIPT.stat().st_mode) == 0o755
    for line in ("# PROVIDE: appvss_broker", "# REQUIRE: FILESYSTEMS syslogd", "# KEYWORD: shutdown"):
        assert f"\n{line}\n" in text
    assert text.rstrip().endswith('run_rc_command "$@"')
    assert subprocess.run(["sh", "-n", str(SCRIPT)], check=False).returncode == 0
    assert f'name="{SCRIPT.name}"' in text


def test_what_is_said_of_freebsd_s_paths_is_so() -> None:
    program = (
        "import asyncio, pathlib, subprocess, tempfile\n"  # as they are on this machine
        "import sys\n"
        "sys.platform = 'freebsd14'\n"
        "from appvss import contract\n"
        "from appvss.broker.configuration import DEFAULT_FILE, BrokerOptions\n"
        "print(DEFAULT_FILE, BrokerOptions().state_directory, contract.DEFAULT_RUNTIME_DIRECTORY)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=True
    )
    page = (ROOT / "docs" / "install-freebsd.md").read_text()
    file, state, runtime = done.stdout.split()
    assert (file, state, runtime) == ("/usr/local/etc/appvss/broker.toml", "/var/db/appvss", "/var/run/appvss")
    assert all(f"`{path}`" in page for path in (file, state, runtime))
    assert f"{file} if that is there" in SCRIPT.read_text()
