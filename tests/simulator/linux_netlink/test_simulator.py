"""The simulator on a real socket: what a daemon of any kind sees of it, and where it refuses to play."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.event import EventKind
from appvss.simulator.linux_netlink import PORTID, NetlinkSimulator, kernel_of
from appvss.simulator.linux_netlink.port import KernelPort
from appvss.sources.wire.linux_hv_vss import encode_registration, encode_reply
from appvss.sources.wire.linux_netlink import GROUP_MASK, decode, driver_name, encode, members
from tests.simulator.conftest import VirtualClock
from tests.support.private_network import SECONDS, connector_socket, private_network, send, without_rights

__all__ = ["private_network"]

HOLD = timedelta(milliseconds=1)


@pytest.fixture
async def simulator(private_network: None, tmp_path: Path) -> AsyncIterator[NetlinkSimulator]:
    async with NetlinkSimulator(tmp_path / "vss") as running:
        yield running


def play_daemon(connection: socket.socket, replies: int, version: int = 129) -> list[bytes]:
    """As the C daemon does, but for the port: register, read, reply. Returns what was read."""
    connection.sendto(encode(encode_registration(version), os.getpid()), (PORTID, 0))
    read = []
    while replies:
        data, (portid, groups) = connection.recvfrom(4096)
        assert (portid, groups) == (PORTID, GROUP_MASK)
        read.append(decode(data))
        if len(read[-1]) == 12:
            connection.sendto(encode(encode_reply(0), os.getpid()), (PORTID, 0))
            replies -= 1
    return read


async def test_a_daemon_is_led_through_a_backup(simulator: NetlinkSimulator) -> None:
    with connector_socket(joined=True) as connection:
        daemon = asyncio.create_task(asyncio.to_thread(play_daemon, connection, 3))
        await simulator.wait_for(EventKind.REGISTERED)
        assert (await simulator.host.backup(hold=HOLD)).ok
        assert [data.hex() for data in await daemon] == [
            "81000000",
            "02" + "00" * 11,
            "05" + "00" * 11,
            "06" + "00" * 11,
        ]
    registered = next(event for event in simulator.events if event.kind is EventKind.REGISTERED)
    assert registered.process == os.getpid()


@pytest.mark.parametrize("release", ["3.10", "3.19", "4.2"])
async def test_an_old_daemon_is_led_through_a_backup(private_network: None, tmp_path: Path, release: str) -> None:
    async with NetlinkSimulator(tmp_path / "vss", kernel=kernel_of(release)) as simulator:
        with connector_socket(joined=True) as connection:
            daemon = asyncio.create_task(asyncio.to_thread(play_daemon, connection, 2, 128))
            await simulator.wait_for(EventKind.REGISTERED)
            assert (await simulator.host.backup(hold=HOLD)).ok
            assert [data[0] for data in await daemon] == [5, 6]


async def test_everybody_in_the_group_hears_it(simulator: NetlinkSimulator) -> None:
    with connector_socket(joined=True) as one, connector_socket(joined=True) as two, connector_socket() as outside:
        one.sendto(encode(encode_registration()), (PORTID, 0))
        for connection in (one, two):
            assert decode(await asyncio.to_thread(connection.recv, 100)).hex() == "81000000"
        outside.setblocking(False)
        with pytest.raises(BlockingIOError):
            outside.recv(100)


async def test_the_first_reply_counts(simulator: NetlinkSimulator) -> None:
    with connector_socket(joined=True) as one, connector_socket() as two:
        one.sendto(encode(encode_registration()), (PORTID, 0))
        await simulator.wait_for(EventKind.REGISTERED)
        freeze = asyncio.create_task(simulator.host.freeze())
        await simulator.wait_for(EventKind.WOKEN)
        two.sendto(encode(encode_reply(0x80004005)), (PORTID, 0))
        one.sendto(encode(encode_reply(0)), (PORTID, 0))
        assert (await freeze).status == 0x80004005
        await simulator.wait_for(EventKind.WRITE_IGNORED)


async def test_with_nobody_in_the_group_the_host_hears_so(simulator: NetlinkSimulator) -> None:
    with connector_socket(joined=True) as daemon:
        daemon.sendto(encode(encode_registration()), (PORTID, 0))
        await simulator.wait_for(EventKind.REGISTERED)
    result = await simulator.host.freeze()
    assert not result.ok
    assert simulator.events[-1].detail == "failed to communicate to the daemon: -3"


async def test_garbage_is_survived(simulator: NetlinkSimulator) -> None:
    garbage = [b"\0", b"x" * 35, bytes(16_500), bytes(100_000), encode(b""), encode(bytes(16_384))]
    await asyncio.to_thread(send, PORTID, *garbage * 20)
    await asyncio.to_thread(send, PORTID, encode(encode_registration()))
    await simulator.wait_for(EventKind.REGISTERED)


async def test_a_flood_is_survived(simulator: NetlinkSimulator) -> None:
    flood = [encode(bytes(12))] * 1000
    sending = asyncio.create_task(asyncio.to_thread(send, PORTID, *flood, encode(encode_registration())))
    await simulator.wait_for(EventKind.REGISTERED)
    await sending


async def test_the_list_says_whether_the_driver_is_there(simulator: NetlinkSimulator) -> None:
    assert driver_name(simulator.connector.read_text()) == "vmbus/hv_vss"
    await simulator.attach()
    await simulator.detach()
    assert driver_name(simulator.connector.read_text()) == ""
    await simulator.detach()
    assert simulator.state() is None
    with connector_socket(joined=True) as daemon:
        daemon.sendto(encode(encode_registration()), (PORTID, 0))  # as with a real kernel, it succeeds
        result = await simulator.host.freeze()
        assert result.detail == "the driver is not there"
    await simulator.attach()
    assert driver_name(simulator.connector.read_text()) == "vmbus/hv_vss"


async def test_the_old_driver_has_its_own_name(private_network: None, tmp_path: Path) -> None:
    async with NetlinkSimulator(tmp_path / "vss", kernel=kernel_of("4.1")) as simulator:
        assert driver_name(simulator.connector.read_text()) == "vss_kernel_module"


async def test_the_drivers_timer_runs_by_the_clock_that_is_given(private_network: None, tmp_path: Path) -> None:
    clock = VirtualClock()
    async with NetlinkSimulator(tmp_path / "vss", kernel=kernel_of("4.2"), clock=clock) as simulator:
        with connector_socket(joined=True) as daemon:
            daemon.sendto(encode(encode_registration()), (PORTID, 0))
            await simulator.wait_for(EventKind.REGISTERED)
            freeze = asyncio.create_task(simulator.host.freeze())
            await simulator.wait_for(EventKind.WOKEN)
            clock.advance(timedelta(seconds=10))
            simulator.clock_moved()
            assert (await freeze).status == 0x80004005


async def test_leaving_gives_everything_back(private_network: None, tmp_path: Path) -> None:
    for _ in range(2):
        async with NetlinkSimulator(tmp_path / "vss") as simulator:
            freeze = asyncio.create_task(simulator.host.freeze(), name="host")
            await asyncio.sleep(0)
            assert simulator.control_folder.is_dir()
        assert not (await freeze).ok
        assert not simulator.connector.exists()
        assert not simulator.control_folder.exists()


async def test_a_second_one_for_the_same_folder_is_refused(simulator: NetlinkSimulator) -> None:
    with pytest.raises(SimulatorUnavailable, match=f"another simulator serves {simulator.directory}"):
        await AsyncExitStack().enter_async_context(NetlinkSimulator(simulator.directory))


async def test_a_second_one_in_the_same_namespace_is_refused(simulator: NetlinkSimulator, tmp_path: Path) -> None:
    with pytest.raises(SimulatorUnavailable, match="another simulator serves this network namespace"):
        await AsyncExitStack().enter_async_context(NetlinkSimulator(tmp_path / "other"))
    assert simulator.connector.exists()
    assert not (tmp_path / "other.control").exists()


async def test_a_folder_that_cannot_be_made_is_refused(private_network: None, tmp_path: Path) -> None:
    (tmp_path / "vss").write_text("")
    with pytest.raises(SimulatorUnavailable, match="connector cannot be written: File exists"):
        await AsyncExitStack().enter_async_context(NetlinkSimulator(tmp_path / "vss"))
    assert (tmp_path / "vss").read_text() == ""


async def test_a_folder_that_is_a_link_is_refused(private_network: None, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vss").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SimulatorUnavailable, match="the folder is a link"):
        await AsyncExitStack().enter_async_context(NetlinkSimulator(tmp_path / "vss"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_machines_own_namespace_is_refused() -> None:
    if not Path("/proc/self/net/connector").exists():
        pytest.skip("this is not the machine's own network namespace")
    with pytest.raises(SimulatorUnavailable, match="has the kernel's own connector") as caught:
        KernelPort()
    assert "unshare --net" in caught.value.hint


def test_whoever_may_not_send_to_a_group_is_told(private_network: None) -> None:
    program = """
        from appvss.model.errors import SimulatorUnavailable
        from appvss.simulator.linux_netlink.port import KernelPort
        try:
            KernelPort()
        except SimulatorUnavailable as error:
            print(error.sentence)
    """
    assert without_rights(program) == "nothing can be sent to a netlink group: Operation not permitted\n"


def test_anybody_may_play_it_in_a_user_namespace_of_his_own() -> None:
    program = (
        "from appvss.simulator.linux_netlink.port import KernelPort\n"
        "port = KernelPort()\n"
        "print(port.multicast(bytes(12)))\n"
        "port.close()\n"
    )
    unshare = ["unshare", "--net", "--map-root-user"]
    try:
        subprocess.run([*unshare, "true"], check=True, timeout=SECONDS, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no user namespaces here")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=True
    )
    assert done.stdout == "False\n"


def test_the_table_of_sockets_is_the_kernels(private_network: None) -> None:
    with connector_socket(joined=True) as one, connector_socket() as other:
        found = members(Path("/proc/self/net/netlink").read_text())
        assert set(found) == {one.getsockname()[0]}
        assert other.getsockname()[0] not in found
        assert found[one.getsockname()[0]] == os.fstat(one.fileno()).st_ino
