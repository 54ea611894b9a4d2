"""The systemd files: what systemd itself says of them, and that every value in them agrees with the code."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from appvss import contract
from appvss.broker.configuration import APP_LIMIT_MOST, DEFAULT_FILE, BrokerOptions, CycleOptions
from appvss.model.errors import ExitCode
from tests.packaging.unit import PACKAGING, SERVICE, Unit
from tests.support.running_broker import BOUND

SYSUSERS = PACKAGING / "systemd" / "appvss.sysusers.conf"
TMPFILES = PACKAGING / "systemd" / "appvss.tmpfiles.conf"
START_LIMIT = timedelta(seconds=2)
"""How long a broker takes to serve, generously: 0.2 s were measured."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the paths of systemd are those of Linux")


def tool(name: str) -> str:
    """The path of a program of systemd; skips where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (sh scripts/setup tools)")
    return path


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False)


@pytest.fixture
def unit() -> Unit:
    return Unit(SERVICE)


# -- by systemd's word


def test_systemd_has_nothing_to_say_against_the_unit(tmp_path: Path) -> None:
    installed = shutil.which("true")
    copy = tmp_path / SERVICE.name  # with a command that is there, whether `appvss` is installed here or not
    copy.write_text(SERVICE.read_text().replace("=appvss ", f"={installed} "))
    done = run(tool("systemd-analyze"), "verify", "--man=no", str(copy))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    copy = tmp_path / SERVICE.name
    copy.write_text(SERVICE.read_text().replace("RestartSec=500ms", "RestartSec=soon"))
    done = run(tool("systemd-analyze"), "verify", "--man=no", str(copy))
    assert "Failed to parse sec value" in done.stderr


def test_what_the_service_may_do_is_little(tmp_path: Path) -> None:
    done = run(tool("systemd-analyze"), "security", "--offline=yes", "--threshold=30", str(SERVICE))
    assert done.returncode == 0, done.stdout


def test_the_group_is_made(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make users and groups, even in a folder")
    (tmp_path / "etc").mkdir()
    done = run(tool("systemd-sysusers"), f"--root={tmp_path}", str(SYSUSERS))
    assert (done.returncode, (tmp_path / "etc" / "group").read_text().split(":")[0]) == (0, "appvss"), done


@linux_only
def test_the_directories_are_made_as_the_broker_wants_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make directories of root's")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tmp_path / "etc" / "group").write_text("root:x:0:\nappvss:x:4242:\n")
    done = run(tool("systemd-tmpfiles"), f"--root={tmp_path}", "--create", str(TMPFILES))
    assert done.returncode == 0, done
    runtime = (tmp_path / contract.DEFAULT_RUNTIME_DIRECTORY.lstrip("/")).stat()
    state = (tmp_path / str(BrokerOptions().state_directory).lstrip("/")).stat()
    assert (stat.S_IMODE(runtime.st_mode), runtime.st_uid, runtime.st_gid) == (0o750, 0, 4242)
    assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) == (0o700, 0, 0)


# -- by the code's


@linux_only
def test_the_directories_are_the_broker_s_own(unit: Unit) -> None:
    assert Path("/run") / unit.value("RuntimeDirectory") == Path(contract.DEFAULT_RUNTIME_DIRECTORY)
    assert Path("/var/lib") / unit.value("StateDirectory") == BrokerOptions().state_directory
    assert Path("/etc") / unit.value("ConfigurationDirectory") == DEFAULT_FILE.parent
    assert (unit.value("RuntimeDirectoryMode"), unit.value("StateDirectoryMode")) == ("0750", "0700")
    assert unit.value("RuntimeDirectoryPreserve") == "restart"
    lines = [line.split() for line in TMPFILES.read_text().splitlines() if not line.startswith("#")]
    assert [line[1] for line in lines] == [contract.DEFAULT_RUNTIME_DIRECTORY, str(BrokerOptions().state_directory)]


def test_the_group_is_the_broker_s_own() -> None:
    assert SYSUSERS.read_text().splitlines()[-1].split()[:2] == ["g", BrokerOptions().socket_group]
    assert f" {BrokerOptions().socket_group} -" in TMPFILES.read_text()


def test_a_broker_that_dies_in_a_hold_is_back_before_its_apps_are_given_up(unit: Unit) -> None:
    assert unit.value("Restart") == "always"
    assert unit.length("RestartSec") + START_LIMIT <= CycleOptions().return_grace / 2


def test_it_is_started_again_for_ever_but_not_with_what_only_people_can_mend(unit: Unit) -> None:
    assert unit.value("StartLimitIntervalSec") == "0"
    assert {int(code) for code in unit.words("RestartPreventExitStatus")} == {ExitCode.USAGE, ExitCode.CONFIGURATION}


def test_the_end_takes_less_than_systemd_waits_for(unit: Unit) -> None:
    assert 2 * BrokerOptions().stop_timeout < unit.length("TimeoutStopSec")


def test_the_watchdog_is_patient(unit: Unit) -> None:
    assert unit.value("Type") == "notify"
    assert timedelta(seconds=20) <= unit.length("WatchdogSec") <= timedelta(minutes=1)
    assert unit.value("WatchdogSignal") == "SIGKILL"


def test_the_most_apps_have_descriptors_enough(unit: Unit) -> None:
    assert int(unit.value("LimitNOFILE")) >= APP_LIMIT_MOST * 3 + 200


def test_the_command_is_ours(unit: Unit) -> None:
    assert unit.words("ExecStart") == ["appvss", "broker"]
    assert unit.words("ExecStopPost") == ["appvss", "thaw", "--filesystems"]


def test_no_setting_is_there_twice(unit: Unit) -> None:
    keys = [(section, key) for section, key, _ in unit.settings]
    assert len(keys) == len(set(keys))
