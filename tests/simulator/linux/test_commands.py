"""The commands: what each does to a simulator that is not mounted, how bad ones are refused, and what is printed."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import DeviceAbsent, UsageError
from appvss.model.instant import Instant
from appvss.simulator import lines
from appvss.simulator.linux import MODERN, DriverState, Kernel, LinuxSimulator, Phase, kernel_of
from appvss.simulator.linux import lines as linux_lines
from appvss.simulator.linux.commands import USAGE, Commands


def commands_on(kernel: str = "6.1") -> tuple[LinuxSimulator, Commands]:
    """Attached, but in no folder: the driver and the host need none."""
    simulator = LinuxSimulator(Path("/nowhere/dev"), kernel=kernel_of(kernel))
    simulator.attach()
    return simulator, Commands(simulator)


async def test_the_host_asks_and_nobody_is_there() -> None:
    _, commands = commands_on()
    for command, outcome in (
        ("check", "failed"),
        ("freeze", "failed"),
        ("thaw", "failed"),
        ("dm-info", "ok"),
        ("operation 4", "ok"),
        ("operation 200", "ok"),
        ("backup 1ms", "failed"),
    ):
        line = await commands.run(command)
        assert (line["command"], line["outcome"]) == (command, outcome)


async def test_the_service_is_withdrawn_and_comes_back() -> None:
    simulator, commands = commands_on()
    assert (await commands.run("remove"))["outcome"] == "done"
    assert (await commands.run("remove"))["outcome"] == "done"
    assert (await commands.run("freeze"))["outcome"] == "unanswered"
    assert (await commands.run("state"))["text"] == "removed: no node"
    with pytest.raises(DeviceAbsent, match="hibernate needs the driver"):
        await commands.run("hibernate")
    await commands.run("return")
    await commands.run("return")
    assert simulator.attached
    assert (await commands.run("status"))["text"] == "not open, nobody is registered"
    await commands.run("hibernate")
    assert (await commands.run("state"))["phase"] == "ready"


async def test_a_removal_is_not_over_before_the_close() -> None:
    simulator, commands = commands_on()
    simulator._machine.open(1)
    await commands.run("remove")
    assert "waits for the close" in (await commands.run("state"))["text"]
    with pytest.raises(UsageError, match="still being removed"):
        await commands.run("return")
    simulator._machine.release(1)
    await commands.run("return")


async def test_what_an_old_kernel_cannot_do() -> None:
    simulator, commands = commands_on("4.4")
    with pytest.raises(UsageError, match=r"Linux 4\.4 does nothing at a hibernation"):
        await commands.run("hibernate")
    simulator._machine.open(1)
    with pytest.raises(UsageError, match=r"Linux 4\.4 crashes"):
        await commands.run("remove")
    simulator._machine.release(1)
    await commands.run("remove")


@pytest.mark.parametrize("text", ["", "bogus", "detach", "remove now", "state x", "operation 256", "hibernate 1"])
async def test_what_is_no_command(text: str) -> None:
    _, commands = commands_on()
    with pytest.raises(UsageError):
        await commands.run(text)


async def test_help_and_quit() -> None:
    _, commands = commands_on()
    assert (await commands.run("help"))["text"] == USAGE
    await commands.run("quit")
    async with asyncio.timeout(1):
        await commands.quit.wait()


@pytest.mark.parametrize(
    ("text", "version"), [("4.2", (4, 2)), ("6.1.0-18-amd64", (6, 1)), ("4.10", (4, 10)), ("5.7-rc1", (5, 7))]
)
def test_a_kernel_is_known_by_its_version(text: str, version: tuple[int, int]) -> None:
    assert kernel_of(text) == Kernel(version)


@pytest.mark.parametrize("text", ["", "new", "4.1", "3.10", "4", "\x1b[2J"])
def test_what_is_no_kernel_with_the_device(text: str) -> None:
    with pytest.raises(UsageError, match="is no kernel that has the device") as caught:
        kernel_of(text)
    assert "\x1b" not in caught.value.sentence


def test_the_ready_line() -> None:
    line = linux_lines.ready(Path("/d/hv_vss"), MODERN, Path("/d.control/control.sock"), 5)
    assert lines.as_text(line) == "ready: /d/hv_vss as in Linux 6.1; `help` lists the commands"
    assert (line["device"], line["kernel"], line["control_socket"]) == ("/d/hv_vss", "6.1", "/d.control/control.sock")


AT = Instant(timedelta(0))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (DriverState(Phase.READY, True, "", "", None, 0), "open, ready"),
        (DriverState(Phase.READY, True, "handshake", "", None, 0), "open, ready, handshake was not read"),
        (
            DriverState(Phase.USERSPACE_REQ, True, "freeze", "freeze", AT, 2),
            "open, freeze is with the daemon, freeze was not read, 2 messages wait in the ring",
        ),
    ],
)
def test_the_state_for_people(state: DriverState, text: str) -> None:
    assert lines.as_text(linux_lines.state(state)) == text
