"""The few commands of the adapter, answered on the wire as a server of another version would: for what none is here.

What it says of WAITAOF is Redis's documentation of that command (7.2), not a server that was run.
"""

from __future__ import annotations

import shutil
import socket
import threading
from contextlib import suppress
from typing import BinaryIO

from tests.support.running_broker import short_directory

BOUND = 10.0
CONFIGURED = {"dir": "/srv/redis", "appenddirname": "appendonlydir", "appendfsync": "everysec", "save": ""}


class WireServer:
    """One connection at a time is enough, and several are taken.

    Args:
        version: what INFO says.
        waitaof: the answer to WAITAOF, as it goes over the wire.
        mute: a command that gets no answer.
        fields: of INFO, beside the version.
    """

    def __init__(self, version: str, waitaof: bytes = b"*2\r\n:1\r\n:0\r\n", mute: str = "", **fields: str) -> None:
        self._room = short_directory()
        self.socket = str(self._room / "redis")
        self.said: list[str] = []
        """The commands in the order in which they came, each with the number of its connection."""
        self._waitaof = waitaof
        self._mute = mute
        self._info = {"redis_version": version, "role": "master", "aof_enabled": "1", "run_id": "x" * 40, **fields}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        self._listener.listen()
        self._open = [self._listener]
        self._threads = [threading.Thread(target=self._meet, daemon=True)]
        self._threads[0].start()

    def _meet(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                thread = threading.Thread(target=self._serve, args=(client, len(self._open) - 1), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket, number: int) -> None:
        with suppress(OSError, ValueError), client.makefile("rwb") as stream:
            while words := _command(stream):
                self.said.append(f"{number} {' '.join(words)}")
                if words[0] == self._mute:
                    continue
                stream.write(self._answer([word.upper() for word in words[:2]], words, number))
                stream.flush()

    def _answer(self, named: list[str], words: list[str], number: int) -> bytes:
        match named:
            case ["INFO", *_]:
                text = "".join(f"{name}:{value}\r\n" for name, value in self._info.items()).encode()
                return b"$%d\r\n%s\r\n" % (len(text), text)
            case ["CONFIG", _]:
                pair = [words[2], CONFIGURED.get(words[2], "")]
                return b"*2\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in pair)
            case ["CLIENT", "ID"]:
                return b":%d\r\n" % number
            case ["WAITAOF", *_]:
                return self._waitaof
            case _:
                return b"+OK\r\n"

    def __enter__(self) -> WireServer:
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


def _command(stream: BinaryIO) -> list[str]:
    """The next command (redis.io, RESP protocol); empty: the connection has ended."""
    head = stream.readline()
    if not head.startswith(b"*"):
        return []
    words = []
    for _ in range(int(head[1:])):
        size = int(stream.readline()[1:])
        words.append(stream.read(size + 2)[:size].decode())
    return words
