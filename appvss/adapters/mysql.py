"""MySQL 8.0 and later: held by its instance lock, and by its read lock only where that is needed and safe.

    async with mysql.quiesce(socket="/run/mysqld/mysqld.sock", user="appvss") as position:
        take_snapshot()

Two recipes (facts/database-quiesce.md section 5.2):

* `instance-lock`, if every table is InnoDB's and a commit writes the redo log: LOCK INSTANCE FOR BACKUP, which stops
  DDL, and FLUSH LOCAL ENGINE LOGS. Writes go on until the file-system freeze; none that was acknowledged is lost by it.
* `read-lock`, else: after that FLUSH LOCAL TABLES WITH READ LOCK, which stops every write, and FLUSH LOCAL ENGINE LOGS,
  without which 593 acknowledged commits were missing.

The read lock is dangerous: behind one long SELECT it waits, and everybody else on that table, readers too, waits behind
*it*, even after it has given up. So it is refused while a statement is old or a transaction is waited for; then it gets
1 to 3 seconds, and three tries.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final

from appvss import Freeze
from appvss.adapters.base import AutoRelease, Finding, Properties, Severity
from appvss.adapters.errors import HoldRefused, PrivilegeMissing
from appvss.adapters.mysql_findings import binlog_findings, missing_privileges, table_findings
from appvss.adapters.mysql_hold import Held, ServerAdapter, ServerSettings, until_unlocked
from appvss.adapters.mysql_server import SETTINGS_READ, Server, long_statements, tables_by_engine
from appvss.adapters.mysql_session import LOCK_WAIT_TIMEOUT, Session, StatementFailed
from appvss.adapters.settings import NO_SECRET, Secret, setting

_READ_LOCK_WAIT: Final = timedelta(seconds=3)
_TRIES: Final = 3
_LONGEST_LOCK_WAIT_OF_OTHERS: Final = timedelta(seconds=1)
_LOG_STATUS: Final = "performance_schema.log_status"
_LOCKS: Final = "performance_schema.metadata_locks"
_LOG_STATUS_NEEDS: Final = f"SELECT ON {_LOG_STATUS}"
_NO_PERFORMANCE_SCHEMA: Final = 1683
INSTANCE_LOCK: Final = "instance-lock"
READ_LOCK: Final = "read-lock"


class Recipe(StrEnum):
    """Which recipe a hold takes."""

    AUTO = "auto"
    """`instance-lock` if every table is InnoDB's and a commit writes the redo log, else `read-lock`."""
    READ_LOCK = READ_LOCK
    """Always."""


@dataclass(frozen=True, slots=True)
class Settings(ServerSettings):
    """What the agent's configuration says about a MySQL server."""

    recipe: Recipe = setting(
        Recipe.AUTO,
        "`auto`: the read lock only where a table is not InnoDB's, or innodb_flush_log_at_trx_commit is 0. "
        "`read-lock`: always.",
    )
    oldest_statement: timedelta = setting(
        timedelta(seconds=5), "The read lock is refused while a statement of somebody else runs for this long."
    )


class Adapter(ServerAdapter):
    """A MySQL server."""

    engine = "mysql"
    properties: ClassVar[Properties] = Properties(
        auto_release=AutoRelease.SESSION,
        holds_writes=False,  # Not by the instance lock; the read lock does.
        blocks_reads_while_frozen=False,
        max_safe_freeze=timedelta(minutes=5),  # InnoDB ends itself after ten of a blocked latch (section 5.3).
        privileges=(
            "BACKUP_ADMIN ON *.*",
            "RELOAD ON *.*",
            _LOG_STATUS_NEEDS,
            f"SELECT ON {_LOCKS}",
            "PROCESS ON *.*",
            "SHOW VIEW ON *.*",
            "CREATE, INSERT, DELETE ON appvss.*",
        ),
        settings_read=SETTINGS_READ,
    )
    product = "MySQL"
    least_version = (8, 0)
    other = "mariadb"
    long_statement_consequence = "a hold that needs the read lock is refused until they have ended"
    settings: Settings

    def _recipe(self, session: Session, server: Server) -> str:
        """The recipe that is right now. Tables that cannot be seen may be anything."""
        if self.settings.recipe == Recipe.READ_LOCK or server.flush_at_commit == 0 or not server.sees_all_tables():
            return READ_LOCK
        return READ_LOCK if set(tables_by_engine(session)) - {"InnoDB", "none"} else INSTANCE_LOCK

    def _lock(self, session: Session, server: Server, freeze: Freeze) -> Held:
        until_unlocked(session, freeze, lambda: session.query("LOCK INSTANCE FOR BACKUP", needs="BACKUP_ADMIN ON *.*"))
        recipe = self._recipe(session, server)  # Not before: the lock waits for DDL, which may leave such a table.
        if recipe == READ_LOCK:
            wait = min(max(freeze.budget_left() / _TRIES, timedelta(seconds=1)), _READ_LOCK_WAIT)
            session.query(f"SET SESSION lock_wait_timeout = {int(wait.total_seconds())}")
            marker = until_unlocked(session, freeze, lambda: self._read_lock(session, server, freeze), tries=_TRIES)
        else:
            marker = self._mark(session, server, freeze.cycle)
        redo = _position(session, server)[3]  # Before the flush: what InnoDB writes later need not be on the disk.
        session.query("FLUSH LOCAL ENGINE LOGS", needs="RELOAD ON *.*", within=freeze.budget_left())
        file, offset, gtid, _ = _position(session, server)
        held = Held(session, server, freeze.cycle, recipe, marker, file, offset, gtid, redo)
        if recipe == INSTANCE_LOCK:
            held.extra["holds_writes"] = "no"
        return held

    def _read_lock(self, session: Session, server: Server, freeze: Freeze) -> str:
        """One try, refused if it would make others wait for long."""
        freeze.check()
        if reason := self._why_no_read_lock(session):
            raise HoldRefused(
                f"{reason}: a read lock behind that would stop every reader, too",
                "Try again when it has ended, or end it with KILL QUERY. With InnoDB alone no such lock is needed.",
            )
        marker = self._mark(session, server, freeze.cycle)
        try:
            session.query("FLUSH LOCAL TABLES WITH READ LOCK", needs="RELOAD ON *.*")
        except StatementFailed as failure:
            if failure.code == LOCK_WAIT_TIMEOUT:
                with suppress(StatementFailed):
                    session.query("UNLOCK TABLES")
            raise
        return marker

    def _why_no_read_lock(self, session: Session) -> str:
        """What a read lock would have to wait for; empty: nothing that is seen."""
        old = long_statements(session, int(self.settings.oldest_statement.total_seconds()))
        if old:
            number, user, _, age = old[0]
            return f"a statement of {user!r} in connection {number} has been running for {age} s"
        try:
            ((waiting,),) = session.query(
                "SELECT COUNT(*) FROM information_schema.innodb_trx"
                " WHERE trx_state = 'LOCK WAIT' AND trx_wait_started <= NOW() - INTERVAL %s SECOND",
                (int(_LONGEST_LOCK_WAIT_OF_OTHERS.total_seconds()),),
            )
        except StatementFailed as failure:
            if failure.code != 1227:
                raise
            raise PrivilegeMissing(
                f"{session.account} may not see the statements of others, and without that no read lock is safe",
                f"Run as root: GRANT PROCESS ON *.* TO {session.account};",
            ) from None
        return f"{waiting} transaction(s) wait for a row that an open transaction has locked" if waiting else ""

    def _still_locked(self, held: Held) -> str:
        session = held.session
        if held.server.may("SELECT", _LOCKS) and (locks := _locks(session)) is not None:
            wanted = {"BACKUP LOCK"} | ({"GLOBAL", "COMMIT"} if held.recipe == READ_LOCK else set())
            if missing := wanted - locks:
                return f"the session does not have its lock any more: {', '.join(sorted(missing))}"
        if held.recipe == READ_LOCK:
            now = _position(session, held.server)[:3]
            if now != (held.binlog_file, held.binlog_offset, held.gtid):
                return f"the server went on in the hold: from byte {held.binlog_offset} to {now[1]} of its binary log"
        return ""

    def _unlock(self, session: Session) -> None:
        session.query("UNLOCK TABLES")
        session.query("UNLOCK INSTANCE")

    def _flush_end(self, session: Session, server: Server) -> None:
        if server.flush_at_commit != 1:
            session.query("FLUSH LOCAL ENGINE LOGS", needs="RELOAD ON *.*")

    def _findings(self, session: Session, server: Server) -> tuple[list[Finding], str]:
        account = session.account
        needed = [
            ("BACKUP_ADMIN", "*.*", "no hold without it"),
            ("RELOAD", "*.*", "no hold without it"),
        ]
        findings = missing_privileges(server, account, needed)
        if not server.may("REPLICATION CLIENT"):
            findings += missing_privileges(server, account, [("SELECT", _LOG_STATUS, "no position can be read")])
        findings += missing_privileges(
            server,
            account,
            [("SELECT", _LOCKS, "that the lock was kept is proven by the session alone")],
            severity=Severity.WARNING,
        )
        if server.may("SELECT", _LOCKS) and _locks(session) is None:
            findings.append(
                Finding(
                    Severity.WARNING,
                    "locks_unseen",
                    "the server does not list its locks: that the lock was kept is proven by the session alone",
                    "Leave performance_schema and its instrument wait/lock/metadata/sql/mdl on, as is the default.",
                )
            )
        recipe = self._recipe(session, server)
        if recipe == READ_LOCK and server.may("PROCESS") and (reason := self._why_no_read_lock(session)):
            hint = "Snapshot when it has ended, or end it with KILL QUERY."
            findings.append(
                Finding(Severity.PROBLEM, "read_lock_unsafe", f"{reason}: the read lock would be refused", hint)
            )
        if recipe == READ_LOCK and not server.may("PROCESS"):
            findings += missing_privileges(server, account, [("PROCESS", "*.*", "without it no read lock is safe")])
        if server.flush_at_commit != 1:
            sentence = (
                f"innodb_flush_log_at_trx_commit is {server.flush_at_commit}: without a hold commits may be missing"
            )
            hint = "Set it to 1 to lose nothing without a hold, too."
            findings.append(Finding(Severity.WARNING, "flush_at_commit", sentence, hint))
        findings += binlog_findings(server)
        findings += table_findings(session, server, tables_by_engine(session), "the hold takes the read lock for them")
        return findings, recipe

    def _tablespaces(self, session: Session) -> list[str]:
        rows = session.query("SELECT file_name FROM information_schema.files WHERE file_type <> 'TEMPORARY'")
        return [str(row[0]) for row in rows]


@asynccontextmanager
async def quiesce(
    *,
    socket: str = "/run/mysqld/mysqld.sock",
    host: str = "",
    port: int = 3306,
    user: str = "appvss",
    password: str = "",
    marker_table: str = "appvss.marker",
    recipe: Recipe = Recipe.AUTO,
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Hold a MySQL server, without any broker. With `instance-lock` the snapshot must be taken in a file-system freeze.

    Args:
        socket: the server's Unix socket; not used if `host` is given.
        host: for a connection over TCP.
        port: with `host`.
        user: the account (docs/engines/mysql.md has its GRANTs).
        password: its password; empty: the socket's peer is enough.
        marker_table: as in `Settings`.
        recipe: as in `Settings`.
        hold_limit: the server ends the hold by itself some seconds later.
        budget: the time to get quiet.

    Yields the evidence: position, marker, and what `appvss verify` needs.

    Raises:
        AdapterError: it cannot be held; nothing is.
        HoldLost: while leaving, if the hold was not in force all the time: throw the snapshot away.
    """
    secret = Secret(lambda: password, "an argument") if password else NO_SECRET
    adapter = Adapter(Settings(Path(socket), host, port, user, secret, marker_table=marker_table, recipe=recipe))
    freeze = Freeze(f"by-hand-{secrets.token_hex(8)}", "a program", budget=budget, hold_limit=hold_limit)
    async with adapter.quiesce(freeze) as evidence:
        yield evidence


def _locks(session: Session) -> set[str] | None:
    """The kinds of locks that a session has by statements of its own; None: the server does not list any."""
    question = (
        f"SELECT object_type, lock_status, lock_duration FROM {_LOCKS} WHERE owner_thread_id = PS_CURRENT_THREAD_ID()"  # noqa: S608 - a constant
    )
    try:
        rows = session.query(question)
    except StatementFailed as failure:
        if failure.code != _NO_PERFORMANCE_SCHEMA:
            raise
        return None
    if not rows:  # Where locks are listed, the one of this very question is.
        return None
    return {str(kind) for kind, status, duration in rows if (status, duration) == ("GRANTED", "EXPLICIT")}


def _position(session: Session, server: Server) -> tuple[str, int, str, int]:
    """File, offset, GTIDs and redo LSN, at one instant if the account may read `log_status`."""
    if server.may("SELECT", _LOG_STATUS):
        question = f"SELECT LOCAL, STORAGE_ENGINES FROM {_LOG_STATUS}"  # noqa: S608 - a constant
        ((local, engines),) = session.query(question, needs=_LOG_STATUS_NEEDS)
        status, lsn = json.loads(local), int(json.loads(engines).get("InnoDB", {}).get("LSN", 0))
        file, offset = status.get("binary_log_file", ""), status.get("binary_log_position", 0)
        gtid = status["gtid_executed"]
    else:
        statement = "SHOW BINARY LOG STATUS" if server.number >= (8, 2) else "SHOW MASTER STATUS"
        rows = session.query(statement, needs=_LOG_STATUS_NEEDS)
        file, offset, gtid = (rows[0][0], rows[0][1], rows[0][4]) if rows else ("", 0, "")
        lsn = 0
    return str(server.binlog_path(file)) if file else "", int(offset), "".join(str(gtid).split()), lsn
