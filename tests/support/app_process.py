"""An app in a process of its own, that can be killed, stopped, forked, or run as another user.

    async with app_process(broker.runtime_directory, "orders-db", uid=65534) as app:
        await app.line("welcome")
        os.kill(app.pid, signal.SIGKILL)

It acks every freeze, confirms every thaw and abort, and prints a line for each message that it hears: its kind and its
cycle. On its standard input it takes `fork`: it then prints `forked PID`; that child holds every descriptor of the
app, and does nothing until it is killed, which `app_process` does at the end.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from appvss.v1 import app_pb2
from tests.support.raw_app import BOUND, attached
from tests.support.running_broker import ROOT

_WORD = "filesystem_freeze"


class AppProcess:
    """One app process, from outside."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.children: list[int] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self, start: str) -> str:
        """The next line that it prints, which must begin so. That it has heard of the freeze of file systems is passed
        over by whoever waits for something else.
        """
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND):
            line = (await self.process.stdout.readline()).decode().strip()
            while line.startswith(_WORD) and not start.startswith(_WORD):
                line = (await self.process.stdout.readline()).decode().strip()
        assert line.startswith(start), f"not {start!r}: {line!r}"
        return line

    async def fork(self) -> int:
        """Let it fork; the child's process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"fork\n")
        await self.process.stdin.drain()
        child = int((await self.line("forked ")).split()[1])
        self.children.append(child)
        return child

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        async with asyncio.timeout(BOUND):
            await self.process.wait()


@asynccontextmanager
async def app_process(
    directory: Path, name: str, *, uid: int | None = None, identified: bool = True, chatters: bool = False
) -> AsyncIterator[AppProcess]:
    """Start one; it and its children are killed at the end.

    Args:
        directory: the broker's runtime directory.
        name: of the app.
        uid: the user that it runs as, with a group of the same number and no other. None: the test's own.
        identified: whether it fetches a token.
        chatters: whether it says something on the side connection, where it has nothing to say.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.app_process",
        str(directory),
        name,
        "identified" if identified else "unidentified",
        "chatters" if chatters else "quiet",
        str(-1 if uid is None else uid),
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    app = AppProcess(process)
    try:
        yield app
    finally:
        for child in app.children:
            os.kill(child, signal.SIGKILL)
        with suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.communicate()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fork() -> None:
    # The C library's fork that runs no handlers (glibc 2.34): those of gRPC would mend or end its connections. The
    # interpreter's lock stays held, so that the child runs on.
    child = ctypes.PyDLL(None)._Fork()
    if child == 0:
        os.close(0)  # the pipes: else the test would wait for them when it waits for the app
        os.close(1)
        while True:
            signal.pause()
    _say(f"forked {child}")


def _become(uid: int) -> None:
    # Not before the start: the interpreter may lie where only root can read it.
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


async def _play(directory: Path, name: str, identified: bool, chatters: bool) -> None:
    loop = asyncio.get_running_loop()
    async with attached(directory, name, identified=identified) as app:
        if chatters and app.side is not None:
            app.side.connection.send(b"hello?")
        loop.add_reader(sys.stdin.fileno(), lambda: _fork() if os.read(sys.stdin.fileno(), 64) else None)
        _say("welcome")
        while (message := await app.hear_whenever()) is not None:
            kind = message.WhichOneof("message")
            cycle = getattr(getattr(message, str(kind)), "cycle", "")
            _say(f"{kind} {cycle}")
            if kind == "freeze":
                await app.say(frozen=app_pb2.Frozen(cycle=cycle))
            elif kind in ("thaw", "abort"):
                await app.say(thawed=app_pb2.Thawed(cycle=cycle, unbroken=True))
        loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    if int(sys.argv[5]) >= 0:
        _become(int(sys.argv[5]))
    asyncio.run(_play(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "identified", sys.argv[4] == "chatters"))
