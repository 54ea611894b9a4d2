"""What a copy of a PostgreSQL server is worth.

Before the start the WAL of the copy must have the cycle's marker, in a transaction that committed, and its restore
point; only that shows that the copy is of this cycle. It must not have the marker of the thaw: then it was taken after
the hold. PostgreSQL keeps no writes out between the marker and the file-system freeze, so commits after the marker are
no fault. Many seconds of them are: the copy is of another time.

A copy of an atomic set is started as it is: crash recovery is right and complete there. One of the `backup` recipe gets
the label and the WAL that were kept outside, and never one without the other (facts/database-quiesce.md section 4.2).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.model.errors import CopyInvalid
from appvss.model.grade import Grade
from appvss.verify.base import Copy, Finding, Report
from appvss.verify.postgresql_programs import Programs, find_programs
from appvss.verify.postgresql_server import PORT, NotStarted, PrivateServer, covering, cut_off, home_for
from appvss.verify.postgresql_wal import (
    Control,
    Traces,
    created_tablespaces,
    find_traces,
    has_segment,
    number_of,
    read_control,
)

LONGEST_GAP: Final = timedelta(seconds=60)
"""How long after the marker a transaction of the copy may have committed: they are frozen by then."""
CHECK_LIMIT: Final = timedelta(hours=6)
"""How long the check of all tables and indexes may take."""
_REDO: Final = re.compile(r"redo starts at (\S+)")
_REDO_DONE: Final = re.compile(r"redo done at (\S+)(?: system usage: .*elapsed: ([0-9.]+) s)?")
_TROUBLE: Final = re.compile(
    r"^(?:WARNING|ERROR|FATAL|PANIC):.*(?:invalid page|page verification failed|corrupt).*$", re.MULTILINE
)


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """Look at a copy, start it privately, check it, and stop it.

    Args:
        copy: may be changed, and will be: it is recovered, and `amcheck` is created in it.
        evidence: what the adapter gave for the certificate; without a marker in it `fs` is the most that can be earned.

    Raises:
        VerifierUnavailable: this machine has no PostgreSQL of that version, or may not use the files.
        CopyInvalid: the copy has no data directory.
    """
    try:
        data = copy.locate(evidence.get("data_directory") or "/")
        programs = find_programs(data)
    except (FileNotFoundError, ValueError) as error:
        raise CopyInvalid(str(error), "Name the copy of the volume that has the data directory.") from None
    version = programs.run("postgres", "--version").stdout.strip().rpartition(") ")[2].partition(" ")[0]
    findings: list[Finding] = []
    for finding in _look(copy, evidence, data, programs):
        findings.append(finding)
        if not finding.passed and finding.name in ("start", "check", "recovery"):
            return Report("postgresql", version, Grade.RAW, tuple(findings))
    is_of_the_cycle = all(one.passed for one in findings if one.name in ("marker", "position", "setting"))
    is_checked = any(one.name == "check" for one in findings)
    best = Grade.APP_VERIFIED if is_checked else Grade.APP
    return Report("postgresql", version, best if is_of_the_cycle else Grade.FS, tuple(findings))


def _look(copy: Copy, evidence: Mapping[str, str], data: Path, programs: Programs) -> Iterator[Finding]:
    """All findings, in their order; the first failed start or check is the last one."""
    try:
        control = read_control(programs, data)
        cut_off(data, copy)
    except (ValueError, NotStarted) as error:
        yield Finding("start", False, str(error))
        return
    yield from _before(evidence, data, programs, control)
    kept = _kept(copy, evidence)
    if kept is not None:
        yield from _add_label(kept, data, control)
    elif evidence.get("recipe") == "backup":
        sentence = (
            "label and WAL of the backup are not here: only a copy whose volumes are of one instant starts rightly"
        )
        yield Finding("setting", False, sentence)
    home = home_for(programs, copy.work)
    server = PrivateServer(programs, data, home, control)
    try:
        begin = number_of(json.loads((kept / "backup.json").read_text())["start"]) if kept else control.redo
        cover = covering(data, copy, home, created_tablespaces(programs, data / "pg_wal", control, begin))
        with server.running(cover):
            yield Finding("start", True, f"the copy answered after {server.took.total_seconds():.2f} s")
            yield _recovery(server.log, has_label=kept is not None)
            yield from _check(programs, server, evidence)
    except NotStarted as error:
        yield Finding("start", False, str(error))
        return
    cut_off(data, copy)  # its recovery may have led links back to where they were
    if control.has_checksums and programs.has("pg_checksums"):
        yield _checksums(programs, data)


def _before(evidence: Mapping[str, str], data: Path, programs: Programs, control: Control) -> Iterator[Finding]:
    """What the copy shows before it is started."""
    marker, recorded = evidence.get("marker", ""), number_of(evidence.get("redo_lsn", ""))
    system = evidence.get("system_identifier", "")
    if system and system != control["Database system identifier"]:
        sentence = f"the copy is of server {control['Database system identifier']}, and the cycle held {system}"
        yield Finding("position", False, sentence)
        return
    if not marker:
        yield Finding("marker", False, "the cycle left no marker, so nothing shows that the copy was taken in its hold")
        return
    begin = (
        recorded if 0 < recorded < control.redo and has_segment(data / "pg_wal", control, recorded) else control.redo
    )
    traces = find_traces(programs, data / "pg_wal", control, begin, marker, evidence.get("restore_point", ""))
    is_old = int((data / "PG_VERSION").read_text(encoding="ascii")) < 14  # pg_waldump shows no payload before
    if not traces.marker and not (is_old and traces.restore_point):
        sentence = f"the marker {marker} is in none of the {traces.records} records of the copy's WAL"
        yield Finding("marker", False, f"{sentence}: it was taken before the hold, or without one")
        return
    where = f"at {traces.marker}" if traces.marker else f"as a restore point at {traces.restore_point}"
    yield Finding("marker", True, f"the WAL has the marker {marker} {where}, before the start")
    yield _position(evidence, control, traces, recorded)


def _position(evidence: Mapping[str, str], control: Control, traces: Traces, recorded: int) -> Finding:
    """Whether the copy is of the time of the marker."""
    if evidence.get("restore_point") and not traces.restore_point:
        return Finding("position", False, f"the restore point {evidence['restore_point']} is not in the WAL")
    if traces.thaw:
        sentence = (
            f"the WAL has the marker of the cycle's thaw as well, at {traces.thaw}: the copy was taken after the hold"
        )
        return Finding("position", False, sentence)
    if control.redo < recorded:
        redo = control["Latest checkpoint's REDO location"]
        return Finding("position", False, f"redo begins at {redo}, before {evidence['redo_lsn']} of the hold")
    gap = timedelta(0)
    if traces.marked_at is not None and traces.last_commit is not None:
        gap = traces.last_commit - traces.marked_at
    if gap > LONGEST_GAP and evidence.get("recipe") != "backup":
        sentence = f"the last commit of the copy is {gap.total_seconds():.0f} s after the marker: it is of another time"
        return Finding("position", False, sentence)
    same = "as in the hold" if control.redo == recorded else f"after a later checkpoint than {evidence['redo_lsn']}"
    redo = control["Latest checkpoint's REDO location"]
    return Finding(
        "position",
        True,
        f"redo begins at {redo}, {same}; the last commit is {gap.total_seconds():.3f} s after the marker",
    )


def _kept(copy: Copy, evidence: Mapping[str, str]) -> Path | None:
    """The folder with label and WAL that the adapter has kept, in the copy or on this machine."""
    if not (backup := evidence.get("backup", "").removeprefix("file://")):
        return None
    places = [Path(backup)]
    with suppress(FileNotFoundError):
        places.insert(0, copy.locate(backup))
    return next((place for place in places if (place / "backup_label").is_file()), None)


def _add_label(kept: Path, data: Path, control: Control) -> Iterator[Finding]:
    """Give a copy its label, with all the WAL up to the stop, or refuse. The map of tablespaces is left out: it leads
    to the live server, and the links are right already.
    """
    facts: dict[str, Any] = json.loads((kept / "backup.json").read_text(encoding="utf-8"))
    missing = [name for name in facts["wal"] if not (kept / "pg_wal" / name).is_file()]
    if missing:
        sentence = f"the label of the backup needs the WAL file {missing[0]}, which was not kept: it would not start"
        yield Finding("start", False, sentence)
        return
    if not number_of(facts["start"]) <= control.redo < number_of(facts["stop"]):
        redo = control["Latest checkpoint's REDO location"]
        sentence = f"the copy's redo {redo} is not between start and stop of the backup: it is not this backup's"
        yield Finding("position", False, sentence)
        return
    owner = data.stat()
    for source in (*(kept / "pg_wal").iterdir(), kept / "backup_label"):
        target = data / ("pg_wal" if source.parent.name == "pg_wal" else "") / source.name
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(target, owner.st_uid, owner.st_gid)
    yield Finding("setting", True, f"the label of the backup and {len(facts['wal'])} WAL files were added")


def _recovery(log: str, *, has_label: bool) -> Finding:
    """What the recovery has said about itself. With a label it does not start at all before it has reached the stop."""
    if (trouble := _TROUBLE.search(log)) is not None:
        return Finding("recovery", False, trouble[0])
    if (begin := _REDO.search(log)) is None:
        return Finding("recovery", True, "there was nothing to recover")
    done = _REDO_DONE.search(log)
    kind = "backup recovery was completed" if has_label else "crash recovery"
    end = f" to {done[1]}" if done else ""
    took = f" in {done[2]} s" if done and done[2] else ""
    return Finding("recovery", True, f"{kind}, from {begin[1]}{end}{took}")


def _check(programs: Programs, server: PrivateServer, evidence: Mapping[str, str]) -> Iterator[Finding]:
    """PostgreSQL's own check of every table and index of every database; without it, everything is read."""
    login = ("-h", str(server.home), "-p", str(PORT), "-U", evidence.get("superuser") or "postgres")
    try:
        if programs.has("pg_amcheck"):
            done = programs.run(
                "pg_amcheck", *login, "--all", "--install-missing", "--heapallindexed", limit=CHECK_LIMIT
            )
            if done.returncode == 0:
                yield Finding("check", True, "pg_amcheck found nothing wrong with any table or index of any database")
                return
            if "not available" not in done.stderr and 'extension "amcheck"' not in done.stderr:
                yield Finding("check", False, f"pg_amcheck says: {_first(done)}")
                return
        done = programs.run("pg_dumpall", *login, "--no-sync", "--file", os.devnull, limit=CHECK_LIMIT)
    except subprocess.TimeoutExpired:
        yield Finding("check", False, f"the check of the tables was not done within {CHECK_LIMIT}")
        return
    sentence = "every row of every database was read; there is no amcheck" if done.returncode == 0 else _first(done)
    yield Finding("check", done.returncode == 0, sentence)


def _checksums(programs: Programs, data: Path) -> Finding:
    try:
        done = programs.run("pg_checksums", "--check", "-D", str(data), limit=CHECK_LIMIT)
    except subprocess.TimeoutExpired:
        return Finding("check", False, f"the checksums were not checked within {CHECK_LIMIT}")
    blocks = re.search(r"Blocks scanned:\s+(\d+)", done.stdout)
    if done.returncode == 0 and blocks:
        return Finding("check", True, f"the checksums of {blocks[1]} blocks are right, after the stop")
    return Finding("check", False, f"pg_checksums says: {_first(done)}")


def _first(done: subprocess.CompletedProcess[str]) -> str:
    """What a program has said first."""
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "nothing")
