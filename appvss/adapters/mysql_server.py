"""What MariaDB and MySQL have in common as servers: who they are, what an account may do, where their files are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appvss.adapters.base import Finding, Severity, Volume, VolumeKind
from appvss.adapters.errors import ServerUnfit
from appvss.adapters.mysql_session import Row, Session

VARIABLES: Final = (
    "aria_log_dir_path",
    "binlog_format",
    "datadir",
    "gtid_binlog_pos",
    "gtid_executed",
    "gtid_slave_pos",
    "innodb_data_file_path",
    "innodb_data_home_dir",
    "innodb_doublewrite_dir",
    "innodb_flush_log_at_timeout",
    "innodb_flush_log_at_trx_commit",
    "innodb_log_group_home_dir",
    "innodb_page_size",
    "innodb_undo_directory",
    "log_bin",
    "log_bin_basename",
    "log_bin_index",
    "lower_case_table_names",
    "read_only",
    "relay_log_basename",
    "sync_binlog",
    "version",
    "version_comment",
)
SETTINGS_READ: Final = ("innodb_flush_log_at_trx_commit", "innodb_flush_log_at_timeout", "sync_binlog", "read_only")
SYSTEM_SCHEMAS: Final = ("information_schema", "performance_schema", "mysql", "sys")
_POOLERS: Final = ("proxysql", "maxscale")
_GRANT: Final = re.compile(
    r"^(?P<verb>GRANT|REVOKE) (?P<privileges>.+?) ON (?:TABLE |DATABASE )?"
    r"(?P<scope>(?:`[^`]*`|\*)\.(?:`[^`]*`|\*)) (?:TO|FROM) "
)
_TABLE_PRIVILEGES: Final = (
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "SHOW VIEW",
    "REFERENCES",
    "TRIGGER",
    "ALTER",
    "DROP",
)
"""Any one of these on `*.*` makes every table visible in information_schema."""
_APPLIER_AT_REST: Final = ("waiting for more updates", "Waiting for an event from Coordinator")
"""In these states a thread of a MySQL replica is in a `Query` for as long as nothing comes from its source."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server as a session has found it."""

    product: str
    """`MariaDB` or `MySQL`."""
    version: str
    """As it says itself: `10.11.19-MariaDB-log`."""
    connection_id: int
    grants: frozenset[tuple[str, str]]
    """Privilege and scope (`*.*`, `orders.*`, `orders.items`)."""
    variables: Mapping[str, str]
    pooler: str
    """What speaks in the server's place, in a few words; empty: nobody does."""

    @property
    def number(self) -> tuple[int, int]:
        """The version's first two numbers."""
        found = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    @property
    def data_directory(self) -> Path:
        """Where its data are, links resolved: in a copy they would lead to the live server's."""
        return Path(os.path.realpath(self.variables.get("datadir", "/")))

    def binlog_path(self, name: str) -> Path:
        """Where a file of its binary log lies, links of its folder resolved."""
        basename = self.variables.get("log_bin_basename") or str(self.data_directory / name)
        return Path(os.path.realpath(Path(basename).parent)) / name

    @property
    def flush_at_commit(self) -> int:
        """`innodb_flush_log_at_trx_commit`."""
        return int(self.variables.get("innodb_flush_log_at_trx_commit", "1"))

    @property
    def has_binlog(self) -> bool:
        """Whether it writes a binary log."""
        return self.variables.get("log_bin") in {"ON", "1"}

    @property
    def is_read_only(self) -> bool:
        """Whether it takes no writes from ordinary accounts, as a replica does."""
        return self.variables.get("read_only") not in {"OFF", "0", None}

    def may(self, privilege: str, table: str = "*.*") -> bool:
        """Whether the account has a privilege, on a table (`schema.table`) or on everything."""
        scopes = {"*.*", table, f"{table.partition('.')[0]}.*"}
        return any(scope in scopes and name in {privilege, "ALL PRIVILEGES"} for name, scope in self.grants)

    def sees_all_tables(self) -> bool:
        """Whether the account sees every table of the server in information_schema."""
        return any(self.may(privilege) for privilege in _TABLE_PRIVILEGES)


def look(session: Session) -> Server:
    """Find out who is at the other end of a session that is open. In the session's thread.

    Raises:
        StatementFailed: the server is gone.
    """
    variables = session.variables(*VARIABLES)
    ((comment,),) = session.query(
        "select @@version_comment limit 1"
    )  # As mysql(1) says it: ProxySQL answers by itself.
    ((connection_id,),) = session.query("SELECT CONNECTION_ID()")
    version = variables.get("version", session.handshake_version)
    product = "MariaDB" if "mariadb" in f"{version} {comment} {session.handshake_version}".lower() else "MySQL"
    pooler = next((name for name in _POOLERS if name in f"{comment} {session.handshake_version}".lower()), "")
    if not pooler and int(connection_id) % 2**32 != session.handshake_id:  # The handshake has four bytes for it.
        pooler = f"a proxy (connection {session.handshake_id} of its own is connection {connection_id} of the server)"
    grants = frozenset(parse_grants(str(row[0]) for row in session.query("SHOW GRANTS")))
    return Server(product, version, int(connection_id), grants, variables, pooler)


def parse_grants(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Privileges and scopes, from what SHOW GRANTS prints.

    Those on columns or routines alone are left out, and those on everything of which a part was taken back again
    (`partial_revokes` of MySQL).
    """
    given: set[tuple[str, str]] = set()
    lacking: set[tuple[str, str]] = set()
    for line in lines:
        if found := _GRANT.match(line):
            scope = found["scope"].replace("`", "").replace("\\_", "_")
            for privilege in re.sub(r"\([^)]*\)", "(", found["privileges"]).split(","):
                if not privilege.endswith("("):
                    (given if found["verb"] == "GRANT" else lacking).add((privilege.strip(), scope))
    taken_back = {privilege for privilege, _ in lacking}
    return (one for one in given if one[1] != "*.*" or one[0] not in taken_back)


def misfit(server: Server, product: str, least: tuple[int, int], other: str) -> ServerUnfit | None:
    """Why a server cannot be held by an adapter at all; None: it can.

    Args:
        server: as it was found.
        product: whom the adapter is for.
        least: the first version that it knows.
        other: the adapter for the other product.
    """
    if server.pooler:
        return ServerUnfit(
            f"{server.pooler} is between the adapter and the server: a lock needs one session of the server's own",
            "Set `socket`, or `host` and `port`, to the server itself.",
        )
    if server.product != product:
        return ServerUnfit(
            f"the server is {server.product} {server.version}, not {product}", f'Set adapter = "{other}" for this app.'
        )
    if server.number < least:
        return ServerUnfit(
            f"{product} {server.version} is too old", f"The adapter knows {product} {least[0]}.{least[1]} and later."
        )
    return None


def tables_by_engine(session: Session) -> dict[str, int]:
    """How many tables of the users, as far as they are visible, each storage engine has."""
    places = ", ".join(["%s"] * len(SYSTEM_SCHEMAS))
    question = (
        "SELECT COALESCE(engine, 'none'), COUNT(*) FROM information_schema.tables"  # noqa: S608 - nothing but %s is added
        f" WHERE table_type NOT LIKE '%%VIEW' AND table_schema NOT IN ({places}) GROUP BY 1"
    )
    rows = session.query(question, SYSTEM_SCHEMAS)
    return {str(engine): int(count) for engine, count in rows}


def long_statements(session: Session, seconds: int) -> list[Row]:
    """Id, user, command and age in seconds of the statements of others that run for longer. Never their text."""
    rows = session.query("SHOW PROCESSLIST")
    found = []
    for row in rows:
        number, user, command, age, state = row[0], row[1], str(row[4]), row[5], str(row[6])
        if user == "system user" and any(part in state for part in _APPLIER_AT_REST):
            continue
        if command in {"Query", "Execute"} and number != session.handshake_id and int(age or 0) >= seconds:
            found.append((number, user, command, int(age)))
    return sorted(found, key=lambda row: -row[3])


def volumes_of(server: Server, tablespaces: Iterable[str]) -> tuple[tuple[Volume, ...], tuple[Finding, ...]]:
    """Every folder that must be in the snapshot, with links resolved, and what stood in the way of finding them.

    Args:
        server: as it was found.
        tablespaces: paths of InnoDB's files, as the server gives them; those in the data directory add nothing.
    """
    data = server.data_directory
    if not os.path.isdir(data):
        return (), (
            Finding(
                Severity.WARNING,
                "volumes_unknown",
                f"the server's data directory {data} is not on this machine",
                "Run the agent on the server's own machine: a snapshot of another one does not contain it.",
            ),
        )
    places: dict[Path, VolumeKind] = {}
    for kind, path in _named_places(server):
        places.setdefault(Path(os.path.realpath(data / path)), kind)
    home = Path(os.path.realpath(data))
    for file in tablespaces:
        folder = Path(os.path.realpath((data / file).parent))
        if not folder.is_relative_to(home):
            places.setdefault(folder, VolumeKind.TABLESPACE)
    findings = []
    try:
        for target in _links_out_of(home):
            places.setdefault(target, VolumeKind.TABLESPACE)
    except OSError as error:
        findings.append(
            Finding(
                Severity.WARNING,
                "links_unseen",
                f"{error.filename} cannot be read from here: links to other places were not looked for",
                "Run the agent as root or as the server's user, or keep all tables inside the data directory.",
            )
        )
    return tuple(Volume(kind, path) for path, kind in places.items()), tuple(findings)


def _named_places(server: Server) -> Iterator[tuple[VolumeKind, Path]]:
    """The folders that the server's variables name, relative to the data directory or absolute."""
    variables = server.variables
    yield VolumeKind.DATA, Path()
    for name in ("innodb_data_home_dir", "innodb_undo_directory", "innodb_doublewrite_dir"):
        if value := variables.get(name, ""):
            yield VolumeKind.DATA, Path(value)
    for name in ("innodb_log_group_home_dir", "aria_log_dir_path"):
        if value := variables.get(name, ""):
            yield VolumeKind.LOG, Path(value)
    for name in ("log_bin_basename", "log_bin_index", "relay_log_basename"):
        if value := variables.get(name, ""):
            yield VolumeKind.LOG, Path(value).parent
    for entry in variables.get("innodb_data_file_path", "").split(";"):
        if entry.startswith("/"):
            yield VolumeKind.DATA, Path(entry.partition(":")[0]).parent


def _links_out_of(home: Path) -> Iterator[Path]:
    """Where the links in a data directory, and in its databases, lead to: folders outside of it."""
    folders = [home]
    with os.scandir(home) as entries:
        folders.extend(Path(entry.path) for entry in entries if entry.is_dir())
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = Path(os.path.realpath(entry.path))
                    place = target if target.is_dir() else target.parent
                    if not place.is_relative_to(home):
                        yield place
