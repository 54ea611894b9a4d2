"""A private PostgreSQL server on a copy: no network, no replication, no archive, no configuration of the live server's.

A copy leads back to the live server by its links (pg_wal and tablespaces are absolute paths), by its settings
(archive_command, primary_conninfo, synchronous_standby_names, the workers of subscriptions), and by `postmaster.pid`.
All of these are cut here (facts/database-quiesce.md sections 4.2, 4.3 and 10).

One more way back was found by test: a recovery that meets the record of a CREATE TABLESPACE makes the link again, to
where it led on the live machine, whatever was linked before. So the server runs in a mount namespace in which the
copy's folders lie over the live ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.model.errors import VerifierUnavailable
from appvss.verify.base import Copy
from appvss.verify.postgresql_programs import Programs, why_no_cover
from appvss.verify.postgresql_wal import Control

START_LIMIT: Final = timedelta(hours=1)
"""How long a recovery may take."""
STOP_LIMIT: Final = timedelta(minutes=5)
PORT: Final = 5432
"""Only the name of a socket: nothing listens on the network."""
_POLL: Final = timedelta(milliseconds=20)
_READY: Final = "database system is ready to accept connections"
_FATAL: Final = re.compile(r"^(?:FATAL|PANIC):\s*(.*)$", re.MULTILINE)
_SETTINGS: Final = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "ssl": "off",
    "archive_mode": "off",
    "archive_command": "",
    "restore_command": "",
    "primary_conninfo": "",
    "synchronous_standby_names": "",
    "max_logical_replication_workers": "0",
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_line_prefix": "",
    "lc_messages": "C",
    "autovacuum": "off",
    "fsync": "off",
    "shared_buffers": "64MB",
    "huge_pages": "off",
}
"""What no copy may bring along, and what a server needs that lives for a look."""
_STATISTICS: Final = "pg_stat_tmp"
"""What a server empties when it starts; it is often a link to a disk of memory, which no copy has."""
_DATA: Final = ("base", "global", "pg_")
"""How what a server needs in its data directory begins, but for these."""
_NO_DATA: Final = ("pg_log", "pg_hba.conf", "pg_ident.conf")
_AT_LEAST: Final = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_transactions": "max_prepared_xacts",
    "max_locks_per_transaction": "max_locks_per_xact",
    "track_commit_timestamp": "track_commit_timestamp",
    "wal_level": "wal_level",
}
"""What a recovery needs as much of as the server had, and the control file's word for it."""


class NotStarted(Exception):
    """There is no private server; the text is a sentence that says why."""


def cut_off(data: Path, copy: Copy) -> None:
    """Make a data directory the copy's own: links lead into the copy, and nothing of the live server's is left.

    Raises:
        NotStarted: a link leads to what the copy has nothing of.
    """
    _use_map(data)
    for link in (data / "pg_wal", *sorted((data / "pg_tblspc").iterdir())):
        if link.is_symlink():
            _link_again(link, copy)
    for link in list(_links_below(data)):  # PostgreSQL makes no others, and follows those that people have made
        _cut_off_link(link, data, copy)
    for name in ("postmaster.pid", "standby.signal", "recovery.signal"):
        (data / name).unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # ALTER SYSTEM's own: it counts whatever the configuration file is
        (data / "postgresql.auto.conf").rename(data / "postgresql.auto.conf.of-the-original")


def covering(data: Path, copy: Copy, home: Path, created: Sequence[Path]) -> dict[Path, Path]:
    """What must lie over which folder of this machine while the copy is started.

    Args:
        data: the copy's data directory, cut off.
        copy: where the machine's paths lie in the copy.
        home: an empty folder of the server's owner.
        created: the tablespaces that its recovery will create again.

    Raises:
        VerifierUnavailable: it must, and cannot on this machine.
    """
    places = [*created, *(place for place in _linked(data, copy) if place.is_dir())]
    cover: dict[Path, Path] = {}
    for number, place in enumerate(dict.fromkeys(places)):
        if not place.is_dir():
            raise VerifierUnavailable(
                f"the copy's recovery creates a tablespace in {place}, which is not there on this machine",
                "Make an empty folder there; nothing is written to it.",
            )
        try:
            cover[place] = copy.locate(place)
        except FileNotFoundError:  # it was dropped again since
            cover[place] = home / f"dropped-{number}"
            cover[place].mkdir(mode=0o700)
            shutil.chown(cover[place], data.stat().st_uid, data.stat().st_gid)
    if reason := why_no_cover():
        if created:
            raise VerifierUnavailable(
                f"the copy's recovery would write to {created[0]} of this machine, and only a mount namespace keeps it "
                f"from that: {reason}",
                "Verify it as root on Linux, or on a machine of its own.",
            )
        return {}
    return cover


def _linked(data: Path, copy: Copy) -> list[Path]:
    """Where the links of a copy led before they were cut off."""
    targets = [link.readlink() for link in (data / "pg_wal", *(data / "pg_tblspc").iterdir()) if link.is_symlink()]
    return [
        place / target.relative_to(folder)
        for target in targets
        for place, folder in copy.files.items()
        if target.is_relative_to(folder)
    ]


def _use_map(data: Path) -> None:
    """Make the links of a base backup's map of tablespaces, as the server would at its start: it would then have them
    lead to the live server's, whatever was linked before.
    """
    places = data / "tablespace_map"
    if not (data / "backup_label").exists() or not places.exists():
        return
    for line in places.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        oid, _, place = line.partition(" ")
        link = data / "pg_tblspc" / oid
        if oid.isdecimal() and place.startswith("/") and not os.path.lexists(link):
            link.symlink_to(re.sub(r"\\(.)", r"\1", place))
    places.unlink()


def _links_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(path) for name in (*folders, *files) if os.path.islink(path := os.path.join(parent, name)))


def _cut_off_link(link: Path, data: Path, copy: Copy) -> None:
    """One that people have made: a folder of data on another disk, one of logs, a file of settings."""
    with suppress(FileNotFoundError):
        if copy.has(link) or copy.locate(os.path.normpath(link.parent / link.readlink())).exists():
            _link_again(link, copy)
            return
    if link == data / _STATISTICS:
        link.unlink()
        link.mkdir(mode=0o700)
        owner = data.stat()
        shutil.chown(link, owner.st_uid, owner.st_gid)
    elif link.parent == data and (link.name in _NO_DATA or not link.name.startswith(_DATA)):
        link.unlink()  # the private server needs neither settings nor logs
    else:
        name = link.relative_to(data)
        raise NotStarted(f"{name} is a link to {link.readlink()}: the copy has nothing of {link.readlink()}")


def _link_again(link: Path, copy: Copy) -> None:
    target = Path(os.path.normpath(link.parent / link.readlink()))
    if copy.has(link):
        return  # relative, or cut off already
    try:
        place = copy.locate(target)
    except FileNotFoundError as error:
        raise NotStarted(f"{link.name} is a link to {target}: {error}") from None
    owner = link.lstat()
    link.unlink()
    link.symlink_to(place)
    if os.geteuid() == 0:
        os.chown(link, owner.st_uid, owner.st_gid, follow_symlinks=False)


class PrivateServer:
    """One server.

    Args:
        programs: of the copy's version.
        data: the copy's data directory, cut off.
        home: an empty folder that belongs to its owner, for settings, log and socket.
        control: the copy's control file.
    """

    def __init__(self, programs: Programs, data: Path, home: Path, control: Control) -> None:
        self._programs = programs
        self._data = data
        self.home = home
        self._log = home / "log"
        settings = home / "postgresql.conf"
        settings.write_text(self._settings(control), encoding="utf-8")
        (home / "hba").write_text("local all all trust\n", encoding="utf-8")
        (home / "ident").write_text("", encoding="utf-8")
        self.took = timedelta(0)
        """How long it took until it answered."""

    def _settings(self, control: Control) -> str:
        slots = len(list((self._data / "pg_replslot").iterdir()))
        settings = {
            **_SETTINGS,
            "unix_socket_directories": str(self.home),
            "hba_file": str(self.home / "hba"),
            "ident_file": str(self.home / "ident"),
            "max_replication_slots": str(slots + 10),
        }
        settings |= {name: control.setting(word) for name, word in _AT_LEAST.items() if control.setting(word)}
        return "".join(f"{name} = '{value}'\n" for name, value in settings.items())

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @contextmanager
    def running(self, cover: Mapping[Path, Path]) -> Iterator[None]:
        """Start it, and stop it in order at the end of the block.

        Args:
            cover: what lies over which folder of this machine for it (`covering`).

        Raises:
            NotStarted: it did not start, or it did not stop.
        """
        with self._log.open("wb") as log:
            began = time.monotonic()
            options = ("-D", str(self._data), f"--config-file={self.home / 'postgresql.conf'}")
            process = self._programs.start_covered(cover, "postgres", *options, stdout=log, stderr=log)
        try:
            self._await_ready(process, began)
            self.took = timedelta(seconds=time.monotonic() - began)
            yield
        finally:
            self._stop(process)

    def _await_ready(self, process: subprocess.Popen[bytes], began: float) -> None:
        while _READY not in (said := self.log):
            if process.poll() is not None:
                lines = _FATAL.findall(said) or said.splitlines()[-1:] or ["it said nothing"]
                raise NotStarted(f"the copy does not start: {lines[0]}")
            if time.monotonic() - began > START_LIMIT.total_seconds():
                raise NotStarted(f"the copy has not recovered within {START_LIMIT}")
            time.sleep(_POLL.total_seconds())

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)  # "fast": it waits for no client
        try:
            process.wait(STOP_LIMIT.total_seconds())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)  # its processes end with it
            process.wait()
            raise NotStarted(f"the copy's server did not stop within {STOP_LIMIT}") from None


def home_for(programs: Programs, work: Path) -> Path:
    """An empty folder of the server's own."""
    home = work / "postgresql"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(home, programs.user, programs.group)
    return home
