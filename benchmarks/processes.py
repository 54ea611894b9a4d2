"""The processes that the benchmarks measure: the real broker, and apps that answer at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import appvss
from appvss.model.errors import AppvssError
from appvss.sdk.admin import AdminClient

COMMAND = [sys.executable, str(Path(sys.executable).with_name("appvss"))]
PATIENCE = 60.0
"""Seconds that anything may take to be ready."""
CONFIGURATION = """\
[broker]
runtime_directory = "{folder}/run"
state_directory = "{folder}/state"
log_level = "warning"
"""
NO_DEVICE = '[sources.freebsd]\nmode = "off"\n'


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it is so."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise SystemExit(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.05)


@contextmanager
def broker(folder: Path, sections: str = NO_DEVICE) -> Iterator[tuple[subprocess.Popen[bytes], AdminClient]]:
    """The real broker with its sockets in `folder`/run, and a client of it.

    Args:
        folder: for everything that the broker has.
        sections: what its configuration says besides.
    """
    file = folder / "broker.toml"
    file.write_text(CONFIGURATION.format(folder=folder) + sections)
    process = subprocess.Popen([*COMMAND, "broker", "--config", str(file)])
    client = AdminClient(folder / "run")
    try:
        wait_until(lambda: _answers(client), "the broker")
        yield process, client
    finally:
        client.close()
        process.terminate()
        process.wait(PATIENCE)


def _answers(client: AdminClient) -> bool:
    try:
        client.status()
    except AppvssError:
        return False
    return True


@contextmanager
def idle_apps(folder: Path, client: AdminClient, count: int, processes: int) -> Iterator[None]:
    """`count` apps that use the SDK and have nothing to do, in so many processes."""
    share, rest = divmod(count, processes)
    environment = dict(os.environ, APPVSS_RUNTIME_DIRECTORY=str(folder / "run"))
    running = []
    for number in range(processes):
        mine = share + (number < rest)
        if mine:
            command = [sys.executable, "-m", "benchmarks.processes", f"p{number}", str(mine)]
            running.append(subprocess.Popen(command, env=environment))
    try:
        wait_until(lambda: client.status().apps == count, f"{count} apps")
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@asynccontextmanager
async def _quiesce(freeze: appvss.Freeze) -> AsyncIterator[None]:
    yield


async def _serve(prefix: str, count: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(appvss.serve(f"{prefix}-{number}", _quiesce))
            if number % 32 == 31:
                await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
