"""What the tests of the Redis adapter need: servers with and without an append-only file, and what others do there."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest

from appvss.adapters import redis
from appvss.sdk.freeze import Freeze
from tests.databases.support.servers import RedisServer, server_folder
from tests.support.running_broker import short_directory

BOUND = 10.0
"""Seconds for each wait."""
MODES = {"aof": {"appendonly": "yes", "save": ""}, "rdb": {"appendonly": "no", "save": "3600 1000000"}}


def freeze(budget: float = 10.0, hold_limit: float = 20.0, cycle: str = "cycle-1") -> Freeze:
    return Freeze(cycle, "the tests", timedelta(seconds=budget), timedelta(seconds=hold_limit))


def settings_of(server: RedisServer, **more: Any) -> redis.Settings:
    return redis.Settings(**{"url": f"unix://{server.socket}", "margin": timedelta(milliseconds=200), **more})


def adapter_of(server: RedisServer, **more: Any) -> redis.Adapter:
    return redis.Adapter(settings_of(server, **more))


@contextmanager
def running(mode: str, **settings: str) -> Iterator[RedisServer]:
    """A server of its own, or a skip with the reason."""
    if reason := RedisServer.why_not():
        pytest.skip(reason)
    room = server_folder(short_directory())
    names = {name.replace("_", "-"): value for name, value in settings.items()}
    try:
        with RedisServer(room / "data", settings={**MODES[mode], **names}) as server:
            yield server
    finally:
        shutil.rmtree(room)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)  # the server has no event for it


class Waiting:
    """A command of another client, in a thread: it waits as long as writes are paused."""

    def __init__(self, server: RedisServer, *command: str) -> None:
        self._client = server.connect(socket_timeout=30.0)
        self.client_id = self._client.client_id()
        self.began = time.monotonic()
        self.took = 0.0
        self._thread = threading.Thread(target=self._run, args=command, name=f"says {command[0]}")
        self._done = threading.Event()
        self._thread.start()

    def _run(self, *command: str) -> None:
        with suppress(Exception):
            self._client.execute_command(*command)
            self.took = time.monotonic() - self.began
            self._done.set()

    def is_done(self, within: float = 0.0) -> bool:
        return self._done.wait(within)

    async def done(self) -> float:
        """Seconds until it was answered."""
        assert await asyncio.to_thread(self._done.wait, BOUND), "it still waits"
        return self.took

    def close(self) -> None:
        self._thread.join(BOUND)
        self._client.close()


@contextmanager
def waiting(server: RedisServer, *command: str) -> Iterator[Waiting]:
    """A command that has reached the server and waits there (`CLIENT LIST`: it is blocked)."""
    waits = Waiting(server, *command)
    try:
        with server.connect() as observer:
            deadline = time.monotonic() + BOUND
            while not waits.is_done():
                found = next((c for c in observer.client_list() if c["id"] == str(waits.client_id)), None)
                if found and "b" in found["flags"]:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.005)  # the server has no event for it
        yield waits
    finally:
        waits.close()


class Relay:
    """A socket before a server's that keeps what its clients say."""

    def __init__(self, behind: str) -> None:
        self._room = short_directory()
        self.path = self._room / "relay"
        self.said = bytearray()
        self._behind = behind
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._begin(self._meet)

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _meet(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._open += [client, server]
                server.connect(self._behind)
                self._begin(self._hand_on, client, server, self.said)
                self._begin(self._hand_on, server, client, bytearray())

    @staticmethod
    def _hand_on(one: socket.socket, other: socket.socket, said: bytearray) -> None:
        with suppress(OSError):
            while piece := one.recv(65536):
                said += piece
                other.sendall(piece)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(BOUND)
        for each in self._open:
            each.close()
        shutil.rmtree(self._room)
