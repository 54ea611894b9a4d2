"""The broker as a process: everything is made here, started, reloaded and ended in the right order.

Start: lock, sockets, sources. End: nothing new begins, what is held is thawed, whoever waits is answered, apps are
told, sockets close, lock. When the core itself fails, everything is let go without it, and the rest is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from appvss.broker.clock import SystemClock
from appvss.broker.configuration import Configuration, UnidentifiedApps
from appvss.broker.logs import RingHandler, logging_to
from appvss.broker.loop import BrokerLoop
from appvss.broker.recent import Recent
from appvss.broker.view import View
from appvss.cycle.machine import Machine
from appvss.cycle.state import CycleSettings
from appvss.delivery.admin_service import AdminService, RequesterService
from appvss.delivery.app_service import AppService
from appvss.delivery.registry import Registry
from appvss.delivery.server import Servers
from appvss.delivery.sockets import RuntimeDirectory, group_id
from appvss.delivery.watch import Watchers
from appvss.freezer.null import NullFreezer
from appvss.model.app import Registration, Requirement
from appvss.model.errors import AppvssError, BrokerError, ExitCode
from appvss.model.version import VERSION
from appvss.sources.base import Source
from appvss.sources.freebsd import FreebsdSettings, FreebsdSource
from appvss.sources.local import LocalSettings, LocalSource

_log = logging.getLogger("appvss.broker")

PRIORITY: Final = -10
"""The broker's nice value: it has little to do, and everybody waits for it."""
GOODBYE_LIMIT = timedelta(seconds=1)
"""How long telling the apps that the broker stops may take, and how long open calls may live on after that."""
_DESCRIPTORS_AN_APP: Final = 3
"""Of an identified app: its stream's connection, its side connection, the handle on its process."""
_DESCRIPTORS_BESIDE: Final = 200
"""For everything but apps: log, sockets, administrators, the device."""


def run(read: Callable[[], Configuration]) -> int:
    """Run a broker until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Args:
        read: reads the configuration that shall be in force, command line included. Called at the start, and in
            another thread at every SIGHUP.

    Returns:
        The exit code: 0 after a signal.

    Raises:
        AppvssError: it cannot start, or its core has failed.
    """
    configuration = read()
    handler = RingHandler()
    with logging_to(handler, configuration.broker.log_level):
        _make_room(configuration.apps.limit)
        _go_first()
        return asyncio.run(_Broker(configuration, read, handler).serve())


def _make_room(apps: int) -> None:
    """Allow this process as many descriptors as the system lets it have: every app takes some."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = apps * _DESCRIPTORS_AN_APP + _DESCRIPTORS_BESIDE
    if hard != resource.RLIM_INFINITY and hard < wanted:
        _log.warning("%d open files are allowed, %d apps may need %d: raise the limit (ulimit -n)", hard, apps, wanted)


def _go_first() -> None:
    """Ask for the processor ahead of the apps: a machine that is busy must not lengthen the freeze. Threads that are
    made later inherit it, so it comes before all of them (setpriority(2), "C library/kernel differences").
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    except PermissionError:
        _log.info("no right to run at priority %d: on a busy machine freezes take longer", PRIORITY)


class _Broker:
    """One broker from start to end."""

    def __init__(self, configuration: Configuration, read: Callable[[], Configuration], handler: RingHandler) -> None:
        self._configuration = configuration
        self._read = read
        self._handler = handler

    async def serve(self) -> int:
        """Start, serve, stop."""
        group = self._group()
        directory = await asyncio.to_thread(RuntimeDirectory, self._configuration.broker.runtime_directory, group)
        try:
            self._build(directory)
            return await self._run()
        finally:
            await asyncio.to_thread(directory.close)

    def _group(self) -> int | None:
        name = self._configuration.broker.socket_group
        group = group_id(name)
        if name and group is None:
            _log.warning("there is no group %s: only this broker's own user may take part as an app", name)
        return group

    def _build(self, directory: RuntimeDirectory) -> None:
        configuration, clock = self._configuration, SystemClock()
        version = f"appvss/{VERSION}"
        self._watchers = watchers = Watchers()
        recent = Recent(clock, watchers)
        machine = Machine(_cycle_settings(configuration), clock.now())
        self._loop = BrokerLoop(machine, clock, NullFreezer(), recent, gate=self._handler)
        apps = configuration.apps
        self._apps = AppService(
            self._loop,
            Registry(apps.limit, apps.limit_per_uid),
            in_force=self._in_force,
            admits_unidentified=apps.unidentified is UnidentifiedApps.ADMIT,
            version=version,
            now=clock.now,
        )
        local = LocalSource(_local_settings(configuration), clock)
        freebsd = FreebsdSource(_freebsd_settings(configuration), clock)
        self._sources: Mapping[str, Source] = {"freebsd": freebsd, "local": local}
        self._loop.connect(self._apps, self._sources)
        registry = self._apps.registry
        self._view = View(self._loop, registry, self._sources, recent, clock, configuration, version)
        admin, requester = AdminService(self._view, watchers), RequesterService(local)
        self._servers = Servers(directory, self._apps, admin, requester)

    def _in_force(self, registration: Registration) -> Registration:
        """The administrator's word: what the configuration names as required is required, whatever the app proposes."""
        if registration.app.name in self._configuration.apps.required:
            return replace(registration, requirement=Requirement.REQUIRED)
        return registration

    async def _run(self) -> int:
        stop, hang_up = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        failures: list[BaseException] = []
        try:
            await self._servers.start()
            _log.info("the broker is ready at %s", self._configuration.broker.runtime_directory)
            await self._serve_until(stop, hang_up)
        except* AppvssError as group:
            failures.extend(group.exceptions)
        finally:
            await self._close()
        if failures:
            raise failures[0]
        return ExitCode.SUCCESS

    async def _serve_until(self, stop: asyncio.Event, hang_up: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            serving = [
                tasks.create_task(source.run(self._loop), name=f"source {name}")
                for name, source in self._sources.items()
            ]
            serving.append(tasks.create_task(self._reload_when(hang_up), name="reload"))
            serving.append(tasks.create_task(self._watch_core(), name="core"))
            await stop.wait()
            await self._stop(tasks)
            for task in serving:
                task.cancel()
            self._watchers.close()

    async def _watch_core(self) -> None:
        """End everything when the core has failed.

        Raises:
            BrokerError: it has, and everything has been let go.
        """
        await asyncio.wait({self._loop.failure})
        error = self._loop.failure.exception()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_LIMIT.total_seconds()):
                await self._loop.let_go("the broker's core has failed: let go of whatever is held")
        raise BrokerError(
            f"the broker's core has failed, and every app was let go: {type(error).__name__}: {error}",
            "Start it again, and report the bug with the traceback in its log.",
        ) from error

    async def _reload_when(self, hang_up: asyncio.Event) -> None:
        """Reload, one after the other, however often it is asked meanwhile."""
        while True:
            await hang_up.wait()
            hang_up.clear()
            await self._reload()

    async def _stop(self, tasks: asyncio.TaskGroup) -> None:
        """Thaw what is held and answer who waits for that. New calls of administrators are refused meanwhile."""
        limit = self._configuration.broker.stop_timeout
        _log.info("the broker stops")
        tasks.create_task(self._servers.stop_admin(limit), name="end admin")
        self._loop.end("the broker was told to stop")
        try:
            async with asyncio.timeout((limit - min(GOODBYE_LIMIT, limit / 2)).total_seconds()):
                await self._loop.until_rest()
        except TimeoutError:
            _log.warning("not every app has confirmed its thaw within %s; each has its own hold limit", limit)

    async def _close(self) -> None:
        """Tell everybody and end every call, in a bounded time."""
        self._watchers.close()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._servers.stop_admin(GOODBYE_LIMIT), name="end admin")
            await self._apps.say_goodbye("the broker stops", GOODBYE_LIMIT / 2)
            await self._servers.stop_apps(GOODBYE_LIMIT / 2)
            await self._apps.all_left()
        await self._loop.close()

    async def _reload(self) -> None:
        """Read the configuration again. What cannot be changed while running is said and left alone."""
        try:
            new = await asyncio.to_thread(self._read)
        except AppvssError as error:
            _log.error("the configuration was not reloaded, the old one stays in force: %s", error.sentence)
            return
        old = self._configuration
        for name, before, after in (
            ("broker.runtime_directory", old.broker.runtime_directory, new.broker.runtime_directory),
            ("broker.socket_group", old.broker.socket_group, new.broker.socket_group),
            ("sources", old.sources, new.sources),
        ):
            if before != after:
                _log.warning("%s has changed; that takes a restart of the broker", name)
        broker = replace(old.broker, log_level=new.broker.log_level, stop_timeout=new.broker.stop_timeout)
        self._configuration = replace(old, broker=broker, cycle=new.cycle, apps=new.apps, origin=new.origin)
        self._view.configuration = self._configuration
        self._loop.machine.replace_settings(_cycle_settings(self._configuration))
        registry = self._apps.registry
        registry.limit, registry.limit_per_uid = new.apps.limit, new.apps.limit_per_uid
        self._apps.admits_unidentified = new.apps.unidentified is UnidentifiedApps.ADMIT
        logging.getLogger("appvss").setLevel(new.broker.log_level.upper())
        while not self._loop.machine.phase.is_resting:
            await self._loop.until_rest()
        self._apps.apply_policy()
        _log.info("the configuration was reloaded from %s", new.origin or "the built-in values")


def _cycle_settings(configuration: Configuration) -> CycleSettings:
    cycle = configuration.cycle
    return CycleSettings(
        expected=configuration.apps.required,
        prepared_limit=cycle.prepared_limit,
        thaw_limit=cycle.thaw_limit,
        return_grace=cycle.return_grace,
    )


def _local_settings(configuration: Configuration) -> LocalSettings:
    local = configuration.sources.local
    return LocalSettings(local.mode, local.freeze_budget, local.hold_limit)


def _freebsd_settings(configuration: Configuration) -> FreebsdSettings:
    freebsd = configuration.sources.freebsd
    return FreebsdSettings(
        device=str(freebsd.device),
        mode=freebsd.mode,
        budget=freebsd.budget,
        filesystem_reserve=freebsd.filesystem_reserve,
        hold_limit=freebsd.hold_limit,
    )
