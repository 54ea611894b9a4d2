"""A MongoDB server as an app: its adapter, and the context manager without one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import uuid4

from appvss.adapters import base, undo
from appvss.adapters.base import AutoRelease, Finding, Preflight, Properties, Severity, Volume, VolumeKind
from appvss.adapters.errors import (
    AdapterError,
    HoldRefused,
    LoginRefused,
    PrivilegeMissing,
    ServerUnfit,
    ServerUnreachable,
    SettingInvalid,
)
from appvss.adapters.kept import Kept
from appvss.adapters.mongodb.server import (
    ASK_LIMIT,
    CONNECT_LIMIT,
    UNLOCK_HINT,
    UNLOCK_LIMIT,
    Link,
    Server,
    ask,
    is_locked,
    look,
    open_link,
    settle,
    unlock_once,
)
from appvss.adapters.mongodb.settings import Recipe, Settings
from appvss.adapters.settings import NO_SECRET, Secret
from appvss.adapters.undo import UndoRecord, Written
from appvss.adapters.waiting import to_the_end
from appvss.model.duration import format_duration
from appvss.model.errors import HoldLost
from appvss.sdk.freeze import Freeze, Prepare

_COLLECTION: Final = re.compile(r"[^/\\. \"$*<>:|?\0]{1,63}\.[^.$\0][^$\0]*")
"""A database, a point, a collection in it, as MongoDB has them named."""
_FIRST_PAUSE: Final = timedelta(seconds=1)
_TRIES: Final = 6
_SHARE: Final = 0.8
"""Of the budget that the server may wait for its lock: its refusal has to come before the budget is over."""
_LEAST: Final = timedelta(milliseconds=50)
_ELECTION: Final = timedelta(seconds=10)
"""`electionTimeoutMillis` as it is set by default: a primary that is frozen for longer is one no more."""


@dataclass(slots=True)
class Held:
    """One hold."""

    link: Link
    server: Server
    marker: str
    data_directory: str
    written: Written | None
    """The undo record; None: nothing is locked."""
    is_thawed: bool = False
    """The hold has ended in its time: the server may be asked again."""


class Adapter(base.Adapter[Held]):
    """One `mongod`.

    Raises:
        SettingInvalid: the address cannot be read, or has a password in it.
    """

    engine: ClassVar[str] = "mongodb"
    properties: ClassVar[Properties] = Properties(
        AutoRelease.NOBODY,
        holds_writes=True,
        blocks_reads_while_frozen=True,
        max_safe_freeze=_ELECTION,
        privileges=("hostManager (fsync, unlock) and clusterMonitor (inprog), for `lock`", "readWrite on the marker"),
        settings_read=("storage.dbPath", "storageEngine.name"),
    )
    """Of `lock`; with `journal` nothing is held."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._later: set[asyncio.Task[None]] = set()
        self._ready = Kept(self._close)
        if settings.marker and _COLLECTION.fullmatch(settings.marker) is None:
            raise SettingInvalid(f"the marker {settings.marker!r} is no collection", 'Write marker = "appvss.cycles".')
        if settings.recipe is Recipe.JOURNAL:
            self.properties = replace(  # type: ignore[misc]  # what holds for these settings
                type(self).properties, auto_release=AutoRelease.NOTHING_HELD, holds_writes=False
            )

    @property
    def _app(self) -> str:
        return self.app or self.engine

    @property
    def _address(self) -> str:
        """For a record, and so for people: the options of an address may have secrets."""
        return self._settings.uri.partition("?")[0]

    async def preflight(self) -> Preflight:
        """What would go wrong, as far as the server tells without being changed."""
        findings = [
            Finding(
                Severity.WARNING,
                "not_run_by_us",
                "this adapter was tested with a stand-in alone, never with a real MongoDB",
                "Rehearse a freeze, restore a copy, and look at it before you rely on it.",
            )
        ]
        version = ""
        volumes: tuple[Volume, ...] = ()
        read: dict[str, str] = {}
        try:
            async with self._connected(is_new=True) as link:  # what was prepared is left to the freeze
                server = await look(link)
                version = server.version
                findings += _about(server, self._settings)
                read, found = await self._read_settings(link)
                findings += [*found, *await _about_storage(link)]
                if self._settings.recipe is Recipe.LOCK and await is_locked(link):
                    findings.append(_problem("locked", HoldRefused("it is locked already", UNLOCK_HINT)))
            volumes = self._volumes(read.get("storage.dbPath", ""))
            findings += _apart(volumes, self._settings.recipe)
            if self._settings.recipe is Recipe.LOCK:
                undo.undo_directory(self.undo_directory)
        except AdapterError as error:
            findings.append(_problem("server", error))
        return Preflight(tuple(findings), version, volumes, read, self._settings.recipe.value)

    async def prepare(self, prepare: Prepare) -> None:
        """Open the connection: that takes half a second until the driver is silent.

        Raises:
            AdapterError: no server answers, or it does not accept the account.
        """
        link = await self._connect()
        self._ready.put(link)
        await settle(link)

    async def hold(self, freeze: Freeze) -> Held:
        """Write the marker through the journal; with `lock`, have the server take no write from then on.

        Raises:
            AdapterError: it cannot be done; nothing is locked.
        """
        directory = None
        if self._settings.recipe is Recipe.LOCK:
            directory = undo.undo_directory(self.undo_directory)
            await undo.settle_own(self, directory)
        link = await self._connect()
        try:
            await settle(link)
            server = await look(link)
            read, _ = await self._read_settings(link)
            if server.is_writable:
                marker = await self._mark(link, freeze)
            else:
                marker = ""
                await ask(link, {"fsync": 1}, max(_LEAST, freeze.budget_left() * _SHARE))
            held = Held(link, server, marker, read.get("storage.dbPath", ""), None)
            if directory is not None:
                held.written = await self._lock(link, freeze, directory)
                try:
                    held.server = await look(link)  # nothing is written from here on
                except BaseException:
                    await to_the_end(self._unlock(link, held.written))
                    raise
            return held
        except BaseException:
            self._close(link)
            raise

    async def _mark(self, link: Link, freeze: Freeze) -> str:
        if not self._settings.marker:
            await ask(link, {"fsync": 1}, max(_LEAST, freeze.budget_left() * _SHARE))
            return ""
        database, _, collection = self._settings.marker.partition(".")
        change = {"q": {"_id": self._app}, "u": {"$set": {"cycle": freeze.cycle}}, "upsert": True}
        command = {"update": collection, "updates": [change], "writeConcern": {"w": 1, "j": True}}
        answer = await ask(link, command, max(_LEAST, freeze.budget_left() * _SHARE), database)
        if answer.get("writeErrors") or answer.get("writeConcernError"):
            raise HoldRefused("the marker cannot be written through the journal", "Look at the server's log.")
        return freeze.cycle

    async def _lock(self, link: Link, freeze: Freeze, directory: Path) -> Written:
        if await is_locked(link):
            raise HoldRefused("the server is locked already", UNLOCK_HINT)
        what = {"uri": self._address}
        written = undo.write(directory, UndoRecord.of(self._app, self.engine, freeze.cycle, what))
        limit = max(_LEAST, freeze.budget_left() * _SHARE)
        command = {
            "fsync": 1,
            "lock": True,
            "fsyncLockAcquisitionTimeoutMillis": int(limit.total_seconds() * 1000),
            "comment": f"appvss {freeze.cycle}",
        }
        try:
            answer = await ask(link, command, max(_LEAST, freeze.budget_left()))
        except (PrivilegeMissing, HoldRefused):
            written.forget()  # it has answered: it has not locked
            raise
        except BaseException:
            self._aside(self._unlock_if_locked(written, limit), "mongodb unlock")
            raise
        if int(answer.get("lockCount", 1)) != 1:
            await to_the_end(self._unlock(link, written))
            raise HoldRefused("somebody else has locked the server at the same moment", UNLOCK_HINT)
        return written

    async def _unlock_if_locked(self, written: Written, limit: timedelta) -> None:
        """Whether the server has locked, or will within `limit`, nobody knows: unlock until no lock can come."""
        deadline = time.monotonic() + limit.total_seconds()
        pause = _FIRST_PAUSE / 10
        while True:
            is_over = time.monotonic() > deadline
            with contextlib.suppress(AdapterError):
                async with self._connected() as link:
                    if await unlock_once(link, UNLOCK_LIMIT) is not None or is_over:
                        written.forget()
                        return
            if is_over:
                written.leave()
                undo.settle_later(self, written.path.parent)
                return
            await asyncio.sleep(pause.total_seconds())
            pause = min(pause * 2, _FIRST_PAUSE)

    def evidence(self, held: Held) -> Mapping[str, str]:
        """The time of the last write, and the marker."""
        return {
            "engine": self.engine,
            "version": held.server.version,
            "recipe": self._settings.recipe.value,
            "position": held.server.position,
            "marker": held.marker,
            "data_directory": held.data_directory or self._settings.data_directory,
            "replica_set": held.server.set_name,
        }

    async def confirm(self, held: Held) -> None:
        """Show that it is the same server, is locked still, and has written nothing since.

        With `journal` nothing was held: that it is the same server is all.

        Raises:
            HoldLost: it is not, or nobody can tell.
        """
        held.is_thawed = True
        try:
            server = await look(held.link)
            still = held.written is None or await is_locked(held.link)
        except AdapterError as error:
            raise HoldLost(error.sentence) from error
        if server.process != held.server.process:
            raise HoldLost("the server was started again in the hold")
        if not still:
            raise HoldLost("the server was unlocked by somebody else")
        if held.written is not None and server.position != held.server.position:
            raise HoldLost(f"the server has written in the hold: {held.server.position} became {server.position}")

    async def release(self, held: Held, freeze: Freeze) -> None:
        """Unlock, on the connection that has locked. If file systems may be frozen, that is done later."""
        if freeze.filesystem_freeze.is_set() and not held.is_thawed:
            self._aside(self._unlock_later(held), "mongodb unlock")
            return
        try:
            if held.written is not None:
                await to_the_end(self._unlock(held.link, held.written))
        finally:
            self._close(held.link)

    async def _unlock(self, link: Link, written: Written) -> None:
        try:
            await unlock_once(link, UNLOCK_LIMIT)
        except AdapterError:
            written.leave()
            undo.settle_later(self, written.path.parent)
        except BaseException:
            written.leave()
            raise
        else:
            written.forget()

    async def _unlock_later(self, held: Held) -> None:
        """Again and again, on the connection that has locked: another one may not get in."""
        pause = _FIRST_PAUSE
        for _ in range(_TRIES):
            await asyncio.sleep(pause.total_seconds())
            pause *= 2
            if held.written is None:
                break
            with contextlib.suppress(AdapterError):
                await unlock_once(held.link, UNLOCK_LIMIT)
                held.written.forget()
                break
        else:  # that connection is of no use any more
            if held.written is not None:
                held.written.leave()
                undo.settle_later(self, held.written.path.parent)
        self._close(held.link)

    async def undo(self, record: Mapping[str, str]) -> None:
        """Unlock what an adapter has left locked: once, for it has locked once. What is locked after that is somebody
        else's, and stays so.

        Raises:
            AdapterError: the server does not let anybody in, or does not unlock. Then only `fsyncUnlock` on a
                connection that is open already, or a restart of the server, helps.
        """
        try:
            async with self._connected() as link:
                await unlock_once(link, UNLOCK_LIMIT)
        except (ServerUnreachable, LoginRefused) as error:
            raise type(error)(error.sentence, f"{UNLOCK_HINT} Or start the server again.") from error

    def is_of(self, record: Mapping[str, str]) -> bool:
        """Whether it is the configured server that the record is about."""
        return record.get("uri") == self._address

    # -- the server

    @asynccontextmanager
    async def _connected(self, *, is_new: bool = False) -> AsyncIterator[Link]:
        link = await (self._open() if is_new else self._connect())
        try:
            yield link
        finally:
            self._close(link)

    async def _connect(self) -> Link:
        """A link with one open connection, that says nothing by itself.

        Raises:
            AdapterError: no server answers, or it does not accept the account.
        """
        ready = self._ready.take()
        if ready is not None:
            try:
                await ask(ready, {"ping": 1}, CONNECT_LIMIT)
                return ready
            except ServerUnreachable:
                self._close(ready)
            except BaseException:
                self._close(ready)
                raise
        return await self._open()

    async def _open(self) -> Link:
        link = open_link(self._settings)
        try:
            await ask(link, {"ping": 1}, CONNECT_LIMIT)
        except BaseException:
            self._close(link)
            raise
        return link

    def _close(self, link: Link) -> None:
        """Close it, aside: it says good-bye to the server, which may not hear."""

        async def close() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_LIMIT.total_seconds()):
                    await link.client.close()

        self._aside(close(), "mongodb close")

    def _aside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def close(self) -> None:
        """Close what is open, and wait for what is done aside: good-byes, and an unlock that has to wait."""
        self._ready.clear()
        while self._later:
            await asyncio.wait(self._later)

    async def _read_settings(self, link: Link) -> tuple[dict[str, str], list[Finding]]:
        try:
            answer = await ask(link, {"getCmdLineOpts": 1}, ASK_LIMIT)
        except PrivilegeMissing as error:
            if self._settings.data_directory:
                return {"storage.dbPath": self._settings.data_directory}, []
            hint = "Grant clusterMonitor, or set data_directory."
            return {}, [Finding(Severity.WARNING, "volumes_unknown", error.sentence, hint)]
        path = answer.get("parsed", {}).get("storage", {}).get("dbPath", "/data/db")
        return {"storage.dbPath": self._settings.data_directory or str(path)}, []

    def _volumes(self, path: str) -> tuple[Volume, ...]:
        if not path:
            return ()
        data = Path(os.path.realpath(path))
        return (
            Volume(VolumeKind.DATA, data),
            Volume(VolumeKind.LOG, Path(os.path.realpath(data / "journal"))),
        )


async def _about_storage(link: Link) -> list[Finding]:
    try:
        status = await ask(link, {"serverStatus": 1}, ASK_LIMIT)
    except PrivilegeMissing:
        return []  # another engine than WiredTiger is rare, and not worth the privilege
    engine = str(status.get("storageEngine", {}).get("name", "wiredTiger"))
    if engine == "wiredTiger":
        return []
    hint = "Only WiredTiger has the journal that is relied on."
    return [_problem("storage_engine", ServerUnfit(f"its storage engine is {engine}", hint))]


def _problem(name: str, error: AdapterError) -> Finding:
    return Finding(Severity.PROBLEM, name, error.sentence, error.hint)


def _about(server: Server, settings: Settings) -> list[Finding]:
    findings = []
    if server.is_writable and server.set_name:
        sentence = f"it is the primary of the replica set {server.set_name}: its clients wait in a freeze, and a freeze"
        sentence += f" of more than {format_duration(_ELECTION)} makes another one the primary"
        findings.append(Finding(Severity.WARNING, "primary", sentence, "Name a hidden secondary instead."))
    if not server.is_writable:
        sentence = "it takes no writes, so there is no marker: the copy cannot be proved to be of a cycle"
        findings.append(Finding(Severity.WARNING, "no_marker", sentence, "Compare its last write with `position`."))
    if settings.recipe is Recipe.LOCK:
        sentence = "the lock is the server's: if adapter and agent die in a hold, its writes stay blocked"
        findings.append(Finding(Severity.WARNING, "lock_stays", sentence, UNLOCK_HINT))
    return findings


def _apart(volumes: tuple[Volume, ...], recipe: Recipe) -> list[Finding]:
    """Whether data and journal lie on two file systems."""
    try:
        devices = {os.stat(each.path).st_dev for each in volumes}
    except OSError:
        return []  # a container's, or another user's
    if len(devices) < 2 or recipe is Recipe.LOCK:
        return []
    sentence = "its journal lies on another file system than its data"
    hint = 'Have both in one atomic snapshot, or take recipe = "lock".'
    return [Finding(Severity.WARNING, "journal_apart", sentence, hint)]


@asynccontextmanager
async def quiesce(
    uri: str,
    *,
    user: str = "",
    password: Secret = NO_SECRET,
    recipe: Recipe = Recipe.JOURNAL,
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Make one server ready for a snapshot, without broker and agent.

    Args:
        uri: where it is, without a password.
        user: the account.
        password: its password.
        recipe: whether writes are kept out.
        hold_limit: for the caller alone; the server ends no lock by itself.
        budget: the time for getting quiet.

    Raises:
        AdapterError: it cannot be made ready; nothing is locked.
        HoldLost: on leaving: somebody else has unlocked it, or it was started again.
    """
    adapter = Adapter(Settings(uri=uri, user=user, password=password, recipe=recipe))
    freeze = Freeze(cycle=uuid4().hex, requester="quiesce", budget=budget, hold_limit=hold_limit)
    try:
        async with adapter.quiesce(freeze) as evidence:
            yield evidence
    finally:
        await adapter.close()
