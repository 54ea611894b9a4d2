"""Reading a history without touching it: one that was copied or mounted, or lies on a disk that takes no write.

SQLite writes beside what it reads: an index of the write-ahead log, and at the end the log into the file. So a file
with a log is copied first, to where temporary files go; one without a log is opened as immutable.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import quote

from appvss.history import schema
from appvss.history.rows import Rows

SIZE_LIMIT: Final = 4 * 1024 * 1024 * 1024
"""Largest history that is copied, in bytes with its write-ahead log."""
_PREFIX: Final = "appvss-history-"


class Copy:
    """A history that is only read. Whoever has it owes a `close`.

    Args:
        path: the file.
        connection: to the copy, or to the file as immutable.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.rows = Rows(connection)

    def close(self) -> None:
        """Close it. May be called twice."""
        self.rows.close()


def open_copy(path: Path, *, is_checked: bool = True, place: Path | None = None, limit: int = 0) -> Copy:
    """The history in the file `path`, which is left as it is.

    Args:
        path: the file; its write-ahead log is looked for beside it.
        is_checked: whether to refuse what is no history of ours, or damaged. False: what a salvage wants.
        place: where it is copied to, a directory of the caller's alone; None: where temporary files go.
        limit: bytes that are copied at most; 0: `SIZE_LIMIT`.

    Raises:
        HistoryTooNew: a newer version wrote it.
        schema.Damaged: it is no history of ours, or not a whole one.
        sqlite3.Error: it cannot be read.
        OSError: it is not there, cannot be read, is over the limit, or there is no room for the copy.
    """
    schema.refuse_newer(path)
    log = path.with_name(path.name + schema.WAL_SUFFIX)
    size = path.stat().st_size
    logged = log.stat().st_size if log.exists() else 0
    if logged:
        connection = _copied(path, log, size + logged, limit or SIZE_LIMIT, place)
    else:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
    try:
        connection.execute("PRAGMA temp_store = MEMORY")
        if is_checked:
            ours, _, names = schema.look(connection)
            if not ours or not names >= schema.NAMES:
                raise schema.Damaged("it is no history of appvss")
            schema.check(connection)
    except BaseException:
        connection.close()
        raise
    return Copy(path, connection)


def _copied(path: Path, log: Path, size: int, limit: int, place: Path | None) -> sqlite3.Connection:
    """A connection to a copy that has no name any more, so that it goes with its process, however that ends."""
    if size > limit:
        raise OSError(f"it has {size} bytes, over {limit}")
    if place is not None:
        for left in place.glob(f"{_PREFIX}*"):  # of a broker that was killed right here
            shutil.rmtree(left, ignore_errors=True)
        if size > (free := shutil.disk_usage(place).free) // 2:  # others need it, too
            raise OSError(f"it has {size} bytes, and {place} has {free} left")
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as folder:
        for one in (path, log):
            shutil.copyfile(one, Path(folder, one.name))
        connection = sqlite3.connect(Path(folder, path.name), isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA schema_version").fetchone()  # the first access: it opens the log, too
        except BaseException:
            connection.close()
            raise
    return connection
