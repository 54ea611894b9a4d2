"""A real `appvss broker` in a process of its own, with a configuration file in a short directory under /tmp.

    async with running_broker('[sources.freebsd]\\nmode = "off"') as broker:
        status = await broker.status()

Every wait has a bound (`BOUND`). What the broker writes to standard error is read all the time and kept in `log`.
Whatever happens, the process is dead and its directory is gone at the end; only this process is ever signalled.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from appvss import contract
from appvss.v1 import admin_pb2, admin_pb2_grpc, requester_pb2_grpc

BOUND = 20.0
"""Seconds after which a wait of a test has failed."""
ROOT = Path(__file__).resolve().parent.parent.parent
APPVSS = (sys.executable, "-c", "from appvss.cli.main import main; main()")
"""The `appvss` command of this interpreter."""
QUIET = '[broker]\nsocket_group = ""\nlog_level = "debug"\nstop_timeout = "5s"\n\n[sources.freebsd]\nmode = "off"\n'
"""A configuration for a broker that looks for no device and needs no group."""


class BrokerEnded(AssertionError):
    """The process ended when a test wanted it to run. Its log is in the text."""


class RunningBroker:
    """One broker process. `running_broker` makes one that is ready; `launched_broker` one that may fail to start.

    Args:
        directory: holds `broker.toml`, the runtime directory `run` and the state directory `state`.
        process: started with a pipe as its standard error.
    """

    def __init__(self, directory: Path, process: asyncio.subprocess.Process) -> None:
        self.directory = directory
        self.runtime_directory = directory / "run"
        self.state_directory = directory / "state"
        self.file = directory / "broker.toml"
        self.process = process
        self.log: list[str] = []
        """What it has written to standard error, line by line."""
        self._ended = False
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read(), name=f"log of broker {process.pid}")
        self._channels: list[grpc.aio.Channel] = []
        self._questions: Any = None

    @property
    def pid(self) -> int:
        return self.process.pid

    async def _read(self) -> None:
        while self.process.stderr is not None and (line := await self.process.stderr.readline()):
            async with self._news:
                self.log.append(line.decode(errors="replace").rstrip("\n"))
                self._news.notify_all()
        self._ended = True
        async with self._news:
            self._news.notify_all()

    def channel(self) -> grpc.aio.Channel:
        """A new connection to the admin socket, closed at the end."""
        options = (*contract.ADMIN_CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 50))
        channel = grpc.aio.insecure_channel(
            f"unix:{self.runtime_directory / contract.ADMIN_SOCKET}",
            options=[*options, ("grpc.max_reconnect_backoff_ms", 100)],
        )
        self._channels.append(channel)
        return channel

    @property
    def admin(self) -> Any:
        """A stub on the connection that all questions share."""
        if self._questions is None:
            self._questions = admin_pb2_grpc.AdminServiceStub(self.channel())
        return self._questions

    def hold(self) -> Any:
        """A call of `RequesterService.Hold` on a connection of its own: `write`, `read`, `cancel`, `code`."""
        return requester_pb2_grpc.RequesterServiceStub(self.channel()).Hold()

    async def ready(self) -> None:
        """Wait until the admin socket answers.

        Raises:
            BrokerEnded: the process ended instead.
        """
        answer = asyncio.ensure_future(
            self.admin.GetStatus(admin_pb2.GetStatusRequest(), wait_for_ready=True, timeout=BOUND)
        )
        ended = asyncio.create_task(self.process.wait(), name=f"end of broker {self.pid}")
        await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            answer.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await answer
            await self._reader
            raise BrokerEnded(f"the broker ended with {ended.result()}:\n" + "\n".join(self.log))
        ended.cancel()
        await asyncio.wait({ended})
        await answer

    async def status(self) -> admin_pb2.GetStatusResponse:
        answer = await self.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=BOUND)
        assert isinstance(answer, admin_pb2.GetStatusResponse)
        return answer

    async def has_written(self) -> None:
        """Wait until every cycle that has ended is on disk, and the certificate of the last one is gone from there."""
        async with asyncio.timeout(BOUND):
            while (await self.status()).history.waiting:
                pass

    async def apps(self) -> list[admin_pb2.App]:
        return list((await self.admin.ListApps(admin_pb2.ListAppsRequest(), timeout=BOUND)).apps)

    async def cycles(self, limit: int = 0) -> list[admin_pb2.CycleSummary]:
        request = admin_pb2.ListCyclesRequest(limit=limit)
        return list((await self.admin.ListCycles(request, timeout=BOUND)).cycles)

    async def cycle(self, cycle: str) -> admin_pb2.GetCycleResponse:
        answer = await self.admin.GetCycle(admin_pb2.GetCycleRequest(cycle=cycle), timeout=BOUND)
        assert isinstance(answer, admin_pb2.GetCycleResponse)
        return answer

    async def force_thaw(self, reason: str = "") -> str:
        request = admin_pb2.ForceThawRequest(reason=reason)
        return str((await self.admin.ForceThaw(request, timeout=2 * BOUND)).thawed_cycle)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Watch]:
        """Every event from now on; when the block begins, the broker has noted the watcher."""
        channel = self.channel()
        watch = Watch(channel)
        await watch.begin()
        try:
            yield watch
        finally:
            await channel.close()

    async def line(self, *parts: str) -> str:
        """The first line of the log that contains all parts, waited for.

        Raises:
            BrokerEnded: it did not come, or the log ended without it.
        """

        def found() -> str | None:
            return next((line for line in self.log if all(part in line for part in parts)), None)

        try:
            async with asyncio.timeout(BOUND), self._news:
                while (line := found()) is None and not self._ended:
                    await self._news.wait()
        except TimeoutError:
            line = None
        if line is None:
            raise BrokerEnded(f"nothing in the log has {parts}:\n" + "\n".join(self.log))
        return line

    def descriptors(self) -> list[str]:
        """What its open descriptors point at."""
        found = []
        for entry in os.listdir(f"/proc/{self.pid}/fd"):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{self.pid}/fd/{entry}"))
        return sorted(found)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for the end of the process and of its log."""
        async with asyncio.timeout(BOUND):
            code = await self.process.wait()
            await self._reader
        return code

    async def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return await self.exit_code()

    async def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self.signal(signal.SIGKILL)
        await self.exit_code()

    async def close(self) -> None:
        """End everything that is still there."""
        for channel in self._channels:
            await channel.close()
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        await self.exit_code()


class Watch:
    """One `WatchEvents` call."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub: Any = admin_pb2_grpc.AdminServiceStub(channel)
        self.events: list[admin_pb2.WatchEventsResponse] = []
        self.call: Any = stub.WatchEvents(admin_pb2.WatchEventsRequest())

    async def begin(self) -> None:
        async with asyncio.timeout(BOUND):
            await self.call.initial_metadata()

    async def until(self, kind: str, **fields: object) -> Any:
        """The next event of this kind whose fields have these values; those before it are kept in `events`."""
        async with asyncio.timeout(BOUND):
            while True:
                response = await self.call.read()
                assert response is not grpc.aio.EOF, f"the watch ended before {kind}"
                self.events.append(response)
                event = response.event
                if event.kind == kind and all(getattr(event, name) == value for name, value in fields.items()):
                    return event


def short_directory() -> Path:
    """A new directory under /tmp: a socket's path holds 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="av-", dir="/tmp"))


async def launch(
    directory: Path,
    configuration: str = QUIET,
    *,
    arguments: Sequence[str] = (),
    command: Sequence[str] = APPVSS,
    stderr: int = asyncio.subprocess.PIPE,
) -> RunningBroker:
    """Start `appvss broker` in `directory`, without a wait for its readiness. The caller owes `close`.

    Args:
        directory: for `broker.toml`, runtime and state directory; stays when the broker ends.
        configuration: the text of the file; both directories are set by the command line.
        arguments: further ones of `appvss broker`.
        command: what stands in the place of `appvss`.
        stderr: a descriptor for its log, which `log` then does not have.
    """
    file = directory / "broker.toml"
    file.write_text(configuration)
    process = await asyncio.create_subprocess_exec(
        *command,
        "broker",
        "--config",
        str(file),
        "--runtime-directory",
        str(directory / "run"),
        "--state-directory",
        str(directory / "state"),
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        limit=1 << 20,
    )
    return RunningBroker(directory, process)


@asynccontextmanager
async def launched_broker(
    configuration: str = QUIET,
    *,
    directory: Path | None = None,
    arguments: Sequence[str] = (),
    command: Sequence[str] = APPVSS,
    stderr: int = asyncio.subprocess.PIPE,
) -> AsyncIterator[RunningBroker]:
    """A broker process that may fail to start; in a directory of its own unless one is given."""
    home = directory if directory is not None else short_directory()
    broker = await launch(home, configuration, arguments=arguments, command=command, stderr=stderr)
    try:
        yield broker
    finally:
        await broker.close()
        if directory is None:
            shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def running_broker(
    configuration: str = QUIET,
    *,
    directory: Path | None = None,
    arguments: Sequence[str] = (),
    command: Sequence[str] = APPVSS,
    stderr: int = asyncio.subprocess.PIPE,
) -> AsyncIterator[RunningBroker]:
    """A broker process whose admin socket answers."""
    async with launched_broker(
        configuration, directory=directory, arguments=arguments, command=command, stderr=stderr
    ) as broker:
        async with asyncio.timeout(BOUND):
            await broker.ready()
        yield broker
