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
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from appvss.broker.clock import SystemClock
from appvss.broker.configuration import Configuration
from appvss.broker.journal import may_be_frozen
from appvss.broker.parts import Parts
from appvss.delivery.sockets import RuntimeDirectory, group_id
from appvss.history import Opened, boot_identity, open_state
from appvss.model.errors import AppvssError, BrokerError, ExitCode
from appvss.service.log import RingHandler, logging_to
from appvss.service.service_manager import ServiceManager
from appvss.witness.witness import Witness

_log = logging.getLogger("appvss.broker")

PRIORITY: Final = -10
"""The broker's nice value: it has little to do, and everybody waits for it."""
GOODBYE_LIMIT = timedelta(seconds=1)
"""How long telling the apps that the broker stops may take, and how long open calls may live on after that."""
STATE_LIMIT = timedelta(seconds=5)
"""How long writing what waits for the disk may take at the end."""
OPEN_LIMIT = timedelta(seconds=1)
"""How long the disk may take at the start. Apps and a host may be waiting for the broker in a hold."""
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
        """As it was at the start."""
        self._read = read
        self._handler = handler
        self._clock = SystemClock()
        self._manager = ServiceManager.from_environment(os.environ)

    async def serve(self) -> int:
        """Start, serve, stop."""
        group, boot = self._group(), boot_identity()
        directory = await asyncio.to_thread(RuntimeDirectory, self._configuration.broker.runtime_directory, group)
        try:
            opened = await self._open_state(boot)
            witness = Witness(self._clock)
            try:
                self._parts = Parts(
                    self._configuration, self._clock, self._handler, directory, opened, boot, witness, self._manager
                )
                return await self._run()
            finally:
                await asyncio.to_thread(witness.close, GOODBYE_LIMIT)
                await asyncio.to_thread(opened.history.close, STATE_LIMIT)
        finally:
            self._manager.close()
            await asyncio.to_thread(directory.close)

    def _group(self) -> int | None:
        name = self._configuration.broker.socket_group
        group = group_id(name)
        if name and group is None:
            _log.warning("there is no group %s: only this broker's own user may take part as an app", name)
        return group

    async def _open_state(self, boot: str) -> Opened:
        """Open journal and history. Where the disk does not answer, the broker goes on without them. A former broker
        may have died in a hold: until that is known nothing is written, and if so not before the loop opens the gate.
        """
        configuration = self._configuration
        self._handler.set_gate(is_open=False)
        opened = await asyncio.to_thread(
            open_state,
            configuration.broker.state_directory,
            keep=configuration.history.keep,
            boot=boot,
            wall=self._clock.wall,
            limit=OPEN_LIMIT,
            copies=configuration.broker.runtime_directory,
            is_held=may_be_frozen,
        )
        for note in opened.notes:
            _log.warning("%s", note)
        if opened.open_cycle is None or not may_be_frozen(opened.open_cycle):
            self._handler.set_gate(is_open=True)
        return opened

    async def _run(self) -> int:
        stop, hang_up = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
        failures: list[BaseException] = []
        try:
            await self._parts.freezer.start()
            self._parts.take_up()
            await self._parts.servers.start()
            _log.info("the broker is ready at %s", self._configuration.broker.runtime_directory)
            self._manager.ready(f"serving at {self._configuration.broker.runtime_directory}")
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
                tasks.create_task(source.run(self._parts.news), name=f"source {name}")
                for name, source in self._parts.sources.items()
            ]
            serving.append(tasks.create_task(self._reload_when(hang_up), name="reload"))
            serving.append(tasks.create_task(self._watch_core(), name="core"))
            serving.append(tasks.create_task(self._apply_policy_when_due(), name="policy"))
            serving.append(tasks.create_task(self._show_life(), name="watchdog"))
            serving.append(tasks.create_task(self._parts.recall(), name="former cycles"))
            await stop.wait()
            await self._stop(tasks)
            for task in serving:
                task.cancel()
            self._parts.watchers.close()

    async def _watch_core(self) -> None:
        """End everything when the core has failed.

        Raises:
            BrokerError: it has, and everything has been let go.
        """
        await asyncio.wait({self._parts.loop.failure})
        error = self._parts.loop.failure.exception()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_LIMIT.total_seconds()):
                await self._parts.loop.let_go("the broker's core has failed: let go of whatever is held")
        raise BrokerError(
            f"the broker's core has failed, and every app was let go: {type(error).__name__}: {error}",
            "Start it again, and report the bug with the traceback in its log.",
        ) from error

    async def _show_life(self) -> None:
        """Tell the service manager, as often as it wants, that this loop runs."""
        interval = self._manager.watchdog_interval
        while interval is not None:
            self._manager.alive()
            await asyncio.sleep(interval.total_seconds())

    async def _apply_policy_when_due(self) -> None:
        """Put the policy in force for the apps that are registered, whenever it may say something else, in rest."""
        while True:
            await self._parts.policy_due.wait()
            self._parts.policy_due.clear()
            while not self._parts.loop.machine.phase.is_resting:
                await self._parts.loop.until_rest()
            self._parts.apps.apply_policy()

    async def _reload_when(self, hang_up: asyncio.Event) -> None:
        """Reload, one after the other, however often it is asked meanwhile."""
        while True:
            await hang_up.wait()
            hang_up.clear()
            self._manager.reloading()
            await self._reload()
            self._manager.ready(f"serving at {self._configuration.broker.runtime_directory}")

    async def _stop(self, tasks: asyncio.TaskGroup) -> None:
        """Thaw what is held and answer who waits for that. New calls of administrators are refused meanwhile."""
        limit = self._parts.configuration.broker.stop_timeout
        _log.info("the broker stops")
        self._manager.stopping()
        tasks.create_task(self._parts.servers.stop_admin(limit), name="end admin")
        self._parts.loop.end("the broker was told to stop")
        try:
            async with asyncio.timeout((limit - min(GOODBYE_LIMIT, limit / 2)).total_seconds()):
                await self._parts.loop.until_rest()
        except TimeoutError:
            _log.warning("not every app has confirmed its thaw within %s; each has its own hold limit", limit)

    async def _close(self) -> None:
        """Tell everybody and end every call, in a bounded time."""
        self._parts.watchers.close()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._parts.servers.stop_admin(GOODBYE_LIMIT), name="end admin")
            await self._parts.apps.say_goodbye("the broker stops", GOODBYE_LIMIT / 2)
            await self._parts.servers.stop_apps(GOODBYE_LIMIT / 2)
            await self._parts.apps.all_left()
        await self._parts.freezer.close()
        await self._parts.loop.close()

    async def _reload(self) -> None:
        """Read the configuration again. What cannot be changed while running is said and left alone."""
        try:
            new = await asyncio.to_thread(self._read)
        except AppvssError as error:
            _log.error("the configuration was not reloaded, the old one stays in force: %s", error.sentence)
            return
        self._parts.reconfigure(new)
        _log.info("the configuration was reloaded from %s", new.origin or "the built-in values")
