"""PostgreSQL as an app: the order in which a server is held, and how it is shown afterwards that it was."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, LiteralString

from appvss import Freeze, HoldLost, Prepare
from appvss.adapters import base
from appvss.adapters.errors import AdapterError, HoldRefused, PrivilegeMissing
from appvss.adapters.postgresql import backup as backups
from appvss.adapters.postgresql import findings, volumes
from appvss.adapters.postgresql.server import Server, identify, read_server
from appvss.adapters.postgresql.session import Session, connect, seconds
from appvss.adapters.postgresql.settings import NO_DIRECTORY, Recipe, Settings
from appvss.model.duration import format_duration
from appvss.model.names import printable

PREFLIGHT_LIMIT: Final = timedelta(seconds=10)
"""How long a server may take to answer a pre-flight."""
CONFIRM_LIMIT: Final = timedelta(seconds=15)
"""How long a server may take after the thaw to show that it was held."""
KEEP_LIMIT: Final = timedelta(seconds=60)
"""How long the stop of a backup and the copy of its WAL may take after the thaw."""
DEAD_MAN_MARGIN: Final = timedelta(seconds=20)
"""How much longer than the hold limit the server leaves an idle session alone."""
SYNC_SHARE: Final = 0.25
"""The part of the budget left that may go into a `syncfs` at the freeze; the file-system freeze does the rest."""
_LONGEST: Final = timedelta(days=20)
"""What fits into the server's milliseconds."""
_VALUE: Final = 256
"""Characters of one value of the evidence."""

_SETTLE: Final[LiteralString] = """
SELECT set_config('statement_timeout', %s, false), set_config('synchronous_commit', 'local', false),
       set_config('default_transaction_read_only', 'off', false)
"""
_DEAD_MAN: Final[LiteralString] = "SELECT set_config('idle_session_timeout', %s, false)"
# Before 14 nothing ends a session that is idle: the kernel's keep-alive finds out that its machine is gone.
_KEEPALIVE: Final[LiteralString] = """
SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false)
"""
_REDO: Final[LiteralString] = "SELECT redo_lsn::text FROM pg_control_checkpoint()"
_MARKER: Final[LiteralString] = "SELECT pg_logical_emit_message(true, 'appvss', %s)::text"
# A copy that has this one was taken after the hold.
_THAW_MARKER: Final[LiteralString] = "SELECT pg_logical_emit_message(true, 'appvss-thaw', %s)::text"
_MAY_RESTORE_POINT: Final[LiteralString] = "SELECT has_function_privilege('pg_create_restore_point(text)', 'EXECUTE')"
_RECEIVED: Final[LiteralString] = (
    "SELECT coalesce(pg_last_wal_receive_lsn()::text, ''), coalesce(pg_last_wal_replay_lsn()::text, '')"
)


@dataclass(frozen=True, slots=True)
class Held:
    """One hold. Its session is kept for the report alone, and in the `backup` recipe carries the backup."""

    session: Session
    server: Server
    recipe: Recipe
    position: str
    """The LSN up to which all is on the disk; on a standby, what it had replayed."""
    redo: str
    marker: str
    """Empty on a standby, which can write none."""
    restore_point: str
    received: str
    """On a standby: what it had received."""
    backup: backups.Backup | None


class Adapter(base.Adapter[Held]):
    """One server.

    Args:
        settings: where it is, and how it is to be held.
    """

    engine = "postgresql"
    properties = base.Properties(
        auto_release=base.AutoRelease.SESSION,
        holds_writes=False,
        blocks_reads_while_frozen=False,
        max_safe_freeze=None,
        privileges=findings.PRIVILEGES,
        settings_read=("wal_level", "synchronous_commit", "fsync", "full_page_writes"),
    )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def preflight(self) -> base.Preflight:
        """See `base.Adapter.preflight`."""
        try:
            async with asyncio.timeout(seconds(PREFLIGHT_LIMIT)):
                session = await connect(self.settings)
                try:
                    server = await read_server(session)
                    return await findings.preflight(session, server, self.settings, choose(self.settings, server))
                finally:
                    await session.end()
        except AdapterError as error:
            return base.Preflight((findings.problem(error),))
        except TimeoutError:
            sentence = f"PostgreSQL did not answer within {format_duration(PREFLIGHT_LIMIT)}"
            finding = base.Finding(base.Severity.PROBLEM, "server_unreachable", sentence, "Look into the server's log.")
            return base.Preflight((finding,))

    async def prepare(self, prepare: Prepare) -> None:
        """Make a checkpoint, so that the freeze has little to flush: 60 to 930 ms were measured, writes go on
        (facts/database-quiesce.md section 2). On a standby it is a restartpoint, which may do nothing.
        """
        if not self.settings.checkpoint:
            return
        left = prepare.budget_left()
        try:
            async with asyncio.timeout(seconds(left - _margin(left))):
                session = await connect(self.settings)
                try:
                    server = await read_server(session)
                    await session.rows(_SETTLE, [_milliseconds(left)])
                    await _checkpoint(session, server)
                finally:
                    await session.end()
                await volumes.sync(server)
        except TimeoutError:
            raise HoldRefused(
                f"the checkpoint was not done within {format_duration(left)}",
                "Give the prepare more time, or try again soon: the server goes on with it.",
            ) from None

    async def hold(self, freeze: Freeze) -> Held:
        """See `base.Adapter.hold`."""
        left = freeze.budget_left()
        try:
            async with asyncio.timeout(seconds(left - _margin(left))):
                session = await connect(self.settings)
                try:
                    return await self._take(session, freeze)
                except BaseException:
                    await session.end()
                    raise
        except TimeoutError:
            raise HoldRefused(
                f"PostgreSQL was not at rest within {format_duration(left)}",
                "Give the freeze more time, or try again.",
            ) from None

    async def _take(self, session: Session, freeze: Freeze) -> Held:
        server = await read_server(session)
        recipe = choose(self.settings, server)
        await session.rows(_SETTLE, [_milliseconds(freeze.budget_left())])
        if session.version >= 140000:
            await session.rows(_DEAD_MAN, [_milliseconds(freeze.hold_limit + DEAD_MAN_MARGIN)])
        else:
            await session.rows(_KEEPALIVE)
        backup = await self._begin_backup(session, server, freeze.cycle) if recipe is Recipe.BACKUP else None
        await volumes.sync_for(server, SYNC_SHARE * freeze.budget_left())
        redo = (await session.row(_REDO))[0]
        if server.identity.is_standby:
            received, replayed = await session.row(_RECEIVED)
            return Held(session, server, recipe, replayed, redo, "", "", received, backup)
        # From here on as little as may be: what is committed after the marker is not proven to be in the copy.
        restore_point = ""
        if server.has_restore_points and (await session.row(_MAY_RESTORE_POINT))[0]:
            restore_point = f"appvss-{freeze.cycle}"[:63]
            await session.rows("SELECT pg_create_restore_point(%s)", [restore_point])
        await session.rows(_MARKER, [freeze.cycle])
        position = (await session.row("SELECT pg_current_wal_flush_lsn()::text"))[0]
        return Held(session, server, recipe, position, redo, freeze.cycle, restore_point, "", backup)

    async def _begin_backup(self, session: Session, server: Server, cycle: str) -> backups.Backup:
        await asyncio.to_thread(backups.check_directory, self.settings.backup_directory, server)
        for missing in await findings.missing_for_backup(session, server):
            raise PrivilegeMissing(missing.sentence, missing.hint)
        findings.check_wal_level(server)
        return await backups.begin(session, cycle, backups.folder_of(self.settings.backup_directory, cycle, self.app))

    def evidence(self, held: Held) -> Mapping[str, str]:
        """See `base.Adapter.evidence`. Besides what all give: where WAL and tablespaces are, the redo LSN of the last
        checkpoint, the restore point, whether some commits are asynchronous, and the name of the server's superuser.
        """
        server, place = held.server, held.server.place
        given = {
            "engine": self.engine,
            "version": server.release,
            "recipe": held.recipe.value,
            "position": held.position,
            "marker": held.marker,
            "data_directory": str(place.data) if place else "",
            "wal_directory": str(place.wal) if place else "",
            "tablespaces": _tablespaces(server),
            "redo_lsn": held.redo,
            "restore_point": held.restore_point,
            "system_identifier": server.identity.system,
            "timeline": str(server.identity.timeline),
            "superuser": server.superuser,
            "async_commit": str(server.commits_asynchronously).lower(),
        }
        if server.identity.is_standby:
            given["received_lsn"] = held.received
        if held.backup is not None:
            given["backup"] = f"file://{held.backup.directory}"  # a bare path would be one of the copy
        return {key: printable(value, _VALUE) for key, value in given.items()}

    async def confirm(self, held: Held) -> None:
        """See `base.Adapter.confirm`. It leaves a second marker, by which a copy can be told that was taken later. In
        the `backup` recipe it also ends the backup, and keeps what belongs to it.
        """
        limit = KEEP_LIMIT if held.backup else CONFIRM_LIMIT
        try:
            async with asyncio.timeout(seconds(limit)):
                await held.session.rows(_SETTLE, [_milliseconds(limit)])
                now = await identify(held.session)
                _compare(held, now.started == held.server.identity.started and now.pid == held.server.identity.pid)
                if held.server.identity.is_standby and not now.is_standby:
                    raise HoldLost("the standby was promoted in the hold")
                if held.marker:
                    with suppress(AdapterError):  # the hold was in force, whatever it can write now
                        await _mark_thaw(held)
                if held.backup is not None:
                    stopped = await backups.stop(held.session, held.server)
                    await backups.keep(held.session, held.server, held.backup, stopped)
        except AdapterError as error:
            raise HoldLost(f"the session of the hold cannot answer for it: {error}") from None
        except TimeoutError:
            raise HoldLost(f"PostgreSQL did not answer for the hold within {format_duration(limit)}") from None
        except (OSError, ValueError) as error:
            raise HoldLost(f"the WAL of the backup could not be kept, so its label was not: {error}") from None

    async def release(self, held: Held, freeze: Freeze) -> None:
        """See `base.Adapter.release`. The session is closed without a question, whatever the reason: the server then
        aborts a backup that was not stopped, and drops its slot.
        """
        await held.session.end()


@asynccontextmanager
async def quiesce(
    dsn: str,
    *,
    budget: timedelta = timedelta(seconds=30),
    hold_limit: timedelta = timedelta(seconds=60),
    settings: Settings | None = None,
) -> AsyncIterator[Mapping[str, str]]:
    """Hold a server for the length of a block, with neither broker nor agent; gives the evidence.

    Between the freeze of a file system and its thaw call no database in the block: it would wait for the thaw.

    Args:
        dsn: where the server is, as libpq takes it.
        budget: the time for the checkpoint, and again for the hold.
        hold_limit: the length of the block; some seconds later the server ends the hold by itself (14 and later).
        settings: what else is to be said; the DSN in it does not count.

    Raises:
        AdapterError: the server is not held.
        HoldLost: at the end of the block: it was not held all the time.
    """
    adapter = Adapter(replace(settings or Settings(), dsn=dsn))
    cycle, requester = secrets.token_hex(8), "quiesce"
    await adapter.prepare(Prepare(cycle, requester, budget))
    async with adapter.quiesce(Freeze(cycle, requester, budget, hold_limit)) as evidence:
        yield evidence


def choose(settings: Settings, server: Server) -> Recipe:
    """The recipe that a freeze takes."""
    if settings.recipe is not Recipe.AUTOMATIC:
        return settings.recipe
    has_several = server.place is not None and len(server.place.file_systems()) > 1
    return Recipe.BACKUP if has_several and settings.backup_directory != NO_DIRECTORY else Recipe.ATOMIC


async def _checkpoint(session: Session, server: Server) -> None:
    try:
        await session.rows("CHECKPOINT")
    except PrivilegeMissing:
        missing = findings.checkpoint_missing(server)
        raise PrivilegeMissing(missing.sentence, missing.hint) from None


async def _mark_thaw(held: Held) -> None:
    if held.session.version < 140000 and held.restore_point:  # pg_waldump of 13 shows no text but a restore point's
        await held.session.rows("SELECT pg_create_restore_point(%s)", [f"thaw-{held.marker}"[:63]])
    await held.session.rows(_THAW_MARKER, [held.marker])  # last: its commit brings both to the disk


def _compare(held: Held, is_the_same: bool) -> None:
    if not is_the_same:
        raise HoldLost("the session of the hold is not the one that took it: the server was started again")


def _tablespaces(server: Server) -> str:
    """`oid=path`, parted by semicolons, as many as fit; the links in the copy have them all."""
    text = ""
    for oid, path in server.place.tablespaces.items() if server.place else ():
        entry = f"{oid}={path}"
        if len(text) + len(entry) + 1 > _VALUE:
            break
        text = f"{text};{entry}" if text else entry
    return text


def _milliseconds(length: timedelta) -> str:
    """For a setting of the server; never zero, which would mean no limit."""
    return str(max(1, round(min(length, _LONGEST) / timedelta(milliseconds=1))))


def _margin(budget: timedelta) -> timedelta:
    """How much sooner than its caller the adapter gives up, so that its own reason is heard."""
    return min(timedelta(milliseconds=100), budget / 20)
