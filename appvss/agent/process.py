"""The process of one app, as the agent sees it: what it says, what it holds, and how it is ended.

It has a process group of its own, a standard input whose end tells it to leave, a pipe on which it says what it does,
and one for its standard error. The agent reads both all the time and never waits for either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from appvss.agent.child import AT_REST, LINE
from appvss.agent.lines import LineReader, LineWriter, make_room, message_of
from appvss.agent.serving import Phase
from appvss.agent.users import User
from appvss.sdk.clock import now

PYTHON: Final = (sys.executable, "-B", "-P", "-m")
"""`-B`: no module's cache is written, not even in a hold. `-P`: nothing is imported from the working directory."""
MARGIN: Final = timedelta(seconds=2)
"""How much longer than its limit a hold may last before its process is killed: the SDK in it has its chance first."""
GONE_LIMIT: Final = timedelta(seconds=2)
"""How long is waited for the end of a process that was killed."""
UNDO_MARGIN: Final = timedelta(seconds=5)
"""How much longer than an undo (`AppConfiguration.undo_limit`) the process may take that does it: it has to start."""
UNDO_ATTEMPTS: Final = 8
TICK: Final = timedelta(seconds=1)
_READ: Final = 64 * 1024


class AppProcess:
    """One process of one app, from its start to its end.

    Args:
        hear: takes what it says of itself, except for its signs of life: a message, or a line of standard error.
    """

    def __init__(self, hear: Callable[[Mapping[str, Any]], None]) -> None:
        self._hear = hear
        self.phase = Phase.IDLE
        self.cycle = ""
        self._limit: timedelta | None = None
        self._since = now()
        self._silent_ticks = 0
        self._process: asyncio.subprocess.Process
        self._input: LineWriter | None = None
        self._descriptors: dict[int, Callable[[int], None]] = {}
        self._line, self._error = LineReader(), LineReader()
        self.killed_because = ""
        """Why the agent has killed it; empty: it has not."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def start(self, module: str, order: str, user: User | None) -> None:
        """Start `module` and give it its order.

        Raises:
            OSError: it cannot be started.
        """
        line, line_end = os.pipe()
        error, error_end = os.pipe()
        order_end, own_end = os.pipe()
        for pipe in (line, order_end):
            make_room(pipe)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *PYTHON,
                module,
                "serve",
                stdin=order_end,
                stdout=error_end,
                stderr=error_end,
                pass_fds=(line_end,),
                process_group=0,
                env={**os.environ, LINE: str(line_end), **environment_of(user)},
                **identity_of(user),
            )
        except BaseException:
            for descriptor in (line, error, own_end):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (line_end, error_end, order_end):
                os.close(descriptor)
        loop = asyncio.get_running_loop()
        for descriptor, take in ((line, self._take_line), (error, self._take_error)):
            os.set_blocking(descriptor, False)
            self._descriptors[descriptor] = take
            loop.add_reader(descriptor, self._read, descriptor)
        self._input = LineWriter(own_end)
        self._input.say_line(order)

    async def ended(self) -> int:
        """Wait for its end; its return code. Not for the end of its pipes, which a program it started may keep."""
        code = await self._process.wait()
        for descriptor in list(self._descriptors):
            self._read(descriptor)
        self._close()
        return code

    def leave_at_rest(self) -> None:
        """Tell it to leave as soon as no cycle is at work with it."""
        if self._input is not None:
            self._input.say_line(AT_REST)

    def leave(self) -> None:
        """Tell it to leave now: a hold is ended in order. May be called again."""
        if self._input is not None:
            self._input.close()
            self._input = None

    def kill(self, reason: str) -> None:
        """End it now, with all that it has started. May be called again, and after its end."""
        self.killed_because = self.killed_because or reason
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def tick(self, hang_timeout: timedelta) -> str:
        """Called every `TICK`: why it has to be killed; empty: it has not.

        Silence is counted in ticks and not by the clock: when the whole machine stood still, nobody was silent.
        """
        self._silent_ticks += 1
        if self._input is not None:
            self._input.flush()
        is_at_leisure = self.phase in (Phase.IDLE, Phase.LETTING_GO) or self._limit is None
        if is_at_leisure and self._silent_ticks * TICK > hang_timeout:
            return f"it has given no sign of life for {self._silent_ticks} s"
        if self._limit is not None and now() - self._since > self._limit + MARGIN:
            return f"it is {self.phase} for longer than its limit"
        return ""

    def _take_line(self, descriptor: int) -> None:
        for line in self._line.take(_content(descriptor)):
            message = message_of(line)
            self._silent_ticks = 0
            if "phase" in message:
                try:
                    self._take_phase(message)
                except (KeyError, TypeError, ValueError, OverflowError):
                    continue  # another program of the app's user has written it; what was said before stays in force
            if message and "alive" not in message:
                self._hear(message)

    def _take_phase(self, message: Mapping[str, Any]) -> None:
        phase, limit = Phase(message["phase"]), message["limit"]
        length = None if limit is None else timedelta(seconds=limit)
        if phase.holds and length is None:
            raise ValueError("a hold has a limit")
        self.phase, self.cycle, self._limit = phase, str(message["cycle"]), length
        self._since = now()

    def _take_error(self, descriptor: int) -> None:
        for line in self._error.take(_content(descriptor)):
            self._hear_error(line)

    def _hear_error(self, line: str) -> None:
        if line.strip():
            log = {"level": "warning", "message": line, "cycle": self.cycle, "time": datetime.now(UTC).timestamp()}
            self._hear({"log": log})

    def _read(self, descriptor: int) -> None:
        try:
            self._descriptors[descriptor](descriptor)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(descriptor)
            del self._descriptors[descriptor]
            os.close(descriptor)

    def _close(self) -> None:
        self.leave()
        self._hear_error(self._error.rest())
        for descriptor in self._descriptors:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()


def _content(descriptor: int) -> bytes:
    content = os.read(descriptor, _READ)
    if not content:
        raise EOFError
    return content


def environment_of(user: User | None) -> dict[str, str]:
    """What a process of that user has otherwise in its environment."""
    return {} if user is None else {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}


def identity_of(user: User | None) -> dict[str, Any]:
    """What `subprocess` has to be told for a process of that user."""
    return {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": list(user.groups)}


async def run_once(verb: str, order: str, user: User | None, limit: timedelta) -> tuple[int, str, str]:
    """Run `appvss.agent.child look` or `undo` to its end.

    Returns:
        Its return code, standard output and standard error.

    Raises:
        TimeoutError: it did not end in time, and was killed with all that it had started.
        OSError: it cannot be started.
    """
    process = await asyncio.create_subprocess_exec(
        *PYTHON,
        "appvss.agent.child",
        verb,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        env={**os.environ, **environment_of(user)},
        **identity_of(user),
    )
    try:
        async with asyncio.timeout(limit.total_seconds()):
            out, error = await process.communicate(order.encode() + b"\n")
    except BaseException:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):  # a program that it has started may keep its pipes
            async with asyncio.timeout(GONE_LIMIT.total_seconds()):
                await process.wait()
        raise
    return process.returncode or 0, out.decode(errors="replace"), error.decode(errors="replace")
