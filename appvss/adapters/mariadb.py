"""MariaDB 10.6 and later: held by BACKUP STAGE, the sequence that MariaDB itself documents for storage snapshots.

    async with mariadb.quiesce(socket="/run/mysqld/mysqld.sock", user="appvss") as position:
        take_snapshot()

While it is held, reads go on; commits, changes of MyISAM and Aria tables, DDL and account statements wait. Its locks do
not dead-lock with open transactions as FLUSH TABLES WITH READ LOCK does (2 of 25 calls under plain load, 0 of 25 for
BACKUP STAGE; facts/database-quiesce.md section 5.1).

With `innodb_flush_log_at_trx_commit` = 0 the lock alone is worth nothing: 110 to 2260 acknowledged transactions were
missing in copies whose GTID matched to the byte, because the binary log is written at the commit and the redo log a
second later. So the adapter has the redo log flushed inside the hold, and waits until the server says that it was:
by `innodb_log_checkpoint_now` if the account has SUPER, else by waiting for the server's own timer. `FLUSH ENGINE LOGS`
does nothing for this in MariaDB.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Final

from appvss import Freeze, Prepare
from appvss.adapters.base import AutoRelease, Finding, Properties, Severity
from appvss.adapters.errors import ServerUnfit
from appvss.adapters.mysql_findings import binlog_findings, missing_privileges, table_findings
from appvss.adapters.mysql_hold import Held, ServerAdapter, ServerSettings, short, until_unlocked
from appvss.adapters.mysql_server import SETTINGS_READ, Server, tables_by_engine
from appvss.adapters.mysql_session import LOCK_WAIT_TIMEOUT, Session, StatementFailed
from appvss.adapters.settings import NO_SECRET, Secret

_WRONG_STAGE: Final = 4147
"""`BACKUP STAGE ...` is the same or before the current one: the session has it."""
_NO_STAGE: Final = 4146
"""The session is in no stage."""
_FLUSH_POLL: Final = timedelta(milliseconds=20)
_RELOAD: Final = "RELOAD ON *.*"


@dataclass(frozen=True, slots=True)
class Settings(ServerSettings):
    """What the agent's configuration says about a MariaDB server."""


class Adapter(ServerAdapter):
    """A MariaDB server."""

    engine = "mariadb"
    properties: ClassVar[Properties] = Properties(
        auto_release=AutoRelease.SESSION,
        holds_writes=True,
        blocks_reads_while_frozen=False,
        max_safe_freeze=timedelta(minutes=5),  # InnoDB ends itself after ten of a blocked latch (section 5.3).
        privileges=(
            "RELOAD ON *.*",
            "BINLOG MONITOR ON *.*",
            "PROCESS ON *.*",
            "SHOW VIEW ON *.*",
            "CREATE, INSERT, DELETE ON appvss.*",
            "SUPER ON *.* (only with innodb_flush_log_at_trx_commit=0)",
        ),
        settings_read=SETTINGS_READ,
    )
    product = "MariaDB"
    least_version = (10, 6)
    other = "mysql"
    long_statement_consequence = "BACKUP STAGE waits for those that change the schema or tables without a log"

    def _lock(self, session: Session, server: Server, freeze: Freeze) -> Held:
        flushes = server.flush_at_commit == 0
        if flushes:
            _refuse_unflushable(server, freeze.budget_left())
        marker = until_unlocked(session, freeze, lambda: self._stage(session, server, freeze))
        counters = session.status("Innodb_lsn_current", "Innodb_lsn_flushed")
        redo = counters.get("Innodb_lsn_flushed", 0)
        if flushes:
            redo = _flush_redo(session, server, counters.get("Innodb_lsn_current", 0), freeze)
        gtid = str(session.query("SELECT @@gtid_binlog_pos")[0][0] or "")
        replica = str(session.query("SELECT @@gtid_slave_pos")[0][0] or "")
        file, offset = _binlog_position(session, server)
        recipe = "backup-stage+redo-flush" if flushes else "backup-stage"
        held = Held(session, server, freeze.cycle, recipe, marker, file, offset, gtid, redo)
        if replica:
            held.extra["gtid_slave_pos"] = short(replica)
        return held

    def _stage(self, session: Session, server: Server, freeze: Freeze) -> str:
        """One try. The marker's row is committed before the first stage: in a stage the session may not write."""
        freeze.check()
        marker = self._mark(session, server, freeze.cycle)
        try:
            session.query("BACKUP STAGE START", needs=_RELOAD)
            session.query("BACKUP STAGE BLOCK_COMMIT", needs=_RELOAD)
        except StatementFailed as failure:
            if failure.code == LOCK_WAIT_TIMEOUT:  # Whoever waits behind it goes on, before the next try.
                with suppress(StatementFailed):
                    session.query("BACKUP STAGE END")
            raise
        return marker

    def _still_locked(self, held: Held) -> str:
        session = held.session
        try:
            session.query("BACKUP STAGE BLOCK_COMMIT")
        except StatementFailed as failure:
            if failure.code not in {_WRONG_STAGE, _NO_STAGE}:
                raise
            is_held = failure.code == _WRONG_STAGE
        else:
            is_held = False
        if not is_held:
            return "the backup stage was not in force any more"
        gtid = str(session.query("SELECT @@gtid_binlog_pos")[0][0] or "")
        if gtid != held.gtid:
            return f"the server went on in the hold: from GTID {held.gtid} to {gtid}"
        position = _binlog_position(session, held.server)
        if position != (held.binlog_file, held.binlog_offset):
            return f"the binary log went on in the hold: from byte {held.binlog_offset} to {position[1]}"
        return ""

    def _unlock(self, session: Session) -> None:
        session.query("BACKUP STAGE END")

    def _work_ahead(self, session: Session, server: Server, prepare: Prepare) -> None:
        if server.flush_at_commit == 0 and server.may("SUPER"):
            _checkpoint(session, prepare.budget_left())  # So that the one in the hold has little to write.

    def _findings(self, session: Session, server: Server) -> tuple[list[Finding], str]:
        account = session.account
        findings = missing_privileges(server, account, [("RELOAD", "*.*", "no hold without it")])
        findings += missing_privileges(
            server,
            account,
            [("BINLOG MONITOR", "*.*", "file and offset of the binary log are not recorded")],
            severity=Severity.WARNING,
        )
        recipe = "backup-stage"
        if server.flush_at_commit == 0:
            recipe = "backup-stage+redo-flush"
            findings.append(_flush_finding(server, account))
        elif server.flush_at_commit == 2:
            findings.append(
                Finding(
                    Severity.WARNING,
                    "flush_at_commit",
                    "innodb_flush_log_at_trx_commit is 2: only a copy taken in a file-system freeze has every commit",
                    "Have the file systems frozen for the snapshot, or set it to 1.",
                )
            )
        findings += binlog_findings(server)
        findings += table_findings(
            session, server, tables_by_engine(session), "the hold closes them; a freeze alone does not"
        )
        return findings, recipe

    def _tablespaces(self, session: Session) -> list[str]:
        rows = session.query("SELECT filename FROM information_schema.innodb_sys_tablespaces")
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
    hold_limit: timedelta = timedelta(seconds=60),
    budget: timedelta = timedelta(seconds=30),
) -> AsyncIterator[Mapping[str, str]]:
    """Hold a MariaDB server, without any broker: what is snapshotted inside the block has every acknowledged commit.

    Args:
        socket: the server's Unix socket; not used if `host` is given.
        host: for a connection over TCP.
        port: with `host`.
        user: the account (docs/engines/mariadb.md has its GRANTs).
        password: its password; empty: the socket's peer is enough.
        marker_table: as in `Settings`.
        hold_limit: the server ends the hold by itself some seconds later.
        budget: the time to get quiet.

    Yields the evidence: position, marker, and what `appvss verify` needs.

    Raises:
        AdapterError: it cannot be held; nothing is.
        HoldLost: while leaving, if the hold was not in force all the time: throw the snapshot away.
    """
    secret = Secret(lambda: password, "an argument") if password else NO_SECRET
    adapter = Adapter(Settings(Path(socket), host, port, user, secret, marker_table=marker_table))
    freeze = Freeze(f"by-hand-{secrets.token_hex(8)}", "a program", budget=budget, hold_limit=hold_limit)
    async with adapter.quiesce(freeze) as evidence:
        yield evidence


def _binlog_position(session: Session, server: Server) -> tuple[str, int]:
    """The binary log's last file, with its folder, and its size; empty if there is none or it may not be asked for."""
    if not (server.has_binlog and server.may("BINLOG MONITOR")):
        return "", 0
    rows = session.query("SHOW MASTER STATUS", needs="BINLOG MONITOR ON *.*")
    if not rows:
        return "", 0
    return str(server.binlog_path(str(rows[0][0]))), int(rows[0][1])


def _wait_for_timer(server: Server) -> timedelta:
    """How long the server's own timer may leave the redo log unflushed, with a margin (1.3 s did at 1 s: section 3)."""
    return timedelta(seconds=1.5 * float(server.variables.get("innodb_flush_log_at_timeout", "1")) + 0.5)


def _refuse_unflushable(server: Server, budget: timedelta) -> None:
    wait = _wait_for_timer(server)
    if server.may("SUPER") or wait <= budget / 2:
        return
    raise ServerUnfit(
        "innodb_flush_log_at_trx_commit is 0, and the server flushes the redo log only every"
        f" {server.variables.get('innodb_flush_log_at_timeout')} s: acknowledged commits would be missing",
        "Set innodb_flush_log_at_trx_commit to 1, or GRANT SUPER ON *.* to the account, so that it can flush the log.",
    )


def _flush_finding(server: Server, account: str) -> Finding:
    sentence = "innodb_flush_log_at_trx_commit is 0: "
    if server.may("SUPER"):
        sentence += "the hold makes a checkpoint, while commits wait"
        return Finding(
            Severity.WARNING, "flush_at_commit", sentence, "Set it to 1 to lose nothing without a hold, too."
        )
    wait = _wait_for_timer(server)
    sentence += f"the hold waits up to {wait.total_seconds():g} s for the server's own timer, while commits wait"
    hint = f"Set it to 1, or run as root: GRANT SUPER ON *.* TO {account};"
    long = wait > timedelta(seconds=10)
    return Finding(Severity.PROBLEM if long else Severity.WARNING, "flush_at_commit", sentence, hint)


def _checkpoint(session: Session, limit: timedelta) -> bool:
    """Write back every dirty page, and the redo log with it. False: this server has no such command."""
    try:
        session.query("SET GLOBAL innodb_log_checkpoint_now = 1", needs="SUPER ON *.*", within=limit)
    except StatementFailed as failure:
        if failure.code != 1193:  # Unknown variable.
            raise
        return False
    return True


def _flush_redo(session: Session, server: Server, wanted: int, freeze: Freeze) -> int:
    """Have InnoDB flush its redo log up to `wanted`, and give up to where it did.

    Raises:
        ServerUnfit: it did not.
    """
    if server.may("SUPER"):
        _checkpoint(session, freeze.budget_left())
    wait = min(_wait_for_timer(server), freeze.budget_left())
    waited = timedelta(0)
    while (flushed := session.status("Innodb_lsn_flushed").get("Innodb_lsn_flushed", 0)) < wanted or not wanted:
        if waited >= wait:
            raise ServerUnfit(
                f"innodb_flush_log_at_trx_commit is 0, and the redo log was flushed to {flushed}, not to {wanted}",
                "Set innodb_flush_log_at_trx_commit to 1, or GRANT SUPER ON *.* to the account.",
            )
        session.pause(_FLUSH_POLL)
        waited += _FLUSH_POLL
    return flushed
