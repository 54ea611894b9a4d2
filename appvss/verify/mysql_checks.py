"""What the verifiers of MariaDB and MySQL look at, in the order in which it is worth something."""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pymysql

from appvss.model.grade import Grade
from appvss.verify.base import Copy, Finding, Report
from appvss.verify.mysql_server import (
    BINLOG_MAGIC,
    MARIADB,
    Files,
    NotStarted,
    Product,
    find_files,
    number_of,
    started,
)

EVIDENCE_LIMIT: Final = 256
"""Characters of one value of the evidence; a longer position is there as its digest."""
LONGEST_GAP: Final = timedelta(seconds=60)
"""How long after the marker something may have been written, where writes went on: the file systems are frozen by then.
"""
_NEVER: Final = 1 << 32
_EVENT: Final = struct.Struct("<IBIIIH")
"""Before each event of a binary log: time, type, server, size, end, flags (MySQL, binlog_event.h)."""
_END_OF_LOG: Final = re.compile(r"(?:End of log at LSN=|scanned up to log sequence number )(\d+)")
_PREPARED: Final = re.compile(r"prepared state|in prepared state|XA prepared", re.IGNORECASE)
_SKIPPED_SCHEMAS: Final = ("information_schema", "performance_schema", "sys")


def inspect(copy: Copy, evidence: Mapping[str, str], product: Product, engine: str) -> Report:
    """The whole way of a verifier.

    Args:
        copy: may be changed, and will be.
        evidence: what the adapter gave.
        product: whose server it is.
        engine: the adapter's word.
    """
    findings: list[Finding] = []
    version = evidence.get("version", "")
    proof: list[Finding] = []
    last = 0
    try:
        files = find_files(copy, evidence)
        if evidence.get("binlog_file"):
            proof.append(_binlog_end(files, evidence))
            findings.append(proof[-1])
            last = _last_written(files, evidence)
        with started(copy, product, files, evidence) as server:
            findings.append(Finding("start", True, f"a private {product.name} was started on the copy"))
            recovery, more = _recovery(server.log, evidence)
            findings += [recovery, *more]
            connection = server.connect()
            try:
                with connection.cursor() as cursor:
                    version = _value(cursor, "SELECT @@version")
                    proof += [*more, *_proof_within(cursor, evidence, product, last)]
                    findings += [finding for finding in proof if finding not in findings]
                    check = _check(cursor)
            finally:
                connection.close()
            findings.append(check)
    except NotStarted as error:
        findings.append(Finding("start", False, str(error)))
        return Report(engine, version, Grade.RAW, tuple(findings))
    if not (check.passed and recovery.passed):
        grade = Grade.RAW
    elif evidence.get("marker") and all(finding.passed for finding in proof):
        grade = Grade.APP_VERIFIED
    else:
        grade = Grade.FS
    return Report(engine, version, grade, tuple(findings))


def _binlog_end(files: Files, evidence: Mapping[str, str]) -> Finding:
    """Whether the binary log ends where it ended in the hold. To be asked before anything is started."""
    name, offset = Path(evidence["binlog_file"]).name, int(evidence["binlog_offset"])
    if not files.binlogs:
        return Finding("position", False, f"the copy has no binary log; in the hold it ended in {name} at {offset}")
    last = files.binlogs[-1]
    size = last.stat().st_size
    found = f"the binary log ends in {last.name} at {size}, in the hold in {name} at {offset}"
    if evidence.get("holds_writes") == "no":
        sizes = {path.name: path.stat().st_size for path in files.binlogs}
        return Finding("position", sizes.get(name, -1) >= offset, f"{found}; writes went on until the freeze")
    if (last.name, size) != (name, offset):
        return Finding("position", False, found)
    if marker := evidence.get("marker"):
        has = any(_contains(path, marker.encode()) for path in files.binlogs[-2:])
        found += f"; the marker is {'' if has else 'not '}in it"
    return Finding("position", True, found)


def _last_written(files: Files, evidence: Mapping[str, str]) -> int:
    """When the last event was written that the copy has behind the position of the hold, in seconds since 1970; 0: it
    has none. What cannot be read was written at no time that is known, which is as late as can be.
    """
    name, last = Path(evidence["binlog_file"]).name, 0
    for path in files.binlogs:
        if number_of(path) < number_of(Path(name)):
            continue
        at, size = int(evidence["binlog_offset"]) if path.name == name else len(BINLOG_MAGIC), path.stat().st_size
        with path.open("rb") as file:
            if size and file.read(len(BINLOG_MAGIC)) != BINLOG_MAGIC:
                return _NEVER  # it is encrypted
            while at + _EVENT.size <= size:
                file.seek(at)
                when, _, _, length, _, _ = _EVENT.unpack(file.read(_EVENT.size))
                if length < _EVENT.size or at + length > size:
                    break  # it was being written
                last, at = max(last, when), at + length
    return last


def _contains(path: Path, text: bytes) -> bool:
    if not path.stat().st_size:
        return False  # which cannot be mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def _recovery(log: str, evidence: Mapping[str, str]) -> tuple[Finding, list[Finding]]:
    """What the recovery said, and whether the redo log reaches as far as in the hold."""
    errors = [line for line in log.splitlines() if "[ERROR]" in line]
    prepared = sum(bool(_PREPARED.search(line)) for line in log.splitlines())
    ends = [int(found[1]) for found in _END_OF_LOG.finditer(log)]
    said = f"redo up to {max(ends)}" if ends else "no redo to apply"
    said += f", {prepared} line(s) about prepared transactions, {len(errors)} error(s)"
    if errors:
        said += f": {errors[0].partition('[ERROR]')[2].strip()[:200]}"
    recovery = Finding("recovery", not errors, said)
    wanted = int(evidence.get("redo_lsn", "0"))
    if not wanted or not ends:
        return recovery, []
    sentence = f"the redo log ends at {max(ends)}, and in the hold it was flushed up to {wanted}"
    return recovery, [Finding("redo", max(ends) >= wanted, sentence)]


def _proof_within(cursor: Any, evidence: Mapping[str, str], product: Product, last: int) -> list[Finding]:
    """What the started copy says about the hold: before any check, which may change something.

    Args:
        cursor: of the private server.
        evidence: what the adapter gave.
        product: whose server it is.
        last: when the copy's last event was written that is behind the position of the hold; 0: it has none.
    """
    proof = []
    position = evidence.get("position", "")
    if position and position != f"{Path(evidence.get('binlog_file', '')).name}:{evidence.get('binlog_offset', '')}":
        proof.append(_gtid(cursor, position, evidence, product))
    marker, table = evidence.get("marker", ""), evidence.get("marker_table", "")
    if marker and re.fullmatch(r"[A-Za-z0-9_$]+\.[A-Za-z0-9_$]+", table):
        proof.append(_marker(cursor, marker, table))
        if proof[-1].passed and last and evidence.get("holds_writes") == "no":
            proof.append(_gap(cursor, marker, table, last))
    elif evidence.get("recipe"):
        proof.append(Finding("marker", False, "the hold left no marker: nothing shows that the copy was taken in it"))
    else:
        proof.append(Finding("marker", False, "there is no evidence of a hold"))
    return proof


def _gtid(cursor: Any, position: str, evidence: Mapping[str, str], product: Product) -> Finding:
    variable = "@@gtid_binlog_pos" if product is MARIADB else "@@GLOBAL.gtid_executed"
    found = "".join(_value(cursor, f"SELECT {variable}").split())
    shown = found if len(found) <= EVIDENCE_LIMIT else f"sha256:{hashlib.sha256(found.encode()).hexdigest()}"
    is_equal = shown == position
    if not is_equal and product is not MARIADB and not position.startswith("sha256:"):
        function = "GTID_SUBSET(%s, %s)"
        is_equal = _value(cursor, f"SELECT {function}", position, found) == "1"
        if evidence.get("holds_writes") != "no":
            is_equal = is_equal and _value(cursor, f"SELECT {function}", found, position) == "1"
    return Finding("gtid", is_equal, f"the copy is at GTID {shown or 'none'}, the hold was at {position}")


def _marker(cursor: Any, marker: str, table: str) -> Finding:
    schema, _, name = table.partition(".")
    try:
        cursor.execute(f"SELECT cycle FROM `{schema}`.`{name}`")  # noqa: S608 - names that were checked
        rows = [str(row[0]) for row in cursor.fetchall()]
    except pymysql.MySQLError as error:
        return Finding("marker", False, f"{table} cannot be read: {error.args[-1]}")
    if marker in rows:
        return Finding("marker", True, f"{table} has the marker of cycle {marker}")
    if f"{marker} is over" in rows:
        sentence = f"{table} says that the hold of cycle {marker} is over: the copy was taken after it"
        return Finding("marker", False, sentence)
    there = f"that of {rows[0]}" if rows else "no row"
    return Finding("marker", False, f"{table} has {there}, not the marker of cycle {marker}")


def _gap(cursor: Any, marker: str, table: str, last: int) -> Finding:
    """Whether what was written after the marker, which was not held, is of the marker's time."""
    schema, _, name = table.partition(".")
    try:
        cursor.execute(
            f"SELECT UNIX_TIMESTAMP(written_at) FROM `{schema}`.`{name}` WHERE cycle = %s",  # noqa: S608 - names that were checked
            (marker,),
        )
        rows = cursor.fetchall()
    except pymysql.MySQLError as error:
        return Finding("position", False, f"{table} does not say when the marker was written: {error.args[-1]}")
    if not rows or last == _NEVER:
        return Finding("position", False, "nothing shows how long after the marker the copy was written to")
    gap = last - int(rows[0][0])
    sentence = f"the last event of the binary log was written {gap} s after the marker"
    if gap > LONGEST_GAP.total_seconds():
        return Finding("position", False, f"{sentence}: the copy is of another time")
    return Finding("position", True, sentence)


def _check(cursor: Any) -> Finding:
    """The first CHECK TABLE of every table. One that repairs is none, so nobody has looked before."""
    places = ", ".join(["%s"] * len(_SKIPPED_SCHEMAS))
    cursor.execute(
        "SELECT table_schema, table_name FROM information_schema.tables"  # noqa: S608 - nothing but %s is added
        f" WHERE table_type NOT LIKE '%%VIEW' AND table_schema NOT IN ({places}) ORDER BY 1, 2",
        _SKIPPED_SCHEMAS,
    )
    names = cursor.fetchall()
    bad: dict[str, str] = {}
    for schema, name in names:
        quoted = ".".join(f"`{part.replace('`', '``')}`" for part in (str(schema), str(name)))
        cursor.execute(f"CHECK TABLE {quoted}")
        for _, _, kind, text in cursor.fetchall():
            is_well = str(kind).lower() == "note" or (str(kind).lower() == "status" and str(text) == "OK")
            if not is_well:
                bad.setdefault(f"{schema}.{name}", str(text))
    if bad:
        first = next(iter(bad.items()))
        return Finding("check", False, f"{len(bad)} of {len(names)} tables are not in order; {first[0]}: {first[1]}")
    return Finding("check", True, f"the first CHECK TABLE of all {len(names)} tables was clean")


def _value(cursor: Any, statement: str, *arguments: str) -> str:
    cursor.execute(statement, arguments or None)
    return str(cursor.fetchone()[0] or "")
