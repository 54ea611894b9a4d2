"""SQLite: is the copy's main file, to the byte, what was held; and is it in order all by itself?

The adapter's marker is a digest (`appvss.adapters.sqlite`). After a hold the **main file alone** has to be the whole
database: it is taken out of the copy without its log and opened for reading and writing. A copy of no hold is opened
with what lies beside it, as SQLite would after a crash. Never with `immutable=1`, which showed 19625 values that were
never committed and called them in order (facts/database-quiesce.md section 6.2).
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from appvss.model.grade import Grade
from appvss.verify.base import Copy, Finding, Report

MOST_FILES: Final = 4
_MAGIC: Final = b"SQLite format 3\0"
_BESIDE: Final = ("-wal", "-journal")
"""What SQLite needs beside the main file after a crash. The -shm is made anew."""


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """See what a copy of an application's databases is worth.

    Args:
        copy: where their files lie. Nothing in it is changed but `work`.
        evidence: what the adapter gave with its ack; empty: the copy was taken without a hold.
    """
    named = [
        (Path(evidence[f"file_{number}"]), evidence.get(f"digest_{number}", ""))
        for number in range(1, MOST_FILES + 1)
        if f"file_{number}" in evidence
    ]
    findings: list[Finding] = []
    grades: list[Grade] = []
    for number, (path, digest) in enumerate(named or [(path, "") for path in _found(copy, evidence)], start=1):
        room = copy.work / f"database-{number}"
        room.mkdir()
        grades.append(_verify_file(copy, path, digest, room, findings))
    if not grades:
        findings.append(Finding("start", False, "no SQLite database lies in the copy"))
    order = list(Grade)
    return Report("sqlite", sqlite3.sqlite_version, min(grades, key=order.index, default=Grade.RAW), tuple(findings))


def _verify_file(copy: Copy, path: Path, digest: str, room: Path, findings: list[Finding]) -> Grade:
    """The grade of one database."""
    try:
        lies_at = copy.locate(path)
        if not lies_at.is_file():
            raise FileNotFoundError(f"the copy has no {path}")
    except FileNotFoundError as error:
        findings.append(Finding("start", False, str(error)))
        return Grade.RAW
    if not any(lies_at.resolve().is_relative_to(place.resolve()) for place in copy.files.values()):
        findings.append(Finding("start", False, f"{path} leads out of the copy by a link: it may be the live database"))
        return Grade.RAW
    what, _, proof = digest.partition(" sha256:")
    wanted, _, log = proof.partition(" log:")
    is_proven = _is_marked(lies_at, what, wanted, path, findings)
    is_proven = is_proven and (what != "main" or _has_nothing_after(lies_at, log, findings))
    is_alone = is_proven and what == "main"
    shutil.copyfile(lies_at, room / path.name)
    if not is_alone:
        for ending in _BESIDE:
            beside = lies_at.with_name(lies_at.name + ending)
            if beside.is_file():
                shutil.copyfile(beside, room / (path.name + ending))
    findings.append(
        Finding("setting", True, f"{path.name} is opened {'alone' if is_alone else 'with what lies beside it'}")
    )
    if not _is_in_order(room / path.name, findings):
        return Grade.RAW
    return Grade.APP_VERIFIED if is_proven else Grade.FS


def _is_marked(lies_at: Path, what: str, wanted: str, path: Path, findings: list[Finding]) -> bool:
    """Whether the copy has what the hold had, to the byte."""
    if not wanted:
        findings.append(Finding("marker", False, f"nothing shows that the copy of {path} was taken in a hold"))
        return False
    proof = lies_at if what == "main" else lies_at.with_name(lies_at.name + "-wal")
    words = "main file" if what == "main" else "log, which was part of the data in the hold,"
    if not proof.is_file():
        findings.append(Finding("marker", False, f"the copy has no {proof.name}"))
        return False
    with proof.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        findings.append(
            Finding("marker", False, f"the {words} of {path} has sha256 {found[:16]}..., in the hold {wanted[:16]}...")
        )
        return False
    findings.append(Finding("marker", True, f"the {words} of {path} is to the byte what was held ({found[:16]}...)"))
    return True


def _has_nothing_after(lies_at: Path, log: str, findings: list[Finding]) -> bool:
    """Whether the copy's log has no more in it than in the hold: a later copy may have the same main file."""
    beside = lies_at.with_name(lies_at.name + "-wal")
    salts, frames = log_end(beside)
    if not frames:
        findings.append(Finding("position", True, f"{beside.name} has nothing in it, or is not there"))
        return True
    is_same = log == f"{salts}/{frames}"
    words = "just as in the hold" if is_same else f"in the hold it was {log}"
    findings.append(Finding("position", is_same, f"{beside.name} ends with {salts}/{frames}, {words}"))
    return is_same


def log_end(path: Path) -> tuple[str, int]:
    """The salts of a log, and the number of the last frame that ends a transaction (sqlite.org/fileformat.html 4.1)."""
    if not path.is_file():
        return "", 0
    with path.open("rb") as file:
        head = file.read(32)
        if len(head) < 32:
            return "", 0
        size, salts = int.from_bytes(head[8:12], "big"), head[16:24]
        last = number = 0
        while len(frame := file.read(24)) == 24 and frame[8:16] == salts:
            number += 1
            last = number if any(frame[4:8]) else last
            file.seek(size, 1)
        return salts.hex(), last


def _is_in_order(path: Path, findings: list[Finding]) -> bool:
    """SQLite's own check, by its first answer."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None)) as database:
            answers = [str(row[0]) for row in database.execute("PRAGMA integrity_check(5)")]
            strays = _strays(database)
            (tables,) = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
    except sqlite3.Error as error:
        findings.append(Finding("start", False, f"{path.name} cannot be opened: {error}"))
        return False
    is_fine = answers == ["ok"]
    findings.append(Finding("start", True, f"{path.name} opens, with {tables} tables"))
    findings.append(Finding("check", is_fine, f"integrity_check of {path.name} says: {'; '.join(answers)[:200]}"))
    findings.append(Finding("check", True, f"foreign_key_check of {path.name} {strays}"))
    return is_fine


def _strays(database: sqlite3.Connection) -> str:
    """Rows without their parent. SQLite keeps foreign keys only for programs that ask for it, so these, and keys that
    cannot be checked, may be the application's own way, and nothing against the copy.
    """
    try:
        return f"finds {len(database.execute('PRAGMA foreign_key_check').fetchall())} rows without their parent"
    except sqlite3.OperationalError as error:  # a key that refers to what is no key
        return f"cannot be made: {error}"


def _found(copy: Copy, evidence: Mapping[str, str]) -> list[Path]:
    """Databases of a copy of which no more is known than, at most, where they are: named themselves, or right in the
    folders of the copy.
    """
    found: list[Path] = []
    places = dict(copy.files)
    if folder := evidence.get("data_directory"):
        with suppress(FileNotFoundError):
            places = {Path(folder): copy.locate(folder)}
    for original, place in sorted(places.items()):
        candidates = [place] if place.is_file() else sorted(place.iterdir()) if place.is_dir() else []
        found.extend(original / each.relative_to(place) for each in candidates if _is_database(each))
    return found


def _is_database(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC
