"""A simulator in the foreground, with commands from standard input and from a socket."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TextIO, TypeAlias

from appvss.model.errors import AppvssError, SimulatorUnavailable, UsageError
from appvss.simulator import control, lines
from appvss.simulator.commands import LENGTH_LIMIT, Commands
from appvss.simulator.console import LineReader, LineWriter
from appvss.simulator.event import Event
from appvss.simulator.lines import Line

_BACKGROUND_LIMIT: Final = 64
_PATIENCE_WITH_OUTPUT: Final = timedelta(seconds=2)
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Simulator(Protocol):
    """What can be served in the foreground: it is there for the length of an `async with` block."""

    directory: Path
    """What it was asked to serve."""

    @property
    def control_folder(self) -> Path:
        """Where the control socket goes."""

    async def __aenter__(self) -> object:
        """Begin."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    async def wait_gone(self) -> None:
        """Return when somebody else has ended it."""


Parts: TypeAlias = tuple[Simulator, Commands, Callable[[Path, int], Line]]
"""A simulator, its commands, and its `ready` line for the control socket's path and our process id."""


async def run(make: Callable[[Callable[[Event], None]], Parts], *, as_json: bool) -> None:
    """Serve until `quit`, SIGINT, SIGTERM or SIGHUP; then unmount. The end of standard input ends nothing.

    Args:
        make: makes the simulator, which shows every event to the observer that is passed.
        as_json: how lines are written to standard output.

    Raises:
        SimulatorUnavailable: nothing can be mounted here, or somebody else has unmounted it.
        SocketPathTooLong: the folder's path leaves no room for the control socket.
    """
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[str] = loop.create_future()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _settle, signalled, number.name)
    output = LineWriter(_descriptor(sys.stdout))
    text_of = lines.as_json if as_json else lines.as_text

    def write(line: Line) -> None:
        output.write(text_of(line))

    simulator, commands, ready = make(lambda event: write(lines.device_event(event)))
    socket = control.socket_path(simulator.control_folder)
    try:
        async with simulator:
            session = _Session(simulator, commands, write)
            async with control.serve(socket, session.answer):
                write(ready(socket, os.getpid()))
                reason = await session.serve(signalled)
        if not reason:
            raise SimulatorUnavailable(f"somebody unmounted {simulator.directory}", "Start the simulator again.")
        write(lines.ended(reason))
    finally:
        await asyncio.to_thread(output.finish, _PATIENCE_WITH_OUTPUT)


class _Session:
    """One run in the foreground."""

    def __init__(self, simulator: Simulator, commands: Commands, write: Callable[[Line], None]) -> None:
        self._simulator = simulator
        self._write = write
        self._commands = commands
        self._background: set[asyncio.Task[None]] = set()

    async def answer(self, text: str) -> Line:
        """Carry out one command from wherever; a bad one gives a line too."""
        try:
            if len(text) > LENGTH_LIMIT:
                raise UsageError(f"the command is longer than {LENGTH_LIMIT} characters", "Split it.")
            return await self._commands.run(text)
        except AppvssError as problem:
            return lines.error(problem)

    async def serve(self, signalled: asyncio.Future[str]) -> str:
        """Obey until there is a reason to end; the reason, empty when the folder was unmounted by somebody else.

        Args:
            signalled: done with a signal's name when one came.
        """
        async with asyncio.TaskGroup() as tasks:
            obey = tasks.create_task(self._obey(tasks), name="simulator-obey")
            quit_said = tasks.create_task(self._commands.quit.wait(), name="simulator-quit")
            gone = tasks.create_task(self._simulator.wait_gone(), name="simulator-gone")
            ends: set[asyncio.Future[Any]] = {signalled, quit_said, gone}
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (obey, quit_said, gone, *self._background):
                    task.cancel()
        if signalled.done():
            return signalled.result()
        return "quit" if self._commands.quit.is_set() else ""

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        """Carry out the lines of standard input one after the other, but for those that end in `&`."""
        reader = LineReader(_descriptor(sys.stdin), LENGTH_LIMIT)
        while (text := await reader.lines.get()) is not None:
            command = text.strip()
            if not command or command.startswith("#"):
                continue
            if not command.endswith("&"):
                self._write(await self.answer(command))
            elif len(self._background) >= _BACKGROUND_LIMIT:
                hint = "Wait for some of them to end."
                self._write(lines.error(UsageError(f"{_BACKGROUND_LIMIT} commands are under way", hint)))
            else:
                task = tasks.create_task(self._in_background(command[:-1]), name="simulator-command")
                self._background.add(task)
                task.add_done_callback(self._background.discard)
                await asyncio.sleep(0)  # it has begun before the next line is looked at

    async def _in_background(self, command: str) -> None:
        self._write(await self.answer(command))


def _settle(signalled: asyncio.Future[str], name: str) -> None:
    if not signalled.done():
        signalled.set_result(name)


def _descriptor(stream: TextIO | None) -> int:
    """A standard stream's descriptor. One that was closed when we were started may be anything by now."""
    return os.open(os.devnull, os.O_RDWR) if stream is None else stream.fileno()
