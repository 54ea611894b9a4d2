"""The side socket: one-time tokens over real connections."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.contract import TOKEN_LENGTH
from appvss.delivery import tokens
from appvss.delivery.tokens import TokenDesk
from tests.support.raw_app import SideConnection

BOUND = 20


@asynccontextmanager
async def open_desk(directory: Path, lifetime: timedelta = tokens.TOKEN_LIFETIME) -> AsyncIterator[TokenDesk]:
    desk = TokenDesk(lambda _: None, lifetime)
    desk.open(str(directory / "apps.peer.sock"))
    try:
        yield desk
    finally:
        desk.close()


async def closed_by_broker(side: SideConnection) -> None:
    async with asyncio.timeout(BOUND):
        assert await asyncio.get_running_loop().sock_recv(side.connection, 1) == b""
    side.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_token_is_64_hexadecimal_digits_and_good_once(directory: Path) -> None:
    async with open_desk(directory) as desk:
        side = await SideConnection.open(directory)
        assert len(side.token) == TOKEN_LENGTH == 64
        assert int(side.token, 16)
        identity = desk.redeem(side.token)
        assert identity is not None
        assert identity.peer.pid == os.getpid()
        assert desk.redeem(side.token) is None
        identity.close()
        side.close()


async def test_tokens_differ(directory: Path) -> None:
    async with open_desk(directory) as desk:
        sides = [await SideConnection.open(directory) for _ in range(20)]
        assert len({side.token for side in sides}) == 20
        desk.close()
        for side in sides:
            await closed_by_broker(side)


async def test_unused_token_dies_with_its_connection(directory: Path) -> None:
    async with open_desk(directory) as desk:
        before = descriptors()
        side = await SideConnection.open(directory)
        token = side.token
        side.close()
        second = await SideConnection.open(directory)  # the loop has seen the end of the first by then
        assert desk.redeem(token) is None
        kept = desk.redeem(second.token)
        assert kept is not None
        kept.close()
        second.close()
        assert descriptors() == before


async def test_unused_token_dies_with_its_time(directory: Path) -> None:
    async with open_desk(directory, timedelta(milliseconds=20)) as desk:
        side = await SideConnection.open(directory)
        await closed_by_broker(side)
        assert desk.redeem(side.token) is None


async def test_app_that_is_gone_before_its_token_leaves_nothing(directory: Path) -> None:
    async with open_desk(directory) as desk:
        before = descriptors()
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as gone:
                gone.connect(str(directory / "apps.peer.sock"))
        side = await SideConnection.open(directory)
        identity = desk.redeem(side.token)
        assert identity is not None
        identity.close()
        side.close()
        assert descriptors() == before


async def test_more_connections_than_the_limit_are_closed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "WAITING_LIMIT", 3)
    async with open_desk(directory):
        sides = [await SideConnection.open(directory) for _ in range(3)]
        with pytest.raises(EOFError):
            await SideConnection.open(directory)
        sides.pop().close()
        again = await SideConnection.open(directory)
        for side in [*sides, again]:
            side.close()


async def test_no_descriptors_left_is_survived_and_does_not_spin(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with open_desk(directory) as desk:
        waiting = socket.socket(socket.AF_UNIX)
        waiting.setblocking(False)
        waiting.connect(str(directory / "apps.peer.sock"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(number) for number in os.listdir("/proc/self/fd"))
        fillers = [os.open(os.devnull, os.O_RDONLY)]
        while fillers[-1] <= highest:
            fillers.append(os.open(os.devnull, os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1, hard))
        try:
            for _ in range(20):
                await asyncio.sleep(0)  # the loop turns; each turn would fail again
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [record.getMessage().split(":")[0] for record in caplog.records] == [
            "no connection accepted on the side socket"
        ]
        for filler in fillers:
            os.close(filler)
        async with asyncio.timeout(BOUND):
            line = await asyncio.get_running_loop().sock_recv(waiting, 128)
        identity = desk.redeem(line.decode().strip())
        assert identity is not None
        identity.close()
        waiting.close()


async def test_close_may_come_in_the_pause_and_twice(directory: Path) -> None:
    async with open_desk(directory) as desk:
        desk.close()
        desk.close()
        with pytest.raises(ConnectionRefusedError):
            await SideConnection.open(directory)


async def test_dead_socket_in_the_way_is_replaced(directory: Path) -> None:
    path = directory / "apps.peer.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_desk(directory):
        assert stat.S_ISSOCK(path.stat().st_mode)
        (await SideConnection.open(directory)).close()
