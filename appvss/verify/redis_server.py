"""A private Redis or Valkey server on a copy: no port, no primary, no configuration; and the few words it is asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from appvss.model.errors import VerifierUnavailable

START_LIMIT: Final = 600.0
"""Seconds for loading the copy."""
STOP_LIMIT: Final = 10.0
_POLL: Final = 0.01
_LONGEST_SOCKET_PATH: Final = 100
_DATABASES: Final = 16384
"""How many the private server may have, since the copy does not say. An empty one costs next to nothing."""
_TROUBLE: Final = (
    "truncated",
    "Short read",
    "Bad file format",
    "Wrong signature",
    "checksum",
    "Unexpected end of file",
)
"""What a log has in it that something was cut off or left out."""


class StartFailed(Exception):
    """The private server did not load the copy. Its text is one lower-case sentence."""


class PrivateServer:
    """One server. `start` begins it; whoever has called that owes a `stop`.

    Args:
        folder: the copy's data directory.
        work: where its log lies, and its socket.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self._folder = folder
        self._log = work / "redis.log"
        socket_path = work / "redis.sock"
        self._own_room: str | None = None
        if len(str(socket_path)) > _LONGEST_SOCKET_PATH:  # sockaddr_un has 108 bytes
            self._own_room = tempfile.mkdtemp(prefix="appvss-verify-")
            socket_path = Path(self._own_room) / "redis.sock"
        self._socket = socket_path
        self._process: subprocess.Popen[bytes] | None = None
        self.took = 0.0
        """How many seconds it took to load the copy."""

    def start(self, options: Mapping[str, str]) -> str:
        """Start it and wait until it has loaded the copy.

        Returns:
            The version that it says it is.

        Raises:
            VerifierUnavailable: it is not installed.
            StartFailed: it ended, or it was not done in time.
        """
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise VerifierUnavailable("neither redis-server nor valkey-server is installed", "Install one of them.")
        fixed = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": "",
            "daemonize": "no",
            "save": "",
            "databases": str(_DATABASES),
            "aof-load-truncated": "yes",  # a copy of no hold may end in the middle; its log says so
        }
        words = [word for name, value in fixed.items() for word in (f"--{name}", value)]
        words += [word for name, value in options.items() if value for word in (f"--{name}", value)]
        began = time.monotonic()
        with self._log.open("wb") as log:
            # In this process's group, which is killed as a whole when the time is over.
            self._process = subprocess.Popen([program, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while (answer := self._loaded()) is None:
            if self._process.poll() is not None:
                raise StartFailed(f"the server ended on the copy: {self._last_line()}")
            if time.monotonic() - began > START_LIMIT:
                raise StartFailed(f"the server has not loaded the copy after {START_LIMIT:.0f} s")
            time.sleep(_POLL)  # it has no event for it
        self.took = time.monotonic() - began
        return answer

    def stop(self) -> None:
        """End it. It saves nothing."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._own_room is not None:
            shutil.rmtree(self._own_room, ignore_errors=True)

    def keys(self) -> int:
        """How many keys it has in all databases."""
        lines = (line for line in self._ask([b"INFO", b"keyspace"]).splitlines() if line.startswith("db"))
        return sum(int(line.split("keys=", 1)[1].split(",", 1)[0]) for line in lines)

    def value(self, database: int, key: str) -> str:
        """A key's text; empty: there is none."""
        return self._ask([b"SELECT", b"%d" % database], [b"GET", os.fsencode(key)])

    def recovery_trouble(self) -> str:
        """The first line of its log that tells of something cut off or left out; empty: there is none."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in lines if any(word in line for word in _TROUBLE)), "")

    def _loaded(self) -> str | None:
        try:
            answer = self._ask([b"INFO"])
        except (OSError, StartFailed):
            return None
        fields = dict(line.partition(":")[::2] for line in answer.splitlines())
        if fields.get("loading") != "0":
            return None
        valkey = fields.get("valkey_version")
        return f"Valkey {valkey}" if valkey else f"Redis {fields.get('redis_version', '')}"

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it said nothing")

    def _ask(self, *commands: list[bytes]) -> str:
        """The answer to the last of some commands, which must be a text (redis.io, RESP protocol)."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(STOP_LIMIT)
            connection.connect(str(self._socket))
            with connection.makefile("rwb") as stream:
                answer = ""
                for words in commands:
                    stream.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
                    stream.flush()
                    head = stream.readline()
                    if head.startswith(b"-"):
                        raise StartFailed(f"the private server says: {head[1:].decode(errors='replace').strip()}")
                    size = int(head[1:]) if head.startswith(b"$") else -1
                    answer = stream.read(size + 2)[:size].decode(errors="replace") if size >= 0 else ""
                return answer
