"""Whether the driver is there and nobody else serves it: a list, a table of real sockets, real programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appvss.model.errors import DeviceAbsent, DeviceBusy, SourceError
from appvss.model.source import SourceMode
from appvss.sources.linux_netlink import LinuxNetlinkSettings
from appvss.sources.linux_netlink.presence import look
from tests.support.private_network import SECONDS, connector_socket, private_network

__all__ = ["private_network"]
pytestmark = pytest.mark.usefixtures("private_network")


@pytest.fixture
def connector(tmp_path: Path) -> Path:
    path = tmp_path / "connector"
    path.write_text("Name            ID\ncn_proc         1:1\nvmbus/hv_vss    10:1\n")
    return path


def settings(connector: Path, mode: SourceMode = SourceMode.AUTOMATIC) -> LinuxNetlinkSettings:
    return LinuxNetlinkSettings(connector=str(connector), mode=mode)


def test_the_drivers_name_is_found(connector: Path, tmp_path: Path) -> None:
    assert look(settings(connector), tmp_path / "device", None) == "vmbus/hv_vss"


def test_a_driver_that_is_not_listed_is_absent(connector: Path, tmp_path: Path) -> None:
    connector.write_text("Name            ID\nhv_kvp          9:1\n")
    with pytest.raises(DeviceAbsent, match="does not list 10:1") as caught:
        look(settings(connector), tmp_path / "device", None)
    assert "hv_utils" in caught.value.hint


def test_a_list_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DeviceAbsent, match="connector cannot be read: No such file or directory") as caught:
        look(settings(tmp_path / "connector"), tmp_path / "device", None)
    assert "network namespace" in caught.value.hint


def test_the_kernels_own_list_is_not_in_another_namespace(tmp_path: Path) -> None:
    with pytest.raises(DeviceAbsent, match="/proc/net/connector cannot be read"):
        look(LinuxNetlinkSettings(), tmp_path / "device", None)


def test_the_device_is_used_instead_if_it_is_there(connector: Path, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    with pytest.raises(SourceError, match=f"{device} is there and is used instead"):
        look(settings(connector), device, None)
    assert look(settings(connector, SourceMode.REQUIRED), device, None)


def test_our_own_socket_is_no_rival(connector: Path, tmp_path: Path) -> None:
    with connector_socket(joined=True) as ours:
        portid = ours.getsockname()[0]
        assert look(settings(connector), tmp_path / "device", portid)
        with pytest.raises(DeviceBusy, match=f"whoever has the netlink port id {portid} serves the driver, too"):
            look(settings(connector), tmp_path / "device", None)


def test_another_daemon_is_named(connector: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.stdout.flush()\n"
        "from tests.support.private_network import connector_socket\n"
        "open('/proc/self/comm', 'w').write('hv_vss_daemon')\n"
        "daemon = connector_socket(joined=True)\n"
        "print('joined', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "joined\n"
            with pytest.raises(DeviceBusy) as caught:
                look(settings(connector), tmp_path / "device", None)
        finally:
            daemon.communicate(timeout=SECONDS)
    assert caught.value.sentence.startswith(f"process {daemon.pid} (hv_vss_daemon) serves the driver, too")
    assert "systemctl mask --now hv-vss-daemon" in caught.value.hint
    assert look(settings(connector), tmp_path / "device", None)


def test_a_socket_in_no_group_is_no_rival(connector: Path, tmp_path: Path) -> None:
    with connector_socket():
        assert look(settings(connector), tmp_path / "device", None)
