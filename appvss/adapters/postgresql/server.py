"""What a server says about itself: who it is, its settings, and where its files are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, LiteralString

from appvss.adapters.base import Volume, VolumeKind
from appvss.adapters.postgresql.session import Session, pooler

SETTINGS: Final = (
    "data_directory",
    "log_directory",
    "logging_collector",
    "wal_level",
    "wal_segment_size",
    "synchronous_commit",
    "synchronous_standby_names",
    "fsync",
    "full_page_writes",
    "data_checksums",
    "max_replication_slots",
    "wal_sender_timeout",
)
"""What decides the worth of a copy, and where its files are. What the account may not see is missing in an answer."""
_STARTED_WITHIN: Final = timedelta(seconds=5)
"""By how much a server's two notes of its own start may differ: postmaster.pid has the earlier one."""

_IDENTITY: Final[LiteralString] = """
SELECT pg_backend_pid(), pg_postmaster_start_time(), (SELECT system_identifier FROM pg_control_system()),
       pg_is_in_recovery(), (SELECT timeline_id FROM pg_control_checkpoint())
"""
_NAMES: Final[LiteralString] = """
SELECT current_setting('server_version'), current_user::text, (SELECT rolname::text FROM pg_roles WHERE oid = 10)
"""
_SETTINGS: Final[LiteralString] = "SELECT name, reset_val FROM pg_settings WHERE name = ANY(%s)"
# In-place tablespaces (15+, for tests) lie in the data directory and have a relative location.
_TABLESPACES: Final[LiteralString] = """
SELECT oid::text, pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'
ORDER BY oid
"""
# The default of a database or of a role counts for sessions that this one knows nothing of, and one of its own hides
# the server's.
_OVERRIDES: Final[LiteralString] = """
SELECT (SELECT count(*) FROM pg_db_role_setting
        WHERE lower(array_to_string(setconfig, ' ')) ~ 'synchronous_commit=(off|false|0|no)'),
       (SELECT source IN ('database', 'user', 'database user', 'client') FROM pg_settings
        WHERE name = 'synchronous_commit')
"""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which session of which start of which server: what must not change in a hold."""

    pid: int
    started: datetime
    system: str
    """The system identifier, which a copy shares."""
    is_standby: bool
    timeline: int


async def identify(session: Session) -> Identity:
    """Who answers.

    Raises:
        ServerUnfit: a pooler is in between.
    """
    pid, started, system, is_standby, timeline = await session.row(_IDENTITY)
    if pid != session.login_pid:
        raise pooler(
            f"a pooler is between the adapter and PostgreSQL at {session.where}: "
            f"the login gave process {session.login_pid}, statements run in process {pid}"
        )
    return Identity(pid, started, str(system), is_standby, timeline)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files are, as this machine sees it."""

    data: Path
    wal: Path
    """With its link resolved, if that can be seen."""
    tablespaces: Mapping[str, Path]
    """By oid."""
    log: Path
    """The folder of the logging collector."""
    is_here: bool
    """Whether these are files of this machine that may be looked at: the running server's own."""

    def volumes(self) -> tuple[Volume, ...]:
        """What must be in the snapshot."""
        return (
            Volume(VolumeKind.DATA, self.data),
            Volume(VolumeKind.LOG, self.wal),
            *(Volume(VolumeKind.TABLESPACE, path) for path in self.tablespaces.values()),
        )

    def file_systems(self) -> Mapping[int, Path]:
        """One path on each file system that the files lie on, by device number, as far as they can be looked at. Empty:
        not to be seen from here.
        """
        return dict(self._devices()) if self.is_here else {}

    def out_of_sight(self) -> Mapping[Path, str]:
        """What cannot be looked at of files that are here otherwise, and why: a tablespace whose folder is gone."""
        return dict(self._failures()) if self.is_here else {}

    def _devices(self) -> Iterator[tuple[int, Path]]:
        for volume in reversed(self.volumes()):
            with suppress(OSError):
                yield volume.path.stat().st_dev, volume.path

    def _failures(self) -> Iterator[tuple[Path, str]]:
        for volume in self.volumes():
            try:
                volume.path.stat()
            except OSError as error:
                yield volume.path, (error.strerror or "it cannot be read").lower()


@dataclass(frozen=True, slots=True)
class Server:
    """All that is asked of a server before it is held."""

    identity: Identity
    version: int
    """`server_version_num`."""
    release: str
    """`15.18`, as it says itself."""
    user: str
    superuser: str
    """The name of the one that every server has, which a verifier can log in as."""
    settings: Mapping[str, str] = field(default_factory=dict)
    overrides: int = 0
    """How many databases and roles have `synchronous_commit = off` as their own default."""
    hides_default: bool = False
    """Whether the account, its database or the DSN has a `synchronous_commit` of its own, which hides the server's."""
    place: Place | None = None
    """None: the account may not ask where the files are."""

    @property
    def commits_asynchronously(self) -> bool:
        """Whether some session may have its commits acknowledged before they are written, as far as can be seen; also
        where the server's own default cannot.
        """
        return self.settings.get("synchronous_commit") == "off" or self.overrides > 0 or self.hides_default

    @property
    def has_restore_points(self) -> bool:
        """Whether the WAL carries enough for restore points and backups."""
        return self.settings.get("wal_level") != "minimal"


async def read_server(session: Session) -> Server:
    """Ask a server all that.

    Raises:
        ServerUnfit: a pooler is in between.
    """
    identity = await identify(session)
    release, user, superuser = await session.row(_NAMES)
    settings = dict(await session.rows(_SETTINGS, [list(SETTINGS)]))
    overrides, hides_default = await session.row(_OVERRIDES)
    place = None
    if data := settings.get("data_directory"):
        tablespaces = dict(await session.rows(_TABLESPACES))
        place = find_place(Path(data), tablespaces, settings.get("log_directory", "log"), identity)
    number = release.partition(" ")[0]  # Debian adds its own: 15.18 (Debian 15.18-0+deb12u1)
    return Server(identity, session.version, number, user, superuser, settings, overrides, hides_default, place)


def find_place(data: Path, tablespaces: Mapping[str, str], log: str, identity: Identity) -> Place:
    """Look at the files themselves, as far as this process may: links are followed, none of the data is read."""
    is_here = _is_own(data, identity)
    wal = data / "pg_wal"
    if is_here:
        data, wal = Path(os.path.realpath(data)), Path(os.path.realpath(wal))
    return Place(
        data,
        wal,
        {oid: Path(os.path.realpath(path) if is_here else path) for oid, path in tablespaces.items()},
        Path(os.path.realpath(data / log)) if is_here else data / log,
        is_here,
    )


def _is_own(data: Path, identity: Identity) -> bool:
    """Whether a directory of this machine is the server's: another may have one at the same path."""
    try:
        control = (data / "global" / "pg_control").read_bytes()[:8]
        started = int((data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()[2])
    except (OSError, ValueError, IndexError):
        return False
    known = {int.from_bytes(control, order) for order in ("little", "big")}
    apart = abs(identity.started.timestamp() - started)
    return int(identity.system) % 2**64 in known and apart <= _STARTED_WITHIN.total_seconds()
