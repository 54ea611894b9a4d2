"""The socket beside the mount by which another shell gives a simulator commands: one line up, one JSON line back.

It lies in the folder `DIR.control`, mode 0700, and is itself 0600.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.model.duration import format_duration
from appvss.model.errors import SimulatorUnavailable, SocketPathTooLong
from appvss.simulator import lines
from appvss.simulator.commands import LENGTH_LIMIT
from appvss.simulator.fuse.mount import control_folder, resolve
from appvss.simulator.lines import Line

_PATH_LIMIT: Final = 107
"""sockaddr_un on Linux, without the closing zero."""
_CONNECTIONS: Final = 16
_SECONDS_TO_ASK: Final = 10
_ANSWER_LIMIT: Final = 1 << 20


def socket_path(folder: Path) -> Path:
    """The socket in the folder beside the mount.

    Raises:
        SocketPathTooLong: the kernel could not hold the path.
    """
    path = folder / "control.sock"
    if len(os.fsencode(path)) > _PATH_LIMIT:
        raise SocketPathTooLong(
            f"the control socket's path {path} is longer than {_PATH_LIMIT} bytes", "Use a folder with a shorter path."
        )
    return path


@asynccontextmanager
async def serve(path: Path, answer: Callable[[str], Awaitable[Line]]) -> AsyncIterator[None]:
    """Take commands at the socket for the length of the block.

    Args:
        path: where; what another simulator left there is replaced.
        answer: carries out one command; raises nothing for a bad one.

    Raises:
        SimulatorUnavailable: the socket cannot be made.
    """
    handlers: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(handlers) >= _CONNECTIONS:
            writer.close()
            return
        handler = asyncio.create_task(_converse(reader, writer, answer), name="simulator-control")
        handlers.add(handler)
        handler.add_done_callback(handlers.discard)

    try:
        server = await asyncio.start_unix_server(accept, path, limit=LENGTH_LIMIT)
        await asyncio.to_thread(path.chmod, 0o600)
    except OSError as error:
        raise SimulatorUnavailable(
            f"the control socket {path} cannot be made: {error.strerror}", "Use a folder whose parent you may write."
        ) from None
    try:
        yield
    finally:
        server.close()
        for handler in handlers:
            handler.cancel()
        if handlers:
            await asyncio.wait(set(handlers))
        await asyncio.to_thread(path.unlink, missing_ok=True)


async def ask(directory: Path, command: str, timeout: timedelta) -> Line:
    """Give the simulator that serves `directory` one command, and wait for how it ended.

    Raises:
        SimulatorUnavailable: none serves it, it may not be asked, or it did not answer in time.
        SocketPathTooLong: there cannot be one.
    """
    path = socket_path(control_folder(await asyncio.to_thread(resolve, directory)))
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            reader, writer = await asyncio.open_unix_connection(path, limit=_ANSWER_LIMIT)
            try:
                writer.write(command.encode(errors="replace") + b"\n")
                await writer.drain()
                answer: Line = json.loads(await reader.readline() or b"{}")
            finally:
                writer.close()
    except TimeoutError:
        raise SimulatorUnavailable(
            f"the simulator at {directory} did not answer within {format_duration(timeout)}",
            "The command goes on there; `--timeout` sets how long to wait.",
        ) from None
    except (ConnectionResetError, BrokenPipeError):
        answer = {}
    except (OSError, ValueError) as error:
        raise SimulatorUnavailable(
            f"no simulator can be asked at {directory}: {getattr(error, 'strerror', None) or 'no answer'}",
            "Start one with `appvss simulate freebsd DIR` or `appvss simulate linux DIR`, and ask as the same user.",
        ) from None
    if not answer:
        raise SimulatorUnavailable(
            f"the simulator at {directory} ended or had too many callers", "Look at what it printed, and try again."
        )
    return answer


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[str], Awaitable[Line]]
) -> None:
    try:
        with contextlib.suppress(
            OSError, TimeoutError, ValueError
        ):  # the caller went away or does not speak our language
            async with asyncio.timeout(_SECONDS_TO_ASK):
                command = (await reader.readline()).decode(errors="replace")
            line = await answer(command)
            async with asyncio.timeout(_SECONDS_TO_ASK):
                writer.write(lines.as_json(line).encode() + b"\n")
                await writer.drain()
    finally:
        writer.close()
