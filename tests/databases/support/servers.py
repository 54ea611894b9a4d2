"""Database servers as child processes of a test: on a given data folder, a socket in a short folder, no network.

    with PostgresqlServer(volume.path / "data", settings={"synchronous_commit": "off"}) as server:
        server.connect().execute("SELECT 1")
        server.kill()                      # SIGKILL, and gone
        server.start()

A server runs as `SERVER_USER`, for those refuse root; whoever makes a volume for it gives it that owner. It is stopped
by its process id, and dies with the test's process whatever happens. What it says is in `server.log`, outside of the
data folder. Nothing here may be called while the server's volume is frozen: it would hang.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.support.running_broker import short_directory

BOUND = 30.0
"""Seconds for each start and each stop."""
SERVER_USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
"""Whom servers run as."""

# A server gets SIGKILL when the thread that has started it ends (prctl(2), PR_SET_PDEATHSIG): that is this one, which
# lives as long as the process.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="starts servers")


def find_program(name: str) -> str | None:
    """Where a server's program is; Debian keeps some out of PATH. None: not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, folders)]))


def why_not_installed(*programs: str) -> str:
    """Why such servers cannot be started; empty: they can."""
    missing = [name for name in (*programs, "setpriv") if find_program(name) is None]
    return f"not installed: {', '.join(missing)} (sh scripts/setup databases)" if missing else ""


def as_server_user(*command: str, dies_with_us: bool = False) -> list[str]:
    """The command line that runs a program as `SERVER_USER`."""
    options = ["--pdeathsig", "KILL"] if dies_with_us else []
    if os.geteuid() == 0:
        user = pwd.getpwnam(SERVER_USER)
        options += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return ["setpriv", *options, *command]


def server_folder(path: Path) -> Path:
    """Give a folder to the server's user; it is made if it is not there."""
    path.mkdir(exist_ok=True)
    path.chmod(0o711 if path.parent == Path("/tmp") else 0o700)
    user = pwd.getpwnam(SERVER_USER)
    os.chown(path, user.pw_uid, user.pw_gid)
    return path


def run_as_server_user(*command: str) -> str:
    """A program of the server's user that must succeed; what it has said."""
    done = subprocess.run(
        as_server_user(*command), capture_output=True, text=True, timeout=BOUND * 2, check=False, cwd="/"
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


class Server(ABC):
    """One server.

    Args:
        data: its data folder. One that does not exist is made, with a new database in it.
        settings: of this server, by the server's own names.
        start: whether entering it as a context starts it.
    """

    programs: ClassVar[tuple[str, ...]]
    """What must be installed."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, data: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.settings = dict(settings or {})
        self.home = server_folder(short_directory())
        """For its socket and its log; gone after `close`."""
        self.process: subprocess.Popen[bytes] | None = None
        self._log = self.home / "log"

    @classmethod
    def why_not(cls) -> str:
        """Why there can be none on this machine; empty: there can."""
        return why_not_installed(*cls.programs)

    @abstractmethod
    def initialize(self) -> None:
        """Make a new database in `data`."""

    @abstractmethod
    def command(self) -> list[str]:
        """The server's command line."""

    @abstractmethod
    def connect(self) -> Any:
        """A new connection of the account that may do everything; it commits each statement."""

    @property
    def pid(self) -> int:
        assert self.process is not None, "it was not started"
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it has said, of all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it and wait until it takes a connection. On a data folder from a copy this is the copy's recovery.

        Raises:
            AssertionError: it ended, or took longer than `BOUND`; with the end of its log.
        """
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start it, without a wait."""
        assert self.process is None, "it runs already"
        if not self.data.exists():
            self.initialize()
        command = as_server_user(find_program(self.command()[0]) or "", *self.command()[1:], dies_with_us=True)
        with self._log.open("ab") as log:
            self.process = _STARTER.submit(
                subprocess.Popen, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                start_new_session=True, env=self.environment(),
            ).result(BOUND)  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "HOME": str(self.home)}

    def wait_until_ready(self) -> None:
        """Until a connection is taken."""
        deadline = time.monotonic() + BOUND
        assert self.process is not None
        while True:
            try:
                self.probe()
            except Exception as error:
                ended = self.process.poll()
                if ended is not None:
                    self.process = None
                    raise AssertionError(f"it ended with {ended}:\n{self.tail()}") from error
                if time.monotonic() > deadline:
                    raise AssertionError(f"not ready within {BOUND} s ({error}):\n{self.tail()}") from error
                time.sleep(0.02)  # there is no event for "takes connections"
            else:
                return

    def probe(self) -> None:
        """Raise unless a connection is taken."""
        self.connect().close()

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.splitlines()[-lines:])

    def stop(self) -> None:
        """End it in order, and wait. What does not end is killed, and that is an error. Stopped already: nothing."""
        if self.process is None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(BOUND)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it did not stop within {BOUND} s:\n{self.tail()}") from None
        self.process = None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(BOUND)
        self.process = None

    def close(self) -> None:
        """Kill it and forget what it has said. Its data folder stays."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _new_template(*command: str, data_option: str) -> Path:
    """A new database, made once in this process and copied from then on. Gone when the process ends."""
    folder = server_folder(short_directory())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data = server_folder(folder / "data")
    program = find_program(command[0]) or command[0]
    # MariaDB removes at its start what lies of other servers in the common folder for temporary files.
    run_as_server_user("env", f"TMPDIR={folder}", program, *command[1:], data_option.format(data))
    return data


@functools.cache
def postgresql_template() -> Path:
    return _new_template(
        "initdb", "-A", "trust", "-U", "postgres", "-k", "-N", "--no-instructions", data_option="--pgdata={}"
    )


@functools.cache
def mariadb_template() -> Path:
    return _new_template(
        "mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
        data_option="--datadir={}",
    )  # fmt: skip


def copy_template(template: Path, data: Path) -> None:
    """Copy a template to where a server will have it, with its owner; synced, as initdb does it."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(template), str(data)], timeout=BOUND, check=True)
    subprocess.run(["sync", "--file-system", str(data)], timeout=BOUND, check=True)


class PostgresqlServer(Server):
    """PostgreSQL, with checksums, trust for everybody on its socket, and `fsync` on."""

    programs = ("postgres", "initdb")
    stop_signal = signal.SIGINT  # "fast": it waits for no client
    port = 5432
    """What its socket is named after; nothing listens on the network."""

    @property
    def dsn(self) -> str:
        return f"host={self.home} port={self.port} user=postgres dbname=postgres"

    def initialize(self) -> None:
        copy_template(postgresql_template(), self.data)

    def forget_original(self) -> None:
        """In a private copy: the original's process is none of ours (section 4.3)."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def command(self) -> list[str]:
        settings = {
            "unix_socket_directories": str(self.home),
            "listen_addresses": "",
            "port": str(self.port),
            "shared_buffers": "64MB",
            **self.settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return ["postgres", "-D", str(self.data), *options]

    def connect(self, **arguments: Any) -> Any:
        import psycopg

        return psycopg.connect(self.dsn, autocommit=True, connect_timeout=10, **arguments)


class MariadbServer(Server):
    """MariaDB, with a binary log, and `root` without a password."""

    programs = ("mariadbd", "mariadb-install-db")

    @property
    def socket(self) -> str:
        return str(self.home / "sql")

    def initialize(self) -> None:
        copy_template(mariadb_template(), self.data)

    def command(self) -> list[str]:
        settings = {
            "datadir": str(self.data),
            "socket": self.socket,
            "pid-file": str(self.home / "pid"),
            "tmpdir": str(self.home),
            "log-bin": "binlog",
            "server-id": "1",
            "sync-binlog": "1",
            "innodb-buffer-pool-size": "64M",
            "skip-networking": "ON",
            **self.settings,
        }
        return ["mariadbd", "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]

    def probe(self) -> None:
        with socket.socket(socket.AF_UNIX) as plain:  # PyMySQL leaves a socket open that cannot connect
            plain.connect(self.socket)
        super().probe()

    def connect(self, **arguments: Any) -> Any:
        import pymysql

        arguments = {"user": "root", "connect_timeout": 10, **arguments}
        return pymysql.connect(unix_socket=self.socket, autocommit=True, **arguments)


class RedisServer(Server):
    """Redis, with RDB only and without a save by itself, unless the settings say otherwise."""

    programs = ("redis-server",)

    @property
    def socket(self) -> str:
        return str(self.home / "redis")

    def initialize(self) -> None:
        server_folder(self.data)

    def command(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": self.socket,
            "unixsocketperm": "777",
            "dir": str(self.data),
            "save": "",
            "appendonly": "no",
            "daemonize": "no",
            **self.settings,
        }
        return ["redis-server", *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def connect(self, **arguments: Any) -> Any:
        import redis

        client = redis.Redis(unix_socket_path=self.socket, **arguments)
        try:
            client.ping()
        except BaseException:
            client.close()
            raise
        return client
