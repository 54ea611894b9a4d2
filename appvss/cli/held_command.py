"""A command that begins at a gate, in a process group of its own, and the one place where a waiting program hears of
everything at once.

`Wakeup` joins three kinds of news in one descriptor: signals to this process, the end of the command (SIGCHLD), and
what other threads report. So the program waits in one `select`, and nothing is noticed late.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final

from appvss.cli.nesting import CYCLE_VARIABLE

_GATE: Final = Path(__file__).with_name("gate.py")
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end the hold."""


class Wakeup:
    """Waits for signals, children and other threads together. A context manager, for the main thread only.

    While it is entered, SIGINT, SIGTERM and SIGHUP are counted instead of ending the process. A signal that was ignored
    before stays ignored, as nohup(1) wants it.
    """

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []
        """The ending signals so far, in their order."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._guard = threading.Lock()
        self._is_open = True
        self._former: dict[int, Any] = {}
        self._former_descriptor = -1

    def __enter__(self) -> Wakeup:
        self._former_descriptor = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*_ENDING, signal.SIGCHLD):
            if number is signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._former_descriptor)
        with self._guard:
            self._is_open = False
            self._writer.close()
            self._reader.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self.signals.append(signal.Signals(number))

    def wake(self) -> None:
        """End a wait, from any thread, so that it looks at its condition again."""
        with self._guard:
            if self._is_open:
                try:
                    self._writer.send(b"\0")
                except BlockingIOError:
                    return  # the buffer is full of news: the waiter wakes up without this

    def wait(self, until: Callable[[], bool], limit: timedelta) -> bool:
        """Wait until the condition holds, at most as long as `limit`; whether it holds."""
        deadline = time.monotonic() + limit.total_seconds()
        while not until():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if select.select([self._reader], [], [], left)[0]:
                self._drain()
        return True

    def _drain(self) -> None:
        try:
            while self._reader.recv(4096):
                pass
        except BlockingIOError:
            return


class CommandState(Enum):
    """What a command is doing."""

    RUNNING = "running"
    WANTS_TERMINAL = "wants_terminal"
    """It is stopped because it reads from, or configures, a terminal that is not its own."""
    ENDED = "ended"


class HeldCommand:
    """A command, the leader of its own process group. Its standard streams are this program's.

    It begins at a gate (`appvss.cli.gate`): started, looked up and read into memory, so that it can be let through when
    starting a program might be slow. This program's death ends it there.

    Until `collect` the command stays a zombie when it has ended. That keeps its process group's id from being given to
    somebody else, so that a late `kill` can only hit what belongs to the command.

    Args:
        executable: the program's path.
        arguments: its argument list, its name first.
        environment: its whole environment, but for `CYCLE_VARIABLE`.

    Raises:
        OSError: the kernel refuses to start another process.
        ValueError: an argument or the environment has what no process can be given, such as a zero byte.
    """

    def __init__(self, executable: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        theirs, self._gate = os.pipe()
        self._report, their_report = os.pipe()
        program = [sys.executable, "-I", "-S", "-B", str(_GATE), str(theirs), str(their_report), CYCLE_VARIABLE]
        try:
            self._process = subprocess.Popen(
                [*program, executable, *arguments],
                env=dict(environment),
                process_group=0,
                pass_fds=(theirs, their_report),
            )
        except BaseException:
            self._close_gate()
            os.close(self._report)
            raise
        finally:
            os.close(theirs)
            os.close(their_report)
        self._is_started = False

    def wait_loaded(self, limit: timedelta) -> bool:
        """Wait until it waits at its gate; whether it does. It is asked once."""
        is_there = bool(select.select([self._report], [], [], limit.total_seconds())[0])
        return is_there and os.read(self._report, 1) == b"+"

    def let_through(self, cycle: str) -> None:
        """Let it run.

        Args:
            cycle: the value of `CYCLE_VARIABLE` in its environment.
        """
        if self._gate >= 0:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its state says so
                os.write(self._gate, f"{cycle}\n".encode())
            self._is_started = True
            self._close_gate()

    def _close_gate(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    @property
    def state(self) -> CommandState:
        """What it is doing at this moment."""
        if self._process.returncode is not None:
            return CommandState.ENDED
        news = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        if news is None:
            return CommandState.RUNNING
        if news.si_code == os.CLD_STOPPED:
            wants_terminal = news.si_status in (signal.SIGTTIN, signal.SIGTTOU)
            return CommandState.WANTS_TERMINAL if wants_terminal else CommandState.RUNNING
        return CommandState.ENDED

    @property
    def has_ended(self) -> bool:
        """Whether the command itself has ended. Processes that it left behind may still run."""
        return self.state is CommandState.ENDED

    def terminate(self) -> None:
        """Ask the whole process group to end."""
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)  # a stopped process gets the first signal only when it runs again

    def kill(self) -> None:
        """End whatever is left of the process group."""
        self._send(signal.SIGKILL)

    def collect(self) -> int | None:
        """The exit code, negative for a signal, or None while the command has not ended. It is gone after that.

        Raises:
            OSError: it was let through, and the kernel refused to execute it.
        """
        code = self._process.poll()
        if code is not None and self._report >= 0:
            refused = os.read(self._report, 16)
            os.close(self._report)
            self._report = -1
            if self._is_started and refused:
                number = int(refused)
                raise OSError(number, os.strerror(number) if number else "it cannot be given these arguments")
        return code

    def send_away(self, limit: timedelta) -> None:
        """End it at its gate, without having let it through. Harmless when it was."""
        self._close_gate()
        if not self._is_started:
            try:
                self._process.wait(limit.total_seconds())
            except subprocess.TimeoutExpired:
                self.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(limit.total_seconds())
            self.collect()

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return  # nobody is left to hear it
