"""What a copy of a PostgreSQL server says before anything is started: its control file and its WAL."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from appvss.verify.postgresql_programs import Programs

_LSN: Final = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+)")
_TRANSACTION: Final = re.compile(r"tx: +(\d+)")
_MESSAGE: Final = re.compile(r'prefix "appvss(-thaw)?"; payload \(\d+ bytes\): ([0-9A-F ]*)$')
_TABLESPACE: Final = re.compile(r'desc: CREATE \d+ "(.*)"$')
_COMMIT: Final = re.compile(r"desc: COMMIT (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")


@dataclass(frozen=True, slots=True)
class Control:
    """The control file, as pg_controldata(1) shows it."""

    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")

    @property
    def state(self) -> str:
        """`in production`, `shut down`, `in archive recovery`."""
        return self["Database cluster state"]

    @property
    def redo(self) -> int:
        """Where a recovery begins."""
        return number_of(self["Latest checkpoint's REDO location"])

    @property
    def timeline(self) -> int:
        """Of the last checkpoint."""
        return int(self["Latest checkpoint's TimeLineID"])

    @property
    def segment_size(self) -> int:
        """Bytes of one WAL file."""
        return int(self["Bytes per WAL segment"])

    @property
    def has_checksums(self) -> bool:
        """Whether its pages carry checksums."""
        return self["Data page checksum version"] not in ("", "0")

    def setting(self, name: str) -> str:
        """What the server had for a setting that a recovery needs at least as much of."""
        return self[f"{name} setting"]


def read_control(programs: Programs, data: Path) -> Control:
    """The control file of a data directory.

    Raises:
        ValueError: it has none that can be read.
    """
    done = programs.run("pg_controldata", "-D", str(data))
    fields = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    control = Control({name.strip(): value.strip() for name, value in fields.items()})
    if done.returncode != 0 or not control["Latest checkpoint's REDO location"]:
        said = (done.stderr.strip().splitlines() or ["pg_controldata says nothing"])[0]
        raise ValueError(f"the control file cannot be read: {said}")
    return control


@dataclass(frozen=True, slots=True)
class Traces:
    """What a cycle has left in the WAL of a copy."""

    restore_point: str
    """The LSN of its restore point; empty: it is not there."""
    marker: str
    """The LSN of its marker; empty: it is not there, or its transaction did not commit."""
    thaw: str
    """The LSN of the marker of its thaw; empty: it is not there."""
    marked_at: datetime | None
    """When the marker's transaction committed; of 13, which does not show it, the first one after the restore point."""
    last_commit: datetime | None
    """When the last transaction of the copy committed."""
    records: int
    end: str
    """The LSN of the last record."""


def find_traces(programs: Programs, wal: Path, control: Control, begin: int, marker: str, restore_point: str) -> Traces:
    """Read the WAL from an LSN to its end.

    Args:
        programs: of the copy's major version.
        wal: the copy's pg_wal.
        control: the copy's control file.
        begin: where to begin, at the beginning of a record.
        marker: the cycle's.
        restore_point: the cycle's.
    """
    point, end = "", ""
    messages: dict[str, tuple[str, str]] = {}  # by transaction: of which kind, where
    committed: dict[str, str] = {}
    marked_at = pointed_at = last = None
    records = 0
    for line in _records(programs, wal, control, begin):
        if (lsn := _LSN.search(line)) is None:
            continue
        records, end = records + 1, lsn[1]
        if restore_point and line.endswith(f"desc: RESTORE_POINT {restore_point}"):
            point = lsn[1]
        elif marker and line.endswith(f"desc: RESTORE_POINT {f'thaw-{marker}'[:63]}"):  # what 13 has
            committed["-thaw"] = lsn[1]
        elif (message := _MESSAGE.search(line)) is not None:
            if marker and bytes.fromhex(message[2]) == marker.encode():
                messages[_transaction(line)] = (message[1] or "", lsn[1])
        elif (commit := _COMMIT.search(line)) is not None:
            last = datetime.fromisoformat(commit[1]).replace(tzinfo=UTC)
            pointed_at = pointed_at or (last if point else None)
            if (found := messages.get(_transaction(line))) is not None:
                committed[found[0]] = found[1]
                marked_at = marked_at or last
    return Traces(point, committed.get("", ""), committed.get("-thaw", ""), marked_at or pointed_at, last, records, end)


def _transaction(line: str) -> str:
    found = _TRANSACTION.search(line)
    return found[1] if found else ""


def created_tablespaces(programs: Programs, wal: Path, control: Control, begin: int) -> list[Path]:
    """The folders of the tablespaces that a recovery from an LSN on will create again, and lead a link to."""
    found = (_TABLESPACE.search(line) for line in _records(programs, wal, control, begin, "-r", "Tablespace"))
    return [Path(path[1]) for path in found if path is not None and path[1].startswith("/")]


def _records(programs: Programs, wal: Path, control: Control, begin: int, *only: str) -> Iterator[str]:
    """What pg_waldump(1) shows. It ends with an error where the WAL ends, which is no error here."""
    last = _last_segment(wal, control, begin)
    if last is None:
        return
    # Without an end it would wait for a segment that is not there, for five seconds.
    command = ("-p", str(wal), "-t", str(control.timeline), "-s", lsn_of(begin), "-e", lsn_of(last), *only)
    with programs.start("pg_waldump", *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            for line in process.stdout or ():
                yield os.fsdecode(line).rstrip("\n")
        finally:
            process.kill()


def _last_segment(wal: Path, control: Control, begin: int) -> int | None:
    """The LSN after the last segment in a row; None: not even the first one is there."""
    number = begin // control.segment_size
    if not has_segment(wal, control, begin):
        return None
    while has_segment(wal, control, number * control.segment_size):
        number += 1
    return number * control.segment_size


def has_segment(wal: Path, control: Control, lsn: int) -> bool:
    """Whether the WAL file is there that has an LSN."""
    in_one = (1 << 32) // control.segment_size
    number = lsn // control.segment_size
    return (wal / f"{control.timeline:08X}{number // in_one:08X}{number % in_one:08X}").is_file()


def number_of(lsn: str) -> int:
    """An LSN as a number; 0 for none."""
    high, _, low = lsn.partition("/")
    try:
        return (int(high, 16) << 32) + int(low, 16)
    except ValueError:
        return 0


def lsn_of(number: int) -> str:
    """A number as an LSN."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"
