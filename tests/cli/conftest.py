from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.sdk.broker_peer import BrokerPeer, broker_peer


@pytest.fixture
async def peer() -> AsyncIterator[BrokerPeer]:
    async with broker_peer() as peer:
        yield peer
