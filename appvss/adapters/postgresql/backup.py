"""What the `backup` recipe keeps outside of the server: label, tablespace map, and the WAL from start to stop.

A label without that WAL makes a copy that does not start ("WAL ends before end of online backup"), and one in the
server's own data directory makes the *server* start from it after a crash (facts/database-quiesce.md section 4.2). So
the folder of a cycle appears in one step, when all of it is on the disk, or not at all:

    BACKUP_DIRECTORY/CYCLE-APP/backup_label
    BACKUP_DIRECTORY/CYCLE-APP/tablespace_map      if there are tablespaces
    BACKUP_DIRECTORY/CYCLE-APP/backup.json         start, stop, timeline, names of the WAL files
    BACKUP_DIRECTORY/CYCLE-APP/pg_wal/...

Several apps of one cycle may have one directory. Where no agent runs the adapter, the folder is called CYCLE alone.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from appvss.adapters.errors import HoldRefused, SettingInvalid
from appvss.adapters.postgresql.server import Server
from appvss.adapters.postgresql.session import Session

CHUNK: Final = 1 << 20
"""Bytes of WAL that are asked of a server in one statement."""
SPARE_SEGMENTS: Final = 4
"""WAL files for which there must be room before a backup is begun."""
_START: Final = re.compile(r"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE)
_TIMELINE: Final = re.compile(r"^START TIMELINE: ([0-9]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that has begun in a session."""

    start: str
    """Its first LSN: recovery begins there."""
    directory: Path
    """The folder of the cycle, which is not there yet."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What the server gave at the end of a backup."""

    stop: str
    label: str
    tablespace_map: str
    segment_size: int

    def names(self) -> Iterator[str]:
        """The WAL files that recovery reads, in order.

        Raises:
            ValueError: the label is not as PostgreSQL writes it.
        """
        start, timeline = _START.search(self.label), _TIMELINE.search(self.label)
        if start is None or timeline is None:
            raise ValueError("the label names no start")
        first, last = bytes_of(start[1]) // self.segment_size, (bytes_of(self.stop) - 1) // self.segment_size
        in_one = (1 << 32) // self.segment_size
        for number in range(first, last + 1):
            yield f"{int(timeline[1]):08X}{number // in_one:08X}{number % in_one:08X}"


def bytes_of(lsn: str) -> int:
    """An LSN as a number."""
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def check_directory(directory: Path, server: Server) -> None:
    """Refuse a backup directory that is none, is full, or is the server's own.

    Raises:
        SettingInvalid: it is not what it should be.
        HoldRefused: there is no room in it.
    """
    hint = (
        "Name a directory for `backup_directory` outside of the server's own, such as /var/lib/appvss-agent/postgresql."
    )
    if not directory.is_absolute():
        raise SettingInvalid("the backup recipe needs a backup_directory, as an absolute path", hint)
    real = Path(os.path.realpath(directory))
    for volume in server.place.volumes() if server.place else ():
        if real.is_relative_to(volume.path):
            raise SettingInvalid(f"the backup_directory {real} lies in the server's own directory {volume.path}", hint)
    if not real.is_dir() or not os.access(real, os.W_OK | os.X_OK):
        raise SettingInvalid(f"the backup_directory {real} is no directory that may be written to", hint)
    room, needed = shutil.disk_usage(real).free, SPARE_SEGMENTS * int(server.settings["wal_segment_size"])
    if room < needed:
        raise HoldRefused(
            f"the backup_directory {real} is full: {room >> 20} MiB are free, {needed >> 20} MiB are needed",
            "Remove the folders of old cycles from it.",
        )


def folder_of(directory: Path, cycle: str, app: str) -> Path:
    """The folder of a cycle. All apps of a cycle have the same id, so that the app belongs into the name."""
    return directory / quote(f"{cycle}-{app}" if app else cycle, safe="")


async def begin(session: Session, cycle: str, folder: Path) -> Backup:
    """Begin a backup in a session: first a slot that keeps the WAL, then the start itself, with a fast checkpoint.

    Both end with the session: a temporary slot is dropped, and the server aborts the backup.

    Raises:
        PrivilegeMissing, HoldRefused: the server refuses.
    """
    # Named after the process: there is no other slot of that name while the process is there.
    await session.rows("SELECT pg_create_physical_replication_slot('appvss_' || pg_backend_pid(), true, true)")
    label = f"appvss-{cycle}"
    if session.version >= 150000:
        start = (await session.row("SELECT pg_backup_start(%s, true)::text", [label]))[0]
    else:
        start = (await session.row("SELECT pg_start_backup(%s, true, false)::text", [label]))[0]
    return Backup(start, folder)


async def stop(session: Session, server: Server) -> Stopped:
    """End it. Does not wait for an archiver, which may never come.

    Raises:
        AdapterError: the server refuses; the copy cannot be used with this backup.
    """
    if session.version >= 150000:
        row = await session.row("SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)")
    else:
        row = await session.row("SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)")
    return Stopped(row[0], row[1], row[2] or "", int(server.settings["wal_segment_size"]))


async def keep(session: Session, server: Server, backup: Backup, stopped: Stopped) -> None:
    """Bring label, map and WAL to the folder of the cycle. If it fails, nothing of it is there; if it is cancelled,
    nothing, or all where it was done in the same moment.

    Raises:
        OSError, ValueError, AdapterError: it cannot be done.
    """
    partial = backup.directory.with_name(f".{backup.directory.name}.{secrets.token_hex(4)}.partial")
    names = list(stopped.names())
    try:
        await asyncio.to_thread(_make, partial)
        for name in names:
            await _keep_segment(session, server, name, partial / "pg_wal" / name, stopped.segment_size)
        history = f"{names[0][:8]}.history"
        if names[0][:8] != "00000001":  # the first timeline has none
            await _keep_segment(session, server, history, partial / "pg_wal" / history, 0)
        await asyncio.to_thread(_finish, partial, backup, stopped, names)
    except BaseException:
        _discard(partial)
        raise


async def _keep_segment(session: Session, server: Server, name: str, to: Path, size: int) -> None:
    """One file of pg_wal: read from the disk, or asked of a server whose files cannot be read from here."""
    if server.place is not None and server.place.is_here:
        await asyncio.to_thread(_copy, server.place.wal / name, to, size)
        return
    with await asyncio.to_thread(to.open, "xb") as file:
        for offset in range(0, size or CHUNK, CHUNK):
            row = await session.row("SELECT pg_read_binary_file(%s, %s, %s)", [f"pg_wal/{name}", offset, CHUNK])
            await asyncio.to_thread(file.write, row[0])
        await asyncio.to_thread(_sync, file.fileno(), name, size)


def _make(partial: Path) -> None:
    partial.mkdir(mode=0o700)
    (partial / "pg_wal").mkdir(mode=0o700)


def _discard(partial: Path) -> None:
    """Remove what is not whole. It loses its name first: a thread that nobody waits for any more may still be at work
    on it, and would give it the name of the folder while its files are being removed.
    """
    away = partial.with_suffix(".void")
    with suppress(OSError):
        partial.rename(away)
    shutil.rmtree(away, ignore_errors=True)


def _copy(segment: Path, to: Path, size: int) -> None:
    with segment.open("rb") as source, to.open("xb") as target:
        shutil.copyfileobj(source, target, CHUNK)
        target.flush()
        _sync(target.fileno(), segment.name, size)


def _sync(descriptor: int, name: str, size: int) -> None:
    if size and os.fstat(descriptor).st_size != size:
        raise OSError(f"the WAL file {name} is not whole")
    os.fsync(descriptor)


def _finish(partial: Path, backup: Backup, stopped: Stopped, names: list[str]) -> None:
    """The label comes last, and the folder gets its name when all is on the disk."""
    facts = {"start": backup.start, "stop": stopped.stop, "timeline": int(names[0][:8], 16), "wal": names}
    _write(partial / "backup.json", json.dumps(facts, indent=2) + "\n")
    if stopped.tablespace_map:
        _write(partial / "tablespace_map", stopped.tablespace_map)
    _write(partial / "backup_label", stopped.label)
    for folder in (partial / "pg_wal", partial):
        _sync_folder(folder)
    try:
        partial.rename(backup.directory)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise FileExistsError(
            f"{backup.directory} is there already; name a directory of its own for each app"
        ) from None
    _sync_folder(backup.directory.parent)


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
