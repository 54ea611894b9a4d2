"""One app under supervision, on an event loop of the test: what can happen at one instant, and what it may say."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss.agent.child import order_of
from appvss.agent.configuration import load
from appvss.agent.guardian import Guardian
from appvss.agent.log import Log
from appvss.agent.supervised import SupervisedApp
from appvss.service.log import logging_to
from tests.support.running_broker import BOUND

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
