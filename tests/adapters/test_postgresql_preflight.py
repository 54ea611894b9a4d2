"""What the adapter for PostgreSQL says before a freeze: bad input, missing privileges, settings, poolers, volumes."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters.base import Finding, Preflight, Severity, VolumeKind
from appvss.adapters.errors import (
    AdapterError,
    LoginRefused,
    PrivilegeMissing,
    ServerUnfit,
    ServerUnreachable,
    SettingInvalid,
)
from appvss.adapters.postgresql import Adapter, Recipe, Settings
from appvss.adapters.settings import Secret
from tests.adapters.postgresql_ground import Ground, freeze, new_server, new_standby, prepare
from tests.databases.support.servers import as_server_user, find_program, server_folder
from tests.support.byte_relay import byte_relay
from tests.support.loop_disks import LoopDisks, why_not
from tests.support.running_broker import short_directory

SECRET = "hunter2-is-secret"
BOUND = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[Ground]:
    with new_server(max_prepared_transactions="5") as made:
        made.sql("CREATE ROLE low LOGIN")
        made.sql(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'")
        made.allow("local all guarded scram-sha-256", "local all outcast reject")
        yield made


def names(looked: Preflight) -> dict[str, Finding]:
    return {finding.name: finding for finding in looked.findings}


async def look(server: Ground, user: str = "postgres", **settings: object) -> Preflight:
    return await Adapter(Settings(server.dsn_of(user), **settings)).preflight()  # type: ignore[arg-type]


async def test_a_server_that_is_in_order_is_ready_and_says_where_its_files_are(server: Ground) -> None:
    looked = await look(server)
    assert set(names(looked)) == {"ready"}
    assert looked.version.startswith("PostgreSQL 1")
    assert [(volume.kind, volume.path) for volume in looked.volumes] == [
        (VolumeKind.DATA, server.data),
        (VolumeKind.LOG, server.data / "pg_wal"),
    ]
    assert looked.settings["synchronous_commit"] == "on"
    assert looked.recipe == "atomic: checkpoint, restore point, marker in a synchronous commit"


# Who may log in.


@pytest.mark.parametrize(
    ("user", "password"), [("guarded", f"{SECRET}-wrong"), ("guarded", ""), ("nobody_here", ""), ("outcast", "")]
)
async def test_an_account_that_is_not_taken_is_refused_without_its_password(
    server: Ground, user: str, password: str
) -> None:
    secret = {"password": Secret(lambda: password, "a test")} if password else {}
    adapter = Adapter(Settings(server.dsn_of(user), **secret))
    with pytest.raises(LoginRefused) as refused:
        await adapter.hold(freeze())
    finding = names(await adapter.preflight())["login_refused"]
    assert finding.severity is Severity.PROBLEM
    assert user in finding.sentence
    for text in (str(refused.value), refused.value.hint, finding.sentence, repr(adapter.settings)):
        assert SECRET not in text


async def test_a_password_is_taken_from_its_secret(server: Ground) -> None:
    settings = Settings(server.dsn_of("guarded"), password=Secret(lambda: SECRET, "a test"), checkpoint=False)
    assert not (await Adapter(settings).preflight()).is_refused
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=/nowhere user=a password={SECRET}",
        f"host=/nowhere user=a password='{SECRET}'",
        f"postgresql://a:{SECRET}@127.0.0.1:1/b",
        f"postgresql://a@127.0.0.1:1/b?password={SECRET}",
        f"host=/nowhere pass word={SECRET}",
        f"host=/nowhere {SECRET}",
        f"postgresql://a:{SECRET}@[::1/b",
        f"host=127.0.0.1 port=1 user=a password = '{SECRET}'",
        f"host=/nowhere user=a password=x&{SECRET}",
        f"host=/nowhere user=a password=x\\ y{SECRET}",
        # What libpq takes for port, host, or database, and would name.
        f"postgresql://a:{SECRET}/x@127.0.0.1:1/b",
        f"postgresql://a:1/{SECRET}@127.0.0.1:1/b",
        f"postgresql://a:x@{SECRET}@127.0.0.1:1/b",
        f"postgresql://a:x?{SECRET}@127.0.0.1:1/b",
    ],
)
async def test_a_secret_in_the_dsn_is_never_shown(dsn: str) -> None:
    adapter = Adapter(Settings(dsn, checkpoint=False))
    with pytest.raises(AdapterError) as refused:
        await adapter.hold(freeze())
    assert isinstance(refused.value, ServerUnreachable | SettingInvalid)
    looked = await adapter.preflight()
    assert looked.is_refused
    texts = [str(refused.value), refused.value.hint, *(finding.sentence for finding in looked.findings)]
    if " pass word" not in dsn and f" {SECRET}" not in dsn:  # no one can know a secret in what is no DSN
        texts.append(repr(adapter.settings))
    assert not [text for text in texts if SECRET in text]


async def test_a_port_that_nobody_listens_at_is_unreachable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, and not listening
        port = bound.getsockname()[1]
        with pytest.raises(ServerUnreachable, match=f"127.0.0.1 port {port} does not answer: Connection refused"):
            await Adapter(Settings(f"host=127.0.0.1 port={port} user=a")).hold(freeze())


async def test_a_host_that_does_not_exist_is_unreachable() -> None:
    with pytest.raises(ServerUnreachable, match=r"nowhere\.invalid"):
        await Adapter(Settings("host=nowhere.invalid user=a")).hold(freeze(budget=timedelta(minutes=1)))


@pytest.mark.parametrize(
    ("dsn", "password"),
    [
        ("host=a..b user=a", ""),
        (f"host={'a' * 70}.invalid user=a", ""),
        ("host=/nowhere\udcff user=a", ""),
        ("host=/nowhere user=a", "no UTF-8: \udcff"),
        ("host=127.0.0.1 port=five user=a", ""),
    ],
)
async def test_what_nobody_can_be_asked_with_is_an_invalid_setting(dsn: str, password: str) -> None:
    secret = {"password": Secret(lambda: password, "a test")} if password else {}
    adapter = Adapter(Settings(dsn, **secret))
    with pytest.raises(SettingInvalid):
        await adapter.hold(freeze())
    assert set(names(await adapter.preflight())) == {"setting_invalid"}


async def test_a_server_before_13_is_too_old(server: Ground) -> None:
    """Such a server cannot be had: a real one's word at the login is changed on its way."""
    release = server.value("SHOW server_version").partition(" ")[0].encode()
    folder = server_folder(short_directory())
    try:
        listen = folder / server.socket.name
        async with byte_relay(
            listen, server.socket, lambda data: data.replace(release, b"12." + b"9" * (len(release) - 3))
        ):
            with pytest.raises(ServerUnfit, match=r"12\.9+ .*is too old"):
                await Adapter(Settings(server.dsn_of("postgres", folder))).hold(freeze())
    finally:
        shutil.rmtree(folder)


# What the account may do: the hint cures what it names.


def cure(server: Ground, hint: str) -> None:
    statement = hint.partition(";")[0]
    assert statement.startswith(("GRANT ", "ALTER ROLE ")), hint
    server.sql(statement)


@pytest.fixture
def low(server: Ground) -> Iterator[str]:
    """An account that may do nothing; each test has a new one."""
    server.sql('CREATE ROLE "Low-1" LOGIN')
    yield '"Low-1"'
    server.sql('DROP OWNED BY "Low-1"')
    server.sql('DROP ROLE "Low-1"')


async def test_each_missing_privilege_is_named_with_the_grant_that_cures_it(server: Ground, low: str) -> None:
    dsn = server.dsn_of("Low-1")
    adapter = Adapter(Settings(dsn))
    with pytest.raises(PrivilegeMissing, match="Low-1 may not make a checkpoint") as refused:
        await adapter.prepare(prepare())
    assert "GRANT pg_checkpoint TO" in refused.value.hint

    looked = await adapter.preflight()
    assert set(names(looked)) == {"missing_privilege", "no_restore_point", "volumes_unknown"}
    assert looked.is_refused
    assert looked.volumes == ()
    for finding in looked.findings:
        cure(server, finding.hint)
    assert set(names(await adapter.preflight())) == {"ready"}
    await adapter.prepare(prepare())
    async with adapter.quiesce(freeze()) as evidence:
        assert evidence["restore_point"]
        assert evidence["data_directory"] == str(server.data)


async def test_an_account_that_may_nothing_still_leaves_a_marker(server: Ground, low: str) -> None:
    async with Adapter(Settings(server.dsn_of("Low-1"), checkpoint=False)).quiesce(freeze()) as evidence:
        assert evidence["marker"]
        assert (evidence["restore_point"], evidence["data_directory"]) == ("", "")


async def test_what_a_backup_needs_is_named_with_its_grants(server: Ground, low: str, tmp_path: Path) -> None:
    settings = Settings(server.dsn_of("Low-1"), recipe=Recipe.BACKUP, backup_directory=tmp_path, checkpoint=False)
    adapter = Adapter(settings)
    with pytest.raises(PrivilegeMissing, match="replication slot"):
        await adapter.hold(freeze())
    problems = [finding for finding in (await adapter.preflight()).findings if finding.severity is Severity.PROBLEM]
    assert len(problems) == 4
    for finding in problems:
        cure(server, finding.hint)
    assert not (await adapter.preflight()).is_refused
    async with adapter.quiesce(freeze()):
        pass
    assert len(list(tmp_path.iterdir())) == 1  # noqa: ASYNC240 # after the hold


# Settings.


@pytest.mark.parametrize(
    ("name", "value", "finding"),
    [
        ("synchronous_commit", "off", "synchronous_commit_off"),
        ("fsync", "off", "fsync_off"),
        ("full_page_writes", "off", "full_page_writes_off"),
        ("synchronous_standby_names", "elsewhere", "synchronous_standbys"),
    ],
)
async def test_a_setting_that_costs_something_is_told(server: Ground, name: str, value: str, finding: str) -> None:
    with server.altered(**{name: value}):
        looked = await look(server)
        assert finding in names(looked)
        assert not looked.is_refused
        async with Adapter(Settings(server.dsn)).quiesce(freeze()) as evidence:  # a standby is not waited for
            assert evidence["async_commit"] == str(name == "synchronous_commit").lower()
    assert finding not in names(await look(server))


async def test_asynchronous_commits_of_a_role_alone_are_told(server: Ground) -> None:
    server.sql("ALTER ROLE low SET synchronous_commit = off")
    try:
        assert "1 databases or roles" in names(await look(server))["synchronous_commit_off"].sentence
    finally:
        server.sql("ALTER ROLE low RESET synchronous_commit")


async def test_an_account_that_hides_the_servers_asynchronous_commits_does_not_say_that_there_are_none(
    server: Ground,
) -> None:
    with server.altered(synchronous_commit="off"):
        server.sql("ALTER ROLE low SET synchronous_commit = on")
        try:
            finding = names(await look(server, "low"))["synchronous_commit_off"]
            async with Adapter(Settings(server.dsn_of("low"), checkpoint=False)).quiesce(freeze()) as evidence:
                assert evidence["async_commit"] == "true"
        finally:
            server.sql("ALTER ROLE low RESET synchronous_commit")
    assert "of its own" in finding.sentence


async def test_a_session_that_is_read_only_by_default_leaves_its_marker(server: Ground) -> None:
    with server.altered(default_transaction_read_only="on"):
        async with Adapter(Settings(server.dsn)).quiesce(freeze()) as evidence:
            assert evidence["marker"]


async def test_prepared_transactions_are_told(server: Ground) -> None:
    import psycopg

    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE halfway (id int)")
        connection.execute("PREPARE TRANSACTION 'halfway'")
    try:
        assert "1 prepared" in names(await look(server))["prepared_transactions"].sentence
    finally:
        server.sql("ROLLBACK PREPARED 'halfway'")


async def test_a_wal_level_that_is_minimal_has_no_restore_points_and_no_backups(tmp_path: Path) -> None:
    with new_server(wal_level="minimal", max_wal_senders="0") as minimal:
        looked = await look(minimal)
        assert not looked.is_refused
        assert names(looked)["wal_level_minimal"].severity is Severity.WARNING
        async with Adapter(Settings(minimal.dsn)).quiesce(freeze()) as evidence:
            assert (evidence["restore_point"], bool(evidence["marker"])) == ("", True)

        backup = Adapter(Settings(minimal.dsn, recipe=Recipe.BACKUP, backup_directory=tmp_path))
        assert (await backup.preflight()).is_refused
        with pytest.raises(ServerUnfit, match="wal_level is minimal"):
            await backup.hold(freeze())


async def test_a_read_only_replica_is_told(server: Ground) -> None:
    with new_standby(server) as standby:
        finding = names(await look(standby))["standby"]
    assert finding.severity is Severity.WARNING
    assert "worth `fs`" in finding.sentence


# Poolers.


@contextmanager
def pooling(server: Ground, mode: str) -> Iterator[Path]:
    """PgBouncer before a server; its socket lies in the folder."""
    program = find_program("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
    folder = server_folder(short_directory())
    (folder / "users").write_text('"postgres" ""\n')
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={server.home} port={server.port}\n[pgbouncer]\nlisten_port = {server.port}\n"
        f"unix_socket_dir = {folder}\nauth_type = trust\nauth_file = {folder}/users\npool_mode = {mode}\n"
        f"admin_users = postgres\nlogfile = {folder}/log\n"
    )
    import subprocess

    process = subprocess.Popen(as_server_user(program, "-q", str(settings), dies_with_us=True), cwd="/")
    try:
        yield folder
    finally:
        process.terminate()
        process.wait(BOUND)
        shutil.rmtree(folder)


async def answering(folder: Path, server: Ground) -> None:
    """Wait until somebody listens there."""
    async with asyncio.timeout(BOUND):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_unix_connection(folder / server.socket.name)
                writer.close()
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", ["transaction", "statement", "session"])
async def test_a_pooler_is_refused_with_a_hint(server: Ground, mode: str) -> None:
    with pooling(server, mode) as folder:
        await answering(folder, server)
        adapter = Adapter(Settings(server.dsn_of("postgres", folder)))
        for refused in (adapter.hold(freeze()), adapter.prepare(prepare())):
            with pytest.raises(ServerUnfit, match="pooler") as error:
                await refused
            assert "Connect to the server itself" in error.value.hint
        assert names(await adapter.preflight())["server_unfit"].severity is Severity.PROBLEM


async def test_the_console_of_a_pooler_is_refused(server: Ground) -> None:
    with pooling(server, "session") as folder:
        await answering(folder, server)
        adapter = Adapter(Settings(f"host={folder} port={server.port} user=postgres dbname=pgbouncer"))
        with pytest.raises(ServerUnfit, match="console of a pooler"):
            await adapter.hold(freeze())


# Volumes.


@pytest.fixture
def disks() -> Iterator[LoopDisks]:
    if reason := why_not("ext4"):
        pytest.skip(reason)
    made = LoopDisks(short_directory())
    made.home.chmod(0o711)
    try:
        yield made
    finally:
        made.close()


async def test_links_are_resolved_and_several_volumes_must_be_one_set(disks: LoopDisks, tmp_path: Path) -> None:
    """pg_wal and a tablespace behind links, each on a file system of its own, and the log beside the data."""
    wal, space = (server_folder(disks.make(name).path / "of server") for name in ("wal", "space"))
    server = new_server(logging_collector="on", log_directory="log")
    server.initialize()
    (server.data / "pg_wal").rename(server.data / "pg_wal.old")
    shutil.copytree(server.data / "pg_wal.old", wal / "real")
    for path in (wal / "real", *(wal / "real").rglob("*")):
        shutil.chown(path, *_owner())
    (server.data / "pg_wal").symlink_to(wal / "real")
    with server:
        server.sql(f"CREATE TABLESPACE slow LOCATION '{space}'")
        looked = await look(server)
        assert [(volume.kind, volume.path) for volume in looked.volumes] == [
            (VolumeKind.DATA, server.data),
            (VolumeKind.LOG, wal / "real"),
            (VolumeKind.TABLESPACE, space),
        ]
        assert "3 file systems" in names(looked)["several_volumes"].sentence
        assert "log_on_data_volume" in names(looked)

        looked = await look(server, backup_directory=tmp_path)
        assert looked.recipe.startswith("backup")
        assert "several_volumes" not in names(looked)
        adapter = Adapter(Settings(server.dsn, backup_directory=tmp_path))
        async with adapter.quiesce(freeze()) as evidence:
            assert evidence["wal_directory"] == str(wal / "real")
            assert str(space) in evidence["tablespaces"]
        kept = tmp_path / freeze().cycle
        assert str(space) in (kept / "tablespace_map").read_text()


async def test_a_tablespace_whose_folder_is_gone_is_told_and_the_rest_is_held(server: Ground, tmp_path: Path) -> None:
    space = server_folder(short_directory())
    away = space.with_name(f"{space.name}.away")
    server.sql(f"CREATE TABLESPACE gone LOCATION '{space}'")
    try:
        space.rename(away)
        looked = await look(server)
        assert f"{space} cannot be looked at (no such file" in names(looked)["volumes_unresolved"].sentence
        assert space in {volume.path for volume in looked.volumes}
        assert not looked.is_refused
        adapter = Adapter(Settings(server.dsn, backup_directory=tmp_path))
        await adapter.prepare(prepare())
        async with adapter.quiesce(freeze()) as evidence:
            assert str(space) in evidence["tablespaces"]
    finally:
        away.rename(space)
        server.sql("DROP TABLESPACE gone")
        space.rmdir()


async def test_files_that_are_not_the_servers_own_are_not_taken_for_them(server: Ground) -> None:
    """Another machine's server has its files at a path that this machine may have as well."""
    note = server.data / "postmaster.pid"
    before = note.read_text()
    lines = before.splitlines()
    note.write_text("\n".join([*lines[:2], str(int(lines[2]) - 3600), *lines[3:]]) + "\n")
    try:
        assert "volumes_unresolved" in names(await look(server))
    finally:
        note.write_text(before)


def _owner() -> tuple[str, str]:
    import grp
    import pwd

    from tests.databases.support.servers import SERVER_USER

    user = pwd.getpwnam(SERVER_USER)
    return user.pw_name, grp.getgrgid(user.pw_gid).gr_name
