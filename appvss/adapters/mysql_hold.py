"""What the adapters of MariaDB and MySQL have in common: the frame of a hold, its marker and its evidence.

The frame: connect, find out who answers, arm the dead-man timer (`wait_timeout` of the session: the server itself ends
a hold whose adapter hangs), leave the marker, lock, read the position. Then silence. After the thaw the same session
must still have the lock, at the same position. What differs, the statements, is in `mariadb.py` and `mysql.py`.

The marker is a row that is committed right before the lock, on the same connection: the last redo of this session. A
position alone is no proof, since the binary log may be ahead of the tables (facts/database-quiesce.md section 3). As
soon as writers have been let go it is written anew, as `CYCLE is over`: by that, and where there is no binary log by
that alone, a copy of a later moment is told from that of the hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import re
import shlex
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from appvss import Freeze, HoldLost, Prepare
from appvss.adapters.base import Adapter, Finding, Preflight, Severity
from appvss.adapters.errors import AdapterError, HoldRefused, SettingInvalid
from appvss.adapters.mysql_findings import lacking_for_marker, marker_findings, problem, statement_findings
from appvss.adapters.mysql_server import SETTINGS_READ, Server, look, misfit, volumes_of
from appvss.adapters.mysql_session import ANSWER_LIMIT, LOCK_WAIT_TIMEOUT, Address, Session
from appvss.adapters.settings import NO_SECRET, Secret, setting
from appvss.model.names import printable

DEAD_MAN_MARGIN: Final = timedelta(seconds=5)
"""How long after the hold limit the server ends the session by itself."""
LONGEST_LOCK_WAIT: Final = timedelta(seconds=5)
"""How long one try may wait for a lock. All that wait behind it wait as long."""
OVER_LIMIT: Final = timedelta(seconds=3)
"""How long it may take to write, after the thaw, that the hold is over: the broker waits 5 s for the confirmation."""
EVIDENCE_LIMIT: Final = 256
"""Characters of one value of the evidence (docs/sdk.md)."""
_NOTHING: Final = timedelta(0)
_TABLE: Final = re.compile(r"[A-Za-z0-9_$]{1,64}\.[A-Za-z0-9_$]{1,64}")
_START_OPTIONS: Final = {
    "innodb_page_size": "16384",
    "innodb_data_file_path": "ibdata1:12M:autoextend",
    "lower_case_table_names": "0",
    "aria_log_dir_path": "",  # also the data directory, as it says itself
}
"""Variables that a copy must be started with, unless they have these values."""

_OVER_LOCK_WAIT: Final = 1
"""Whole seconds, and less MySQL does not know."""

_logger = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the server is, and who logs in there."""

    socket: Path = setting(Path("/run/mysqld/mysqld.sock"), "The server's Unix socket. Not used if `host` is set.")
    host: str = setting("", "The server's host, for a connection over TCP. The server must be on this machine.")
    port: int = setting(3306, "The server's TCP port.")
    user: str = setting("appvss", "The account of the database.")
    password: Secret = setting(
        NO_SECRET, "The account's password, by reference. Not given: the socket's peer is enough."
    )
    tls_ca: Path = setting(
        Path(),
        "With `host`: the file of the certificates that must have signed the server's. Not given: TLS, unproven.",
        example=Path("/etc/mysql/ca.pem"),
    )
    marker_table: str = setting(
        "appvss.marker",
        "A table, as `schema.table`, for one row with the id of the last cycle: the proof that a copy was taken in it. "
        "It is made when it is not there. Empty: no marker.",
    )

    def __post_init__(self) -> None:
        if self.marker_table and not _TABLE.fullmatch(self.marker_table):
            raise SettingInvalid(
                f"marker_table is {self.marker_table!r}", "Write schema and table with a dot between: appvss.marker."
            )


@dataclass(slots=True)
class Held:
    """A hold of a server."""

    session: Session
    server: Server
    cycle: str
    recipe: str
    marker: str
    """The cycle's id, if its row was committed."""
    binlog_file: str
    """Its whole path; empty: there is no binary log, or the account may not ask for it."""
    binlog_offset: int
    gtid: str
    redo_lsn: int
    """Up to where InnoDB's redo log was on its way to the disk when the lock was there; 0: nobody knows."""
    has_thawed: bool = False
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def position(self) -> str:
        """The GTIDs, or else file and offset of the binary log."""
        if self.gtid:
            return short(self.gtid)
        return f"{Path(self.binlog_file).name}:{self.binlog_offset}" if self.binlog_file else ""


def short(text: str) -> str:
    """A text that fits into evidence: itself, or, if it is too long for that, its digest."""
    text = "".join(text.split())
    return text if len(text) <= EVIDENCE_LIMIT else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class ServerAdapter(Adapter[Held]):
    """The frame. In `_lock`, `_still_locked`, `_unlock` and `_findings` a subclass has its engine's statements."""

    product: ClassVar[str]
    least_version: ClassVar[tuple[int, int]]
    other: ClassVar[str]
    """The adapter of the product that this one is taken for by mistake."""
    long_statement_consequence: ClassVar[str]

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings

    # What differs.

    @abstractmethod
    def _lock(self, session: Session, server: Server, freeze: Freeze) -> Held:
        """Leave the marker, lock, read the position. In the session's thread."""

    @abstractmethod
    def _still_locked(self, held: Held) -> str:
        """Why the lock is not in force any more; empty: it is. In the session's thread."""

    @abstractmethod
    def _unlock(self, session: Session) -> None:
        """Let go, as the engine wants it. In the session's thread."""

    def _flush_end(self, session: Session, server: Server) -> None:
        """Bring to the disk what was just committed, where a commit alone does not and it costs little; by default it
        is left to the server. In the session's thread.
        """

    @abstractmethod
    def _findings(self, session: Session, server: Server) -> tuple[list[Finding], str]:
        """What of this engine's own a pre-flight finds, and the recipe. In the session's thread."""

    @abstractmethod
    def _tablespaces(self, session: Session) -> list[str]:
        """Paths of InnoDB's files, as the server gives them."""

    # The contract.

    async def preflight(self) -> Preflight:
        """See `Adapter.preflight`."""
        session = self._session()
        try:
            return await session.run(self._inspect, session)
        except AdapterError as error:
            return Preflight((problem(error),))
        finally:
            await session.close()

    async def prepare(self, prepare: Prepare) -> None:
        """See `Adapter.prepare`."""
        session = self._session()
        try:
            await session.run(self._make_ready, session, prepare)
        finally:
            await session.close()

    async def hold(self, freeze: Freeze) -> Held:
        """See `Adapter.hold`."""
        session = self._session()
        try:
            async with timeout_of(freeze.budget_left()):
                return await session.run(self._take, session, freeze)
        except TimeoutError:
            session.sever()
            raise HoldRefused(
                f"the server at {session.address} did not come to rest within {freeze.budget.total_seconds():g} s",
                "Give the app more time, or see with SHOW PROCESSLIST what the hold waits for.",
            ) from None
        except BaseException:
            session.sever()
            raise

    def evidence(self, held: Held) -> Mapping[str, str]:
        """See `Adapter.evidence`."""
        server = held.server
        variables = server.variables
        shown = [f"{name}={variables[name]}" for name in SETTINGS_READ if name in variables]
        home = variables.get("datadir", "")
        unusual = (name for name, usual in _START_OPTIONS.items() if variables.get(name, usual) not in {usual, home})
        options = [f"{name}={_resolved(variables[name])}" for name in unusual]
        given = {
            "engine": self.engine,
            "version": server.version,
            "recipe": held.recipe,
            "position": held.position,
            "marker": held.marker,
            "marker_table": self.settings.marker_table if held.marker else "",
            "data_directory": str(server.data_directory),
            "binlog_file": held.binlog_file,
            "binlog_offset": str(held.binlog_offset) if held.binlog_file else "",
            "redo_lsn": str(held.redo_lsn or ""),
            "settings": " ".join(shown),
            "start_options": shlex.join(options),
            **{
                word: os.path.realpath(server.data_directory / variables[name])
                for word, name in (
                    ("redo_directory", "innodb_log_group_home_dir"),
                    ("undo_directory", "innodb_undo_directory"),
                    ("innodb_directory", "innodb_data_home_dir"),
                )
                if variables.get(name) not in {None, "", "./"}
            },
            **held.extra,
        }
        needed = {"engine", "version", "recipe", "position", "marker", "data_directory"}
        return {name: printable(value, EVIDENCE_LIMIT) for name, value in given.items() if value or name in needed}

    async def confirm(self, held: Held) -> None:
        """See `Adapter.confirm`."""
        held.has_thawed = True
        try:
            async with timeout_of(3 * ANSWER_LIMIT):
                reason = await held.session.run(self._still_held, held)
        except TimeoutError:
            held.session.sever()
            reason = "the session that held the lock does not answer"
        except AdapterError as error:
            reason = f"the session that held the lock is gone: {error.sentence}"
        if reason:
            raise HoldLost(reason)

    async def release(self, held: Held, freeze: Freeze) -> None:
        """See `Adapter.release`."""
        if freeze.filesystem_freeze.is_set() and not held.has_thawed:
            held.session.sever()  # The file systems may be frozen: the server frees the lock when it sees the end.
            return
        try:
            async with timeout_of(ANSWER_LIMIT):
                await held.session.run(self._unlock, held.session)
        except (AdapterError, TimeoutError):
            held.session.sever()  # It is gone, and so is its lock, or it will be by this.
        if held.marker:
            await self._end_marker(held)
        await held.session.close()

    async def _end_marker(self, held: Held) -> None:
        """Write the marker anew, so that no copy of a later moment has the cycle's own. Nothing is held any more, and
        whether the hold was in force does not depend on it: it has little time, and what fails is only logged.
        """
        session = held.session
        if session.ended.is_set():  # The server may be there all the same.
            session = self._session()
        try:
            async with timeout_of(OVER_LIMIT):
                if session is not held.session:
                    await session.run(session.open)
                await session.run(self._mark_end, session, held)
        except (AdapterError, TimeoutError) as error:
            reason = error.sentence if isinstance(error, AdapterError) else f"no answer within {OVER_LIMIT}"
            _logger.warning(
                "%s: the marker of cycle %s stays, and a copy of a later moment may pass for that of its hold: %s",
                session.address,
                held.marker,
                reason,
            )
        finally:
            await session.close()

    # In the session's thread.

    def _session(self) -> Session:
        settings = self.settings
        return Session(
            Address(settings.socket, settings.host, settings.port, settings.user, settings.password, settings.tls_ca),
            self.engine,
        )

    def _enter(self, session: Session) -> Server:
        """Connect, and refuse a server that cannot be held."""
        session.open()
        server = look(session)
        if error := misfit(server, self.product, self.least_version, self.other):
            raise error
        return server

    def _inspect(self, session: Session) -> Preflight:
        server = self._enter(session)
        findings, recipe = self._findings(session, server)
        has_table = bool(self.settings.marker_table) and self._has_marker_table(session)
        findings += marker_findings(server, session.account, self.settings.marker_table, has_table=has_table)
        findings += statement_findings(session, server, self.long_statement_consequence)
        volumes, more = volumes_of(server, self._tablespaces(session) if server.may("PROCESS") else ())
        findings += more
        if not any(finding.severity is Severity.PROBLEM for finding in findings):
            findings.append(Finding(Severity.OK, "server", f"{server.product} {server.version} can be held"))
        settings = {name: server.variables[name] for name in SETTINGS_READ if name in server.variables}
        return Preflight(tuple(findings), f"{server.product} {server.version}", volumes, settings, recipe)

    def _make_ready(self, session: Session, prepare: Prepare) -> None:
        server = self._enter(session)
        if self._may_mark(session, server):
            self._make_marker_table(session)
        self._work_ahead(session, server, prepare)

    def _work_ahead(self, session: Session, server: Server, prepare: Prepare) -> None:
        """The slow work of an engine; by default there is none."""

    def _take(self, session: Session, freeze: Freeze) -> Held:
        server = self._enter(session)
        dead_man = math.ceil((freeze.hold_limit + DEAD_MAN_MARGIN).total_seconds())
        wait = lock_wait(freeze)
        session.query(
            f"SET SESSION wait_timeout = {dead_man}, SESSION lock_wait_timeout = {wait},"
            f" SESSION innodb_lock_wait_timeout = {wait}"  # for the marker's row
        )
        if self._may_mark(session, server):
            self._make_marker_table(session)
        return self._lock(session, server, freeze)

    def _still_held(self, held: Held) -> str:
        session = held.session
        ((connection_id,),) = session.query("SELECT CONNECTION_ID()")
        if connection_id != held.server.connection_id:
            return f"the lock was taken by connection {held.server.connection_id}; this is connection {connection_id}"
        return self._still_locked(held)

    # The marker.

    def _may_mark(self, session: Session, server: Server) -> bool:
        table = self.settings.marker_table
        if not table or server.is_read_only or lacking_for_marker(server, table, has_table=True):
            return False
        return not lacking_for_marker(server, table, has_table=False) or self._has_marker_table(session)

    def _has_marker_table(self, session: Session) -> bool:
        schema, _, table = self.settings.marker_table.partition(".")
        question = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
        return bool(session.query(question, (schema, table))[0][0])

    def _make_marker_table(self, session: Session) -> None:
        schema, _, table = self.settings.marker_table.partition(".")
        if self._has_marker_table(session):
            return
        needs = f"CREATE, INSERT, DELETE ON {schema}.*"
        session.query(f"CREATE DATABASE IF NOT EXISTS `{schema}`", needs=needs)
        session.query(
            f"CREATE TABLE IF NOT EXISTS `{schema}`.`{table}` (id INT PRIMARY KEY, cycle VARCHAR(255) NOT NULL,"
            " written_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB",
            needs=needs,
        )

    def _mark(self, session: Session, server: Server, cycle: str) -> str:
        """Commit the marker's row, and give what it proves: the cycle; empty if the account may not write it."""
        if not self._may_mark(session, server):
            return ""
        self._write_marker(session, cycle)
        return cycle

    def _write_marker(self, session: Session, text: str) -> None:
        schema, _, table = self.settings.marker_table.partition(".")
        session.query(
            f"REPLACE INTO `{schema}`.`{table}` (id, cycle, written_at) VALUES (1, %s, CURRENT_TIMESTAMP)",  # noqa: S608 - names that were checked
            (text,),
            needs=f"INSERT, DELETE ON {schema}.*",
        )

    def _mark_end(self, session: Session, held: Held) -> None:
        """Say in the marker's row that the hold is over; not on a server that has become a replica in the hold."""
        session.query(
            f"SET SESSION lock_wait_timeout = {_OVER_LOCK_WAIT}, SESSION innodb_lock_wait_timeout = {_OVER_LOCK_WAIT}"
        )
        ((read_only,),) = session.query("SELECT @@GLOBAL.read_only")
        if str(read_only) not in {"0", "OFF"}:
            return
        self._write_marker(session, f"{held.marker} is over")
        self._flush_end(session, held.server)


def _resolved(value: str) -> str:
    """The value of an option, with the links in its paths resolved."""
    return ";".join(os.path.realpath(part) if part.startswith("/") else part for part in value.split(";"))


def timeout_of(length: timedelta) -> asyncio.Timeout:
    """A block that is cancelled when the time is over, with TimeoutError."""
    return asyncio.timeout(length.total_seconds())


def lock_wait(freeze: Freeze) -> int:
    """Whole seconds that one try may wait for its lock, so that there is time for another."""
    return int(min(max(freeze.budget_left() / 3, timedelta(seconds=1)), LONGEST_LOCK_WAIT).total_seconds())


def until_unlocked(
    session: Session, freeze: Freeze, attempt: Callable[[], ResultT], *, tries: int | None = None
) -> ResultT:
    """Call `attempt` again, with growing pauses, while it fails because somebody else has the lock.

    Raises:
        StatementFailed: the last one's; or the session has ended.
    """
    stop = stop_after_delay(max(freeze.budget_left() - timedelta(seconds=lock_wait(freeze)), _NOTHING).total_seconds())
    retrying = Retrying(
        retry=retry_if_exception(lambda error: getattr(error, "code", 0) == LOCK_WAIT_TIMEOUT),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        stop=stop if tries is None else stop | stop_after_attempt(tries),
        sleep=lambda seconds: session.pause(timedelta(seconds=seconds)),
        reraise=True,
    )
    return retrying(attempt)
