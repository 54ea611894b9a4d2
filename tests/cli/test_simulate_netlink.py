"""`appvss simulate linux --netlink`, through real processes in a network namespace of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.private_network import SECONDS, private_network

__all__ = ["private_network"]

APPVSS = [sys.executable, "-c", "from appvss.cli.main import main; main()"]

DAEMON = """
import sys
from tests.simulator.linux_netlink.test_simulator import play_daemon
from tests.support.private_network import connector_socket
with connector_socket(joined=True) as connection:
    print(*(data.hex() for data in play_daemon(connection, 3)))
"""


def appvss(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [*APPVSS, *(str(argument) for argument in arguments)]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False)


class Running:
    """A simulator in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [*APPVSS, "simulate", "linux", str(folder), "--netlink", "--json", *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next line with these fields; what comes before it is passed over."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line: dict[str, Any] = json.loads(text)
            if all(line.get(key) == value for key, value in wanted.items()):
                return line
        raise AssertionError(f"the simulator ended without {wanted}")


@pytest.fixture
def running(private_network: None, tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "vss")
    try:
        yield running
    finally:
        running.process.terminate()
        running.process.communicate(timeout=SECONDS)


def test_a_backup_with_a_daemon_of_another_process(running: Running, tmp_path: Path) -> None:
    ready = running.until(message_type="ready")
    assert (ready["kernel_portid"], ready["pid"]) == (10_000_001, running.process.pid)
    assert Path(ready["connector"]).read_text().endswith("vmbus/hv_vss    10:1\n")
    with subprocess.Popen([sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, text=True) as daemon:
        registered = running.until(kind="registered")
        assert registered["pid"] == daemon.pid
        done = appvss("simulate", "host", tmp_path / "vss", "backup", "1ms")
        assert (done.returncode, done.stdout.split(" ")[:2]) == (0, ["backup", "1ms:"])
        read, _ = daemon.communicate(timeout=SECONDS)
    assert [data[:2] for data in read.split()] == ["81", "02", "05", "06"]
    done = appvss("simulate", "host", tmp_path / "vss", "freeze")
    assert done.returncode == 9
    assert appvss("simulate", "host", tmp_path / "vss", "quit").returncode == 0
    assert running.until(message_type="ended")["reason"] == "quit"
    assert running.process.wait(SECONDS) == 0
    assert not (tmp_path / "vss" / "connector").exists()


def test_a_second_one_is_refused(running: Running, tmp_path: Path) -> None:
    running.until(message_type="ready")
    done = appvss("simulate", "linux", tmp_path / "other", "--netlink")
    assert done.returncode == 12
    assert done.stderr.startswith("appvss: another simulator serves this network namespace\nHINT: ")


def test_a_kernel_without_the_driver_is_a_mistake(tmp_path: Path) -> None:
    done = appvss("simulate", "linux", tmp_path / "vss", "--netlink", "--kernel", "2.6")
    assert done.returncode == 2
    assert "'2.6' is no kernel that has the driver" in done.stderr


def test_the_machines_own_namespace_is_refused(tmp_path: Path) -> None:
    if not Path("/proc/self/net/connector").exists():
        pytest.skip("this is not the machine's own network namespace, or a kernel without CONFIG_CONNECTOR")
    done = appvss("simulate", "linux", tmp_path / "vss", "--netlink")
    assert done.returncode == 12
    assert "this network namespace has the kernel's own connector" in done.stderr
    assert "unshare --net" in done.stderr
