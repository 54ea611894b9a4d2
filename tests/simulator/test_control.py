"""The control socket: one line up, one JSON line back."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import SimulatorUnavailable, SocketPathTooLong
from appvss.simulator import control, lines
from appvss.simulator.commands import LENGTH_LIMIT
from appvss.simulator.fuse.mount import control_folder
from appvss.simulator.lines import Line

PATIENCE = timedelta(seconds=10)


async def echo(text: str) -> Line:
    if text.strip() == "hang":
        await asyncio.Event().wait()
    return lines.done(text.strip())


@pytest.fixture
async def path(folder: Path) -> AsyncIterator[Path]:
    control_folder(folder).mkdir(mode=0o700)
    path = control.socket_path(control_folder(folder))
    async with control.serve(path, echo):
        yield path
    assert not path.exists()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_question_and_its_answer(path: Path, folder: Path) -> None:
    assert mode_of(path) == 0o600
    assert (await control.ask(folder, "fs auto", PATIENCE))["command"] == "fs auto"


async def test_nobody_is_there(folder: Path) -> None:
    with pytest.raises(SimulatorUnavailable, match="no simulator can be asked"):
        await control.ask(folder, "freeze", PATIENCE)


async def test_an_answer_that_does_not_come(path: Path, folder: Path) -> None:
    with pytest.raises(SimulatorUnavailable, match="did not answer within"):
        await control.ask(folder, "hang", timedelta(milliseconds=50))
    assert mode_of(path) == 0o600


async def test_the_end_of_the_server_ends_those_who_wait(folder: Path) -> None:
    control_folder(folder).mkdir(mode=0o700)
    path = control.socket_path(control_folder(folder))
    began = asyncio.Event()

    async def hang(_: str) -> Line:
        began.set()
        await asyncio.Event().wait()
        return lines.done("never")

    async with control.serve(path, hang):
        asked = asyncio.create_task(control.ask(folder, "freeze", PATIENCE), name="asked")
        await began.wait()
    with pytest.raises(SimulatorUnavailable, match="ended"):
        await asked


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe\n", b"x" * 100_000])
async def test_strange_callers_harm_nobody(path: Path, folder: Path, data: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        if writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert not answer or json.loads(answer)["message_type"]
    except ConnectionError:
        assert len(data) > LENGTH_LIMIT
    finally:
        writer.close()
    assert (await control.ask(folder, "state", PATIENCE))["outcome"] == "done"


async def test_too_many_callers_are_turned_away(folder: Path) -> None:
    begun: asyncio.Queue[str] = asyncio.Queue()

    async def hang(text: str) -> Line:
        begun.put_nowait(text)
        await asyncio.Event().wait()
        return lines.done("never")

    control_folder(folder).mkdir(mode=0o700)
    async with control.serve(control.socket_path(control_folder(folder)), hang):
        asked = [asyncio.create_task(control.ask(folder, "x", PATIENCE), name=f"ask-{number}") for number in range(16)]
        for _ in asked:
            await begun.get()
        with pytest.raises(SimulatorUnavailable, match="too many callers"):
            await control.ask(folder, "x", PATIENCE)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)


async def test_a_dead_socket_is_replaced(path: Path, folder: Path) -> None:
    assert mode_of(path) == 0o600
    async with control.serve(path, echo):
        assert (await control.ask(folder, "state", PATIENCE))["outcome"] == "done"


async def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(SimulatorUnavailable, match="cannot be made"):
        async with control.serve(folder / "none" / "control.sock", echo):
            pytest.fail("it was made")


def test_a_path_that_is_too_long(folder: Path) -> None:
    with pytest.raises(SocketPathTooLong):
        control.socket_path(folder / ("x" * 100))
