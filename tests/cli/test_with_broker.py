"""Every screen against a real broker with real apps, and the whole way of a certificate: hold, image, proof."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appvss.model.errors import ExitCode
from tests.cli.command_line import Done, ended, run_apart, start
from tests.cli.test_questions import read_all
from tests.sdk.broker_peer import BOUND
from tests.support.app_process import app_process
from tests.support.running_broker import QUIET, RunningBroker, running_broker, short_directory

POLICY = QUIET + '\n[[apps.policy]]\nname = "orders-*"\norder = 10\nrequirement = "required"\n'


@pytest.fixture
async def broker() -> AsyncIterator[RunningBroker]:
    """With one app and one cycle of the past."""
    directory = short_directory()
    arguments = ("--state-directory", str(directory / "state"))
    try:
        async with (
            running_broker(POLICY, directory=directory, arguments=arguments) as broker,
            app_process(broker.runtime_directory, "orders-db") as app,
        ):
            await app.line("welcome")
            yield broker
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def appvss(broker: RunningBroker, *arguments: str) -> Done:
    return await run_apart("--runtime-directory", str(broker.runtime_directory), *arguments)


async def test_every_screen_has_80_columns_and_no_error(broker: RunningBroker) -> None:
    assert (await appvss(broker, "rehearse", "--count", "2")).code == ExitCode.SUCCESS
    assert (await appvss(broker, "freeze", "--", "true")).code == ExitCode.SUCCESS
    newest = (await appvss(broker, "history", "--json")).document["cycles"][0]["cycle"]
    config = ("--config", str(broker.file))
    for line in (
        ("status",),
        ("apps",),
        ("apps", "orders-db"),
        ("history",),
        ("show", newest),
        ("why",),
        ("why", newest),
        ("rehearse", "--count", "1"),
        ("doctor", *config),
    ):
        done = await appvss(broker, *line)
        assert done.code == ExitCode.SUCCESS, (line, done)
        # What cannot be broken, such as a path, may be longer.
        assert [text for text in done.out.splitlines() if len(text) > 80 and "/" not in text] == [], line
        document = (await appvss(broker, *line, "--json")).document
        assert document["message_type"]


async def test_the_policy_says_where_each_value_comes_from(broker: RunningBroker) -> None:
    out = (await appvss(broker, "apps", "orders-db")).out
    (order,) = [line for line in out.splitlines() if line.startswith("order ") and "policy" in line]
    assert order.split()[1] == "10"
    assert "apps.policy" in order
    policy = (await appvss(broker, "status", "--policy")).out
    assert "cycle.return_grace" in policy
    assert "built-in" in policy


async def test_a_rehearsal_is_marked_and_why_passes_over_it(broker: RunningBroker) -> None:
    assert (await appvss(broker, "rehearse", "--count", "1")).code == ExitCode.SUCCESS
    (one,) = (await appvss(broker, "history", "--json")).document["cycles"]
    assert one["rehearses"]
    assert (await appvss(broker, "why")).out.startswith("No cycle is known yet")


async def test_the_image_of_a_hold_is_proven_by_the_broker_and_by_a_history(broker: RunningBroker) -> None:
    state, image = broker.directory / "state", broker.directory / "image"
    done = await appvss(broker, "freeze", "--json", "--", "cp", "-r", str(state), str(image))
    assert done.code == ExitCode.SUCCESS, done
    cycle = done.document["cycle"]
    await broker.has_written()
    assert not (state / "certificate.json").exists()

    shown = await appvss(broker, "certificate", "show", str(image), "--json")
    assert (shown.document["cycle"], [app["is_quiet"] for app in shown.document["apps"]]) == (cycle, [True])
    asked = await appvss(broker, "certificate", "verify", str(image))
    assert (asked.code, asked.out.splitlines()[0]) == (0, f"PROVEN: cycle {cycle}, the verdict is application"), asked

    assert await broker.terminate() == 0
    alone = await appvss(broker, "certificate", "verify", str(image))
    assert alone.code == ExitCode.UNPROVEN
    kept = await appvss(broker, "certificate", "verify", str(image), "--history", str(state))
    assert (kept.code, kept.out) == (0, asked.out)
    older = await appvss(broker, "certificate", "verify", str(image), "--history", str(image))
    assert older.code == ExitCode.UNPROVEN, "the image itself knows no end of the cycle"


@pytest.mark.parametrize("colour", [True, False])
async def test_on_a_terminal_the_doctor_and_the_history_have_colours_unless_nobody_wants_them(
    broker: RunningBroker, colour: bool
) -> None:
    assert (await appvss(broker, "freeze", "--", "true")).code == ExitCode.SUCCESS
    environment = {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "" if colour else "1"}
    for line in (("history",), ("doctor", "--config", str(broker.file)), ("apps",), ("status",)):
        shown = await on_a_terminal(broker.runtime_directory, environment, *line)
        assert ("\x1b[" in shown) is colour, line
        assert "Traceback" not in shown


async def on_a_terminal(directory: Path, environment: dict[str, str], *arguments: str) -> str:
    ours, theirs = pty.openpty()
    line = ("--runtime-directory", str(directory), *arguments)
    process = await start(*line, environment=environment, stdout=theirs, stdin=theirs)
    os.close(theirs)
    shown = asyncio.create_task(asyncio.to_thread(read_all, ours), name="terminal")
    done = await ended(process)
    assert done.code == 0, done
    return await asyncio.wait_for(shown, BOUND)
