"""The shop's two servers, each on its own volume, with a socket in a folder and no network."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final, Protocol

import psycopg
import redis

from samples.demo.stage import PATIENCE, DemoFailed
from samples.shop.volumes import SERVERS_USER

_AS_USER: Final = ("setpriv", f"--reuid={SERVERS_USER}", "--regid", "65534", "--clear-groups", "--pdeathsig", "KILL")


class Server(Protocol):
    """What the shop needs of a server."""

    def is_ready(self) -> bool:
        """Whether it takes connections."""


def find_program(name: str) -> str | None:
    """Where a server's program is; Debian keeps PostgreSQL's out of PATH. None: not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))


def own_folder(path: Path) -> Path:
    """A folder of the servers' user."""
    path.mkdir()
    user = pwd.getpwnam(SERVERS_USER)
    os.chown(path, user.pw_uid, user.pw_gid)
    return path


class _Process:
    """One server process; it ends with the shop's."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen([*_AS_USER, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self._log = log

    def wait_for(self, server: Server) -> None:
        """Wait until it takes connections."""
        give_up = time.monotonic() + PATIENCE
        while not server.is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up:
                words = self._log.read_text(errors="replace").strip().splitlines()[-1:]
                raise DemoFailed(f"a server did not start: {' '.join(words)}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it at once: its volume is thrown away."""
        self._process.kill()
        self._process.wait(PATIENCE)


class Orders:
    """PostgreSQL with the orders.

    Args:
        data: its data directory, made if it is not there; one from a copy is recovered by the start.
        place: for socket and log.
    """

    def __init__(self, data: Path, place: Path) -> None:
        self.dsn = f"host={own_folder(place)} user=postgres dbname=postgres"
        if not data.exists():
            run_initdb(data)
        (data / "postmaster.pid").unlink(missing_ok=True)  # of the original, in a copy
        command = [find_program("postgres") or "", "-D", str(data), "-c", f"unix_socket_directories={place}"]
        self._process = _Process([*command, "-c", "listen_addresses=", "-c", "shared_buffers=64MB"], place / "log")
        self._process.wait_for(self)

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def set_up(self) -> None:
        """Make the table."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, customer int, goods text)")

    def ids(self) -> set[int]:
        """All orders."""
        with psycopg.connect(self.dsn) as connection:
            return {row[0] for row in connection.execute("SELECT id FROM orders")}

    def stop(self) -> None:
        """End it at once."""
        self._process.stop()


class Carts:
    """Redis with the carts and the stock. It dumps its memory once a day, as many do: in between, memory is all."""

    def __init__(self, data: Path, place: Path) -> None:
        self.socket = str(own_folder(place) / "redis")
        if not data.exists():
            own_folder(data)
        options = ["--port", "0", "--unixsocket", self.socket, "--dir", str(data), "--save", "86400 1"]
        self._process = _Process([find_program("redis-server") or "", *options], place / "log")
        self._process.wait_for(self)

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        try:
            return bool(self._client().ping())
        except redis.RedisError:
            return False

    def sequences(self) -> dict[int, int]:
        """How far each customer's cart is."""
        return {int(customer): int(cart.split()[0]) for customer, cart in self._client().hgetall("carts").items()}

    def stop(self) -> None:
        """End it at once."""
        self._process.stop()

    def _client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.socket)


def run_initdb(data: Path) -> None:
    """Make a database."""
    command = [*_AS_USER, find_program("initdb") or "", "-A", "trust", "-U", "postgres", "-D", str(data)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
