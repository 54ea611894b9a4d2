"""`appvss check-app` against our own adapters, each run by a real `appvss agent`, with a real server behind it.

Every case is played against one of them. Against the others it is those that depend on the adapter: preparing, getting
quiet, and above all whether writes go through after whatever ends a hold.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.adapters.fake_mongodb import fake_mongod
from tests.adapters.private_slapd import ROOT_DN, ROOT_PASSWORD, SUFFIX, private_slapd
from tests.adapters.redis_stage import running as redis_running
from tests.adapters.support.mysql_server import MysqlServer, why_no_mysql
from tests.adapters.support.mysql_world import PASSWORD, make_account
from tests.adapters.test_cgroup import Tree, group
from tests.cli.command_line import PROGRAM, ROOT
from tests.databases.support.servers import MariadbServer, PostgresqlServer, Server, find_program, server_folder
from tests.databases.test_mysql import GRANTS as MYSQL_GRANTS
from tests.support.memory_directory import in_memory
from tests.support.running_broker import short_directory

__all__ = ["group"]

BOUND = 240.0
"""Seconds for all cases of one app, which take a tenth of it on a machine that does nothing else."""
pytestmark = pytest.mark.timeout(BOUND + 60)
OF_THE_ADAPTER: Final = (
    "prepare",
    "short_prepare",
    "freeze_and_thaw",
    "evidence",
    "budget_runs_out",
    "abort_while_freezing",
    "filesystem_freeze",
    "many_cycles",
    "writable_at_rest",
    "writes_held",
    "writable_after_thaw",
    "writable_after_abort",
    "writable_after_veto",
    "writable_after_hold_limit",
    "writable_after_broker_lost",
    "writable_after_stop",
    "writable_after_sigterm",
    "writable_after_kill",
    "writable_after_kill_of_all",
)
OF_THE_LOCK: Final = (
    "budget_runs_out",
    "abort_while_freezing",
    "writable_at_rest",
    "writable_after_veto",
    "writable_after_hold_limit",
    "writable_after_kill",
    "writable_after_kill_of_all",
)
LENGTHS: Final = (
    *("--hold-limit", "700ms", "--margin", "2s", "--budget", "3s", "--released-within", "3s", "--cycles", "8"),
    *("--attach-within", "30s", "--end-within", "20s"),
)
INSERT: Final = (
    "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], 0.3, isolation_level=None); "
    "d.execute('INSERT INTO written VALUES (1)')"
)
INSERT_BY_SOCKET: Final = (
    "import pymysql, sys; c = pymysql.connect(unix_socket=sys.argv[1], user='root', autocommit=True); "
    "c.cursor().execute('INSERT INTO shop.written VALUES (now())')"
)
ADD: Final = (
    "import ldap3, sys, uuid; uri, user, password, suffix = sys.argv[1:]; "
    "c = ldap3.Connection(ldap3.Server(uri), user, password, auto_bind=True); name = uuid.uuid4().hex; "
    "sys.exit(not c.add(f'o={name},{suffix}', 'organization', {'o': name}))"
)
UPSERT: Final = (
    "import pymongo, sys; c = pymongo.MongoClient(sys.argv[1], serverSelectionTimeoutMS=2000, w=1, journal=True); "
    "c.shop.written.update_one({'_id': 1}, {'$set': {'at': 1}}, upsert=True)"
)


@contextmanager
def served(kind: type[Server], **settings: str) -> Iterator[Any]:
    """A server of its own, or a skip with the reason."""
    if reason := kind.why_not():
        pytest.skip(reason)
    room = server_folder(short_directory())
    try:
        with kind(room / "data", settings=settings) as server:
            yield server
    finally:
        shutil.rmtree(room)


def section(adapter: str, settings: Mapping[str, str]) -> str:
    return f'[apps.{adapter}]\nadapter = "{adapter}"\n' + "".join(f"{name} = {is_}\n" for name, is_ in settings.items())


def assert_passes(
    adapter: str,
    settings: Mapping[str, str],
    write: Sequence[str],
    *,
    holds_writes: bool = True,
    cases: Sequence[str] = OF_THE_ADAPTER,
    skipped: int = 0,
) -> None:
    """Play the cases against an agent with this one app, as a user would.

    Args:
        adapter: its word.
        settings: its own, as TOML.
        write: what writes to the application.
        holds_writes: whether the adapter promises it.
        cases: which; empty: all.
        skipped: how many cannot be played.
    """
    home = short_directory()
    try:
        with in_memory() as memory:
            file = home / "agent.toml"
            file.write_text(f'[agent]\nundo_directory = "{memory}/undo"\n{section(adapter, settings)}')
            options = ["--writable", shlex.join(write), *(["--holds-writes"] if holds_writes else [])]
            only = [part for name in cases for part in ("--only", name)]
            done = subprocess.run(
                [*PROGRAM, "check-app", *only, *LENGTHS, *options, "--", *PROGRAM, "agent", "--config", str(file)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
                capture_output=True,
                text=True,
                timeout=BOUND,
                check=False,
            )
    finally:
        shutil.rmtree(home)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    count = f"{len(cases)} cases: {len(cases) - skipped} passed, 0 failed, {skipped} skipped"
    assert (count if cases else " 0 failed") in done.stdout, said


@pytest.mark.parametrize("recipe", ["atomic", "backup"])
def test_postgresql(recipe: str) -> None:
    outside = short_directory()
    try:
        with served(PostgresqlServer) as server, closing(server.connect()) as session:
            session.execute("CREATE TABLE written (at timestamptz)")
            settings = {"dsn": f'"{server.dsn}"', "recipe": f'"{recipe}"', "backup_directory": f'"{outside}"'}
            write = (find_program("psql") or "psql", "-XqAt", server.dsn, "-c", "INSERT INTO written VALUES (now())")
            assert_passes("postgresql", settings, write, holds_writes=False, skipped=1)
    finally:
        shutil.rmtree(outside)


def test_mariadb(tmp_path: Path) -> None:
    settings = {"innodb-log-file-size": "8M", "innodb-buffer-pool-size": "16M", "performance-schema": "OFF"}
    grants = ("RELOAD, BINLOG MONITOR, PROCESS, SHOW VIEW ON *.*", "CREATE, INSERT, DELETE, SELECT ON appvss.*")
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    with served(MariadbServer, **settings) as server:
        make_account(server, "appvss", *grants)
        with closing(server.connect()) as session, session.cursor() as cursor:
            cursor.execute("CREATE DATABASE shop")
            cursor.execute("CREATE TABLE shop.written (at datetime) ENGINE=InnoDB")
        client = ("mariadb", "--no-defaults", "-uroot", f"--socket={server.socket}")
        write = (*client, "-e", "INSERT INTO shop.written VALUES (now())")
        assert_passes("mariadb", {"socket": f'"{server.socket}"', "password": f'{{ file = "{secret}" }}'}, write)


@pytest.mark.skipif(bool(why_no_mysql()), reason=why_no_mysql() or "-")
def test_mysql(tmp_path: Path) -> None:
    """With InnoDB alone: the instance lock holds no writes, that is the file-system freeze's part."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    with served(MysqlServer) as server:
        make_account(server, "appvss", *MYSQL_GRANTS)
        with closing(server.connect()) as session, session.cursor() as cursor:
            cursor.execute("CREATE DATABASE shop")
            cursor.execute("CREATE TABLE shop.written (at datetime) ENGINE=InnoDB")
        settings = {"socket": f'"{server.socket}"', "password": f'{{ file = "{secret}" }}'}
        write = (sys.executable, "-c", INSERT_BY_SOCKET, server.socket)
        assert_passes("mysql", settings, write, holds_writes=False, skipped=1)


@pytest.mark.parametrize("mode", ["rdb", "aof"])
def test_redis(mode: str) -> None:
    with redis_running(mode) as server:
        write = ("sh", "-c", f'test "$(redis-cli -s {server.socket} SET written 1)" = OK')
        assert_passes("redis", {"url": f'"unix://{server.socket}"', "margin": '"200ms"'}, write)


def test_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE written (at integer)")
    write = (sys.executable, "-c", INSERT, str(file))
    assert_passes("sqlite", {"files": f'["{file}"]', "margin": '"200ms"'}, write)


def test_openldap(tmp_path: Path) -> None:
    """Its writers are not held back but refused, while the database is read-only."""
    with private_slapd() as slapd:
        settings = {"uri": f'"{slapd.uri}"', "suffix": f'"{SUFFIX}"', "recipe": '"monitor"'}
        write = (sys.executable, "-W", "ignore", "-c", ADD, slapd.uri, ROOT_DN, ROOT_PASSWORD, SUFFIX)
        assert_passes("openldap", settings, write, skipped=2)


async def test_mongodb_as_far_as_its_stand_in_goes(tmp_path: Path) -> None:
    """Against the wire of a few commands, which is no proof of how a real server behaves."""
    async with fake_mongod(data_directory=str(tmp_path)) as fake:
        write = (sys.executable, "-c", UPSERT, fake.uri)
        settings = {"uri": f'"{fake.uri}"', "recipe": '"lock"'}
        await asyncio.to_thread(assert_passes, "mongodb", settings, write, cases=OF_THE_LOCK)


def test_every_case_against_a_pair_of_commands_whose_hold_outlives_them(tmp_path: Path) -> None:
    held = tmp_path / "held"
    commands = {"freeze": f'["/usr/bin/touch", "{held}"]', "thaw": f'["/bin/rm", "-f", "{held}"]'}
    assert_passes("exec", {**commands, "volumes": f'["{tmp_path}"]'}, ("test", "!", "-e", str(held)), cases=())


def test_the_freezer_of_cgroups(group: Tree, tmp_path: Path) -> None:
    """A write has gone through if the file of the process in the cgroup has grown."""
    file = tmp_path / "file"
    group.write_to(file)
    write = ("sh", "-c", f"was=$(stat -c %s {file}); sleep 0.05; test $(stat -c %s {file}) -gt $was")
    assert_passes(
        "cgroup", {"cgroup": f'"{group.name}"', "volumes": f'["{tmp_path}"]'}, write, skipped=2
    )  # it does not prepare
