"""What the tests of the MariaDB and MySQL adapters share: accounts, statements in other threads, a relay, a holder."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any

from appvss import Freeze
from appvss.adapters.settings import Secret
from tests.support.running_broker import ROOT, short_directory

BOUND = 20.0
"""Seconds for each wait."""
PASSWORD = "hush-hush-7"


def a_freeze(cycle: str = "cycle-1", *, budget: float = 10.0, hold_limit: float = 60.0) -> Freeze:
    return Freeze(cycle, "the tests", timedelta(seconds=budget), timedelta(seconds=hold_limit))


def a_secret(text: str = PASSWORD) -> Secret:
    return Secret(lambda: text, "the tests")


def run(server: Any, *statements: str, **arguments: Any) -> list[tuple[Any, ...]]:
    """Statements of the account that may do everything, or of another; the last one's rows."""
    with closing(server.connect(**arguments)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def make_account(server: Any, user: str, *grants: str) -> None:
    run(
        server,
        f"DROP USER IF EXISTS '{user}'@'localhost'",
        f"CREATE USER '{user}'@'localhost' IDENTIFIED BY '{PASSWORD}'",
        *(f"GRANT {grant} TO '{user}'@'localhost'" for grant in grants),
    )


class Statement:
    """Statements in a thread of its own, on a connection of its own; `close` ends both.

    write = Statement(server, "INSERT ...")
    assert write.is_waiting()
    write.finish()                        # raises what it has failed with
    """

    def __init__(self, server: Any, *statements: str) -> None:
        self._connection = server.connect()
        self.id = self._connection.thread_id()
        self._server = server
        self._done = threading.Event()
        self.error: Exception | None = None
        self.began = time.monotonic()
        self.ended = 0.0
        self._thread = threading.Thread(target=self._work, args=statements)
        self._thread.start()

    def _work(self, *statements: str) -> None:
        try:
            with self._connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        except Exception as error:  # noqa: BLE001 - raised by `finish`
            self.error = error
        self.ended = time.monotonic()
        self._done.set()

    def wait_until(self, *states: str) -> None:
        """Until the server says that the statement is in one of these states (parts of what SHOW PROCESSLIST says)."""
        deadline = time.monotonic() + BOUND
        with closing(self._server.connect()) as watch, watch.cursor() as cursor:
            while True:
                cursor.execute("SHOW PROCESSLIST")
                state = next((str(row[6]) for row in cursor.fetchall() if row[0] == self.id), "gone")
                if any(part in state for part in states):
                    return
                assert not self._done.is_set(), (state, self.error)
                assert time.monotonic() < deadline, state
                time.sleep(0.01)

    def is_waiting(self, seconds: float = 0.3) -> bool:
        """Whether it has no answer for so long."""
        return not self._done.wait(seconds)

    def finish(self) -> None:
        assert self._done.wait(BOUND), "it has no answer"
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End it, done or not."""
        if not self._done.is_set():
            run(self._server, f"KILL {self.id}")
        self._thread.join(BOUND)
        self._connection.close()


class Relay:
    """A way to a server's socket that counts what passes, and may speak in the server's place.

    Args:
        target: the server's Unix socket.
        connection_id: told in the handshake in the server's stead, as a pooler does; None: the server's own.
    """

    def __init__(self, target: str, connection_id: int | None = None) -> None:
        self._home = short_directory()
        self.path = self._home / "relay"
        self.passed = 0
        """Bytes, in both directions."""
        self._target = target
        self._id = connection_id
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            self._sockets += [client, server]
            thread = threading.Thread(target=self._carry, args=(client, server), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        first = True
        while True:
            readable, _, _ = select.select([client, server], [], [])
            for source in readable:
                try:
                    data = source.recv(65536)
                    if source is server and first and self._id is not None:
                        end = data.index(b"\0", 5) + 1  # After header and protocol version: the version, then the id.
                        data = data[:end] + self._id.to_bytes(4, "little") + data[end + 4 :]
                    first = first and source is not server
                    self.passed += len(data)  # before it is there: whoever has an answer can rely on the count
                    (server if source is client else client).sendall(data)
                except OSError:
                    data = b""
                if not data:
                    for end_of in (client, server):
                        end_of.close()
                    return

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(BOUND)
        for one in self._sockets:
            one.close()
        self.path.unlink()
        self._home.rmdir()


_HOLDER = """
import asyncio, importlib, json, sys
from datetime import timedelta

async def main():
    engine, arguments = sys.argv[1], json.loads(sys.argv[2])
    adapter = importlib.import_module("appvss.adapters." + engine)
    async with adapter.quiesce(**arguments, hold_limit=timedelta(seconds=60)) as evidence:
        print(json.dumps(dict(evidence)), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def holder(engine: str, **arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a server until somebody ends it; it does so when the block begins."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, engine, json.dumps(arguments)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        assert "engine" in json.loads(process.stdout.readline())
        yield process
    finally:
        process.kill()
        process.wait(BOUND)
        process.stdout.close()


def names(findings: Any, severity: str | None = None) -> list[str]:
    return [finding.name for finding in findings if severity is None or finding.severity == severity]


def has_session(server: Any, user: str) -> bool:
    """Whether an account has any session."""
    return any(row[1] == user for row in run(server, "SHOW PROCESSLIST"))


def wait_until_in(server: Any, user: str, state: str, seconds: int = 0) -> None:
    """Until a session of an account is in a state (a part of what SHOW PROCESSLIST says), and has been for so long."""
    deadline = time.monotonic() + BOUND
    while not any(
        row[1] == user and state in str(row[6]) and row[5] >= seconds for row in run(server, "SHOW PROCESSLIST")
    ):
        assert time.monotonic() < deadline, f"none is in {state!r}"
        time.sleep(0.02)


def wait_until_gone(server: Any, user: str, bound: float = BOUND) -> float:
    """Until an account has no session any more; how many seconds that took."""
    began = time.monotonic()
    while has_session(server, user):
        assert time.monotonic() - began < bound, "its session is still there"
        time.sleep(0.01)
    return time.monotonic() - began
