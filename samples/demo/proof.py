"""The proof: what is in the copy of the database, against what the database itself says was written when."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found; `holds` says whether it is what it must be."""

    log_bytes: int
    """Size of the write-ahead log that was copied along: above zero, opening the copy would have to recover."""
    integrity: str
    """SQLite's own check of the copy."""
    copied: int
    """Rows in the copy."""
    committed: int
    """Rows that the live database had when everything was frozen, by the times that it wrote itself."""
    missing: int
    """Of those, how many are not in the copy."""
    late: int
    """Rows in the copy that were written after the ack."""
    after: int
    """Rows that the live database has got since the thaw."""

    @property
    def holds(self) -> bool:
        """Every row committed before the ack is there, none after it, and no recovery was needed."""
        whole = self.log_bytes == 0 and self.integrity == "ok" and self.copied > 0
        return whole and self.missing == 0 and self.late == 0 and self.after > 0


def take_snapshot(folder: Path, target: Path) -> None:
    """Copy the apps' files as they are, as a snapshot would: the database's log as well, if there is one."""
    shutil.copytree(folder, target)


def prove(live: Path, copy: Path, frozen_at: int, thawed_at: int) -> Proof:
    """Compare the copy with the live database, which has been written to all the time but for the hold.

    Args:
        live: the database itself.
        copy: the copy of its file.
        frozen_at: when the requester heard that everything is frozen, in nanoseconds of the wall clock.
        thawed_at: when it asked for the thaw.
    """
    log = copy.with_name(copy.name + "-wal")
    log_bytes = log.stat().st_size if log.exists() else 0
    # immutable: SQLite takes the file as it is, without locks and without any recovery.
    with closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as database:
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
        copied = dict(database.execute("SELECT id, written_at FROM orders"))
    with closing(sqlite3.connect(f"file:{live}?mode=ro", uri=True)) as database:
        rows = dict(database.execute("SELECT id, written_at FROM orders"))
    committed = {number for number, written in rows.items() if written <= frozen_at}
    return Proof(
        log_bytes=log_bytes,
        integrity=integrity,
        copied=len(copied),
        committed=len(committed),
        missing=len(committed - copied.keys()),
        late=sum(written > frozen_at for written in copied.values()),
        after=sum(written > thawed_at for written in rows.values()),
    )


def wait_for_rows(live: Path, count: int, since: int = 0, patience: float = 10.0) -> None:
    """Wait until the live database has so many rows that were written after `since`.

    Raises:
        TimeoutError: it has not.
    """
    give_up = time.monotonic() + patience
    with closing(sqlite3.connect(f"file:{live}?mode=ro", uri=True)) as database:
        while database.execute("SELECT count(*) FROM orders WHERE written_at > ?", (since,)).fetchone()[0] < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{live} did not get {count} rows within {patience:.0f} s")
            time.sleep(0.01)
