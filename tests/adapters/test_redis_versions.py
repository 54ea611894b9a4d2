"""What the Redis adapter does with servers of versions that are not installed here, by what it says on the wire."""

from __future__ import annotations

import pytest

from appvss.adapters import redis
from appvss.adapters.errors import HoldRefused, ServerUnfit
from tests.adapters.redis_stage import freeze
from tests.adapters.redis_wire import WireServer


def adapter_of(server: WireServer) -> redis.Adapter:
    return redis.Adapter(redis.Settings(url=f"unix://{server.socket}"))


def recipe(server: WireServer) -> list[str]:
    """The commands of the recipe alone, without what is looked at."""
    named = [line.split(" ", 1)[1] for line in server.said]
    return [line.rsplit(" ", 1)[0] for line in named if line.startswith(("SET", "WAITAOF", "CLIENT PAUSE"))]


async def test_from_72_on_the_marker_is_waited_for_on_its_own_connection_before_the_pause() -> None:
    with WireServer("7.2.4", valkey_version="9.1.2") as server:
        async with adapter_of(server).quiesce(freeze()) as evidence:
            assert recipe(server)[:2] == ["SET appvss:marker", "WAITAOF 1 0"]
            assert recipe(server)[2].startswith("CLIENT PAUSE")
            assert len({line.split(" ", 1)[0] for line in server.said}) == 1
    assert evidence["version"] == "Valkey 9.1.2"


async def test_a_marker_that_is_not_on_the_disk_in_time_is_a_reason_to_refuse_with_nothing_paused() -> None:
    with WireServer("7.2.4", waitaof=b"*2\r\n:0\r\n:0\r\n") as server:
        with pytest.raises(HoldRefused, match="did not bring the marker"):
            await adapter_of(server).hold(freeze())
        assert not any("PAUSE" in line for line in server.said)


async def test_an_append_only_file_that_does_not_come_to_rest_is_not_told_to_use_an_append_only_file() -> None:
    with WireServer("7.0.15", aof_pending_bio_fsync="1") as server:
        with pytest.raises(HoldRefused, match="did not bring everything to its disk") as refusal:
            await adapter_of(server).hold(freeze(budget=2.0))
        assert any("UNPAUSE" in line for line in server.said)
    assert "appendonly" not in refusal.value.hint
    assert "its disk" in refusal.value.hint


async def test_an_account_that_may_not_wait_for_it_goes_without() -> None:
    with WireServer(
        "7.2.4", waitaof=b"-NOPERM this user has no permissions to run the 'waitaof' command\r\n"
    ) as server:
        async with adapter_of(server).quiesce(freeze()):
            pass
        assert any("UNPAUSE" in line for line in server.said)


async def test_before_72_nothing_of_the_kind_is_said() -> None:
    with WireServer("6.2.0") as server:
        async with adapter_of(server).quiesce(freeze()):
            pass
        assert not any("WAITAOF" in line for line in server.said)


async def test_a_server_that_is_too_old_is_refused_with_nothing_changed() -> None:
    with WireServer("6.0.16") as server:
        with pytest.raises(ServerUnfit, match=r"is Redis 6\.0\.16"):
            await adapter_of(server).hold(freeze())
        assert not any(word in line for line in server.said for word in ("SET ", "PAUSE"))
        found = (await adapter_of(server).preflight()).findings
    assert found[0].name == "server_too_old"
