"""What the journal of a former broker means: a cycle of this boot that goes on, one that this machine was restored
from, or nothing. Blocking, like the disk below it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from appvss.history.book import Book
from appvss.history.boot import is_known
from appvss.history.directory import CERTIFICATE, RESTORED, StateDirectory
from appvss.history.documents import DocumentInvalid
from appvss.history.rows import Rows
from appvss.history.state import reason_of
from appvss.model.certificate import read_certificate
from appvss.model.errors import CertificateError
from appvss.model.journal import JournalEntry
from appvss.model.past import Restored


@dataclass(slots=True)
class Found:
    """What the journal says at the start."""

    open_cycle: JournalEntry | None = None
    """The cycle that a broker of this boot left open."""
    certificate: str = ""
    """Its certificate, which lies on disk; empty: it has none."""
    restored: Restored | None = None
    """The cycle of another boot that was open: found just now."""
    remembered: Restored | None = None
    """What a former broker of this boot has found."""
    notes: list[str] = field(default_factory=list)
    """What is to be said to the administrator, one sentence each, in lower case."""


def look_into(place: StateDirectory, rows: Rows, boot: str, wall: Callable[[], timedelta]) -> Found:
    """Find out what an open cycle means. Nothing is written: `tidy` is to follow.

    Args:
        place: the state directory.
        rows: its tables, or a copy of them.
        boot: identity of this boot (`boot.boot_identity`).
        wall: the wall clock, as time since 1970-01-01 UTC.
    """
    found = Found(remembered=_remembered(rows, boot))
    try:
        journal = rows.journal()
    except (DocumentInvalid, sqlite3.Error) as error:
        found.notes.append(f"the journal in {place.path} cannot be read and is cleared: {error}")
        return found
    if journal is None:
        return found
    entry, its_boot = journal
    if not (is_known(boot) and is_known(its_boot)):
        found.notes.append(
            f"cycle {entry.cycle} was open; this system does not say whether it has been started again since, so "
            "nothing is claimed of that cycle, and it is cleared"
        )
        return found
    certificate = _certificate_of(place, entry.cycle, found.notes)
    if its_boot == boot:
        found.open_cycle, found.certificate = entry, certificate
    else:
        found.restored = Restored(entry.cycle, entry.source, entry.requester, wall(), entry.stage.value, certificate)
    return found


def tidy(book: Book, found: Found, boot: str) -> None:
    """Clear what was found, unless its cycle goes on. What the disk does not let be cleared now is left to the book."""
    try:
        if found.open_cycle is not None:
            book.certified = found.open_cycle.cycle
        elif found.restored is not None:
            _keep_restored(book, found.restored, boot)
        else:
            if book.rows.connection.execute("SELECT count(*) FROM journal").fetchone()[0]:
                book.rows.clear_journal()
            if not book.trouble:
                book.directory.remove_certificate()
    except (OSError, sqlite3.Error) as error:
        book.leave_for_later()
        found.notes.append(f"the journal in {book.directory.path} cannot be cleared yet: {reason_of(error)}")


def _keep_restored(book: Book, restored: Restored, boot: str) -> None:
    """Say it once: the certificate gets another name, and the journal is cleared."""
    if not book.trouble and restored.certificate:
        book.directory.keep_certificate()
    elif not book.trouble:
        book.directory.remove_certificate()  # of no use, or of another cycle
    book.rows.write_restored(restored, boot)


def _certificate_of(place: StateDirectory, cycle: str, notes: list[str]) -> str:
    """The text of the certificate of `cycle` that the disk carries, under the name that it may have got already."""
    for name in (CERTIFICATE, RESTORED):
        if text := place.read_certificate(name):
            try:
                if read_certificate(text).cycle == cycle:
                    return text
            except CertificateError as error:
                notes.append(f"{place.path / name} is no use: {error}")
    return ""


def _remembered(rows: Rows, boot: str) -> Restored | None:
    with contextlib.suppress(DocumentInvalid, sqlite3.Error):
        if (kept := rows.restored()) is not None and kept[1] == boot and is_known(boot):
            return kept[0]
    return None
