"""The agent with real servers and a real broker: ten lines of TOML make PostgreSQL and Redis take part."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.agent.running_agent import PATIENCE, places, running_agent
from tests.cli.command_line import Done, ended, run_apart, start
from tests.databases.support.servers import PostgresqlServer, RedisServer, server_folder
from tests.support.running_broker import QUIET, RunningBroker, running_broker

REQUIRED = QUIET + '[apps]\nrequired = ["orders", "cache", "files"]\n'


@pytest.fixture(scope="module")
def apps() -> Iterator[str]:
    """The configuration of an agent for servers that run."""
    for kind in (PostgresqlServer, RedisServer):
        if reason := kind.why_not():
            pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="av-", dir="/tmp") as folder, servers(Path(folder)) as text:
        yield text


@contextmanager
def servers(folder: Path) -> Iterator[str]:
    server_folder(folder)
    file = folder / "files.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE files (id INTEGER)")
        connection.commit()
    with (
        PostgresqlServer(folder / "pg") as postgresql,
        RedisServer(folder / "redis", settings={"appendonly": "yes"}) as redis,
    ):
        yield (
            f'[apps.orders]\nadapter = "postgresql"\ndsn = "{postgresql.dsn}"\n'
            f'[apps.cache]\nadapter = "redis"\nurl = "unix://{redis.socket}"\n'
            f'[apps.files]\nadapter = "sqlite"\nfiles = ["{file}"]\n'
        )


async def registered(broker: RunningBroker, *names: str) -> None:
    """Wait until all of them are there, with their volumes."""
    async with asyncio.timeout(PATIENCE):
        while {app.name for app in await broker.apps() if app.paths} != set(names):
            pass


async def freeze(broker: RunningBroker, *held: str) -> Done:
    return await run_apart("freeze", "--json", "--", *held, environment=environment(broker))


def environment(broker: RunningBroker) -> dict[str, str]:
    return {"APPVSS_RUNTIME_DIRECTORY": str(broker.runtime_directory)}


def given(broker: RunningBroker) -> dict[str, Any]:
    return {"environment": environment(broker)}


async def until_apps(broker: RunningBroker, holds: Callable[[dict[str, str]], bool]) -> None:
    """Wait until the states of the apps are so."""
    async with asyncio.timeout(PATIENCE):
        while not holds({app.name: app.state for app in await broker.apps()}):
            pass


async def test_every_adapter_holds_and_its_position_is_in_the_certificate(apps: str) -> None:
    async with (
        places() as (directory, memory),
        running_broker(REQUIRED, directory=directory) as broker,
        running_agent(directory, memory, apps),
    ):
        await registered(broker, "orders", "cache", "files")
        done = await freeze(broker, "cat", str(broker.state_directory / "certificate.json"))
        assert done.code == 0, done
        certificate = json.loads("\n".join(done.out.splitlines()[:-1]))
        assert done.document["verdict"]["level"] == "application"
        text = json.dumps(certificate)
        assert all(engine in text for engine in ("postgresql", "redis", "sqlite"))
        shown = await run_apart("show", done.document["cycle"], "--json", environment=environment(broker))
        evidence = {each["name"]: each["evidence"] for each in shown.document["verdict"]["outcomes"]}
        assert evidence["orders"]["engine"] == "postgresql"
        assert evidence["orders"]["position"]
        assert done.document["cycle"] in evidence["orders"]["marker"]
        assert evidence["files"]["engine"] == "sqlite"


async def test_a_look_at_all_of_them_finds_nothing_that_would_refuse(apps: str) -> None:
    async with places() as (directory, memory):
        file = directory / "agent.toml"
        file.write_text(f'[agent]\nundo_directory = "{memory}/undo"\n{apps}')
        done = await run_apart("agent", "check", "--json", "--config", str(file))
        orders, cache, files = done.document["apps"]
        assert done.code == 0, done
        assert orders["version"].lower().startswith("postgresql")
        assert orders["settings"]["synchronous_commit"] == "on"
        assert {volume["kind"] for volume in orders["volumes"]} >= {"data"}
        assert cache["fit"]
        assert files["fit"]


async def test_an_app_that_is_killed_in_its_hold_costs_the_verdict_and_nothing_else(apps: str) -> None:
    async with (
        places() as (directory, memory),
        running_broker(REQUIRED, directory=directory) as broker,
        running_agent(directory, memory, apps) as agent,
    ):
        await registered(broker, "orders", "cache", "files")
        (orders,) = [app.peer.pid for app in await broker.apps() if app.name == "orders"]
        gate = directory / "gate"
        os.mkfifo(gate)
        descriptor = os.open(gate, os.O_RDWR)  # so that neither end waits for the other
        held = ("head", "-n", "1", str(gate))
        done = asyncio.create_task(ended(await start("freeze", "--json", "--", *held, **given(broker))))
        await until_apps(broker, lambda states: set(states.values()) == {"held"})
        os.kill(orders, signal.SIGKILL)
        await until_apps(broker, lambda states: states.get("orders") != "held")
        os.write(descriptor, b"\n")  # and not its end, which whoever opens it only now would never see
        ended_as = await done
        os.close(descriptor)
        assert ended_as.code != 0
        outcomes = {each["name"]: each["outcome"] for each in ended_as.document["verdict"]["outcomes"]}
        assert outcomes["orders"] in ("hold_lost", "disconnected")
        assert (outcomes["cache"], outcomes["files"]) == ("held", "held")
        await agent.line("ERROR orders", "in the hold of cycle")
        await registered(broker, "orders", "cache", "files")
        assert (await freeze(broker, "true")).code == 0
