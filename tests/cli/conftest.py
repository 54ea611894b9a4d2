from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from appvss.cli.main import run
from tests.cli.command_line import Ask, Done
from tests.sdk.broker_peer import BOUND, BrokerPeer, broker_peer


@pytest.fixture
async def peer() -> AsyncIterator[BrokerPeer]:
    async with broker_peer() as peer:
        yield peer


@pytest.fixture
def ask(peer: BrokerPeer, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command in a thread of this process: the peer lives on this test's loop."""

    async def ask(*arguments: str) -> Done:
        line = [*arguments, "--runtime-directory", str(peer.directory)]
        code = await asyncio.wait_for(asyncio.to_thread(run, line), BOUND)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return ask
