"""What a pre-flight looks for, and how it says it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, LiteralString

from appvss.adapters.base import Finding, Preflight, Severity
from appvss.adapters.errors import AdapterError, ServerUnfit
from appvss.adapters.postgresql import backup as backups
from appvss.adapters.postgresql.server import Server
from appvss.adapters.postgresql.session import Session
from appvss.adapters.postgresql.settings import Recipe, Settings

PRIVILEGES: Final = (
    "pg_checkpoint (15 and later; before, a superuser makes checkpoints)",
    "EXECUTE on pg_create_restore_point(text)",
    "pg_monitor, to see where the files are",
    "for the backup recipe: REPLICATION, EXECUTE on pg_backup_start(text, boolean) and pg_backup_stop(boolean)",
)
OLD_TRANSACTION_MINUTES: Final = 15
"""From which age on an open transaction is worth a word."""

_MAY: Final[LiteralString] = """
SELECT rolsuper, rolsuper OR rolreplication, has_function_privilege('pg_create_restore_point(text)', 'EXECUTE'),
       has_function_privilege('pg_read_binary_file(text,bigint,bigint)', 'EXECUTE')
FROM pg_roles WHERE rolname = current_user
"""
_MAY_CHECKPOINT: Final[LiteralString] = "SELECT pg_has_role(current_user, 'pg_checkpoint', 'USAGE')"
_MAY_BACK_UP: Final[LiteralString] = """
SELECT has_function_privilege('pg_backup_start(text,boolean)', 'EXECUTE'),
       has_function_privilege('pg_backup_stop(boolean)', 'EXECUTE')
"""
_MAY_BACK_UP_14: Final[LiteralString] = """
SELECT has_function_privilege('pg_start_backup(text,boolean,boolean)', 'EXECUTE'),
       has_function_privilege('pg_stop_backup(boolean,boolean)', 'EXECUTE')
"""
_ACTIVITY: Final[LiteralString] = """
SELECT (SELECT count(*) FROM pg_prepared_xacts),
       (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::int FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
       (SELECT count(*) FROM pg_stat_replication)
"""


async def preflight(session: Session, server: Server, settings: Settings, recipe: Recipe) -> Preflight:
    """Everything that is worth a word about a server that answers.

    Raises:
        AdapterError: it does not answer any more.
    """
    found = [*_durability(server), *await _privileges(session, server, settings), *_standby(server)]
    if recipe is Recipe.BACKUP:
        found += await _backup(session, server, settings)
    found += [*await asyncio.to_thread(lambda: list(_places(server, recipe))), *await _activity(session, server)]
    if not found:
        found = [Finding(Severity.OK, "ready", f"PostgreSQL {server.release} at {session.where} can be held")]
    return Preflight(
        findings=tuple(found),
        version=f"PostgreSQL {server.release}",
        volumes=server.place.volumes() if server.place else (),
        settings={name: value for name, value in server.settings.items() if "directory" not in name},
        recipe=_in_words(recipe, server, settings),
    )


def problem(error: AdapterError) -> Finding:
    """A refusal as a finding: `ServerUnfit` is `server_unfit`."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", error.name).lower()
    return Finding(Severity.PROBLEM, name, error.sentence, error.hint)


def check_wal_level(server: Server) -> None:
    """Refuse a server whose WAL does not carry a backup.

    Raises:
        ServerUnfit: it does not.
    """
    if not server.has_restore_points:
        raise ServerUnfit(
            "wal_level is minimal, and a backup needs more",
            'Set wal_level = replica and restart the server, or use recipe = "atomic".',
        )


def checkpoint_missing(server: Server) -> Finding:
    """The account may not make a checkpoint."""
    grant = (
        f"GRANT pg_checkpoint TO {_quoted(server.user)};"
        if server.version >= 150000
        else (f"Before PostgreSQL 15 only a superuser may: ALTER ROLE {_quoted(server.user)} SUPERUSER;")
    )
    return _missing(server, "make a checkpoint", f"{grant} Or set checkpoint = false.")


async def missing_for_backup(session: Session, server: Server) -> list[Finding]:
    """What the account may not do that the backup recipe needs."""
    user = _quoted(server.user)
    is_super, may_replicate, _, may_read = await session.row(_MAY)
    new = server.version >= 150000
    may_start, may_stop = await session.row(_MAY_BACK_UP if new else _MAY_BACK_UP_14)
    start = "pg_backup_start(text, boolean)" if new else "pg_start_backup(text, boolean, boolean)"
    end = "pg_backup_stop(boolean)" if new else "pg_stop_backup(boolean, boolean)"
    found = []
    if not may_replicate:
        found.append(_missing(server, "keep the WAL with a replication slot", f"ALTER ROLE {user} REPLICATION;"))
    for may, function, what in ((may_start, start, "begin a backup"), (may_stop, end, "end a backup")):
        if not may:
            found.append(_missing(server, what, f"GRANT EXECUTE ON FUNCTION {function} TO {user};"))
    if not (is_super or may_read or (server.place is not None and server.place.is_here)):
        grant = f"GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint) TO {user};"
        found.append(_missing(server, "read the WAL", f"{grant} Or run the agent as a user who may read pg_wal."))
    return found


async def _privileges(session: Session, server: Server, settings: Settings) -> list[Finding]:
    is_super, _, may_restore_point, _ = await session.row(_MAY)
    user = _quoted(server.user)
    found = []
    may_checkpoint = is_super or (server.version >= 150000 and (await session.row(_MAY_CHECKPOINT))[0])
    if settings.checkpoint and not may_checkpoint:
        found.append(checkpoint_missing(server))
    if not may_restore_point and server.has_restore_points and not server.identity.is_standby:
        grant = f"GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO {user};"
        sentence = f"the account {server.user} may not create restore points, so a cycle cannot be a target of recovery"
        found.append(Finding(Severity.WARNING, "no_restore_point", sentence, grant))
    if server.place is None:
        sentence = f"the account {server.user} may not see where the files are, so nobody can tell what must be frozen"
        found.append(Finding(Severity.WARNING, "volumes_unknown", sentence, f"GRANT pg_monitor TO {user};"))
    return found


def _durability(server: Server) -> Iterator[Finding]:
    if server.settings.get("wal_level") == "minimal":
        sentence = "wal_level is minimal: there are no restore points, and no recovery to a point in time"
        yield Finding(
            Severity.WARNING, "wal_level_minimal", sentence, "Set wal_level = replica and restart the server."
        )
    if server.commits_asynchronously:
        hint = "Set synchronous_commit = on where each commit counts."
        if server.settings.get("synchronous_commit") == "off":
            where = "synchronous_commit is off"
        elif server.overrides:
            where = f"synchronous_commit is off for {server.overrides} databases or roles"
        else:
            where = f"the account {server.user} has a synchronous_commit of its own, and the server's may be off"
            hint = "Take it out of the account, its database and the dsn: the adapter needs none."
        sentence = (
            f"{where}: commits that are acknowledged between the marker and the file-system freeze may be missing"
        )
        yield Finding(Severity.WARNING, "synchronous_commit_off", sentence, hint)
    if server.settings.get("fsync") == "off":
        sentence = "fsync is off: a copy that is taken without a file-system freeze may be corrupt"
        yield Finding(Severity.WARNING, "fsync_off", sentence, "Set fsync = on.")
    if server.settings.get("full_page_writes") == "off":
        sentence = "full_page_writes is off: a copy may have pages that are half written, and recovery cannot mend them"
        yield Finding(Severity.WARNING, "full_page_writes_off", sentence, "Set full_page_writes = on.")


def _standby(server: Server) -> Iterator[Finding]:
    if server.identity.is_standby:
        sentence = (
            "the server is a standby: it can write no marker, so its copy is worth `fs`, and what the primary had not "
            "sent is missing"
        )
        hint = "Hold the primary for a proof; else run CHECKPOINT on the primary first, to keep the recovery short."
        yield Finding(Severity.WARNING, "standby", sentence, hint)


async def _backup(session: Session, server: Server, settings: Settings) -> list[Finding]:
    found = await missing_for_backup(session, server)
    try:
        await asyncio.to_thread(backups.check_directory, settings.backup_directory, server)
    except AdapterError as error:
        full = "backup_directory_full" if error.retryable else "backup_directory_wrong"
        found.append(Finding(Severity.PROBLEM, full, error.sentence, error.hint))
    if not server.has_restore_points:
        try:
            check_wal_level(server)
        except AdapterError as error:
            found.append(Finding(Severity.PROBLEM, "wal_level_minimal", error.sentence, error.hint))
    if server.settings.get("max_replication_slots") == "0":
        sentence = "max_replication_slots is 0, and a backup needs a slot that keeps its WAL"
        hint = "Set max_replication_slots = 10 and restart the server."
        found.append(Finding(Severity.PROBLEM, "no_replication_slots", sentence, hint))
    return found


def _places(server: Server, recipe: Recipe) -> Iterator[Finding]:
    place = server.place
    if place is None:
        return
    if not place.is_here:
        sentence = (
            f"the files in {place.data} cannot be looked at from here, so links of pg_wal and tablespaces are not known"
        )
        hint = "Run the agent on the server's machine, as root or as the server's user."
        yield Finding(Severity.WARNING, "volumes_unresolved", sentence, hint)
        return
    for path, reason in place.out_of_sight().items():
        sentence = f"the files in {path} cannot be looked at ({reason}), so nobody can tell whether they are frozen"
        hint = "Mount what is missing; else run the agent as root or as the server's user."
        yield Finding(Severity.WARNING, "volumes_unresolved", sentence, hint)
    devices = place.file_systems()
    if len(devices) > 1 and recipe is not Recipe.BACKUP:
        paths = ", ".join(str(path) for path in sorted(devices.values()))
        sentence = f"the files lie on {len(devices)} file systems, which must be one atomic set: {paths}"
        hint = (
            'Have all of them frozen before the first is copied; if that cannot be, use recipe = "backup" with a '
            "backup_directory."
        )
        yield Finding(Severity.WARNING, "several_volumes", sentence, hint)
    if server.settings.get("logging_collector") == "on" and _device(place.log) in devices:
        sentence = (
            f"the log collector writes to {place.log}, which is frozen with the data: whoever logs a lot then stops"
        )
        yield Finding(
            Severity.WARNING, "log_on_data_volume", sentence, "Put log_directory on a file system that is not frozen."
        )


def _device(path: Path) -> int | None:
    """The file system of a folder; None: it cannot be looked at."""
    try:
        return path.stat().st_dev
    except OSError:
        return None


async def _activity(session: Session, server: Server) -> list[Finding]:
    prepared, oldest, replicas = await session.row(_ACTIVITY)
    found = []
    if prepared:
        sentence = f"{prepared} prepared transactions are open: they keep their locks in the copy as well"
        hint = "COMMIT PREPARED or ROLLBACK PREPARED what was forgotten: pg_prepared_xacts lists them."
        found.append(Finding(Severity.WARNING, "prepared_transactions", sentence, hint))
    if oldest > OLD_TRANSACTION_MINUTES * 60:
        sentence = (
            f"a transaction is open for {oldest // 60} minutes: it is not hindered, and its work is not in the copy"
        )
        found.append(Finding(Severity.WARNING, "long_transaction", sentence, "Look for it in pg_stat_activity."))
    if names := server.settings.get("synchronous_standby_names"):
        sentence = f"commits wait for synchronous standbys ({names}), which see a frozen primary as one that hangs"
        hint = "Keep the hold below wal_sender_timeout and below what your failover manager waits for."
        found.append(Finding(Severity.WARNING, "synchronous_standbys", sentence, hint))
    elif replicas:
        limit = server.settings.get("wal_sender_timeout", "60000")
        dropped = f"; after {limit} ms of a freeze they may be dropped" if limit != "0" else ""
        sentence = f"{replicas} receivers of WAL are connected, which see a frozen primary as one that hangs{dropped}"
        hint = "Keep the hold below wal_sender_timeout and below what your failover manager waits for."
        found.append(Finding(Severity.WARNING, "replicas", sentence, hint))
    return found


def _in_words(recipe: Recipe, server: Server, settings: Settings) -> str:
    words = ["checkpoint"] if settings.checkpoint else []
    if recipe is Recipe.BACKUP:
        words.append("backup with a slot")
    if server.identity.is_standby:
        return f"{recipe.value} on a standby: {', '.join([*words, 'no marker'])}"
    if server.has_restore_points:
        words.append("restore point")
    return f"{recipe.value}: {', '.join([*words, 'marker in a synchronous commit'])}"


def _missing(server: Server, what: str, hint: str) -> Finding:
    return Finding(Severity.PROBLEM, "missing_privilege", f"the account {server.user} may not {what}", hint)


def _quoted(name: str) -> str:
    """A role as SQL takes it."""
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'
