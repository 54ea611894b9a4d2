"""The agent with real processes: what dies, hangs or is changed touches nobody else, and nothing stays held."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from appvss.sdk.testing import FakeApp, FakeBroker
from tests.agent.running_agent import (
    PATIENCE,
    RunningAgent,
    is_alive,
    launch,
    opened_to_everybody,
    places,
    running_agent,
    until,
)
from tests.cli.command_line import run_apart
from tests.support.running_broker import QUIET, running_broker

LIMIT = timedelta(seconds=PATIENCE)
SHORT = '"4s"'
"""A hold limit that a test waits for: long enough for it to stop the process before, also on a machine that is busy."""


class Stage(NamedTuple):
    """A fake broker, and the places for an agent."""

    broker: FakeBroker
    directory: Path
    memory: Path

    def held(self, name: str) -> bool:
        """Whether the app's hold is in force: what `freeze` has made is there."""
        return (self.directory / f"{name}.held").exists()

    async def released(self, name: str) -> None:
        await until(lambda: not self.held(name), f"{name} is let go of")

    def agent(self, apps: str, settings: str = "") -> AsyncIterator[RunningAgent]:
        return running_agent(self.directory, self.memory, apps, settings)  # type: ignore[return-value]

    async def app(self, name: str) -> FakeApp:
        return await self.broker.app(name, within=LIMIT)

    def pair(self, name: str, **more: str) -> str:
        """An app whose hold does not end by itself: nobody but its `thaw`, `rm`, removes what its `freeze` makes."""
        file = self.directory / f"{name}.held"
        lines = {
            "adapter": '"exec"',
            "freeze": f'["/usr/bin/touch", "{file}"]',
            "thaw": f'["/bin/rm", "-f", "{file}"]',
            "volumes": f'["{self.directory}"]',
            **more,
        }
        return f"[apps.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with places() as (directory, memory):
        (directory / "run").mkdir()
        async with FakeBroker(directory / "run") as broker:
            yield Stage(broker, directory, memory)


@contextmanager
def stopped(pid: int):  # type: ignore[no-untyped-def]
    """A process that does nothing, and is not dead."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGCONT)


def pid_of(app: FakeApp) -> int:
    assert app.peer is not None
    return app.peer.pid


def kill_in_hold(agent: RunningAgent, *apps: FakeApp, guardian: bool = False) -> None:
    """Kill an agent with apps, and its guardian, at one instant: nobody has time to let go, or to undo."""
    others = [agent.pid, *([agent.guardian()] if guardian else [])]
    agent.family()
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    for pid in (*map(pid_of, apps), *others):
        os.kill(pid, signal.SIGKILL)


async def came_back(app: FakeApp, former: str) -> None:
    """Wait until another process serves the app."""
    await until(lambda: app.attached and app.incarnation != former, f"{app} comes back")


async def test_an_adapter_takes_part_as_it_is_configured(stage: Stage) -> None:
    apps = stage.pair("orders", order="20", after='["web"]', hold_limit='"9s"', requirement='"tolerated"', worth='"fs"')
    async with stage.agent(apps) as agent:
        orders = await stage.app("orders")
        declared = orders.registration
        assert (declared.order, declared.after, declared.requirement) == (20, ("web",), "tolerated")
        assert (declared.hold_limit, declared.grade, declared.prepares) == (timedelta(seconds=9), "fs", True)
        assert orders.paths == (str(stage.directory),)
        frozen = await orders.freeze()
        assert frozen.frozen, frozen
        assert frozen.evidence["engine"] == "exec"
        assert stage.held("orders")
        thawed = await orders.thaw()
        assert thawed.unbroken, thawed
        assert not stage.held("orders")
        assert await agent.terminate() == 0
        family = agent.family()
        assert len(family) == 2  # the app and the guardian
        await until(lambda: not any(map(is_alive, family)), "all of them end")
        assert not [line for line in agent.log if " ERROR " in line], agent.log
        (warning,) = [line for line in agent.log if " WARNING " in line]
        assert "orders: cannot_hold_a_session: " in warning  # what the look has found


async def test_an_application_that_is_down_refuses_with_its_reason_and_is_found_when_it_is_up(stage: Stage) -> None:
    folder = stage.directory / "later"
    file = folder / "orders.db"
    async with stage.agent(f'[apps.orders]\nadapter = "sqlite"\nfiles = ["{file}"]\n') as agent:
        orders = await stage.app("orders")
        frozen = await orders.freeze()
        assert not frozen.frozen
        assert "orders.db" in frozen.reason
        assert "; HINT: " in frozen.reason
        await agent.line("ERROR orders", "orders.db")
        folder.mkdir()
        make_database(file)
        await until(lambda: bool(orders.paths), "it is found")
        assert orders.paths
        frozen = await orders.freeze()
        assert frozen.frozen, frozen
        assert (await orders.thaw()).unbroken


def make_database(file: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
        connection.commit()


# -- one dies or hangs, the others do not notice


async def test_an_app_that_is_killed_is_started_again_and_no_other_notices(stage: Stage) -> None:
    async with stage.agent(stage.pair("one") + stage.pair("two")) as agent:
        one, two = await stage.app("one"), await stage.app("two")
        former, other = one.incarnation, two.incarnation
        assert (await two.freeze()).frozen
        os.kill(pid_of(one), signal.SIGKILL)
        await one.gone()
        assert (await two.thaw()).unbroken  # nobody is started while another one holds
        await came_back(one, former)
        assert (two.incarnation, two.attachments) == (other, 1)
        await agent.line("ERROR one", "signal 9", "started again")


async def test_a_hold_whose_process_is_killed_is_undone_and_another_one_goes_on(stage: Stage) -> None:
    async with stage.agent(stage.pair("one") + stage.pair("two")) as agent:
        one, two = await stage.app("one"), await stage.app("two")
        former = one.incarnation
        assert (await one.freeze()).frozen
        assert (await two.freeze()).frozen
        os.kill(pid_of(one), signal.SIGKILL)
        await stage.released("one")
        assert stage.held("two")
        assert (await two.thaw()).unbroken
        await came_back(one, former)
        await agent.line("WARNING one", "that was left behind is undone")
        assert (await one.freeze()).frozen
        assert (await one.thaw()).unbroken


async def test_an_app_that_hangs_is_killed_and_started_again(stage: Stage) -> None:
    apps = stage.pair("one") + stage.pair("two")
    async with stage.agent(apps) as agent:
        one, two = await stage.app("one"), await stage.app("two")
        agent.write('hang_timeout = "6s"\n' + apps)  # now: no app gives a sign of life while it is being started
        await agent.reload()
        former, pid = one.incarnation, pid_of(one)
        with stopped(pid):
            await agent.line("ERROR one", "no sign of life")
            assert (await two.freeze()).frozen
            assert (await two.thaw()).unbroken
        await came_back(one, former)
        assert two.attachments == 1


async def test_a_hold_whose_process_hangs_ends_at_its_limit(stage: Stage) -> None:
    """The SDK in the process keeps the limit, but not in a process that is stopped."""
    async with stage.agent(stage.pair("one", hold_limit=SHORT), 'hang_timeout = "1m"\n') as agent:
        one = await stage.app("one")
        former = one.incarnation
        assert (await one.freeze()).frozen
        with stopped(pid_of(one)):
            await stage.released("one")
        await agent.line("ERROR one", "is holding for longer than its limit")
        await came_back(one, former)


async def test_whoever_lets_go_for_longer_than_the_hold_might_last_is_not_killed_at_it(stage: Stage) -> None:
    slow = stage.directory / "slow"
    slow.write_text(f"#!/bin/sh\nsleep 5\nexec rm -f {stage.directory}/one.held\n")
    slow.chmod(0o755)
    async with stage.agent(stage.pair("one", hold_limit='"1s"', thaw=f'["{slow}"]')) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        await one.thaw(within=LIMIT)  # that its stream ends before it answers would be an error
        assert not stage.held("one")
        assert one.attachments == 1
        assert await agent.terminate() == 0
        assert not [line for line in agent.log if "longer than its limit" in line], agent.log


# -- the agent dies


async def test_apps_let_go_and_leave_when_the_agent_is_killed_in_a_hold(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        family = agent.family()
        agent.kill()
        assert await one.hold_lost()
        await stage.released("one")
        await until(lambda: not any(map(is_alive, family)), "app and guardian end")
        assert not list((stage.memory / "undo").rglob("*.undo"))


LONG = {"environment": "[" + ", ".join(f'"V{number}={"x" * 4000}"' for number in range(20)) + "]"}
"""A section that is longer than what a process may say in one line."""


@pytest.mark.parametrize("more", [{}, LONG], ids=["", "a long section"])
async def test_the_guardian_undoes_a_hold_when_agent_and_app_are_killed_in_it(
    stage: Stage, more: dict[str, str]
) -> None:
    async with stage.agent(stage.pair("one", **more)) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        guardian = agent.guardian()
        kill_in_hold(agent, one)
        await stage.released("one")
        await until(lambda: not is_alive(guardian), "the guardian ends")
        assert not list((stage.memory / "undo").rglob("*.undo"))


async def test_the_guardian_undoes_what_a_dead_app_has_left_before_it_waits_for_another_one(stage: Stage) -> None:
    slow = stage.directory / "slow"
    slow.write_text(f"#!/bin/sh\ncd {stage.directory}\nuntil [ -e go ]; do sleep 0.1; done\nexec rm -f two.held\n")
    slow.chmod(0o755)
    async with stage.agent(stage.pair("one") + stage.pair("two", thaw=f'["{slow}"]')) as agent:
        one, two = await stage.app("one"), await stage.app("two")
        for app in (one, two):
            assert (await app.freeze()).frozen
        guardian = agent.guardian()
        kill_in_hold(agent, one)
        # Or else the kernel would end who is stopped: its process group loses its last parent.
        await until(lambda: not is_alive(agent.pid), "the agent is dead")
        with stopped(pid_of(two)):  # it is on its way out, and does not come to an end
            await stage.released("one")
        (stage.directory / "go").touch()
        await stage.released("two")
        await until(lambda: not is_alive(guardian), "the guardian ends")
        undone = await agent.line("one: what it had left behind is undone")
        waited = [line for line in agent.log if "it has not left; it is killed" in line]  # if this machine is that slow
        assert not waited or agent.log.index(undone) < agent.log.index(waited[0]), agent.log


async def test_the_guardian_is_not_ended_by_what_ends_a_service(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        guardian = agent.guardian()
        assert os.getsid(guardian) == guardian
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(guardian, number)
        kill_in_hold(agent, one)
        await stage.released("one")


async def test_the_guardian_ends_a_hold_at_its_limit_when_the_agent_hangs(stage: Stage) -> None:
    async with stage.agent(stage.pair("one", hold_limit=SHORT)) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        pid = pid_of(one)
        with stopped(agent.pid), stopped(pid):
            await stage.released("one")
            assert not is_alive(pid)


async def test_a_guardian_that_dies_is_replaced_and_knows_the_apps(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        former = agent.guardian()
        os.kill(former, signal.SIGKILL)
        await agent.line("the guardian has ended")
        await until(lambda: sum("the guardian, process" in line for line in agent.log) == 2, "another one is ready")
        assert (await one.freeze()).frozen
        kill_in_hold(agent, one)
        await stage.released("one")


async def test_without_a_guardian_nothing_is_started_and_it_is_said_and_the_agent_ends_when_told(stage: Stage) -> None:
    (stage.directory / "sitecustomize.py").write_text(
        'import os, sys\nif "appvss.agent.guardian" in sys.orig_argv:\n    os._exit(1)\n'
    )
    agent = await launch(stage.directory, stage.memory, stage.pair("one"), PYTHONPATH=str(stage.directory))
    try:
        await agent.line("ERROR", "the guardian cannot be started", "it has ended before it was ready")
        assert await agent.terminate() == 0
        assert not [line for line in agent.log if "the agent is ready" in line]
    finally:
        await agent.close()


@pytest.mark.parametrize("way", ["start", "undo"])
async def test_what_is_left_when_all_are_killed_is_undone_by_the_next_start_or_by_hand(stage: Stage, way: str) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        done = await run_apart("agent", "undo", "--config", str(agent.file))
        assert (done.code, done.out) == (0, "one: a living process holds it; it is left alone\n"), done
        kill_in_hold(agent, one, guardian=True)
        await agent.ended()
        assert stage.held("one")
    if way == "start":
        async with stage.agent(stage.pair("one")) as agent:
            await agent.line("WARNING one", "that was left behind is undone")
            assert not stage.held("one")
            assert (await one.returned()) is None
    else:
        done = await run_apart("agent", "undo", "--config", str(agent.file))
        assert (done.code, done.out) == (0, "one: the hold of cycle cycle-1 is undone\n"), done
        assert not stage.held("one")


async def test_what_an_app_left_that_is_not_configured_any_more_is_named(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        kill_in_hold(agent, one, guardian=True)
    async with stage.agent(stage.pair("two")) as agent:
        await agent.line("ERROR", "the app one", "not configured any more")
        done = await run_apart("agent", "undo", "--config", str(agent.file))
        assert done.code == 9, done
        assert "one: it is not configured" in done.out
    assert stage.held("one")


async def test_what_is_left_is_undone_by_hand_whatever_is_wrong_with_another_section(stage: Stage) -> None:
    async with stage.agent(stage.pair("one") + stage.pair("two")) as agent:
        one, two = await stage.app("one"), await stage.app("two")
        for app in (one, two):
            assert (await app.freeze()).frozen
        kill_in_hold(agent, one, two, guardian=True)
        await agent.ended()
        agent.write(stage.pair("one") + stage.pair("two", order='"first"'))
        done = await run_apart("agent", "undo", "--config", str(agent.file))
        assert done.code == 9, done
        undone, left = done.out.splitlines()
        assert undone == "one: the hold of cycle cycle-1 is undone"
        assert left.startswith("two: its section cannot be used, apps.two.order: ")
        assert not stage.held("one")
        agent.file.write_text("[agent]\nundo_directory = 3\n" + stage.pair("two"))  # where is what was left?
        done = await run_apart("agent", "undo", "--config", str(agent.file))
        assert (done.code, "agent.undo_directory: " in done.err) == (3, True), done


# -- it is told to end, or to read its file again


async def test_what_is_held_is_let_go_of_when_the_agent_ends(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        assert (await one.freeze()).frozen
        assert await agent.terminate() == 0
        assert not stage.held("one")
        assert await one.hold_lost()


@asynccontextmanager
async def service_manager(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Queue[str]]:
    """What the agent tells systemd."""
    told: asyncio.Queue[str] = asyncio.Queue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(directory / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, lambda: told.put_nowait(listener.recv(4096).decode()))
        try:
            yield told
        finally:
            loop.remove_reader(listener)


async def next_told(told: asyncio.Queue[str]) -> str:
    while (line := (await asyncio.wait_for(told.get(), PATIENCE)).partition("\n")[0]) == "WATCHDOG=1":
        pass
    return line


async def test_a_reload_drops_no_hold(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service_manager(stage.directory, monkeypatch) as told:
        apps = stage.pair("same") + stage.pair("changed", order="10") + stage.pair("removed")
        async with stage.agent(apps) as agent:
            assert await next_told(told) == "READY=1"
            same, changed, removed = await stage.app("same"), await stage.app("changed"), await stage.app("removed")
            former = same.incarnation, changed.incarnation
            for app in (same, changed, removed):
                assert (await app.freeze()).frozen
            agent.write(stage.pair("same") + stage.pair("changed", order="20") + stage.pair("added"))
            agent.process.send_signal(signal.SIGHUP)
            assert [await next_told(told), await next_told(told)] == ["RELOADING=1", "READY=1"]
            assert not [line for line in agent.log if "reloaded" in line], "the log rests in a hold"
            for app in (same, changed, removed):
                assert stage.held(app.registration.app.name)
                assert (await app.thaw()).unbroken
            await came_back(changed, former[1])
            assert changed.registration.order == 20
            await stage.app("added")
            await removed.gone()
            assert (same.incarnation, same.attachments) == (former[0], 1)
            await agent.line("the configuration was reloaded")
            assert await agent.terminate() == 0
            assert await next_told(told) == "STOPPING=1"
            assert not [line for line in agent.log if "was left behind" in line], agent.log


async def test_a_ready_that_nobody_heard_is_told_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(stage.directory / "notify"))
    async with stage.agent(stage.pair("one")) as agent:
        await agent.line("the service manager does not hear")
        async with service_manager(stage.directory, monkeypatch) as told:
            assert await next_told(told) == "READY=1"
            assert await agent.terminate() == 0
            assert await next_told(told) == "STOPPING=1"


async def test_a_file_with_problems_changes_nothing_and_all_of_them_are_said(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        agent.write("[apps.one]\nadapter = 3\n[apps.two]\n")
        await agent.reload()
        line = await agent.line("ERROR", "was not reloaded")
        assert "apps.one.adapter: " in line
        assert "apps.two.adapter: " in line
        assert (await one.freeze()).frozen
        assert (await one.thaw()).unbroken
        assert one.attachments == 1


async def test_an_app_that_is_removed_and_named_again_while_it_holds_is_there(stage: Stage) -> None:
    async with stage.agent(stage.pair("one")) as agent:
        one = await stage.app("one")
        former = one.incarnation
        assert (await one.freeze()).frozen
        agent.write("")
        agent.process.send_signal(signal.SIGHUP)
        agent.write(stage.pair("one"))
        agent.process.send_signal(signal.SIGHUP)
        assert (await one.thaw()).unbroken
        await until(lambda: one.attached, "it is there")
        await agent.line("reloaded")
        assert one.incarnation == former or one.attachments == 2


# -- who it is, and what it says


async def test_an_app_runs_with_the_rights_of_its_user_and_is_undone_with_them(stage: Stage) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can run an app as another user")
    stage.directory.chmod(0o777)
    (stage.directory / "run").chmod(0o777)
    for each in (stage.directory / "run").iterdir():
        each.chmod(0o777)
    stage.memory.chmod(0o711)
    before = opened_to_everybody(stage.directory)
    async with as_the_service_starts_it(stage, stage.pair("one", runs_as='"nobody"'), before):
        one = await stage.app("one")
        assert one.peer is not None
        uid = one.peer.uid
        assert uid != 0
        assert (await one.freeze()).frozen
        held = stage.directory / "one.held"
        assert held.stat().st_uid == uid
        os.kill(pid_of(one), signal.SIGKILL)
        await stage.released("one")


@asynccontextmanager
async def as_the_service_starts_it(stage: Stage, apps: str, before: tuple[str, ...]) -> AsyncIterator[RunningAgent]:
    """With the umask of the unit."""
    former = os.umask(0o077)
    try:
        agent = await launch(stage.directory, stage.memory, apps, before=before)
    finally:
        os.umask(former)
    try:
        yield agent
    finally:
        await agent.close()


async def test_the_log_is_json_where_that_is_wanted(stage: Stage) -> None:
    import json

    async with stage.agent(stage.pair("one"), 'log_format = "json"\n') as agent:
        one = await stage.app("one")
        frozen = await one.freeze("c-1", budget=timedelta(milliseconds=1))
        assert not frozen.frozen
        line = json.loads(await agent.line("c-1"))
        assert set(line) == {"time", "level", "app", "cycle", "message"}
        assert (line["app"], line["cycle"] or "c-1") == ("one", "c-1")
        assert line["time"].endswith("Z")


async def test_a_configuration_with_problems_starts_nothing() -> None:
    async with places() as (directory, memory):
        agent = await launch(directory, memory, "[apps.one]\n")
        try:
            assert await agent.ended() == 3
            await agent.line("apps.one.adapter")
            assert not agent.family()
        finally:
            await agent.close()


async def test_an_adapter_in_a_real_broker_gives_an_application_consistent_freeze() -> None:
    async with places() as (directory, memory), running_broker(QUIET, directory=directory) as broker:
        stage = Stage(None, directory, memory)  # type: ignore[arg-type]  # the broker is a real one
        async with stage.agent(stage.pair("one")):
            async with asyncio.timeout(PATIENCE):
                while not await broker.apps():
                    pass
            environment = {"APPVSS_RUNTIME_DIRECTORY": str(directory / "run")}
            done = await run_apart(
                "freeze", "--json", "--", "test", "-e", f"{directory}/one.held", environment=environment
            )
            assert done.code == 0, done
            assert done.document["verdict"]["level"] == "application"
            assert not stage.held("one")
