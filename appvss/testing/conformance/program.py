"""The program that is checked, as a process of its own, and the one process in it that is the app."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Final

from appvss.model.errors import CommandUnusable, UsageError
from appvss.model.names import printable
from appvss.testing.conformance.case import NotPlayed

_OUTPUT_LIMIT: Final = 16 * 1024
"""Bytes of the program's output that are kept: the last ones."""
_LINES_SHOWN: Final = 12
_LINE_LIMIT: Final = 300
_PAUSE: Final = 0.02
_LAST_WORDS: Final = timedelta(seconds=1)
"""How long the words of a program that has ended are read; somebody whom it left may hold the pipe open."""
_PROC: Final = Path("/proc")


class Output:
    """The last part of what a program writes, however much that is.

    Args:
        stream: the end of the pipe that is read until it ends. A thread does it.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._parts: deque[bytes] = deque()
        self._kept = 0
        self._stream = stream
        self._thread = threading.Thread(target=self._read, name="output of the program", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while part := os.read(self._stream.fileno(), 4096):
                self._parts.append(part)
                self._kept += len(part)
                while self._kept - len(self._parts[0]) >= _OUTPUT_LIMIT:
                    self._kept -= len(self._parts.popleft())

    def wait(self, within: timedelta) -> None:
        """Wait until everything is read that was written; after the end of all who may write."""
        self._thread.join(within.total_seconds())

    def last_lines(self) -> str:
        """The last lines, safe to write to a terminal."""
        text = b"".join(tuple(self._parts)).decode(errors="replace")
        lines = [printable(line, _LINE_LIMIT) for line in text.splitlines() if line.strip()]
        return "\n".join(lines[-_LINES_SHOWN:])


class Program:
    """A program, the leader of a session and a process group of its own, with no standard input.

    Args:
        command: its path or name, and its arguments.
        environment: its whole environment.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = list(command)
        self._environment = dict(environment)
        self._made: subprocess.Popen[bytes] | None = None
        self._refused: OSError | ValueError | None = None
        self._output: Output | None = None
        self._tried = threading.Event()

    def start(self) -> None:
        """Start it; whatever is raised meanwhile, `kill` ends it.

        The handler of a signal, such as Ctrl-C's, raises in the main thread, which would wait there until the process
        has begun with its own program: it would be nobody's. So another thread starts it.

        Raises:
            CommandUnusable: it cannot be started.
        """
        ours, theirs = os.pipe()
        self._output = Output(os.fdopen(ours, "rb"))
        threading.Thread(target=self._make, args=(theirs,), name="start of the program", daemon=True).start()
        self._tried.wait()  # not a join: one that is interrupted takes the thread for ended (CPython's bpo-45274)
        if self._refused is not None:
            reason = (getattr(self._refused, "strerror", None) or str(self._refused)).lower()
            raise CommandUnusable(
                f"the command {printable(self._command[0])} cannot be started: {printable(reason)}",
                "Name a program that this user may execute; what stands behind -- is not read by a shell.",
            ) from self._refused

    def _make(self, output: int) -> None:
        try:
            self._made = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._refused = error
        finally:
            os.close(output)
            self._tried.set()

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._made is None:
            raise UsageError("the program has not been started", "Call `start` first.")
        return self._made

    @property
    def pid(self) -> int:
        """Its process id, and its process group's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None: it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """The last lines that it wrote."""
        if self._output is None:
            return ""
        if self.exit_code is not None:
            self._output.wait(_LAST_WORDS)
        return self._output.last_lines()

    def how_it_ended(self) -> str:
        """A sentence about its end, for people."""
        code = self.exit_code
        if code is None:
            return "the program is running"
        if code < 0:
            return f"the program was ended by {signal.Signals(-code).name}"
        return f"the program ended with code {code}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its whole process group. Harmless when nobody is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def wait(self, within: timedelta) -> bool:
        """Wait until the program itself has ended; whether it has."""
        try:
            self._process.wait(within.total_seconds())
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait_group(self, within: timedelta) -> bool:
        """Wait until nobody of its process group is left, after it has ended itself; whether nobody is."""
        until = time.monotonic() + within.total_seconds()
        while True:
            if not self._has_group():
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE)

    def _has_group(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # somebody is there, of another user
        return not _all_have_ended(self._process.pid)

    def kill(self, within: timedelta = timedelta(seconds=10)) -> None:
        """End its whole process group, and collect it; harmless if it was not started."""
        if self._output is not None:
            self._tried.wait(within.total_seconds())
        if self._made is None:
            return
        self.send(signal.SIGKILL)
        self.wait(within)
        self.wait_group(timedelta(seconds=1))


def _all_have_ended(group: int) -> bool:
    """Whether of a process group only those are left whom nobody collects: a container may have nobody who does.

    By proc_pid_stat(5); where there is no such file it is not known, and False.
    """
    if not (_PROC / "self" / "stat").exists():
        return False
    for process in _PROC.glob("[0-9]*"):
        try:
            _, _, rest = (process / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it has ended meanwhile
        state, _, of = rest.split()[:3]
        if int(of) == group and state not in "ZX":
            return False
    return True


class AppProcess:
    """The process that the kernel names as the app's: that which fetched the token.

    It may be another one than the program that was started. A descriptor holds on to it, so that a signal can hit
    nobody else when its number is used again.

    Args:
        pid: its process id.

    Raises:
        NotPlayed: it cannot be reached.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._descriptor = os.pidfd_open(pid)
        except OSError as error:
            raise NotPlayed(f"the app's process {pid} cannot be reached: {error.strerror}") from error

    def send(self, number: signal.Signals) -> None:
        """Send it a signal. Harmless when it has ended.

        Raises:
            NotPlayed: this user may not.
        """
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise NotPlayed(f"this user may not send a signal to the app's process {self.pid}") from error

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)
