"""The file `history.sqlite`: how it is opened, what is in it, and which version of it.

It is opened in a way that survives a disk which is being frozen (facts/libraries.md section 5):
`locking_mode=EXCLUSIVE` before the first access keeps the index of the write-ahead log in memory (sqlite.org, wal.html
section 8), so that there is no file `-shm` whose mapped pages a frozen disk would block, and `temp_store=MEMORY` keeps
everything else there.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path
from typing import Final

from appvss.model.errors import HistoryTooNew

VERSION: Final = 1
"""Of the tables, in `PRAGMA user_version`. Documents may gain fields without a new one (`documents.py`)."""
VERSION_MOST: Final = 1000
"""What is above is no version, but damage."""
APPLICATION: Final = 0x41505653
"""`APVS`, in `PRAGMA application_id`: this is ours."""
FILE: Final = "history.sqlite"
WAL_SUFFIX: Final = "-wal"

_BUSY_LIMIT: Final = 1.0
"""Seconds that an open waits for somebody who reads a file that no broker has open."""
_CHECK_LIMIT: Final = 64 * 1024 * 1024
"""Bytes up to which the whole file is checked at the start. A hold may be waiting for its adoption."""

_TABLES: Final = """
BEGIN IMMEDIATE;
CREATE TABLE journal (
    only INTEGER PRIMARY KEY CHECK (only = 1), cycle TEXT NOT NULL, boot TEXT NOT NULL, document BLOB NOT NULL
);
CREATE TABLE cycles (
    number INTEGER PRIMARY KEY AUTOINCREMENT, cycle TEXT NOT NULL UNIQUE, time INTEGER NOT NULL,
    document BLOB NOT NULL, events BLOB NOT NULL, certificate BLOB NOT NULL
);
CREATE TABLE restored (
    only INTEGER PRIMARY KEY CHECK (only = 1), boot TEXT NOT NULL, document BLOB NOT NULL
);
PRAGMA application_id = {application};
PRAGMA user_version = {version};
COMMIT;
"""
NAMES: Final = {"journal", "cycles", "restored"}
"""Of the tables."""

# sqlite.org, fileformat2.html: section 1.3 (the header of the first page) and section 4.1 (the write-ahead log).
_HEADER: Final = 100
_MAGIC: Final = b"SQLite format 3\0"
_WAL_HEADER: Final = struct.Struct(">8I")
_FRAME_HEADER: Final = struct.Struct(">6I")
_WAL_MAGIC: Final = frozenset({0x377F0682, 0x377F0683})


class Damaged(Exception):
    """The file is no history, or not a whole one. Its text is a reason in lower case."""


def connect(path: Path) -> sqlite3.Connection:
    """The file at `path`, made if it is not there, with its tables, for this process alone.

    Raises:
        HistoryTooNew: a newer version wrote it. It is left as it is.
        Damaged: it is no history of ours.
        sqlite3.Error: the disk does not let it be opened, read, or made.
        OSError: the same.
    """
    refuse_newer(path)
    _refuse_strange(path)
    # Made here, since SQLite would let others read it; the write-ahead log gets the same mode (sqlite.org, os_unix.c).
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, timeout=_BUSY_LIMIT, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            "locking_mode = EXCLUSIVE",  # before the first access: afterwards there would be a file -shm
            "temp_store = MEMORY",
            "mmap_size = 0",
            "cache_size = -4096",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "journal_mode = WAL",
            "journal_size_limit = 4194304",
            "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        prepare(connection)
        if path.stat().st_size <= _CHECK_LIMIT:
            check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def in_memory() -> sqlite3.Connection:
    """The same tables, in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    prepare(connection)
    return connection


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables where there are none; refuse what is not ours.

    Raises:
        HistoryTooNew, Damaged: as `connect`.
    """
    ours, version, names = look(connection)
    if not ours and not version and not names:
        connection.executescript(_TABLES.format(application=APPLICATION, version=VERSION))
        return
    if not ours:
        raise Damaged("it is a database of something else")
    if version > VERSION_MOST:
        raise Damaged(f"it has the version {version}")
    if version > VERSION:
        raise too_new(Path(FILE), version)
    if not names >= NAMES:
        raise Damaged(f"it lacks the table {min(NAMES - names)}")


def look(connection: sqlite3.Connection) -> tuple[bool, int, set[str]]:
    """Whether a database is ours, its version, and its tables."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return application == APPLICATION, version, names


def check(connection: sqlite3.Connection) -> None:
    """Read every page.

    Raises:
        Damaged: one is not as it should be.
    """
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise Damaged(f"it is damaged: {' '.join(str(said).split())[:200]}")


def refuse_newer(path: Path) -> None:
    """Look for the version with SQLite left out: whatever SQLite has opened it may also change when it closes it.

    Raises:
        HistoryTooNew: a newer version wrote the file, or its write-ahead log.
        OSError: it cannot be read.
    """
    for version in (*_version_in_file(path), *_versions_in_log(path.with_name(path.name + WAL_SUFFIX))):
        if VERSION < version <= VERSION_MOST:
            raise too_new(path, version)


def _refuse_strange(path: Path) -> None:
    """Refuse what SQLite would mend or empty before it could be set aside as it is."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    log = path.with_name(path.name + WAL_SUFFIX)
    if begin and begin != _MAGIC:
        raise Damaged("it is no database")
    if not begin and log.exists() and log.stat().st_size:
        raise Damaged("it is empty, and its write-ahead log is not")


def too_new(path: Path, version: int) -> HistoryTooNew:
    """The error for a file of a newer version."""
    return HistoryTooNew(
        f"the history {path} has version {version}, and this AppVSS knows {VERSION} at most",
        "Start the newer AppVSS that wrote it, or move the file away to begin a new history.",
    )


def _version_in_file(path: Path) -> list[int]:
    try:
        with path.open("rb") as file:
            page = file.read(_HEADER)
    except FileNotFoundError:
        return []
    return _version_of(page)


def _versions_in_log(path: Path) -> list[int]:
    """The version in each newer copy of the first page that the log has. What is cut off or of an earlier use of the
    log is passed over, as SQLite does.
    """
    versions: list[int] = []
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return versions
    with file:
        header = file.read(_WAL_HEADER.size)
        if len(header) < _WAL_HEADER.size:
            return versions
        magic, _, page_size, _, *salts, _, _ = _WAL_HEADER.unpack(header)
        if magic not in _WAL_MAGIC or not 512 <= page_size <= 65536:
            return versions
        while len(frame := file.read(_FRAME_HEADER.size)) == _FRAME_HEADER.size:
            number, _, *found, _, _ = _FRAME_HEADER.unpack(frame)
            if found != salts:
                break
            page = file.read(page_size)
            if number == 1:
                versions += _version_of(page[:_HEADER])
    return versions


def _version_of(page: bytes) -> list[int]:
    """The version in a first page, when it is one of ours."""
    if len(page) < _HEADER or not page.startswith(_MAGIC):
        return []
    version, application = struct.unpack_from(">I", page, 60)[0], struct.unpack_from(">I", page, 68)[0]
    return [version] if application == APPLICATION else []
