"""What the pre-flight of the Redis adapter finds, on real servers, and that no sentence has a secret in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest

from appvss.adapters import redis
from appvss.adapters.base import Finding, Preflight, Severity, VolumeKind
from appvss.adapters.errors import (
    DriverMissing,
    HoldRefused,
    LoginRefused,
    PrivilegeMissing,
    ServerUnreachable,
    SettingInvalid,
)
from appvss.adapters.redis import preflight
from appvss.adapters.redis.information import Information, Recipe
from appvss.adapters.redis.preflight import obstacles, recipe_of
from appvss.adapters.redis.session import Look, without_secret
from appvss.adapters.settings import Secret
from appvss.sdk.freeze import Prepare
from tests.adapters.redis_stage import adapter_of, free_port, freeze, running, settings_of, wait_until
from tests.adapters.redis_wire import WireServer
from tests.databases.support.servers import RedisServer

SECRET = "hunter2-is-secret"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server with a password for the default user, and the account that the hint makes."""
    with running("aof") as server, server.connect() as client:
        client.config_set("requirepass", SECRET)
        yield server


def password(text: str = SECRET) -> Secret:
    return Secret(lambda: text, "a test")


def named(preflight: Preflight, name: str) -> Finding:
    found = [finding for finding in preflight.findings if finding.name == name]
    assert found, [finding.name for finding in preflight.findings]
    return found[0]


def words(preflight: Preflight) -> str:
    return repr(preflight)


async def test_a_server_in_order_is_ready_and_says_where_its_files_lie(server: RedisServer) -> None:
    found = await adapter_of(server, password=password()).preflight()
    assert [finding.severity for finding in found.findings] == [Severity.OK]
    assert found.version.startswith("Redis ")
    assert found.recipe == "aof"
    assert {(volume.kind, volume.path) for volume in found.volumes} == {
        (VolumeKind.DATA, server.data),
        (VolumeKind.LOG, server.data / "appendonlydir"),
    }
    assert found.settings["appendonly"] == "yes"
    assert found.settings["appendfsync"] == "everysec"
    assert SECRET not in words(found)


async def test_the_pre_flight_changes_nothing(server: RedisServer) -> None:
    with server.connect(password=SECRET) as client:
        before = Information.parse({k: str(v) for k, v in client.info().items()}).stand
        await adapter_of(server, password=password()).preflight()
        assert Information.parse({k: str(v) for k, v in client.info().items()}).stand == before
        assert not client.exists("appvss:marker")


async def test_a_wrong_password(server: RedisServer) -> None:
    adapter = adapter_of(server, password=password("wrong-" + SECRET))
    found = await adapter.preflight()
    assert named(found, "login_refused").severity is Severity.PROBLEM
    assert "a test" in named(found, "login_refused").sentence
    assert SECRET not in words(found)
    with pytest.raises(LoginRefused) as refusal:
        await adapter.hold(freeze())
    assert SECRET not in str(refusal.value) + refusal.value.hint


async def test_no_password_where_one_is_needed(server: RedisServer) -> None:
    found = named(await adapter_of(server).preflight(), "login_refused")
    assert "asks for a password" in found.sentence
    assert "`password`" in found.hint


async def test_an_unknown_user(server: RedisServer) -> None:
    found = named(await adapter_of(server, username="nobody", password=password()).preflight(), "login_refused")
    assert "the user nobody" in found.sentence


async def test_a_password_in_the_url_is_used_and_never_shown(server: RedisServer) -> None:
    url = f"unix://:{SECRET}@{server.socket}"
    adapter = redis.Adapter(settings_of(server, url=url))
    found = await adapter.preflight()
    assert named(found, "password_in_url").severity is Severity.WARNING
    assert named(found, "ready")
    assert SECRET not in words(found) + repr(adapter.settings)
    async with redis.quiesce(f"unix://{server.socket}?password={SECRET}&db=2") as evidence:
        assert evidence["database"] == "2"
        assert SECRET not in repr(evidence)
    wrong = redis.Adapter(settings_of(server, url=f"unix://:{SECRET}x@{server.socket}"))
    assert SECRET not in words(await wrong.preflight())


@pytest.mark.parametrize(
    ("url", "scrubbed", "user"),
    [
        ("redis://h:1/2", "redis://h:1/2", ""),
        ("redis://u:p%40ss@h:1/2", "redis://h:1/2", "u"),
        ("rediss://:p@h", "rediss://h", ""),
        ("unix:///s?db=1&password=p", "unix:///s?db=1", ""),
    ],
)
def test_a_url_without_its_password(url: str, scrubbed: str, user: str) -> None:
    settings = without_secret(redis.Settings(url=url))
    assert (settings.url, settings.username) == (scrubbed, user)
    assert bool(settings.password) == (url != scrubbed)


@pytest.mark.parametrize(
    "url", [f"http://:{SECRET}@h", f"redis://:{SECRET}@h:{SECRET}", f"redis://[{SECRET}", "nothing"]
)
async def test_a_url_that_is_none_is_refused_without_its_secret(url: str) -> None:
    adapter = redis.Adapter(redis.Settings(url=url))
    assert SECRET not in words(await adapter.preflight())
    with pytest.raises(SettingInvalid) as refusal:
        await adapter.hold(freeze())
    assert SECRET not in str(refusal.value) + refusal.value.hint
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("query", ["?of_no_driver=1", "?ssl_cert_reqs=hm"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
async def test_a_parameter_of_the_url_that_is_none_is_refused(scheme: str, query: str) -> None:
    adapter = redis.Adapter(redis.Settings(url=f"{scheme}://127.0.0.1:1/1{query}", password=password()))
    found = named(await adapter.preflight(), "server_unfit")
    assert "question mark" in found.hint
    assert SECRET not in found.sentence + found.hint
    with pytest.raises(SettingInvalid):
        await adapter.hold(freeze())


async def test_writes_that_somebody_has_paused_are_found_and_the_look_ends() -> None:
    with running("rdb") as server, server.connect() as client:
        client.client_pause(60_000, all=False)
        found = await adapter_of(server).preflight()
        assert named(found, "writes_paused").severity is Severity.PROBLEM
        assert "UNPAUSE" in named(found, "writes_paused").hint
        assert found.volumes, "the rest is told all the same"
        client.client_unpause()
        assert not (await adapter_of(server).preflight()).is_refused


async def test_a_server_that_takes_a_connection_and_then_says_nothing_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "LOOK_LIMIT", timedelta(milliseconds=100))
    with WireServer("7.0.15", mute="INFO") as server:
        adapter = redis.Adapter(redis.Settings(url=f"unix://{server.socket}"))
        assert "gives no answer" in named(await adapter.preflight(), "server_unreachable").sentence
        with pytest.raises(ServerUnreachable, match="gives no answer"):
            await adapter.prepare(Prepare("cycle-1", "the tests", timedelta(seconds=0.5)))


async def test_a_server_that_is_down(server: RedisServer) -> None:
    found = await adapter_of(server, url="unix:///nowhere/redis").preflight()
    assert "unix:///nowhere/redis" in named(found, "server_unreachable").sentence
    assert found.volumes == ()


async def test_a_port_at_which_nobody_answers() -> None:
    found = await redis.Adapter(redis.Settings(url="redis://127.0.0.1:1")).preflight()
    assert "redis://127.0.0.1:1" in named(found, "server_unreachable").sentence


async def test_the_hint_for_a_missing_privilege_cures_it(server: RedisServer) -> None:
    adapter = adapter_of(server, username="backup", password=password("its own"))
    with server.connect(password=SECRET) as client:
        client.execute_command("ACL", "SETUSER", "backup", "on", ">its own", "+info", "+config|get")
        found = await adapter.preflight()
        missing = [each.sentence for each in found.findings if each.name == "missing_privilege"]
        for command in ("CLIENT PAUSE", "BGSAVE", "CLIENT ID"):
            assert any(command in sentence for sentence in missing), missing
        assert found.is_refused
        with pytest.raises(PrivilegeMissing):
            await adapter.hold(freeze())

        hint = named(found, "missing_privilege").hint
        client.execute_command(*hint.partition(": ")[2].split())
        assert [each.name for each in (await adapter.preflight()).findings] == ["ready"]
        async with adapter.quiesce(freeze()):
            pass


@pytest.mark.parametrize("command", ["client|pause", "client|unpause", "client|id", "bgsave", "set", "info"])
async def test_each_missing_privilege_is_named(server: RedisServer, command: str) -> None:
    adapter = adapter_of(server, username="lacking", password=password("its own"))
    with server.connect(password=SECRET) as client:
        everything = ("+client", "+bgsave", "+info", "+config|get", "+ping", "+select", "+set", "+multi", "+discard")
        removed = [f"-{command}"]
        client.execute_command(
            "ACL", "SETUSER", "lacking", "reset", "on", ">its own", "~appvss:*", *everything, *removed
        )
        found = named(await adapter.preflight(), "missing_privilege")
    assert command.replace("|", " ").upper() in found.sentence
    assert "ACL SETUSER lacking" in found.hint


async def test_a_key_that_the_account_may_not_write_is_found(server: RedisServer) -> None:
    adapter = adapter_of(server, username="keyless", password=password("its own"))
    with server.connect(password=SECRET) as client:
        client.execute_command("ACL", "SETUSER", "keyless", "reset", "on", ">its own", "~other:*", "+@all")
        found = named(await adapter.preflight(), "missing_privilege")
    assert "~appvss:marker" in found.hint


async def test_an_account_that_may_not_see_the_configuration_names_the_folder_itself(server: RedisServer) -> None:
    with server.connect(password=SECRET) as client:
        rights = ("+client", "+bgsave", "+info", "+ping", "+set", "+multi", "+discard")
        client.execute_command("ACL", "SETUSER", "blind", "reset", "on", ">its own", "~appvss:*", *rights)
    blind = {"username": "blind", "password": password("its own")}
    found = await adapter_of(server, **blind).preflight()
    assert named(found, "configuration_hidden").severity is Severity.WARNING
    assert "`data_directory`" in named(found, "volumes_unknown").hint
    assert not found.is_refused
    adapter = adapter_of(server, **blind, data_directory=server.data)
    assert (await adapter.preflight()).volumes[0].path == server.data
    async with adapter.quiesce(freeze()) as evidence:
        assert evidence["data_directory"] == str(server.data)


async def test_a_folder_that_is_not_on_this_machine(server: RedisServer) -> None:
    from pathlib import Path

    adapter = adapter_of(server, password=password(), data_directory=Path("/nowhere/redis"))
    found = await adapter.preflight()
    assert "/nowhere/redis" in named(found, "volumes_elsewhere").sentence
    assert found.volumes == ()


async def test_a_server_that_writes_nothing_to_disk() -> None:
    with running("aof", appendonly="no") as server:
        found = await adapter_of(server).preflight()
    assert named(found, "no_persistence").severity is Severity.PROBLEM
    assert "appendonly yes" in named(found, "no_persistence").hint


async def test_a_server_whose_last_save_failed_takes_no_writes() -> None:
    with running("rdb") as server, server.connect() as client:
        client.set("k", "v")
        (server.data / "dump.rdb").mkdir()
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        found = await adapter_of(server).preflight()
        assert named(found, "last_save_failed").severity is Severity.PROBLEM
        assert "its last save failed" in named(found, "server_unfit").sentence  # the marker would be refused


async def test_a_server_that_is_still_loading() -> None:
    with running("aof") as server:
        with server.connect() as client:
            client.mset({f"key-{number}": "v" for number in range(30_000)})
            client.bgrewriteaof()
            wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
            wait_until(lambda: not client.info("persistence")["aof_rewrite_scheduled"])
        server.stop()
        server.settings["key-load-delay"] = "1000"
        server.settings["loading-process-events-interval-bytes"] = "1024"
        server.spawn()
        adapter = adapter_of(server)
        names: list[str] = []
        while "loading" not in names and "ready" not in names:
            names = [finding.name for finding in (await adapter.preflight()).findings]
        assert "loading" in names, server.tail()
        with pytest.raises(HoldRefused, match="is still loading") as refusal:
            await adapter.hold(freeze())
        assert refusal.value.retryable
        server.kill()


async def test_a_node_of_a_cluster() -> None:
    with running("aof", cluster_enabled="yes", cluster_port=str(free_port())) as server:
        found = await adapter_of(server).preflight()
        assert "only this node" in named(found, "cluster").sentence
        assert "hash tag" in named(found, "server_unfit").hint  # it serves no slot
        with server.connect() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        found = await adapter_of(server).preflight()
        assert not found.is_refused
        async with adapter_of(server).quiesce(freeze()):
            pass


async def test_the_driver_is_missing(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name == "redis" or name.startswith("redis.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "redis", None)
    found = named(await adapter_of(server).preflight(), "driver_missing")
    assert "appvss[redis]" in found.hint
    with pytest.raises(DriverMissing):
        await adapter_of(server).hold(freeze())


def test_a_server_that_is_too_old() -> None:
    look = Look(Information({"redis_version": "6.0.16", "aof_enabled": "1"}))
    assert [finding.name for finding in obstacles(look, "redis://h:1")] == ["server_too_old"]
    assert not obstacles(Look(Information({"redis_version": "6.2.0", "aof_enabled": "1"})), "redis://h:1")


def test_a_server_that_could_not_write_its_append_only_file() -> None:
    told = {"redis_version": "7.0.15", "aof_enabled": "1", "aof_last_write_status": "err"}
    assert [finding.name for finding in obstacles(Look(Information(told)), "redis://h:1")] == ["aof_write_failed"]


def test_a_dump_of_much_data_is_foreseen() -> None:
    known = Information({"rdb_last_bgsave_time_sec": "90", "used_memory": "1000"})
    assert (known.dump_takes, known.dump_takes_at_least) == (timedelta(seconds=90), timedelta(seconds=89))
    assert Information({"rdb_last_bgsave_time_sec": "-1", "used_memory": str(3 * 10**9)}).dump_takes == timedelta(
        seconds=30
    )
    for first in ("-1", "0", "1"):  # none, or one that may have taken next to nothing
        assert Information({"rdb_last_bgsave_time_sec": first}).dump_takes_at_least == timedelta()


async def test_much_data_without_an_append_only_file_is_warned_of() -> None:
    from appvss.adapters.redis.preflight import _dump_cautions

    told = Information({"used_memory": str(40 * 1024**3)})
    found = {finding.name: finding for finding in _dump_cautions(Look(told), "redis://127.0.0.1:6379")}
    assert "40.0 GiB" in found["large_dataset"].sentence
    assert "appendonly" in found["large_dataset"].hint
    assert "overcommit" in found["fork_memory"].hint  # more than this machine has


def test_a_server_that_hides_its_save_points_is_taken_to_have_some() -> None:
    assert recipe_of(Look(Information({"aof_enabled": "0"}), None)) is Recipe.RDB
    assert recipe_of(Look(Information({"aof_enabled": "0"}), {"save": ""})) is None
