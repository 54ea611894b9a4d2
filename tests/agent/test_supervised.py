"""One app under supervision, on an event loop of the test: what can happen at one instant, and what it may say."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.adapters import undo
from appvss.adapters.base import Adapter
from appvss.adapters.undo import UndoRecord
from appvss.agent import guardian as guardian_module
from appvss.agent import supervised
from appvss.agent.child import order_of
from appvss.agent.configuration import AppConfiguration, load
from appvss.agent.guardian import Guardian
from appvss.agent.log import Log
from appvss.agent.supervised import SupervisedApp, Undone, undo_once
from appvss.agent.supervisor import Supervisor
from appvss.agent.undo_places import has_records, place_of
from appvss.service.log import logging_to
from tests.support.memory_directory import memory
from tests.support.running_broker import BOUND

__all__ = ["memory"]

NEVER = timedelta(hours=1)


class Around:
    """The agent around an app, which tells when the app's process is about to be started."""

    hang_timeout = NEVER

    def __init__(self, undo_directory: Path) -> None:
        self.undo_directory = undo_directory
        self.stream = io.StringIO()
        self.log = Log(self.stream)
        self.starting = asyncio.Event()
        self.gone = asyncio.Event()
        self.told: list[Mapping[str, Any]] = []

    async def nothing_held(self) -> None:
        self.starting.set()

    def tell_guardian(self, message: Mapping[str, Any]) -> None:
        self.told.append(message)
        if "gone" in message:
            self.gone.set()

    def phase_changed(self) -> None:
        pass


@pytest.fixture
def around(tmp_path: Path) -> Around:
    return Around(tmp_path / "undo")


@pytest.fixture
def app(tmp_path: Path, around: Around) -> SupervisedApp:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'[agent]\nruntime_directory = "{tmp_path}/run"\n[apps.one]\nadapter = "exec"\ncommand = ["/bin/cat"]\n'
    )
    configuration = load(file)
    one = configuration.apps["one"]
    return SupervisedApp(one, order_of(configuration.agent, around.undo_directory, one), around)


def leftover(tmp_path: Path, memory: Path, key: str, thaw: str, limit: str) -> tuple[AppConfiguration, str]:
    """An app of two commands that has left a hold behind, which is a file; and its order."""
    held, program, place = tmp_path / f"{key}.held", tmp_path / f"{key}.thaw", place_of(memory, key)
    program.write_text(f"#!/bin/sh\n{thaw}\nexec rm -f {held}\n")
    program.chmod(0o755)
    file = tmp_path / f"{key}.toml"
    file.write_text(
        f'[apps.{key}]\nadapter = "exec"\nfreeze = ["/bin/true"]\nthaw = ["{program}"]\nthaw_limit = "{limit}"\n'
    )
    configuration = load(file)
    app = configuration.apps[key]
    what = {"thaw": hashlib.sha256(json.dumps(app.settings.thaw).encode()).hexdigest(), "cycle": "c-1"}
    held.touch()
    place.mkdir(mode=0o700)
    undo.write(place, UndoRecord.of(key, "exec", "c-1", what)).leave()
    return app, order_of(configuration.agent, memory, app)


def told(app: AppConfiguration, order: str) -> dict[str, object]:
    """What the agent tells its guardian of an app."""
    return {"app": app.key, "order": order, "runs_as": "", "undo_limit": app.undo_limit.total_seconds()}


@pytest.fixture
def no_time_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever undoes has only the time that the adapter says: what is usual is over before anything has begun."""
    monkeypatch.setattr(Adapter, "undo_limit", timedelta(0))
    for module in (supervised, guardian_module):
        monkeypatch.setattr(module, "UNDO_MARGIN", timedelta(0))


@pytest.mark.usefixtures("no_time_to_spare")
async def test_who_undoes_waits_as_long_as_the_apps_thaw_may_take(tmp_path: Path, memory: Path) -> None:
    app, order = leftover(tmp_path, memory, "one", "sleep 0.2", "1m")
    assert await undo_once(app, order) == Undone(("c-1",))
    assert not (tmp_path / "one.held").exists()
    app, order = leftover(tmp_path, memory, "two", "sleep 0.2", "1m")
    cut = await undo_once(replace(app, undo_limit=timedelta(0)), order)
    assert cut.failure == "it did not end within 0.0ms"


@pytest.mark.usefixtures("no_time_to_spare")
async def test_the_guardian_waits_as_long_as_well_and_undoes_others_meanwhile(tmp_path: Path, memory: Path) -> None:
    slow, its_order = leftover(tmp_path, memory, "one", f"until [ -e {tmp_path}/go ]; do sleep 0.1; done", "1m")
    quick, order = leftover(tmp_path, memory, "two", "", "1m")
    guardian = Guardian(memory)
    for message in (told(slow, its_order), told(quick, order)):
        guardian.hear(message)
    taking_over = asyncio.create_task(asyncio.to_thread(guardian.take_over))
    async with asyncio.timeout(2 * BOUND):
        while (tmp_path / "two.held").exists():  # noqa: ASYNC110 - another process's work
            await asyncio.sleep(0.02)
        assert (tmp_path / "one.held").exists()
        (tmp_path / "go").touch()
        await taking_over
    assert not (tmp_path / "one.held").exists()
    assert not has_records(memory, "one")
    assert guardian.apps["one"].attempts == 1


async def test_the_agent_tells_its_guardian_how_long_an_undo_may_take(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    pair = 'adapter = "exec"\nfreeze = ["/bin/true"]\nthaw = ["/bin/true"]\n'
    file.write_text(f'[apps.one]\n{pair}thaw_limit = "1h"\n[apps.two]\nadapter = "sqlite"\nfiles = ["/x.db"]\n')
    configuration = load(file)
    assert configuration.apps["one"].undo_limit > timedelta(hours=1)
    assert configuration.apps["two"].undo_limit == Adapter.undo_limit
    agent = Supervisor(configuration, lambda: configuration, Log(io.StringIO()))
    for app in configuration.apps.values():
        agent._tell_of(app)
        assert agent._guardian._known[app.key]["app"] == told(app, agent.order_of(app))


async def end(running: asyncio.Task[None]) -> None:
    running.cancel()  # which kills its process
    with suppress(asyncio.CancelledError):
        await running


@pytest.mark.parametrize("way", ["stop", "reload"])
async def test_an_app_that_is_told_to_leave_while_it_is_being_started_leaves(
    app: SupervisedApp, around: Around, way: str
) -> None:
    running = asyncio.create_task(app.run())
    try:
        async with asyncio.timeout(BOUND):
            await around.starting.wait()
            assert app.pid is None, "it is being started"
            await (app.stop(NEVER) if way == "stop" else app.leave_after_hold())
            await running
    finally:
        await end(running)
    assert [next(iter(message)) for message in around.told] == ["child", "rest", "gone"]


async def test_nothing_that_a_program_of_the_apps_user_writes_ends_the_agent(
    app: SupervisedApp, around: Around, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        '{"phase": "holding", "cycle": "c-1", "limit": 9}',
        *('{"phase": "dancing", "cycle": "c-1", "limit": 9}', '{"phase": "idle"}', '{"phase": ["idle"]}'),
        *('{"phase": "holding", "cycle": "c-1", "limit": null}', '{"phase": "idle", "cycle": "", "limit": "long"}'),
        *('{"phase": "holding", "cycle": "c-1", "limit": 1e999}', '{"phase": "holding", "cycle": "", "limit": NaN}'),
        *('{"log": 3}', '{"log": {"time": 1e999, "level": "info", "message": "hello"}}', '{"other": 1}', "no message"),
    ]
    text = "\n".join(lines)
    (tmp_path / "oddity.py").write_text(
        f"import os\nos.write(int(os.environ['APPVSS_AGENT_LINE']), {text!r}.encode() + b'\\n')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("appvss.agent.supervised._MODULE", "oddity")  # in the place of an app
    with logging_to(around.log):
        running = asyncio.create_task(app.run())
        try:
            async with asyncio.timeout(BOUND):
                await asyncio.wait(
                    {running, asyncio.create_task(around.gone.wait())}, return_when=asyncio.FIRST_COMPLETED
                )
                await app.stop(NEVER)
                await running
        finally:
            await end(running)
    assert around.told[1:4] == [{"hold": "one", "limit": 9}, {"rest": "one"}, {"gone": "one"}]
    assert "INFO one: hello" in around.stream.getvalue()


def test_a_guardian_never_takes_another_process_for_one_that_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    guardian = Guardian(tmp_path)
    guardian.hear({"child": "one", "pid": process.pid})
    assert guardian.apps["one"].pid == 0  # or else whoever gets that number next would be killed
