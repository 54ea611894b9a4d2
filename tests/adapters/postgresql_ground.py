"""A PostgreSQL server with what the tests of its adapter and its verifier do to it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from appvss import Freeze, Prepare
from tests.databases.support.servers import (
    BOUND,
    PostgresqlServer,
    find_program,
    run_as_server_user,
    server_folder,
)
from tests.support.running_broker import short_directory

CYCLE = "20261120T150031Z-4f2a9c"
BUDGET = timedelta(seconds=15)
HOLD_LIMIT = timedelta(seconds=60)


class Ground(PostgresqlServer):
    """One server; its data folder is gone at the end."""

    def sql(self, statement: str, *, user: str = "postgres") -> list[Any]:
        """One statement in a session of its own: the rows."""
        import psycopg

        with psycopg.connect(self.dsn_of(user), autocommit=True, connect_timeout=int(BOUND)) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload] # a test's own text
            return cursor.fetchall() if cursor.description else []

    def value(self, statement: str) -> Any:
        """The one value of an answer."""
        return self.sql(statement)[0][0]

    def await_value(self, statement: str, wanted: object) -> None:
        """Wait until a query answers so."""
        deadline = time.monotonic() + BOUND
        while (seen := self.value(statement)) != wanted:
            assert time.monotonic() < deadline, (statement, seen, wanted)
            time.sleep(0.02)

    def await_log(self, pattern: str) -> None:
        """Wait until its log has it."""
        deadline = time.monotonic() + BOUND
        while re.search(pattern, self.log) is None:
            assert time.monotonic() < deadline, (pattern, self.tail())
            time.sleep(0.02)

    def dsn_of(self, user: str, host: Path | None = None) -> str:
        """How libpq reaches it as somebody."""
        return f"host={host or self.home} port={self.port} user={user} dbname=postgres"

    @property
    def socket(self) -> Path:
        return self.home / f".s.PGSQL.{self.port}"

    def allow(self, *lines: str) -> None:
        """Put rules before the others of pg_hba.conf."""
        rules = [*lines, "local all all trust", "local replication all trust"]
        (self.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        self.sql("SELECT pg_reload_conf()")

    @contextmanager
    def altered(self, **settings: str) -> Iterator[None]:
        """With other settings for the length of a block, which need no restart."""
        for name, value in settings.items():
            self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")
        for name, value in settings.items():
            self.await_value(f"SHOW {name}", value)
        try:
            yield
        finally:
            before = {name: self.value(f"SELECT boot_val FROM pg_settings WHERE name = '{name}'") for name in settings}
            for name in settings:
                self.sql(f"ALTER SYSTEM RESET {name}")
            self.sql("SELECT pg_reload_conf()")
            for name, value in before.items():
                self.await_value(f"SELECT setting FROM pg_settings WHERE name = '{name}'", value)

    @contextmanager
    def stopped(self, kind: str) -> Iterator[None]:
        """One of its processes does nothing for the length of a block. It has no lock then: it had nothing to do."""
        self.await_value(f"SELECT wait_event LIKE '%Main' FROM pg_stat_activity WHERE backend_type = '{kind}'", True)
        process = int(self.value(f"SELECT pid FROM pg_stat_activity WHERE backend_type = '{kind}'"))
        os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it, start it."""
        self.stop()
        self.start()

    def close(self) -> None:
        """See `Server.close`."""
        super().close()
        if self.data.parent.parent == Path("/tmp"):
            shutil.rmtree(self.data.parent, ignore_errors=True)


def new_server(**settings: str) -> Ground:
    """One that is not started yet."""
    if reason := Ground.why_not():
        pytest.skip(reason)
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'appvss[postgres]')")
    return Ground(server_folder(short_directory()) / "data", settings=settings)


def new_standby(primary: Ground) -> Ground:
    """A streaming standby of a server that runs, not started yet."""
    standby = new_server(**primary.settings)
    program = find_program("pg_basebackup") or ""
    run_as_server_user(program, "-d", primary.dsn, "-D", str(standby.data), "-R", "-c", "fast", "-X", "stream")
    return standby


def freeze(cycle: str = CYCLE, budget: timedelta = BUDGET, hold_limit: timedelta = HOLD_LIMIT) -> Freeze:
    return Freeze(cycle, "the tests", budget, hold_limit)


def prepare(budget: timedelta = BUDGET) -> Prepare:
    return Prepare(CYCLE, "the tests", budget)


def wal_records(server: Ground, start: str, path: Path | None = None, end: str = "") -> str:
    """What pg_waldump(1) shows from an LSN on."""
    program = find_program("pg_waldump") or ""
    limits = ["-e", end] if end else []
    command = [program, "-p", str(path or server.data / "pg_wal"), "-s", start, *limits]
    return subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False, cwd="/").stdout
