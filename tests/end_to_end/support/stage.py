"""Everything of AppVSS as real processes on one stage: the simulator, the broker, apps, requesters.

    await stage.start_simulator()
    await stage.start_broker()
    app = await stage.start_app("orders-db", "async")
    freeze = await stage.simulator.agrees("freeze")

Every process carries the stage's tag in its environment, and so does whatever it starts: at the end all that are left
are ended by their ids, and one that should have ended by itself fails the test.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from appvss.model.errors import ExitCode
from appvss.model.phase import Phase
from appvss.sdk.admin_values import status_of
from appvss.simulator.fuse import mount
from tests.end_to_end.support.children import Child, Hold, ObservedApp, Requester, Simulator
from tests.end_to_end.support.events import Events
from tests.end_to_end.support.leftovers import TAG, end_lingering, mounts
from tests.support.running_broker import APPVSS, BOUND, ROOT, RunningBroker, launch, short_directory

ChildT = TypeVar("ChildT", bound=Child)


NO_FREEZES = '[filesystems]\nexclude = ["/*"]\n'


def configuration(
    *,
    budget: str = "15s",
    reserve: str = "1s",
    hold_limit: str = "10s",
    freeze_budget: str = "10s",
    mode: str = "automatic",
    grace: str = "2s",
    filesystems: str = NO_FREEZES,
    more: str = "",
) -> str:
    """A configuration with limits that a test can wait for. No file system is frozen unless `filesystems` lets some be
    (`tests/support/contained.py`).
    """
    return f"""\
[broker]
socket_group = ""
log_level = "debug"
stop_timeout = "5s"

[sources.freebsd]
mode = "{mode}"
budget = "{budget}"
filesystem_reserve = "{reserve}"
hold_limit = "{hold_limit}"

[sources.local]
freeze_budget = "{freeze_budget}"
hold_limit = "{hold_limit}"

{filesystems}
[cycle]
thaw_limit = "1s"
return_grace = "{grace}"
{more}"""


OFF = configuration(mode="off")
"""For a broker without any device."""


@dataclass(frozen=True)
class Simulated:
    """Which driver a stage's simulator plays."""

    source: str
    """Who serves it."""
    command: tuple[str, ...]
    """Of `appvss simulate`, before the folder."""
    node: str
    """The file that appears in the folder."""
    is_device: bool = True
    """Whether the broker is told of it by `--device`."""


FREEBSD = Simulated("freebsd", ("freebsd",), "hv_appvss_dev")


class Stage:
    """The processes of one test. What was started last under a role is the attribute of that name.

    Args:
        simulated: which driver is played.
        directory: for everything; it stays. None: one of the stage's own.
    """

    def __init__(self, simulated: Simulated = FREEBSD, directory: Path | None = None) -> None:
        self.directory = directory or short_directory()
        self._is_directory_ours = directory is None
        self._simulated = simulated
        self.tag = secrets.token_hex(8)
        self.apps: dict[str, ObservedApp] = {}
        self.simulator: Simulator
        self.broker: RunningBroker
        self.events: Events
        self._children: list[Child] = []
        self._brokers: list[RunningBroker] = []
        self._watches: list[Events] = []
        self._excused: dict[str, int] = {}
        self._at_end: list[Callable[[], None]] = []
        """What is done when every process has ended, before the directory goes."""
        self._configuration = configuration()

    async def close(self) -> list[str]:
        """End everything; what was left behind and should not have been."""
        for events in self._watches:
            await events.close()
        for child in self._children:
            child.let_go()
        for broker in self._brokers:
            if broker.process.returncode is None:
                broker.signal(signal.SIGKILL)
        lingering = await asyncio.to_thread(end_lingering, self.tag)
        for child in self._children:
            await child.ended()
        for broker in self._brokers:
            await broker.close()
        mounted = mounts(self.directory)
        for child in self._children:
            if isinstance(child, Simulator):
                await asyncio.to_thread(mount.unmount, child.folder)
        for last in self._at_end:
            await asyncio.to_thread(last)
        if self._is_directory_ours:
            await asyncio.to_thread(shutil.rmtree, self.directory)
        return lingering + [line for line in mounted if not self._simulator_was_killed()]

    def _simulator_was_killed(self) -> bool:
        """Then it leaves a dead mount, which is no fault of its own."""
        codes = [child.process.returncode for child in self._children if isinstance(child, Simulator)]
        return bool(codes) and codes[-1] == -signal.SIGKILL

    def report(self) -> str:
        """What everybody has said."""
        parts = [child.report() for child in self._children] + [events.report() for events in self._watches]
        for broker in self._brokers:
            parts.append(f"---- log of broker {broker.pid}, code {broker.process.returncode}")
            parts += broker.log[-100:]
        return "\n".join(parts)

    # -- starting

    @property
    def _device_folder(self) -> Path:
        return self.directory / "dev"

    async def start_simulator(self, *options: str) -> Simulator:
        """A simulator, also in the folder of one that was killed."""
        folder = self._device_folder
        command = ("simulate", *self._simulated.command, str(folder), "--json", *options)
        process = await self._start(*APPVSS, *command, role="simulator")
        self.simulator = simulator = Simulator(process, folder, self._simulated.node)
        self._children.append(simulator)
        await simulator.until(message_type="ready")
        return simulator

    async def start_broker(self, text: str = "", *, device: bool = True) -> RunningBroker:
        """A broker, also in the directory of one that was killed, with the same configuration unless another is given.

        Args:
            text: the configuration.
            device: whether it serves the simulator, which is waited for. If not, the configuration must switch it off.
        """
        self._configuration = text or self._configuration
        arguments = ("--device", str(self.simulator.device)) if device and self._simulated.is_device else ()
        self.broker = broker = await self._launch(self._configuration, arguments)
        self._brokers.append(broker)
        await self.meet_broker()
        if device:
            await self.has_device()
        return broker

    async def has_device(self) -> None:
        """Wait until the broker serves the device. Not by its log, which is not written in a hold."""
        while True:
            after = self.events.count
            sources = {source.name: source.condition for source in (await self.broker.status()).sources}
            if sources[self._simulated.source] == "serving":
                return
            await self.events.sees("source_changed", detail=f"{self._simulated.source} serving", after=after)

    async def _launch(self, text: str, arguments: tuple[str, ...]) -> RunningBroker:
        """Start the broker's process; it need not be ready."""
        command = ("env", f"{TAG}={self.tag}", *APPVSS)
        return await launch(self.directory, text, arguments=arguments, command=command)

    async def meet_broker(self) -> None:
        """Wait until the broker answers, and hear its events from now on."""
        async with asyncio.timeout(BOUND):
            await self.broker.ready()
        self.events = Events(self.broker)
        await self.events.begin()
        self._watches.append(self.events)

    async def start_app(self, name: str, style: str, *options: str) -> ObservedApp:
        """An `observed_app`; it is waited for until it is registered and writes."""
        module = "tests.end_to_end.support.observed_app"
        after = self.events.count
        process = await self._start(sys.executable, "-m", module, name, str(self.directory), style, *options, role=name)
        app = self.apps[name] = ObservedApp(name, process, self.directory, is_careless="--careless" in options)
        self._children.append(app)
        await self.events.sees("app_registered", app=name, after=after)
        await app.writes()
        return app

    async def start_apps(self, *apps: tuple[str, ...]) -> list[ObservedApp]:
        """Several, at the same time; each is its name, its style and its options."""
        async with asyncio.TaskGroup() as tasks:
            starting = [tasks.create_task(self.start_app(*app), name=f"start {app[0]}") for app in apps]
        return [task.result() for task in starting]

    async def start_requester(self, *options: str, command: tuple[str, ...] = ()) -> Requester:
        """An `appvss freeze`, with the command that `Requester` needs unless another is given."""
        words = command or ("sh", "-c", Requester.COMMAND)
        process = await self._start(*APPVSS, "freeze", "--json", *options, "--", *words, role="requester")
        requester = Requester(f"requester {len(self._children)}", process)
        requester.mounts = tuple(path for option, path in pairwise(options) if option == "--mount")
        self._children.append(requester)
        return requester

    async def start_program(self, name: str, *command: str) -> Child:
        """Any other program, which finds the broker by its environment."""
        return self.keep(Child(name, await self._start(*command, role=name)))

    def keep(self, child: ChildT) -> ChildT:
        """See to it that a process ends with the stage."""
        self._children.append(child)
        return child

    def _environment(self, role: str) -> dict[str, str]:
        """What a process gets to know. `role` is the app's name, `requester`, `simulator`, or a program's name."""
        return {
            **os.environ,
            TAG: self.tag,
            "APPVSS_RUNTIME_DIRECTORY": str(self.directory / "run"),
            "PYTHONPATH": str(ROOT),
        }

    async def _start(self, *command: str, role: str) -> asyncio.subprocess.Process:
        environment, pipe = self._environment(role), asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 20
        )

    # -- what must be true

    async def rests(self) -> Phase:
        """Wait until no cycle is under way; the phase in which the broker rests."""
        while True:
            after = self.events.count
            phase = status_of(await self.broker.status()).phase
            if phase is not None and phase.is_resting:
                return phase
            await self.events.rests(after)

    async def all_write(self, *but: str) -> None:
        """Wait until every app but these has written again; none of them was quiet for longer than it may be, ever."""
        apps = [app for app in self.apps.values() if app.name not in but and app.process.returncode is None]
        async with asyncio.TaskGroup() as tasks:
            for app in apps:
                tasks.create_task(app.writes(), name=f"write of {app.name}")
        now = time.monotonic_ns()
        late = [line for app in apps for line in app.log().overstayed(now, self._excused.get(app.name, 0))]
        assert not late, late

    def excuse(self, name: str) -> None:
        """An app was stopped by the test: what it did until now is not held against it."""
        self._excused[name] = time.monotonic_ns()

    async def attached(self, *names: str) -> None:
        """Wait until these apps, else all that live, are registered and there."""
        wanted = set(names) or {app.name for app in self.apps.values() if app.process.returncode is None}
        while True:
            after = self.events.count
            if wanted <= {app.name for app in await self.broker.apps() if app.state not in ("absent", "away")}:
                return
            await self.events.comes(after)

    async def open_gates(self) -> None:
        """No app waits anywhere any more."""
        async with asyncio.TaskGroup() as tasks:
            for app in self.apps.values():
                if app.process.returncode is None:
                    tasks.create_task(app.told("open"), name=f"open gates of {app.name}")

    def written_in_hold(self, acked: int, thaw_asked: int) -> list[str]:
        """What the logs of all apps say against a hold between these instants; empty: nothing."""
        sentences = (app.log().written_in_hold(acked, thaw_asked) for app in self.apps.values())
        return [sentence for sentence in sentences if sentence]

    async def freezes(self) -> None:
        """One `appvss freeze`, which must succeed, with no write in its hold."""
        requester = await self.start_requester()
        acked = (await requester.held()).at
        thaw_asked = time.monotonic_ns()
        requester.finish()
        assert await requester.ended() == ExitCode.SUCCESS, requester.document
        assert self.written_in_hold(acked, thaw_asked) == []
        await self.all_write()

    async def backs_up(self, *, patiently: bool = False) -> None:
        """One whole backup of the host, which must succeed, with no write in its hold.

        Args:
            patiently: an app may be busy with what it was asked before; the host repeats its check then.
        """
        async with asyncio.timeout(BOUND):
            while (await self.simulator.do("check"))["outcome"] != "ok":
                assert patiently, "the check was refused"
        acked = (await self.simulator.agrees("freeze"))["heard_at"]
        thaw_asked = time.monotonic_ns()
        await self.simulator.agrees("thaw")
        assert self.written_in_hold(acked, thaw_asked) == []
        await self.all_write()

    def lies(self) -> list[str]:
        """What speaks against any hold that any requester was told was good."""
        tellers = (child for child in self._children if isinstance(child, Simulator | Requester))
        return [line for teller in tellers for hold in teller.holds() for line in self._written_in(hold)]

    def _written_in(self, hold: Hold) -> list[str]:
        apps = [app for app in self.apps.values() if not app.is_careless]
        asked = [app for app in apps if not hold.mounts or any(map(app.data.is_relative_to, hold.mounts))]
        logs = (app.log() for app in asked)
        there = (log for log in logs if log.writes and log.writes[0].began < hold.acked)
        return [line for log in there if (line := log.written_in_hold(hold.acked, hold.thaw_asked))]

    def sizes(self) -> dict[str, int]:
        """How much each app has written, by the file system's word."""
        return {name: app.data.stat().st_size for name, app in self.apps.items()}
