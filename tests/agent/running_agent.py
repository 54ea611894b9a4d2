"""A real `appvss agent` in a process of its own, with a configuration file in a short directory, and what it leaves.

Every wait has a bound. Whatever happens, the agent, its guardian and its apps are dead at the end; only processes that
this agent has started are ever signalled.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.command_line import PROGRAM, ROOT
from tests.support.memory_directory import in_memory
from tests.support.running_broker import BOUND, short_directory

PATIENCE = 3 * BOUND
"""Seconds after which a wait for an agent has failed: its app is up when three interpreters have been started one after
the other, on a machine that may have much else to do.
"""
_GLANCE = 0.02


async def until(holds: Callable[[], bool], what: str, bound: float = PATIENCE) -> None:
    """Look until something is so that nobody tells of: a file, the end of a stranger's process."""
    try:
        async with asyncio.timeout(bound):
            while not holds():  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(_GLANCE)
    except TimeoutError:
        raise AssertionError(f"{what} within {bound} s") from None


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command(pid: int) -> str:
    """The command line of a process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


class RunningAgent:
    """One agent process.

    Args:
        directory: holds `agent.toml`, and the runtime directory of the broker, `run`.
        memory: a directory in memory; undo records are in `undo` below it.
        process: started with a pipe as its standard error.
    """

    def __init__(self, directory: Path, memory: Path, process: asyncio.subprocess.Process) -> None:
        self.directory = directory
        self.memory = memory
        self.file = directory / "agent.toml"
        self.process = process
        self.log: list[str] = []
        self._seen: set[int] = set()
        self._news = asyncio.Condition()
        self._ended = False
        self._reader = asyncio.create_task(self._read(), name=f"log of agent {process.pid}")

    @property
    def pid(self) -> int:
        return self.process.pid

    async def _read(self) -> None:
        while self.process.stderr is not None and (line := await self.process.stderr.readline()):
            async with self._news:
                self.log.append(line.decode(errors="replace").rstrip("\n"))
                self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def line(self, *parts: str, after: int = 0) -> str:
        """The first line of the log, from number `after` on, that contains all parts, waited for."""

        def found() -> str | None:
            return next((line for line in self.log[after:] if all(part in line for part in parts)), None)

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._news:
                while (line := found()) is None and not self._ended:
                    await self._news.wait()
        line = found()
        assert line is not None, f"nothing in the log has {parts}:\n" + "\n".join(self.log)
        return line

    def family(self) -> list[int]:
        """Its guardian and its apps, those of before as well."""
        self._seen.update(children(self.pid))
        return sorted(self._seen)

    def guardian(self) -> int:
        """The guardian's process id."""
        (pid,) = [each for each in self.family() if is_alive(each) and "appvss.agent.guardian" in command(each)]
        return pid

    def write(self, text: str) -> None:
        """Write the configuration file anew."""
        self.file.write_text(_head(self.memory, self.directory) + text)

    async def reload(self) -> None:
        """SIGHUP, and wait until it has been taken or refused."""
        before = len(self.log)
        self.process.send_signal(signal.SIGHUP)
        await self.line("reloaded", after=before)

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self.family()
        os.kill(self.pid, signal.SIGKILL)

    async def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        self.family()
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def close(self) -> None:
        """End everything that is still there."""
        family = self.family()
        for pid in (self.pid, *family):
            with suppress(ProcessLookupError):
                if pid == self.pid or "appvss.agent." in command(pid):
                    os.kill(pid, signal.SIGKILL)
        await self.ended()
        await until(lambda: not any(is_alive(pid) for pid in family), "all processes of the agent are dead")
        async with asyncio.timeout(BOUND):
            await self._reader


def _head(memory: Path, directory: Path) -> str:
    return f'[agent]\nundo_directory = "{memory}/undo"\nruntime_directory = "{directory}/run"\nlog_level = "debug"\n'


_OPENED = """set -e
mount --make-rprivate /
mount --rbind "$1" "$2"
mount -t tmpfs -o mode=0755 tmpfs "$1"
closed=$1 kept=$2 number=$3
shift 3
while [ "$number" -gt 0 ]; do
    mkdir -p "$closed/$1"
    mount --rbind "$kept/$1" "$closed/$1"
    number=$((number - 1))
    shift
done
exec "$@"
"""


def opened_to_everybody(directory: Path) -> tuple[str, ...]:
    """What to start a program with so that every user finds this interpreter and this package: a mount namespace of its
    own, in which a home that is closed to others is open. Empty where it is open already.

    Args:
        directory: an empty folder is made in it.
    """
    wanted = {Path(each).resolve() for each in (sys.executable, sys.prefix, sys.base_prefix, ROOT)}
    wanted |= {Path(each).absolute() for each in (sys.prefix, ROOT)}
    closed = {each for path in wanted for each in path.parents if not each.stat().st_mode & 0o001}
    if not closed:
        return ()
    outermost = min(closed, key=lambda path: len(path.parts))
    inside = sorted({path.relative_to(outermost).parts[0] for path in wanted if path.is_relative_to(outermost)})
    if (
        os.geteuid() != 0
        or shutil.which("unshare") is None
        or any(not each.is_relative_to(outermost) for each in closed)
    ):
        pytest.skip(f"another user cannot enter {outermost}")
    kept = directory / "kept"
    kept.mkdir()
    return ("unshare", "--mount", "sh", "-c", _OPENED, "sh", str(outermost), str(kept), str(len(inside)), *inside)


async def launch(
    directory: Path,
    memory: Path,
    apps: str,
    settings: str = "",
    before: Sequence[str] = (),
    *,
    stderr: int = asyncio.subprocess.PIPE,
    **environment: str,
) -> RunningAgent:
    """Start an agent. The caller owes `close`.

    Args:
        directory: for the configuration; the broker's sockets are in `run` below it.
        memory: a directory in memory.
        apps: the sections of the apps.
        settings: more lines of the section `[agent]`.
        before: what the command is started by.
        stderr: a descriptor for its log, which `log` then does not have.
        environment: what it has otherwise in its environment.
    """
    (directory / "run").mkdir(exist_ok=True)
    (directory / "agent.toml").write_text(_head(memory, directory) + settings + apps)
    process = await asyncio.create_subprocess_exec(
        *before,
        *PROGRAM,
        "agent",
        "--config",
        str(directory / "agent.toml"),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        env={**os.environ, **environment},
        limit=1 << 20,
    )
    return RunningAgent(directory, memory, process)


@asynccontextmanager
async def running_agent(
    directory: Path, memory: Path, apps: str, settings: str = "", before: Sequence[str] = ()
) -> AsyncIterator[RunningAgent]:
    """An agent that is ready; its apps may be on their way still."""
    agent = await launch(directory, memory, apps, settings, before)
    try:
        await agent.line("the agent is ready")
        yield agent
    finally:
        await agent.close()


@asynccontextmanager
async def places() -> AsyncIterator[tuple[Path, Path]]:
    """A short directory under /tmp, and one in memory; both are gone afterwards."""
    with in_memory() as memory:
        directory = short_directory()
        try:
            yield directory, memory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
