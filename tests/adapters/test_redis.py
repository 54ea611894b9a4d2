"""The Redis adapter against real servers: what a hold does, what breaks one, and who lets the writers go on."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from appvss.adapters import redis
from appvss.adapters.errors import HoldRefused, ServerUnfit, ServerUnreachable
from appvss.adapters.redis.information import Information
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Prepare
from tests.adapters.redis_stage import (
    BOUND,
    Relay,
    adapter_of,
    free_port,
    freeze,
    running,
    settings_of,
    wait_until,
    waiting,
)
from tests.databases.support.servers import RedisServer
from tests.support.running_broker import ROOT

EARLY = 0.1
"""Seconds for what would come at once, if it came."""
SLOW_DUMP = "rdb-key-save-delay"
"""A setting of the server for tests: how many microseconds it waits at each key of a dump."""


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, RedisServer]]:
    with running("aof") as aof, running("rdb") as rdb:
        yield {"aof": aof, "rdb": rdb}


@pytest.fixture(params=["aof", "rdb"])
def server(request: pytest.FixtureRequest, servers: dict[str, RedisServer]) -> RedisServer:
    """With each of the two recipes. It is used again: whoever breaks it mends it."""
    return servers[request.param]


def goes_on(server: RedisServer) -> bool:
    """Whether a write is answered at once."""
    with waiting(server, "SET", "goes-on", "1") as write:
        return write.is_done(EARLY)


async def test_writes_wait_in_the_hold_reads_are_answered_and_all_goes_on_afterwards(server: RedisServer) -> None:
    adapter, asked = adapter_of(server), freeze(cycle="cycle-waits")
    with server.connect() as reader:
        reader.set("before", "1")
        held = await adapter.hold(asked)
        with waiting(server, "SET", "within", "1") as write:
            assert reader.get("before") == b"1"
            assert reader.get("appvss:marker") == b"cycle-waits"
            assert reader.get("within") is None
            assert not write.is_done()
            stood = reader.info("persistence")
            await adapter.confirm(held)
            assert not write.is_done()
            await adapter.release(held, asked)
            await write.done()
        assert reader.get("within") == b"1"
        assert reader.get("appvss:marker") == b"cycle-waits is over"  # no file of a later moment has the cycle's own
    evidence = adapter.evidence(held)
    assert evidence["marker"] == "cycle-waits"
    assert evidence["data_directory"] == str(server.data)
    assert len(evidence) <= 16
    if evidence["recipe"] == "rdb":
        assert stood["rdb_changes_since_last_save"] == 0
    else:
        assert stood["aof_buffer_length"] == stood["aof_pending_bio_fsync"] == 0
        assert int(evidence["aof_current_size"]) == stood["aof_current_size"]


async def test_the_recipe_follows_what_the_server_is_set_to(server: RedisServer) -> None:
    async with redis.quiesce(f"unix://{server.socket}") as evidence:
        pass
    assert evidence["recipe"] == ("aof" if server.settings["appendonly"] == "yes" else "rdb")


async def test_with_both_kinds_of_persistence_the_append_only_file_counts() -> None:
    with running("aof", save="3600 1") as server:
        async with redis.quiesce(f"unix://{server.socket}") as evidence:
            pass
    assert evidence["recipe"] == "aof"


async def test_a_save_that_the_server_makes_by_its_own_rules_does_not_break_the_hold_of_an_append_only_file() -> None:
    with running("aof") as server, server.connect() as other:
        other.set("k", "v")
        adapter, asked = adapter_of(server), freeze()
        held = await adapter.hold(asked)
        other.execute_command("BGSAVE")
        await _until(lambda: not other.info("persistence")["rdb_bgsave_in_progress"])
        await adapter.confirm(held)
        await adapter.release(held, asked)


async def test_between_hold_and_thaw_the_server_hears_nothing(server: RedisServer) -> None:
    with Relay(server.socket) as relay, server.connect() as other:
        adapter, asked = adapter_of(server, url=f"unix://{relay.path}"), freeze()
        held = await adapter.hold(asked)
        assert b"PAUSE" in relay.said
        relay.said.clear()
        asked.filesystem_freeze.set()
        with waiting(server, "PUBLISH", "channel", "x") as write:
            other.get("k")
            await asyncio.sleep(EARLY)  # in which anything that ticks would tick
            assert relay.said == b""
            await adapter.confirm(held)
            assert b"UNPAUSE" not in relay.said
            await adapter.release(held, asked)
            assert b"UNPAUSE" in relay.said
            await write.done()


async def test_a_hold_that_ends_early_with_frozen_file_systems_asks_nobody_and_the_timer_ends_the_pause(
    server: RedisServer,
) -> None:
    with Relay(server.socket) as relay:
        adapter, asked = adapter_of(server, url=f"unix://{relay.path}"), freeze(budget=3.0, hold_limit=0.1)
        began = time.monotonic()
        held = await adapter.hold(asked)
        with waiting(server, "SET", "k", "v") as write:
            asked.filesystem_freeze.set()
            relay.said.clear()
            await adapter.release(held, asked)
            assert not held.session.is_open
            assert relay.said == b""
            assert write.began + await write.done() >= began + held.pause.total_seconds()


async def test_a_hold_that_ends_early_without_frozen_file_systems_lets_writers_go_on_at_once(
    server: RedisServer,
) -> None:
    is_held = asyncio.Event()

    async def hold() -> None:
        async with adapter_of(server).quiesce(freeze()):
            is_held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await asyncio.wait_for(is_held.wait(), BOUND)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert goes_on(server)


async def test_an_adapter_that_is_killed_in_its_hold_leaves_writers_waiting_until_the_timer_ends_the_pause(
    server: RedisServer,
) -> None:
    program = (
        "import asyncio, sys\n"
        "from tests.adapters.redis_stage import freeze, redis, timedelta\n"
        "async def main():\n"
        "    settings = redis.Settings(url=sys.argv[1], margin=timedelta(seconds=0.2))\n"
        "    adapter = redis.Adapter(settings)\n"
        "    await adapter.preflight()\n"  # which loads the driver
        "    async with adapter.quiesce(freeze(budget=3.0, hold_limit=0.5)):\n"
        "        print('held', flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with Relay(server.socket) as relay:
        began = time.monotonic()
        command = [sys.executable, "-c", program, f"unix://{relay.path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:  # noqa: ASYNC220 # it waits for it
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            with waiting(server, "SET", "k", "v") as write:
                process.kill()
                assert process.wait(BOUND) == -signal.SIGKILL
                answered_at = write.began + await write.done()
    pause = re.search(rb"PAUSE\r\n\$\d+\r\n(\d+)\r\n", relay.said)
    assert pause is not None
    assert b"UNPAUSE" not in relay.said[pause.end() :]
    # Hold limit, what was left of the budget, and the margin: the pause *is* the dead-man.
    assert 500 + 200 <= int(pause[1]) <= 500 + 200 + 3000
    assert answered_at >= began + int(pause[1]) / 1000


@pytest.mark.parametrize("recipe", ["aof", "rdb"])
async def test_a_server_that_was_started_anew_in_the_hold_has_lost_it(recipe: str) -> None:
    with running(recipe) as server:
        adapter, asked = adapter_of(server), freeze()
        held = await adapter.hold(asked)
        server.kill()
        server.start()
        with pytest.raises(HoldLost, match="nobody can tell"):
            await adapter.confirm(held)
        await adapter.release(held, asked)
        assert goes_on(server)


async def test_a_connection_that_was_cut_in_the_hold_has_lost_it_and_writers_go_on(server: RedisServer) -> None:
    adapter, asked = adapter_of(server), freeze()
    held = await adapter.hold(asked)
    with server.connect() as other:
        assert other.execute_command("CLIENT", "KILL", "ID", str(held.client)) == 1
    with waiting(server, "SET", "k", "v") as write:
        with pytest.raises(HoldLost, match=r"the connection to|no Redis answers"):
            await adapter.confirm(held)
        assert not write.is_done()
        await adapter.release(held, asked)
        await write.done()


async def test_a_server_that_does_not_answer_after_the_thaw_has_lost_the_hold(servers: dict[str, RedisServer]) -> None:
    server = servers["aof"]
    adapter, asked = adapter_of(server), freeze()
    held = await adapter.hold(asked)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(HoldLost, match="no answer"):
            await asyncio.wait_for(adapter.confirm(held), 3 * BOUND)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await adapter.release(held, asked)
    assert goes_on(server)


async def test_a_write_after_a_foreign_unpause_loses_the_hold(server: RedisServer) -> None:
    adapter, asked = adapter_of(server), freeze()
    held = await adapter.hold(asked)
    with server.connect() as other:
        other.client_unpause()
        other.set("foreign", "1")
    with pytest.raises(HoldLost, match="was written to in the hold"):
        await adapter.confirm(held)
    await adapter.release(held, asked)
    assert goes_on(server)


async def test_a_foreign_unpause_write_and_save_lose_the_hold_of_a_dump(servers: dict[str, RedisServer]) -> None:
    """The changes are zero again, and nothing else of a server without replicas counts writes: the save itself does."""
    server = servers["rdb"]
    adapter, asked = adapter_of(server), freeze()
    held = await adapter.hold(asked)
    with server.connect() as other:
        other.client_unpause()
        other.set("foreign", "1")
        saved_at = held.then.stand.saved_at
        await _until(lambda: _saved(other) > saved_at)
    with pytest.raises(HoldLost, match="it saved again"):
        await adapter.confirm(held)
    await adapter.release(held, asked)


async def test_a_server_that_takes_over_the_data_of_another_in_the_hold_has_lost_it() -> None:
    """A failover: it counts nothing as written, and its dump is another server's."""
    with running("rdb", repl_diskless_sync_delay="0") as primary, running("rdb") as server, server.connect() as other:
        other.set("of the hold", "1")
        adapter, asked = adapter_of(server), freeze()
        held = await adapter.hold(asked)
        with listening(primary) as port:
            other.replicaof("127.0.0.1", port)
            await _until(lambda: other.info("replication")["master_link_status"] == "up")
        assert not other.exists("of the hold")
        with pytest.raises(HoldLost, match=f"follows 127.0.0.1:{port} since the hold began"):
            await adapter.confirm(held)
        await adapter.release(held, asked)


async def test_a_pause_that_was_over_before_the_thaw_has_lost_the_hold_even_if_nobody_wrote(
    server: RedisServer,
) -> None:
    adapter, asked = adapter_of(server, margin=timedelta(0)), freeze(budget=3.0, hold_limit=0.1)
    held = await adapter.hold(asked)
    with waiting(server, "PUBLISH", "channel", "changes nothing") as write:
        await write.done()
    with pytest.raises(HoldLost, match="was over after"):
        await adapter.confirm(held)
    await adapter.release(held, asked)


async def test_a_server_whose_own_clock_says_that_the_pause_was_over_has_lost_the_hold(server: RedisServer) -> None:
    """It ends a pause by the wall clock, which may be set forward. Here the hold's beginning is said to be earlier."""
    adapter, asked = adapter_of(server), freeze()
    held = await adapter.hold(asked)
    assert held.then.clock is not None
    earlier = held.then.clock - held.pause
    held.then = replace(
        held.then, fields={**held.then.fields, "server_time_usec": str(earlier // timedelta(microseconds=1))}
    )
    with pytest.raises(HoldLost, match="by the server's own clock"):
        await adapter.confirm(held)
    await adapter.release(held, asked)


async def test_a_dump_that_takes_longer_than_the_budget_is_refused_and_writers_go_on() -> None:
    with running("rdb") as server, server.connect() as other:
        other.mset({f"key-{number}": "v" for number in range(100)})
        other.config_set(SLOW_DUMP, 40_000)  # four seconds in all
        with pytest.raises(HoldRefused, match="did not bring everything") as refusal:
            await adapter_of(server).hold(freeze(budget=2.5))
        assert "appendonly" in refusal.value.hint
        assert goes_on(server)
        await _until(lambda: not other.info("persistence")["rdb_bgsave_in_progress"])

        assert other.info("persistence")["rdb_last_bgsave_time_sec"] >= 4
        forks = other.info("stats")["total_forks"]
        with pytest.raises(HoldRefused, match=r"takes more than \d+ s, and there are [012]\.\d s") as refusal:
            await adapter_of(server).hold(freeze(budget=2.5))  # it knows now
        assert other.info("stats")["total_forks"] == forks, "no dump is begun that cannot be in time"
        assert "appendonly" in refusal.value.hint


async def test_a_dump_in_which_a_second_of_the_clock_ended_is_no_reason_to_refuse() -> None:
    """The server counts the seconds that ended in a dump: 2 of 1.1 s are nothing that a budget of 1.9 s had to fear."""
    with running("rdb") as server, server.connect() as other:
        other.mset({f"key-{number}": "v" for number in range(100)})
        other.config_set(SLOW_DUMP, 15_000)  # a second and a half in all, so that most see the ends of two
        until = time.monotonic() + 6 * BOUND
        while other.info("persistence")["rdb_last_bgsave_time_sec"] != 2:
            assert time.monotonic() < until
            other.bgsave()
            await _until(lambda: not other.info("persistence")["rdb_bgsave_in_progress"])
        other.config_set(SLOW_DUMP, 0)
        adapter, asked = adapter_of(server), freeze(budget=1.95)
        held = await adapter.hold(asked)
        await adapter.release(held, asked)


@contextmanager
def slow_fsyncs(server: RedisServer) -> Iterator[None]:
    """Each of the server's fsyncs takes a second and a half, as on a busy disk."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    slowly = ["-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_enter=1500000"]
    with subprocess.Popen([strace, "-f", "-qq", *slowly, "-o", os.devnull, "-p", str(server.pid)]) as tracer:
        try:
            status = Path(f"/proc/{server.pid}/status")
            wait_until(lambda: "TracerPid:\t0" not in status.read_text())
            yield
        finally:
            tracer.terminate()


async def test_what_everysec_acknowledges_in_an_fsync_is_in_no_file_yet_and_in_a_hold_it_is() -> None:
    """As long as an fsync is under way the server answers and does not write, for up to two seconds: a freeze of the
    file systems alone finds nothing of that with the kernel. This is why a hold waits for both.
    """
    with running("aof", appendfsync="everysec") as server, server.connect() as other:

        def log() -> bytes:
            return b"".join(path.read_bytes() for path in (server.data / "appendonlydir").glob("*.incr.aof"))

        def is_acknowledged_alone() -> bool:
            key = f"key-{next(numbers)}-"
            other.set(key, "v")
            return key.encode() not in log()

        numbers = itertools.count()
        adapter, asked = adapter_of(server), freeze(budget=30.0)
        with slow_fsyncs(server):
            await _until(is_acknowledged_alone)
            held = await adapter.hold(asked)
            keys, found = other.keys("key-*"), log()
            assert [key for key in keys if key not in found] == []
            await adapter.confirm(held)
            await adapter.release(held, asked)


@pytest.mark.parametrize("times", [1, 100])
async def test_a_freeze_that_is_cancelled_in_the_middle_of_a_dump_lets_writers_go_on(times: int) -> None:
    """Also when it is cancelled once more while it lets go, as when one limit is over right after another."""
    with running("rdb") as server, server.connect() as other:
        other.mset({f"key-{number}": "v" for number in range(100)})
        other.config_set(SLOW_DUMP, 20_000)
        task = asyncio.create_task(adapter_of(server).hold(freeze()))
        await _until(lambda: other.info("persistence")["rdb_bgsave_in_progress"])
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert goes_on(server)


async def test_a_freeze_that_is_cancelled_at_any_instant_and_once_more_lets_writers_go_on() -> None:
    """A budget of a few milliseconds ends twice: by the adapter's own clock and by its caller's."""
    with running("aof") as server:
        for instant in range(80):
            adapter, asked = adapter_of(server), freeze()
            task = asyncio.create_task(adapter.hold(asked))
            await asyncio.sleep(instant * 0.0002)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            if not task.cancelled():
                await adapter.release(task.result(), asked)  # it was quicker
            assert goes_on(server), instant


def rewrite_without_end(client: Any) -> None:
    """A rewrite of the append-only file that lasts until `end_child`: a second for each of its keys."""
    client.mset({f"key-{number}": "v" for number in range(100)})
    client.config_set(SLOW_DUMP, 1_000_000)
    client.bgrewriteaof()
    assert client.info("persistence")["aof_rewrite_in_progress"]


def end_child(server: RedisServer) -> None:
    """End the server's child as it does it itself when it has no more use for it, which is no failure."""
    (child,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGUSR1)


async def test_a_rewrite_that_runs_is_waited_for_before_writes_are_paused() -> None:
    with running("aof") as server, server.connect() as other:
        rewrite_without_end(other)
        adapter, asked = adapter_of(server), freeze(budget=30.0)
        holding = asyncio.create_task(adapter.hold(asked))
        await _until(lambda: any(each["cmd"] == "info" for each in other.client_list()))
        assert goes_on(server)
        assert not holding.done()
        end_child(server)
        held = await holding
        assert not held.then.undrained
        await adapter.confirm(held)
        await adapter.release(held, asked)


async def test_a_rewrite_that_takes_longer_than_the_budget_is_a_reason_to_refuse() -> None:
    with running("aof") as server, server.connect() as other:
        rewrite_without_end(other)
        with pytest.raises(HoldRefused, match="did not come to rest") as refusal:
            await adapter_of(server).hold(freeze(budget=2.0))
        assert refusal.value.retryable
        assert goes_on(server)
        end_child(server)


async def test_writes_that_somebody_else_has_paused_are_a_reason_to_refuse(server: RedisServer) -> None:
    with server.connect() as other:
        other.client_pause(60_000, all=False)
        try:
            with pytest.raises(HoldRefused, match="somebody else has paused it"):
                await adapter_of(server).hold(freeze(budget=2.0))
            with waiting(server, "SET", "k", "v") as write:
                assert not write.is_done()  # theirs is not ours to lift
                other.client_unpause()
                await write.done()
        finally:
            other.client_unpause()


async def test_prepare_makes_the_first_dump_so_that_its_length_is_known() -> None:
    with running("rdb") as server, server.connect() as other:
        other.set("k", "v")
        await adapter_of(server).prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
        told = other.info("persistence")
        assert told["rdb_last_bgsave_time_sec"] >= 0
        assert told["rdb_changes_since_last_save"] == 0
        assert goes_on(server)


async def test_prepare_is_refused_where_somebody_else_has_paused_writes(server: RedisServer) -> None:
    """The server lets a write wait also between MULTI and DISCARD, with which rights are asked for."""
    with server.connect() as other:
        other.client_pause(60_000, all=False)
        try:
            with pytest.raises(HoldRefused, match="lets writes wait: somebody has paused them") as refusal:
                await adapter_of(server).prepare(Prepare("cycle-1", "the tests", timedelta(seconds=30)))
        finally:
            other.client_unpause()
        assert refusal.value.retryable
        await adapter_of(server).prepare(Prepare("cycle-1", "the tests", timedelta(seconds=30)))


async def test_prepare_refuses_what_the_freeze_would_refuse() -> None:
    with running("aof", appendonly="no") as server:
        with pytest.raises(ServerUnfit, match="writes nothing to disk"):
            await adapter_of(server).prepare(Prepare("cycle-1", "the tests", timedelta(seconds=10)))
        with pytest.raises(ServerUnfit, match="writes nothing to disk"):
            await adapter_of(server).hold(freeze())


async def test_a_server_that_is_down_is_a_veto_that_may_be_tried_again(server: RedisServer) -> None:
    with pytest.raises(ServerUnreachable) as refusal:
        await adapter_of(server, url="unix:///nowhere/redis").hold(freeze())
    assert refusal.value.retryable


async def test_the_marker_key_and_its_database_are_those_of_the_settings(servers: dict[str, RedisServer]) -> None:
    server = servers["aof"]
    settings = settings_of(server, url=f"unix://{server.socket}?db=3", marker_key="shop:last-backup")
    async with redis.Adapter(settings).quiesce(freeze(cycle="cycle-3")) as evidence:
        pass
    with server.connect(db=3) as client:
        assert client.get("shop:last-backup") == b"cycle-3 is over"
        assert client.ttl("shop:last-backup") == -1  # a key that has expired is not loaded
    assert (evidence["database"], evidence["marker_key"]) == ("3", "shop:last-backup")


async def test_many_cycles_with_writers_break_no_hold(server: RedisServer) -> None:
    adapter = adapter_of(server)
    with server.connect() as client:
        for number in range(10):
            client.set(f"cycle-{number}", "x" * 1000)
            async with adapter.quiesce(freeze(cycle=f"cycle-{number}")) as evidence:
                assert evidence["marker"] == f"cycle-{number}"


@contextmanager
def listening(server: RedisServer) -> Iterator[int]:
    """A port of the server: the first one that is free when the server takes it."""
    with server.connect() as client:
        for _ in range(100):
            with suppress(ResponseError):  # somebody has taken it in between
                client.config_set("port", port := free_port())
                break
        try:
            yield port
        finally:
            client.config_set("port", 0)


@contextmanager
def replicated(primary: RedisServer, recipe: str) -> Iterator[RedisServer]:
    """A replica that has caught up."""
    with running(recipe) as server, server.connect() as replica, primary.connect() as writer:
        writer.config_set("repl-diskless-sync-delay", 0)
        with listening(primary) as port:
            replica.replicaof("127.0.0.1", port)
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
            yield server


@pytest.mark.parametrize("recipe", ["aof", "rdb"])
async def test_a_replica_takes_nothing_from_its_primary_in_the_hold_and_has_no_marker(
    servers: dict[str, RedisServer], recipe: str
) -> None:
    primary = servers["aof"]
    with replicated(primary, recipe) as server, server.connect() as replica, primary.connect() as writer:
        writer.set("through", "before")
        await _until(lambda: replica.get("through") == b"before")
        adapter, asked = adapter_of(server), freeze()
        assert "replica" in {finding.name for finding in (await adapter.preflight()).findings}
        held = await adapter.hold(asked)
        before = writer.info("replication")["master_repl_offset"]
        writer.set("through", asked.cycle)
        assert writer.info("replication")["master_repl_offset"] > before
        await _until(lambda: "b" in _link(replica)["flags"])  # what the primary has sent is there, and waits
        assert replica.get("through") == b"before"
        await adapter.confirm(held)
        await adapter.release(held, asked)
        await _until(lambda: replica.get("through") == asked.cycle.encode())
        writer.delete("through")
        assert adapter.evidence(held)["marker"] == ""
        assert adapter.evidence(held)["position"] != "0"


async def test_pings_to_a_replica_are_no_write(servers: dict[str, RedisServer]) -> None:
    primary = servers["aof"]
    with replicated(primary, "aof"), primary.connect() as writer:
        writer.config_set("repl-ping-replica-period", 1)
        try:
            async with adapter_of(primary).quiesce(freeze()):
                before = writer.info("replication")["master_repl_offset"]
                await _until(lambda: writer.info("replication")["master_repl_offset"] > before)
        finally:
            writer.config_set("repl-ping-replica-period", 10)


def test_an_answer_to_info_is_read_whatever_is_in_it() -> None:
    told = Information.parse("# Server\r\nredis_version:7.2.4\r\nvalkey_version:9.1.2\r\nodd\r\nempty:\r\na:b:c\r\n")
    assert told.version == "Valkey 9.1.2"
    assert told.protocol_version == (7, 2)
    assert (told.text("empty"), told.text("a"), told.number("a", 7), told.text("absent")) == ("", "b:c", 7, "")
    assert told.clock is None


def test_a_rewrite_by_the_servers_own_rule_is_seen_coming() -> None:
    def told(size: int, base: int) -> Information:
        return Information({"aof_enabled": "1", "aof_current_size": str(size), "aof_base_size": str(base)})

    assert told(201, 100).rewrites_soon("100", "64")
    assert not told(199, 100).rewrites_soon("100", "64")
    assert not told(201, 100).rewrites_soon("100", "1000")
    assert not told(201, 100).rewrites_soon("0", "64")
    assert not told(201, 100).rewrites_soon("", "")


def _saved(client: Any) -> int:
    """When it saved last; if nothing saves right now, it is asked to."""
    told = client.info("persistence")
    if not told["rdb_bgsave_in_progress"]:
        client.bgsave()
    return int(told["rdb_last_save_time"])


def _link(replica: Any) -> dict[str, str]:
    """The replica's connection to its primary, among its clients."""
    return next((each for each in replica.client_list() if "M" in each["flags"]), {"flags": ""})


async def _until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)
