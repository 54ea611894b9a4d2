"""SQLite: a process of its own for each database file keeps writers out, and brings the log into the main file.

    async with sqlite.quiesce("/srv/shop/orders.db") as evidence:
        take_snapshot()

The recipe (facts/database-quiesce.md section 6.2): `BEGIN IMMEDIATE` on one connection, then `wal_checkpoint(PASSIVE)`
on another until it has everything. Nobody else writes then, in WAL mode as with a rollback journal, and the main file
alone is the whole database. The kernel frees the lock with the process that has it (`AutoRelease.PROCESS`), and that
process ends with its input, so with this one.

The files are never opened here: locks of fcntl(2) belong to a process, and a program that has the database open itself
would lose its own by it. Even the digest, which is the marker, is taken by a third process.

**The marker.** No table is made in the user's database. The SHA-256 of the main file, taken in the hold, is proof and
position in one: a copy whose main file has it, and whose log has nothing after, is to the byte what was held. Of a file
above `digest_limit` none is taken, since writers wait meanwhile; then nothing shows of a copy that it was taken in the
hold. Where a reader keeps the log from being brought in (`wal` is `part_of_the_data`), it is the digest of the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

from appvss.adapters import base, sqlite_files, sqlite_holder
from appvss.adapters.base import Finding, Severity, Volume, VolumeKind
from appvss.adapters.errors import HoldRefused, ServerUnfit, SettingInvalid
from appvss.adapters.settings import setting
from appvss.adapters.waiting import to_the_end
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze, Prepare

MOST_FILES: Final = 4
"""How many files one app may have: the evidence takes no more."""
ANSWER_LIMIT: Final = timedelta(seconds=5)
"""How long a process may take for an answer that needs no waiting."""
_RESERVE: Final = timedelta(milliseconds=200)
_PROGRAM: Final = Path(sqlite_holder.__file__)
_MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What the agent's configuration says of an application's SQLite databases."""

    files: tuple[str, ...] = setting(
        (),
        f"The database files, with absolute paths, at most {MOST_FILES}. They are held one after another, in the order "
        "of their paths, so that two apps never wait for each other.",
        example=("/srv/shop/orders.db",),
        is_needed=True,
    )
    checkpoint_patience: timedelta = setting(
        timedelta(seconds=1),
        "How long a reader is waited for that keeps the log from being brought into the main file. Writers wait as "
        "well. After it the log is part of the data, and the evidence says so.",
    )
    digest_limit: int = setting(
        256 * _MEBIBYTE,
        "Up to how many bytes a file's SHA-256 is taken in the hold: it proves of a copy that it was taken there. "
        "Writers wait meanwhile, about a second for each 500 MB.",
    )
    margin: timedelta = setting(
        timedelta(seconds=2),
        "How much longer than the hold limit the lock may last, for the way of the thaw.",
    )


class Holder:
    """One process of `sqlite_holder`, seen from here. `start` makes it; whoever has it owes an `end` or a `kill`."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self._heard = b""

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @classmethod
    async def start(cls) -> Holder:
        """Start one; it holds nothing yet."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            spawning = asyncio.ensure_future(asyncio.to_thread(_spawn, theirs))
            try:
                return cls(await asyncio.shield(spawning), ours)
            except asyncio.CancelledError:  # the thread goes on: what it makes is not left behind
                await to_the_end(cls._end_late(spawning, ours))
                raise
            except OSError:
                ours.close()
                raise

    @classmethod
    async def _end_late(cls, spawning: asyncio.Future[subprocess.Popen[bytes]], ours: socket.socket) -> None:
        await cls(await spawning, ours).kill()

    async def ask(self, do: str, within: timedelta, **what: Any) -> dict[str, Any]:
        """Have it do something.

        Raises:
            EOFError: it has ended.
            TimeoutError: it did not answer in time.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(max(within, timedelta(milliseconds=1)).total_seconds()):
            try:
                await loop.sock_sendall(self._channel, json.dumps({"do": do, **what}).encode() + b"\n")
                while b"\n" not in self._heard:
                    heard = await loop.sock_recv(self._channel, 65536)
                    if not heard:
                        raise EOFError(f"the process {self.pid} has ended")
                    self._heard += heard
            except OSError as error:
                if isinstance(error, TimeoutError):
                    raise
                raise EOFError(f"the process {self.pid} has ended") from error
        line, self._heard = self._heard.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def kill(self) -> None:
        """End it at once; the kernel frees its locks, on a frozen file system too. Asks nobody."""
        self._process.kill()  # before it sees the end of the channel, at which it would roll back
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, ANSWER_LIMIT.total_seconds())

    async def end(self) -> None:
        """Have it let go and end; kill it if it does not."""
        with suppress(EOFError, TimeoutError):
            await self.ask("release", ANSWER_LIMIT)
        await self.kill()


def _is_path(path: str) -> bool:
    return os.path.isabs(path) and len(path) <= 256 and "\0" not in path


def _spawn(channel: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_PROGRAM)],
        stdin=channel.fileno(),
        stdout=channel.fileno(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C of a terminal is not meant for it
    )


@dataclass(slots=True)
class HeldFile:
    """One database that is held."""

    path: str
    holder: Holder
    told: Mapping[str, Any]
    """What the holder has said of it."""
    digest: str = ""
    """The SHA-256 of the main file, or of the log where that is part of the data; empty: none was taken."""
    salts: str = ""
    """Of the log that lies beside it; empty: there is none."""

    @property
    def log_is_data(self) -> bool:
        """Whether the copy needs the log."""
        return bool(self.told["wal"] == "part_of_the_data")


@dataclass(slots=True)
class Held:
    """One hold."""

    cycle: str
    files: list[HeldFile]
    is_thawed: bool = False
    """Whether the thaw has come: from then on no file system is frozen."""


class Adapter(base.Adapter[Held]):
    """The SQLite databases of one application.

    Raises:
        SettingInvalid: no file, too many, or a path that is not absolute or too long for the evidence.
    """

    engine: ClassVar[str] = "sqlite"
    properties: ClassVar[base.Properties] = base.Properties(
        auto_release=base.AutoRelease.PROCESS,
        holds_writes=True,
        blocks_reads_while_frozen=True,  # in WAL mode readers write to the -shm file
        privileges=("to write the file and to its folder",),
        settings_read=("journal_mode",),
    )

    def __init__(self, settings: Settings) -> None:
        if not settings.files or len(settings.files) > MOST_FILES:
            raise SettingInvalid(
                f"files has {len(settings.files)} paths", f"Name one to {MOST_FILES} files; more need another app."
            )
        if wrong := next((path for path in settings.files if not _is_path(path)), ""):
            raise SettingInvalid(f"files: {wrong[:80]!r} is no absolute path of at most 256 characters", "Correct it.")
        self.settings = settings
        self._prepared: list[Holder] = []

    @property
    def _paths(self) -> list[str]:
        return sorted({os.path.realpath(path) for path in self.settings.files})

    async def preflight(self) -> base.Preflight:
        """Look at each file, by a process of its own, and at the file system that it lies on."""
        findings: list[Finding] = []
        seen: dict[str, Mapping[str, Any]] = {}
        for path in self._paths:
            looker = await Holder.start()
            try:
                seen[path] = await looker.ask("look", ANSWER_LIMIT, path=path)
            except (EOFError, TimeoutError):
                seen[path] = {"refused": "no_answer", "sentence": "the process that looks at it does not answer"}
            finally:
                await looker.kill()
            findings.extend(sqlite_files.findings(path, seen[path], self.settings.digest_limit))
        if not any(finding.severity is Severity.PROBLEM for finding in findings):
            findings.append(Finding(Severity.OK, "ready", f"{len(seen)} database{'s' * (len(seen) != 1)} can be held"))
        looked = {path: answer["seen"] for path, answer in seen.items() if "seen" in answer}
        return base.Preflight(
            tuple(findings),
            next((f"SQLite {found['version']}" for found in looked.values()), ""),
            tuple(Volume(VolumeKind.DATA, Path(path).parent) for path in looked),
            {f"journal_mode of {path}": found.get("journal_mode", "") for path, found in looked.items()},
            "begin immediate, passive checkpoint",
        )

    async def prepare(self, prepare: Prepare) -> None:
        """Start the processes, so that the freeze needs none. They hold nothing."""
        await self._start(2 * len(self._paths))
        try:
            for holder in self._prepared:
                await holder.ask("be ready", min(prepare.budget_left(), ANSWER_LIMIT))
        except (EOFError, TimeoutError):
            await self.close()  # the freeze starts its own
        except BaseException:
            await to_the_end(self.close())  # an answer that comes late is not taken for the next one
            raise

    async def close(self) -> None:
        """End processes that were prepared and not used. They end with this process at the latest."""
        while self._prepared:
            await self._prepared.pop().kill()

    async def hold(self, freeze: Freeze) -> Held:
        """Lock each file, one after another, and take the digests.

        Raises:
            AdapterError: one cannot be held; none is.
        """
        held = Held(freeze.cycle, [])
        for path in self._paths:
            if found := sqlite_files.on_network(path):
                raise ServerUnfit(found.sentence, found.hint)
        try:
            await self._start(2 * len(self._paths))
            for path in self._paths:
                held.files.append(HeldFile(path, self._prepared.pop(), {}))
                await self._take(held.files[-1], freeze)
            async with asyncio.TaskGroup() as tasks:
                for file in held.files:
                    tasks.create_task(self._digest(file, freeze), name=f"digest {file.path}")
        except BaseException:
            await to_the_end(self._drop(held))
            raise
        return held

    async def _drop(self, held: Held) -> None:
        for file in held.files:
            await file.holder.kill()
        await self.close()

    def evidence(self, held: Held) -> Mapping[str, str]:
        """What is in each file; for `appvss.verify.sqlite`."""
        digests = [file.digest for file in held.files]
        whole = digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
        logs = {str(file.told["wal"]) for file in held.files}
        needed = next((word for word in ("part_of_the_data", "folded") if word in logs), "none")
        evidence = {
            "engine": self.engine,
            "version": f"SQLite {held.files[0].told['version']}",
            "recipe": "begin immediate, passive checkpoint",
            "position": " ".join(f"pages={file.told['pages']} frames={file.told['frames']}" for file in held.files),
            "marker": f"{held.cycle} sha256:{whole}" if all(digests) else "",
            "data_directory": os.path.dirname(held.files[0].path),
            "wal": needed,
        }
        for number, file in enumerate(held.files, start=1):
            evidence[f"file_{number}"] = file.path
            what = "log" if file.log_is_data else "main"
            evidence[f"digest_{number}"] = f"{what} sha256:{file.digest} log:{file.salts}/{file.told['frames']}"
        return evidence

    async def confirm(self, held: Held) -> None:
        """Ask each process whether its lock was in force all the time.

        Raises:
            HoldLost: it was not, or the process is gone.
        """
        held.is_thawed = True
        for file in held.files:
            try:
                answer = await file.holder.ask("confirm", ANSWER_LIMIT)
            except (EOFError, TimeoutError):
                raise HoldLost(f"the process that held {file.path} is gone: killed, or its limit passed") from None
            if not answer.get("unbroken"):
                raise HoldLost(str(answer.get("sentence") or f"nobody can tell whether {file.path} was held"))

    async def release(self, held: Held, freeze: Freeze) -> None:
        """Let writers go on. If the hold ends early while file systems may be frozen, the processes are killed: the
        kernel frees their locks, and nothing is asked of a file.
        """
        for file in reversed(held.files):
            if freeze.filesystem_freeze.is_set() and not held.is_thawed:
                await file.holder.kill()
            else:
                await file.holder.end()
        await self.close()

    async def _start(self, count: int) -> None:
        while len(self._prepared) < count:
            self._prepared.append(await Holder.start())

    async def _take(self, file: HeldFile, freeze: Freeze) -> None:
        left = freeze.budget_left() - _RESERVE
        patience = min(self.settings.checkpoint_patience, left / 2)
        limit = freeze.hold_limit + freeze.budget_left() + self.settings.margin
        try:
            answer = await file.holder.ask(
                "freeze",
                left + _RESERVE,
                path=file.path,
                wait=max(left - patience, timedelta(0)).total_seconds(),
                patience=max(patience, timedelta(0)).total_seconds(),
                limit=limit.total_seconds(),
            )
        except EOFError:
            raise HoldRefused(
                f"the process that was to hold {file.path} has ended", "Look at the system's log."
            ) from None
        except TimeoutError:
            raise HoldRefused(f"{file.path} could not be locked in time", "Another process writes for long.") from None
        if "held" not in answer:
            raise sqlite_files.refused(file.path, answer)
        file.told = answer["held"]

    async def _digest(self, file: HeldFile, freeze: Freeze) -> None:
        """By another process than the holder, which must never open the file."""
        path = f"{file.path}-wal" if file.log_is_data else file.path
        reader = self._prepared.pop()
        try:
            if os.stat(path).st_size <= self.settings.digest_limit:
                answer = await reader.ask("digest", freeze.budget_left() - _RESERVE, path=path)
                file.digest, file.salts = str(answer.get("sha256", "")), str(answer.get("salts", ""))
        except (EOFError, TimeoutError, OSError):
            file.digest = ""  # a hold without a proof is a hold all the same
        finally:
            await reader.kill()


@asynccontextmanager
async def quiesce(
    *files: str | Path, hold_limit: timedelta = timedelta(seconds=60), budget: timedelta = timedelta(seconds=30)
) -> AsyncIterator[Mapping[str, str]]:
    """Hold databases for as long as the block runs, without any broker. Safe in a program that has them open itself.

    Args:
        files: the main files.
        hold_limit: how long the block may run; the locks are gone by themselves a little later.
        budget: how long getting quiet may take.

    Yields:
        The evidence.

    Raises:
        AdapterError: one cannot be held; none is.
        HoldLost: at the end: something was written, or nobody can tell.
    """
    freeze = Freeze(f"by-hand-{uuid.uuid4().hex[:12]}", "a program", budget, hold_limit)
    adapter = Adapter(Settings(files=tuple(str(Path.cwd() / path) for path in files)))
    async with adapter.quiesce(freeze) as evidence:
        yield evidence
