"""A MySQL server for tests, where there is one: Debian stable carries none, and its `mysqld` is MariaDB's.

`APPVSS_MYSQLD` names another program, such as a wrapper of one that was unpacked somewhere.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.databases.support.servers import MariadbServer, _new_template, copy_template, find_program


@functools.cache
def why_no_mysql() -> str:
    """Why there is no MySQL on this machine; empty: there is."""
    program = os.environ.get("APPVSS_MYSQLD") or find_program("mysqld")
    if not program:
        return "not installed: mysqld (APPVSS_MYSQLD may name it)"
    said = subprocess.run(
        [program, "--no-defaults", "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    if said.returncode or "MariaDB" in said.stdout:
        return f"{program} is not MySQL's (APPVSS_MYSQLD may name that)"
    return ""


@functools.cache
def mysql_template() -> Path:
    program = os.environ.get("APPVSS_MYSQLD") or "mysqld"
    return _new_template(program, "--no-defaults", "--initialize-insecure", data_option="--datadir={}")


class MysqlServer(MariadbServer):
    """MySQL, with a binary log and GTIDs, and `root` without a password."""

    programs = ()

    def initialize(self) -> None:
        copy_template(mysql_template(), self.data)

    def command(self) -> list[str]:
        settings = {
            "datadir": str(self.data),
            "socket": self.socket,
            "pid-file": str(self.home / "pid"),
            "tmpdir": str(self.home),
            "server-id": "1",
            "gtid-mode": "ON",
            "enforce-gtid-consistency": "ON",
            "innodb-buffer-pool-size": "64M",
            "innodb-redo-log-capacity": "16M",
            "skip-networking": "ON",
            "mysqlx": "OFF",
            "secure-file-priv": "NULL",
            **self.settings,
        }
        program = os.environ.get("APPVSS_MYSQLD") or "mysqld"
        return [program, "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]

    def connect(self, **arguments: Any) -> Any:
        return super().connect(**{"ssl_disabled": True, **arguments})
