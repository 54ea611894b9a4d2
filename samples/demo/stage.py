"""Everything that the demo starts, and ends again: the simulator, the broker, three apps."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appvss.model.errors import AppvssError, ExitCode
from appvss.model.verdict import Level
from appvss.sdk.admin import AdminClient
from appvss.sdk.admin_hold import Hold

PATIENCE = 20.0
"""Seconds that anything may take before the demo gives up on it."""
COMMAND = str(Path(sys.executable).with_name("appvss"))
SAMPLES = Path(__file__).resolve().parent.parent
CONFIGURATION = """\
[sources.freebsd]
mode = "{mode}"
device = "{device}"
filesystem_reserve = "9s"    # leaves the apps some five seconds, so that a hanging one is noticed while you watch
hold_limit = "10s"

[sources.local]
freeze_budget = "4s"

[apps]
required = ["sqlite-orders", "smallest-threads", "nightly-job"]
"""


class DemoFailed(Exception):
    """Something did not go as it must; the text says what."""


class Program:
    """One child process, its output in a file, ended by its own handle."""

    def __init__(self, name: str, command: list[str], folder: Path, runtime: Path, **options: Any) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        places = {"APPVSS_RUNTIME_DIRECTORY": str(runtime), "APPVSS_STATE_DIRECTORY": str(folder / "state")}
        environment = {**os.environ, **places, "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | options
            self.process = subprocess.Popen([sys.executable, *command], env=environment, **streams)

    def stop(self) -> None:
        """End it: asked first, then killed."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(PATIENCE / 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def complaint(self) -> str:
        """The last words of a program that has ended too early."""
        words = self.log.read_text(errors="replace").strip().splitlines()
        return f"{self.name} ended with code {self.process.returncode}: {words[-1] if words else 'no word'}"


def wait_until(condition: Callable[[], bool], what: str, *programs: Program) -> None:
    """Poll until it is so; whoever ends meanwhile, or the end of patience, fails the demo."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        for program in programs:
            if program.process.poll() is not None:
                raise DemoFailed(program.complaint())
        if time.monotonic() > give_up:
            raise DemoFailed(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the requester was told."""

    go_on: bool
    took: float
    """Seconds."""


class Requester(Protocol):
    """Who wants the snapshot."""

    title: str
    """Who it is, for people."""

    def check(self) -> Reply | None:
        """Ask whether a freeze would work; None where the requester has no such question."""

    def freeze(self) -> Reply:
        """Ask for the freeze."""

    def thaw(self) -> Reply:
        """Say that the snapshot is taken."""


class Host:
    """The Hyper-V host, played by `appvss simulate freebsd` on a device that is a real file."""

    title = "Hyper-V host, through the simulated FreeBSD device"

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.directory = folder / "dev"
        command = [COMMAND, "simulate", "freebsd", str(self.directory), "--json"]
        # No buffer: `select` sees the pipe, not what a buffer has already taken out of it.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self.program = Program("simulator", command, folder, runtime, **pipes)

    @property
    def device(self) -> Path:
        """The app device."""
        return self.directory / "hv_appvss_dev"

    def is_available(self) -> str:
        """Wait for the mount; why there can be none, or empty."""
        try:
            self._message("ready")
        except DemoFailed:
            if self.program.process.wait(PATIENCE) != ExitCode.UNAVAILABLE:
                raise
            error: dict[str, str] = json.loads(self.program.log.read_text())
            return error["sentence"]
        return ""

    def check(self) -> Reply | None:
        """CHECK, Hyper-V's HOT_BACKUP."""
        return self._ask("check")

    def freeze(self) -> Reply:
        """FREEZE."""
        return self._ask("freeze")

    def thaw(self) -> Reply:
        """THAW."""
        return self._ask("thaw")

    def _ask(self, command: str) -> Reply:
        if self.program.process.stdin is None:
            raise AssertionError("the simulator has a pipe for its commands")
        self.program.process.stdin.write(f"{command}\n".encode())
        self.program.process.stdin.flush()
        result = self._message("result")
        return Reply(result["outcome"] == "ok", result["took_seconds"])

    def _message(self, kind: str) -> dict[str, Any]:
        """The simulator's next message of this kind; what comes before it is passed over."""
        output = self.program.process.stdout
        if output is None:
            raise AssertionError("the simulator has a pipe for its messages")
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            if not select.select([output], [], [], 1.0)[0]:
                continue
            line = output.readline()
            if not line:
                break
            message: dict[str, Any] = json.loads(line)
            if message["message_type"] == kind:
                return message
        raise DemoFailed(f"the simulator sent no {kind}")


class LocalRequester:
    """A local program, where no device can be simulated."""

    title = "local requester"

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._hold: Hold | None = None

    def check(self) -> Reply | None:
        """A local requester freezes at once."""
        return None

    def freeze(self) -> Reply:
        """Ask for the hold."""
        began = time.monotonic()
        self._hold = self._client.hold("the demo")
        held = self._hold.wait_held()
        return Reply(held is not None, time.monotonic() - began)

    def thaw(self) -> Reply:
        """Finish, and hear the verdict."""
        if self._hold is None:
            raise AssertionError("a thaw comes after a freeze")
        began = time.monotonic()
        with self._hold as hold:
            verdict = hold.finish()
        return Reply(verdict.level is Level.APPLICATION, time.monotonic() - began)


class Stage:
    """The whole cast. Use it with `on_stage`."""

    def __init__(self, folder: Path, ends: ExitStack, *, local: bool) -> None:
        self.database = folder / "data" / "orders.db"
        self.lines = folder / "data" / "lines.txt"
        self.job = folder / "data" / "job.running"
        self.copy = folder / "copy"
        self.missing_device = ""
        """Why there is no simulated device, if there is none."""
        self.runtime = runtime = folder / "run"
        self.database.parent.mkdir()
        host = None if local else Host(folder, runtime)
        if host is not None:
            ends.callback(host.program.stop)
        self.missing_device = host.is_available() if host is not None else "a local requester was asked for"
        self._configure(folder, host)
        self.broker = self._start("broker", [COMMAND, "broker", "--config", str(folder / "broker.toml")], folder, ends)
        self.client = AdminClient(runtime)
        ends.callback(self.client.close)
        wait_until(self._answers, "the broker", self.broker)
        self.requester: Requester = LocalRequester(self.client) if host is None or self.missing_device else host
        self.apps = {
            "sqlite-orders": self._app("sqlite_database.py", self.database, folder, ends),
            "smallest-threads": self._app("smallest_threads.py", self.lines, folder, ends),
            "nightly-job": self._app("vetoing_job.py", self.job, folder, ends),
        }
        wait_until(lambda: not self.client.status().absent_apps, "the apps", self.broker, *self.apps.values())
        if not self.missing_device:
            wait_until(self._has_device, "the device", self.broker)

    def _configure(self, folder: Path, host: Host | None) -> None:
        mode, device = ("required", host.device) if host and not self.missing_device else ("off", "/dev/hv_appvss_dev")
        (folder / "broker.toml").write_text(CONFIGURATION.format(mode=mode, device=device))

    def _answers(self) -> bool:
        try:
            self.client.status()
        except AppvssError:
            return False
        return True

    def _has_device(self) -> bool:
        return any(
            source.name == "freebsd" and source.condition == "serving" for source in self.client.status().sources
        )

    @staticmethod
    def _start(name: str, command: list[str], folder: Path, ends: ExitStack) -> Program:
        program = Program(name, command, folder, folder / "run")
        ends.callback(program.stop)
        return program

    def _app(self, sample: str, path: Path, folder: Path, ends: ExitStack) -> Program:
        return self._start(sample.removesuffix(".py"), [str(SAMPLES / sample), str(path)], folder, ends)


@contextmanager
def on_stage(folder: Path, *, local: bool) -> Iterator[Stage]:
    """Start everything below `folder`; end it all afterwards, in reverse. `local`: do not try to simulate a device."""
    with ExitStack() as ends:
        yield Stage(folder, ends, local=local)
