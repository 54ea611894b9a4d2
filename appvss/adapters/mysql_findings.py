"""What the pre-flights of MariaDB and MySQL look at alike. No finding has the text of a statement: it may be secret."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from appvss.adapters.base import Finding, Severity
from appvss.adapters.errors import AdapterError
from appvss.adapters.mysql_server import Server, long_statements
from appvss.adapters.mysql_session import Session

LONG_STATEMENT: Final = timedelta(seconds=10)
"""From which age on a pre-flight mentions a statement."""


def problem(error: AdapterError) -> Finding:
    """An error as a finding of the same name, with underscores."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", error.name).lower()
    return Finding(Severity.PROBLEM, name, error.sentence, error.hint)


def missing_privileges(
    server: Server, account: str, needed: Iterable[tuple[str, str, str]], *, severity: Severity = Severity.PROBLEM
) -> list[Finding]:
    """Privileges that an account does not have.

    Args:
        server: as it was found.
        account: whom the GRANTs are for.
        needed: privilege, where (`*.*` or a table), and what it is needed for, each.
        severity: what it means when one is missing.
    """
    return [
        Finding(
            severity,
            "missing_privilege",
            f"{account} has no {privilege} on {where}: {purpose}",
            f"Run as root: GRANT {privilege} ON {where} TO {account};",
        )
        for privilege, where, purpose in needed
        if not server.may(privilege, where)
    ]


def lacking_for_marker(server: Server, table: str, *, has_table: bool) -> list[str]:
    """What an account would need to write the marker and does not have; the table is made where there is none."""
    lacking = [name for name in ("INSERT", "DELETE") if not server.may(name, table)]
    if not has_table and not server.may("CREATE", f"{table.partition('.')[0]}.*"):  # The schema is made, too.
        lacking.insert(0, "CREATE")
    return lacking


def marker_findings(server: Server, account: str, table: str, *, has_table: bool) -> list[Finding]:
    """Whether the marker can be written."""
    if not table:
        hint = "Set marker_table, or do without a proof that a copy was taken in a hold."
        return [Finding(Severity.WARNING, "marker_off", "no marker is left: marker_table is empty", hint)]
    if server.is_read_only:
        sentence = "the server is read-only, as a replica is: no marker can be left, and `appvss verify` proves nothing"
        hint = "Let the primary take part too, or do without the proof; the position is recorded all the same."
        return [Finding(Severity.WARNING, "read_only", sentence, hint)]
    lacking = lacking_for_marker(server, table, has_table=has_table)
    if not lacking:
        return []
    schema = table.partition(".")[0]
    return [
        Finding(
            Severity.WARNING,
            "marker_forbidden",
            f"{account} may not write {table}: no marker is left, and `appvss verify` proves nothing",
            f"Run as root: GRANT {', '.join(lacking)} ON {schema}.* TO {account};",
        )
    ]


def statement_findings(session: Session, server: Server, consequence: str) -> list[Finding]:
    """Statements that run for long, as far as the account sees those of others. In the session's thread.

    Args:
        session: with the server.
        server: as it was found.
        consequence: what they do to a hold of this engine.
    """
    if not server.may("PROCESS"):
        return [
            Finding(
                Severity.WARNING,
                "missing_privilege",
                f"{session.account} has no PROCESS on *.*: long statements and tablespaces of others are not seen",
                f"Run as root: GRANT PROCESS ON *.* TO {session.account};",
            )
        ]
    found = long_statements(session, int(LONG_STATEMENT.total_seconds()))
    if not found:
        return []
    number, user, _, age = found[0]
    return [
        Finding(
            Severity.WARNING,
            "long_statements",
            f"{len(found)} statement(s) run for {LONG_STATEMENT.total_seconds():g} s or longer, the longest, of"
            f" {user!r} in connection {number}, for {age} s: {consequence}",
            "Snapshot at another time, or end them with KILL QUERY.",
        )
    ]


def binlog_findings(server: Server) -> list[Finding]:
    """What the settings of the binary log mean for a copy."""
    if not server.has_binlog:
        return [
            Finding(
                Severity.WARNING,
                "no_binlog",
                "log_bin is off: there is no position for a restore to a point in time or for a replica",
                "Set log_bin in the server's configuration and restart it.",
            )
        ]
    if server.variables.get("sync_binlog") != "1":
        return [
            Finding(
                Severity.WARNING,
                "sync_binlog",
                f"sync_binlog is {server.variables.get('sync_binlog')}: a copy taken without a file-system freeze, or a"
                " power cut, may lose the end of the binary log",
                "Have the file systems frozen for the snapshot, or set sync_binlog to 1.",
            )
        ]
    return []


def table_findings(session: Session, server: Server, counts: dict[str, int], meaning: str) -> list[Finding]:
    """Tables that InnoDB does not keep.

    Args:
        session: with the server.
        server: as it was found.
        counts: tables per engine, as far as they are visible.
        meaning: what the hold does about them.
    """
    findings = []
    if not server.sees_all_tables():
        findings.append(
            Finding(
                Severity.WARNING,
                "tables_unseen",
                f"{session.account} sees only its own tables: those without a log cannot be counted",
                f"Run as root: GRANT SHOW VIEW ON *.* TO {session.account};",
            )
        )
    others = {name: count for name, count in sorted(counts.items()) if name not in {"InnoDB", "MEMORY", "none"}}
    if others:
        listed = ", ".join(f"{count} of {name}" for name, count in others.items())
        findings.append(
            Finding(
                Severity.WARNING,
                "tables_without_log",
                f"there are tables that InnoDB does not keep ({listed}): {meaning}",
                "ALTER TABLE ... ENGINE=InnoDB makes a table survive also without a hold.",
            )
        )
    if memory := counts.get("MEMORY", 0):
        findings.append(
            Finding(
                Severity.WARNING,
                "memory_tables",
                f"{memory} table(s) of MEMORY are empty in every copy",
                "Do not keep in them what must survive.",
            )
        )
    return findings
