"""The commands: what each does to a simulator that is not mounted, and how bad ones are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.model.errors import AppvssError, DeviceAbsent, DurationInvalid, UsageError
from appvss.simulator.freebsd import FreebsdSimulator
from appvss.simulator.freebsd.commands import USAGE, Commands
from appvss.simulator.lines import Line


@pytest.fixture
async def simulator() -> FreebsdSimulator:
    """Attached, but in no folder: the driver and the host need none."""
    simulator = FreebsdSimulator(Path("/nowhere/dev"))
    simulator.attach()
    return simulator


@pytest.fixture
async def commands(simulator: FreebsdSimulator) -> Commands:
    return Commands(simulator)


async def outcomes(commands: Commands, *texts: str) -> list[str]:
    return [(await commands.run(text))["outcome"] for text in texts]


async def test_the_host_asks(commands: Commands) -> None:
    assert await outcomes(commands, "check", "freeze", "thaw", "dm-info", "negotiate", "operation 3") == ["ok"] * 6


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("fs veto freeze", ["ok", "failed", "ok"]),
        ("fs veto check thaw", ["failed", "ok", "failed"]),
        ("fs script veto ok veto", ["failed", "ok", "failed"]),
        ("fs auto", ["ok", "ok", "ok"]),
        ("fs die", ["failed", "failed", "failed"]),
    ],
)
async def test_the_file_system_side(commands: Commands, setting: str, wanted: list[str]) -> None:
    assert await outcomes(commands, setting, "check", "freeze", "thaw") == ["done", *wanted]


async def test_a_dead_file_system_side_says_so_until_it_is_opened(commands: Commands) -> None:
    await commands.run("fs die")
    assert "fs open" in (await commands.run("fs veto thaw"))["detail"]
    assert (await commands.run("fs open"))["detail"] == ""
    assert await outcomes(commands, "freeze", "thaw") == ["ok", "failed"]


@pytest.mark.parametrize(
    ("text", "detail", "outcome"),
    [
        ("backup 1ms", "check ok, freeze ok, thaw ok", "ok"),
        ("backup 1ms thaw-always", "check ok, freeze ok, thaw ok", "ok"),
    ],
)
async def test_a_backup(commands: Commands, text: str, detail: str, outcome: str) -> None:
    line = await commands.run(text)
    assert (line["outcome"], line["detail"], line["command"]) == (outcome, detail, text)


@pytest.mark.parametrize(
    ("text", "detail"),
    [("backup", "check ok, freeze failed"), ("backup thaw-always", "check ok, freeze failed, thaw ok")],
)
async def test_a_backup_with_a_failed_freeze(commands: Commands, text: str, detail: str) -> None:
    await commands.run("fs veto freeze")
    line = await commands.run(text)
    assert (line["outcome"], line["detail"]) == ("failed", detail)


async def test_detach_and_attach(commands: Commands, simulator: FreebsdSimulator) -> None:
    assert await outcomes(commands, "detach", "freeze") == ["done", "unanswered"]
    assert not simulator.attached
    with pytest.raises(DeviceAbsent):
        await commands.run("fs open")
    assert await outcomes(commands, "attach", "freeze") == ["done", "ok"]


async def test_the_clock_jumps(commands: Commands, simulator: FreebsdSimulator) -> None:
    await commands.run("freeze")
    await commands.run("clock -1h")
    await commands.run("freeze")
    first, second = (event.msgid or 0 for event in simulator.events if event.kind.value == "received")
    assert 3590 * 10**9 < first - second < 3610 * 10**9


async def test_state_help_and_quit(commands: Commands) -> None:
    state: Line = await commands.run("state")
    assert (state["message_type"], state["fs_played"]) == ("state", True)
    assert (await commands.run("help"))["text"] == USAGE
    assert not commands.quit.is_set()
    await commands.run(" quit ")
    assert commands.quit.is_set()


async def test_wait(commands: Commands) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await commands.run("wait 10ms")
    assert loop.time() - began >= 0.01


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "bogus",
        "freeze now",
        "operation",
        "operation -1",
        "operation 256",
        "operation ³",
        "operation 1 2",
        "backup 1s 2s",
        "backup soon",
        "detach now",
        "fs",
        "fs bogus",
        "fs veto",
        "fs veto none",
        "fs veto freeze dm-info",
        "fs script",
        "fs script ok bogus",
        "fs auto now",
        "clock",
        "clock 5s",
        "clock +",
        "clock +5s now",
        "wait",
        "wait 5",
        "wait 25h",
        "wait 1s 1s",
        "state now",
        "help me",
        "quit now",
        "freeze\x1b[2J",
    ],
)
async def test_bad_commands_are_refused_by_name(commands: Commands, text: str) -> None:
    with pytest.raises((UsageError, DurationInvalid)) as refusal:
        await commands.run(text)
    assert refusal.value.hint
    assert refusal.value.sentence.isprintable()


@given(st.text(max_size=60).filter(lambda text: not text.split()[:1] or text.split()[0] not in ("wait", "backup")))
def test_any_text_is_a_command_or_refused(text: str) -> None:
    async def run() -> None:
        simulator = FreebsdSimulator(Path("/nowhere/dev"))
        simulator.attach()
        try:
            assert (await Commands(simulator).run(text))["message_type"]
        except AppvssError as refusal:
            assert refusal.sentence.isprintable()  # noqa: PT017 - both ends are right

    asyncio.run(run())
