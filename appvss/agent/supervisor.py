"""The agent as a process: one supervised process for each app, a guardian beside them, started, reloaded and ended.

Start: guardian, then what a former agent has left is undone, then the apps. Reload: apps that have not changed are not
touched; others are stopped after their hold. End: the apps let go and leave; then the guardian finds nothing to do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.agent.child import order_of
from appvss.agent.configuration import AgentConfiguration, AppConfiguration
from appvss.agent.guardian_process import GuardianProcess
from appvss.agent.log import Log, configure
from appvss.agent.process import TICK
from appvss.agent.supervised import SupervisedApp
from appvss.agent.undo_places import keys_with_records, make_places
from appvss.model.errors import AppvssError, ExitCode
from appvss.service.log import logging_to
from appvss.service.service_manager import ServiceManager

_LOG: Final = logging.getLogger("appvss.agent")


def run(read: Callable[[], AgentConfiguration]) -> int:
    """Run an agent until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Args:
        read: reads the configuration that shall be in force, command line included.

    Returns:
        The exit code: 0 after a signal.

    Raises:
        AppvssError: the configuration is not in order.
    """
    configuration = read()
    log = Log()
    with logging_to(log):
        configure(log, configuration.agent.log_level, configuration.agent.log_format)
        return asyncio.run(Supervisor(configuration, read, log).run())


class Supervisor:
    """One agent from start to end.

    Args:
        configuration: what is in force at the start.
        read: reads it anew.
        log: where everything is logged.
    """

    def __init__(self, configuration: AgentConfiguration, read: Callable[[], AgentConfiguration], log: Log) -> None:
        self._configuration = configuration
        self._read = read
        self.log = log
        self._apps: dict[str, SupervisedApp] = {}
        self._settling: set[str] = set()
        """The apps that a reload has changed and that are not yet as it wants them."""
        self._running: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._undo_directory = configuration.agent.undo_directory
        self._manager = ServiceManager.from_environment(os.environ)
        self._guardian = GuardianProcess(configuration.agent.undo_directory)
        self._tasks: asyncio.TaskGroup
        self._rest = asyncio.Condition()
        self._news = asyncio.Event()

    # What the apps need (supervised.Around).

    @property
    def undo_directory(self) -> Path:
        """Where the undo records are; a reload does not change it."""
        return self._undo_directory

    @property
    def hang_timeout(self) -> timedelta:
        """How long an app that holds nothing may be silent."""
        return self._configuration.agent.hang_timeout

    def order_of(self, app: AppConfiguration) -> str:
        """The line that a process of the app is given."""
        return order_of(self._configuration.agent, self.undo_directory, app)

    def tell_guardian(self, message: Mapping[str, Any]) -> None:
        """Say something to the guardian."""
        self._guardian.tell(message)

    def phase_changed(self) -> None:
        """An app has begun a hold, or has ended one: the log rests meanwhile."""
        self.log.set_gate(is_open=not self._is_held)
        self._news.set()

    async def nothing_held(self) -> None:
        """Wait until no app holds."""
        await self._until(lambda: not self._is_held)

    @property
    def _is_held(self) -> bool:
        return any(app.holds for app in self._apps.values())

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            async with self._rest:
                await self._rest.wait()

    # From start to end.

    async def run(self) -> int:
        """Start, run, stop."""
        stop, hang_up = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        async with asyncio.TaskGroup() as self._tasks:
            beside = [
                self._tasks.create_task(self._guardian.run(), name="guardian"),
                self._tasks.create_task(self._pass_on(), name="news"),
                self._tasks.create_task(self._tick(), name="tick"),
            ]
            waits = [self._tasks.create_task(event.wait()) for event in (self._guardian.ready, stop)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            waits[0].cancel()
            if not stop.is_set():
                self._prepare_undo(self._configuration)
                for app in self._configuration.apps.values():
                    self._start(app)
                self._say_ready()
            beside.append(self._tasks.create_task(self._reload_when(hang_up), name="reload"))
            await stop.wait()
            beside.pop().cancel()
            await self._stop()
            for task in (*beside, *self._running):
                task.cancel()
        self._manager.close()
        return ExitCode.SUCCESS

    def _say_ready(self) -> None:
        _LOG.info("the agent is ready with %s of %s", self._count(), self._configuration.origin)
        self._manager.ready(self._count())

    def _count(self) -> str:
        count = len(self._configuration.apps)
        return f"{count} app{'' if count == 1 else 's'}"

    def _prepare_undo(self, configuration: AgentConfiguration) -> None:
        failure = make_places(self.undo_directory, configuration.apps.values())
        if failure:
            _LOG.warning("what does not let go by itself cannot be held: %s", failure)
        for key in keys_with_records(self.undo_directory):
            if key not in configuration.apps and key not in self._apps:  # one that runs still may hold, and lets go
                _LOG.error("a hold of the app %s was left behind, and it is not configured any more", key)

    def _start(self, app: AppConfiguration) -> None:
        self._tell_of(app)
        supervised = self._apps[app.key] = SupervisedApp(app, self.order_of(app), self)
        running = self._tasks.create_task(supervised.run(), name=f"app {app.key}")
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    def _tell_of(self, app: AppConfiguration) -> None:
        limit = app.undo_limit.total_seconds()
        what = {"order": self.order_of(app), "runs_as": app.options.runs_as, "undo_limit": limit}
        self._guardian.tell({"app": app.key, **what})

    async def _stop(self) -> None:
        """All apps leave at the same time. What is held is let go of in order, as far as there is time."""
        _LOG.info("the agent stops")
        self._is_stopping = True
        self._manager.stopping()
        limit = self._configuration.agent.stop_timeout
        async with asyncio.TaskGroup() as tasks:
            for app in list(self._apps.values()):
                tasks.create_task(app.stop(limit), name=f"stop {app.app.key}")

    async def _pass_on(self) -> None:
        """Wake whoever waits for the end of holds."""
        while True:
            await self._news.wait()
            self._news.clear()
            async with self._rest:
                self._rest.notify_all()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK.total_seconds())
            self._guardian.flush()
            self._manager.alive()

    # Reload.

    async def _reload_when(self, hang_up: asyncio.Event) -> None:
        while True:
            await hang_up.wait()
            hang_up.clear()
            self._manager.reloading()
            await self._reload()
            self._manager.ready(self._count())

    async def _reload(self) -> None:
        """Read the configuration again. A file with problems changes nothing."""
        try:
            new = await asyncio.to_thread(self._read)
        except AppvssError as error:
            _LOG.error("the configuration was not reloaded, the old one stays in force: %s", error.sentence)
            return
        old, self._configuration = self._configuration, new
        if new.agent.undo_directory != old.agent.undo_directory:
            _LOG.warning("agent.undo_directory is changed only by a new start; %s is used", self.undo_directory)
        configure(self.log, new.agent.log_level, new.agent.log_format)
        self._prepare_undo(new)
        for key in {**self._apps, **new.apps}:
            if key not in self._settling:
                self._settling.add(key)
                self._tasks.create_task(self._settle(key), name=f"settle {key}")
        _LOG.info("the configuration was reloaded from %s", new.origin)

    async def _settle(self, key: str) -> None:
        """Bring one app to what is configured now; it may be configured anew while its former self still holds."""
        try:
            while (app := self._apps.get(key)) is not None:
                wanted = self._configuration.apps.get(key)
                if wanted is not None and self.order_of(wanted) == app.order:
                    return
                await app.leave_after_hold()
                del self._apps[key]
                self.phase_changed()
            wanted = self._configuration.apps.get(key)
            if wanted is not None and not self._is_stopping:
                self._start(wanted)
        finally:
            self._settling.discard(key)
