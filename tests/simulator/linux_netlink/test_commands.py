"""The commands that this simulator adds, and its lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appvss.model.errors import DeviceAbsent, DeviceBusy, UsageError
from appvss.simulator.event import EventKind
from appvss.simulator.linux_netlink import PORTID, NetlinkSimulator, kernel_of
from appvss.simulator.linux_netlink.commands import USAGE, Commands, ready
from appvss.sources.wire.linux_hv_vss import encode_registration
from appvss.sources.wire.linux_netlink import encode
from tests.support.private_network import connector_socket, private_network

__all__ = ["private_network"]


@pytest.fixture(params=["6.1"])
async def simulator(
    request: pytest.FixtureRequest, private_network: None, tmp_path: Path
) -> AsyncIterator[NetlinkSimulator]:
    async with NetlinkSimulator(tmp_path / "vss", kernel=kernel_of(request.param)) as running:
        yield running


async def test_the_driver_goes_and_comes(simulator: NetlinkSimulator) -> None:
    commands = Commands(simulator)
    assert (await commands.run("detach"))["outcome"] == "done"
    state = await commands.run("state")
    assert (state["attached"], state["condition"], state["text"]) == (False, None, "detached: no driver")
    assert (await commands.run("freeze"))["outcome"] == "unanswered"
    with pytest.raises(DeviceAbsent, match="device open fails: the driver is not there"):
        await commands.run("device open")
    assert (await commands.run("attach"))["outcome"] == "done"
    assert (await commands.run("negotiate"))["outcome"] == "ok"


async def test_the_state_shows_what_is_waited_for(simulator: NetlinkSimulator) -> None:
    commands = Commands(simulator)
    with connector_socket(joined=True) as daemon:
        daemon.sendto(encode(encode_registration()), (PORTID, 0))
        await simulator.wait_for(EventKind.REGISTERED)
        assert (await commands.run("state"))["text"] == "ready over netlink; 0 messages wait in the ring"
        simulator.host.send(5)
        simulator.host.send(6)
        state = await commands.run("state")
    assert (state["operation"], state["messages_in_ring"], state["mode"]) == ("freeze", 1, "netlink")
    assert state["text"] == ("userspace_req over netlink, waits for the answer to freeze; 1 messages wait in the ring")


async def test_the_device_is_opened_and_closed(simulator: NetlinkSimulator) -> None:
    commands = Commands(simulator)
    assert (await commands.run("device open"))["command"] == "device open"
    assert (await commands.run("state"))["mode"] == "chardev"
    with pytest.raises(DeviceBusy, match="device open fails: the character device is open"):
        await commands.run("device open")
    await commands.run("device close")
    assert (await commands.run("state"))["mode"] == "init"


@pytest.mark.parametrize("simulator", ["3.10"], indirect=True)
async def test_the_old_driver_has_no_device(simulator: NetlinkSimulator) -> None:
    with pytest.raises(DeviceAbsent, match="has no character device"):
        await Commands(simulator).run("device open")
    assert (await Commands(simulator).run("state"))["condition"] == "active"


@pytest.mark.parametrize("text", ["device", "device eat", "device open now", "detach now", "state now", "negotiate x"])
async def test_what_is_not_a_command(simulator: NetlinkSimulator, text: str) -> None:
    with pytest.raises(UsageError):
        await Commands(simulator).run(text)


async def test_help_and_ready(simulator: NetlinkSimulator) -> None:
    assert (await Commands(simulator).run("help"))["text"] == USAGE
    line = ready(simulator, "/run/control", 4711)
    assert (line["connector"], line["kernel_portid"], line["pid"]) == (str(simulator.connector), PORTID, 4711)
    assert f"kernel_portid = {PORTID}, in the network namespace of process 4711" in line["text"]
