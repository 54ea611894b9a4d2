"""A program that runs: in a session of its own, with little in its environment, bounded in output and in time.

Between it and the adapter stands a keeper (`keeper.py`), which ends whatever the program leaves behind, and the program
itself when the adapter dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.adapters.errors import ServerUnfit
from appvss.adapters.exec.trust import Program, trusted
from appvss.adapters.waiting import to_the_end
from appvss.model.duration import format_duration

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LINE_LIMIT: Final = 16 * 1024
"""Bytes of one line that a program may say."""
KEPT: Final = 4096
"""Bytes of the beginning, and as many of the end, that are kept of what a program prints."""
_SHOWN: Final = 300
"""Characters of its output in a sentence."""
_KEEPER: Final = Path(__file__).with_name("keeper.py")
_BY_DESCRIPTOR: Final = Path("/proc/self/fd").is_dir()
"""Whether what was checked can be executed by its descriptor; elsewhere it is by its path, right after the check."""
_START_LIMIT: Final = timedelta(seconds=10)
_END_LIMIT: Final = timedelta(seconds=6)
"""More than the keeper takes to end everything (`keeper._END_LIMIT`)."""
AROUND_LIMIT: Final = _START_LIMIT + _END_LIMIT
"""How much longer than its own limit and grace a command takes at most, with its start and its end."""
_DRAIN_LIMIT: Final = timedelta(seconds=1)
"""What a program has printed is there when it has ended: nobody else has the other end."""
_PIECE: Final = 64 * 1024


class Output:
    """The first and the last part of what was printed; what is between is counted."""

    def __init__(self) -> None:
        self.length = 0
        """Bytes in all."""
        self._first = bytearray()
        self._last = bytearray()

    def add(self, piece: bytes) -> None:
        """Take up what came next."""
        self.length += len(piece)
        room = KEPT - len(self._first)
        if room > 0:
            self._first += piece[:room]
            piece = piece[room:]
        if piece:
            self._last = (self._last + piece[-KEPT:])[-KEPT:]

    @property
    def cut(self) -> int:
        """How many bytes of the middle are gone."""
        return self.length - len(self._first) - len(self._last)

    def text(self) -> str:
        """What was kept; a note stands where something is missing."""
        note = f"\n[{self.cut} bytes are left out]\n" if self.cut else ""
        return self._first.decode("utf-8", "replace") + note + self._last.decode("utf-8", "replace")

    def last_line(self) -> str:
        """The last line that is not empty, whole if it is not longer than `KEPT`."""
        return next((line for line in reversed(self.text().splitlines()) if line.strip()), "").strip()

    def in_brief(self) -> str:
        """The last line, printable, for a sentence; empty: nothing was printed."""
        return brief(self.last_line())


def brief(text: str) -> str:
    """A program's own words, for a sentence: printable, and not long."""
    printable = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return printable if len(printable) <= _SHOWN else f"{printable[:_SHOWN]}..."


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program has ended."""

    code: int | None
    """Its exit code, negative for a signal; None: nobody knows."""
    left: tuple[str, ...] = ()
    """The processes that it has left behind, `name (pid)`. They were ended."""
    stuck: tuple[str, ...] = ()
    """Those that even SIGKILL has not ended yet."""


def environment(app: str, cycle: str, step: str, extra: Sequence[str] = (), **more: str) -> dict[str, str]:
    """All that a program finds in its environment. Nothing of this process's own is in it."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "APPVSS_APP": app,
        "APPVSS_CYCLE": cycle,
        "APPVSS_STEP": step,
        **more,
        **dict(each.split("=", 1) for each in extra),
    }


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """That of asyncio, which tells as well when the process itself has ended: its pipes may be open for longer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(LINE_LIMIT, loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class Running:
    """One program. Made by `start`; whoever has it owes `end`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        transport: asyncio.SubprocessTransport,
        exited: asyncio.Event,
        control: int,
        report: asyncio.StreamReader,
        report_pipe: asyncio.ReadTransport,
    ) -> None:
        if process.stdout is None or process.stderr is None:
            raise ValueError("it was started without pipes")
        self.stdin = process.stdin
        self.stdout = process.stdout
        self.output = Output()
        """What it has printed, unless it is spoken to: then `stdout` has it."""
        self.errors = Output()
        self.pid = 0
        """The program's, which is its process group's and its session's as well."""
        self._process = process
        self._transport = transport
        self._exited = exited
        self._control = control
        self._report = report
        self._report_pipe = report_pipe
        self._ended: asyncio.Task[Ended] | None = None
        self._draining = [asyncio.create_task(_drain(process.stderr, self.errors), name="exec stderr")]
        if process.stdin is None:
            self._draining.append(asyncio.create_task(_drain(process.stdout, self.output), name="exec stdout"))

    async def begin(self, path: str) -> None:
        """Wait until it is executed.

        Raises:
            ServerUnfit: the kernel refuses.
        """
        word, _, number = (await self._report.readline()).decode().strip().partition(" ")
        if word != "started":
            reason = os.strerror(int(number)) if number else "its keeper has died"
            await self.end(timedelta(0))
            raise ServerUnfit(f"the program {path} cannot be executed: {reason}", "Run it by hand to see why.")
        self.pid = int(number)
        self._ended = asyncio.create_task(self._read_report(), name="exec report")

    async def _read_report(self) -> Ended:
        code: int | None = None
        left: list[str] = []
        stuck: list[str] = []
        while line := (await self._report.readline()).decode("utf-8", "replace").strip():
            word, _, rest = line.partition(" ")
            if word == "ended":
                code = int(rest)
            else:
                pid, _, name = rest.partition(" ")
                (left if word == "left" else stuck).append(f"{name} ({pid})")
        return Ended(code, tuple(left), tuple(stuck))

    @property
    def has_ended(self) -> bool:
        """Whether the program, and all that it has left behind, has ended."""
        return self._ended is None or self._ended.done()

    async def wait(self) -> Ended:
        """Wait until it ends by itself. Cancelling this does not end it."""
        return await asyncio.shield(self._ended) if self._ended is not None else Ended(None)

    async def end(self, grace: timedelta, patience: timedelta | None = None) -> Ended:
        """End it: its standard input ends, then SIGTERM, then SIGKILL to all that it has started. May be called again.

        Args:
            grace: how long it has after SIGTERM.
            patience: how long it has after the end of its standard input; None: as long.
        """
        if self.stdin is not None:
            self.stdin.close()
        patience = grace if patience is None else patience
        ended = await self._within(patience) if patience else None
        if ended is None:
            self._tell(b"t")
            ended = await self._within(grace) if grace else None
        if ended is None:
            self._tell(b"k")
            ended = await self._within(_END_LIMIT)
        if ended is None or ended.code is None:
            self._end_without_keeper()
        await self._close()
        return ended or Ended(None, stuck=(f"process group ({self.pid})",))

    def _end_without_keeper(self) -> None:
        """Its keeper has died, by somebody's hand: end the program's process group, if it is still its own."""
        try:
            variables = Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
            if self.pid and any(each.startswith(b"APPVSS_HOOK=") for each in variables):
                os.killpg(self.pid, signal.SIGKILL)
        except OSError:
            return  # it has ended

    async def _within(self, limit: timedelta) -> Ended | None:
        if self._ended is None:
            return Ended(None)
        await asyncio.wait([self._ended], timeout=limit.total_seconds())
        return self._ended.result() if self._ended.done() else None

    async def hear_last_words(self) -> None:
        """Wait, not long, until all that it has printed has been read. It is ending."""
        await asyncio.wait(self._draining, timeout=_DRAIN_LIMIT.total_seconds())

    def abandon(self) -> None:
        """Leave its end to its keeper, as if this process had died: for one whose event loop is closed."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def _tell(self, word: bytes) -> None:
        if self._control >= 0:
            with contextlib.suppress(OSError):  # the keeper has ended
                os.write(self._control, word)

    async def _close(self) -> None:
        self.abandon()
        await self.hear_last_words()
        for each in self._draining:
            each.cancel()
        self._report_pipe.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_LIMIT.total_seconds()):
                await self._exited.wait()
        self._transport.close()  # what nobody has read, or a process that is stuck, keeps the pipes open


async def _drain(reader: asyncio.StreamReader, output: Output) -> None:
    """Read all that comes, and keep some of it."""
    while piece := await reader.read(_PIECE):
        output.add(piece)


async def start(
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    grace: timedelta,
    with_input: bool,
    lock: int = -1,
) -> Running:
    """Start a program, once more checked (`trust`).

    Args:
        command: its absolute path, and its arguments. No shell is asked.
        variables: its whole environment.
        grace: how long it may go on when this process has died.
        with_input: whether it has a standard input to be spoken to by; else that is empty.
        lock: a descriptor that is open as long as anything of it runs.

    Raises:
        SettingInvalid: it is not safe, or not there.
        ServerUnfit: it cannot be executed.
    """
    with trusted(command) as program:
        # Cancelled half-way, asyncio would kill the keeper, and what that has just started would run on by itself.
        work = _begin(program, command, variables, grace, with_input, lock)
        starting = asyncio.create_task(work, name="exec start")
        try:
            return await to_the_end(starting)
        except asyncio.CancelledError:
            if starting.exception() is None:
                await to_the_end(starting.result().end(timedelta(0)))
            raise


async def _begin(
    program: Program,
    command: Sequence[str],
    variables: Mapping[str, str],
    grace: timedelta,
    with_input: bool,
    lock: int,
) -> Running:
    running = await _spawn(program, command, variables, grace, with_input, lock)
    try:
        async with asyncio.timeout(_START_LIMIT.total_seconds()):
            await running.begin(program.path)
    except TimeoutError as error:
        await running.end(timedelta(0))
        raise ServerUnfit(f"the program {program.path} does not start", "Run it by hand to see why.") from error
    except BaseException:
        await to_the_end(running.end(timedelta(0)))
        raise
    return running


async def _spawn(
    program: Program,
    command: Sequence[str],
    variables: Mapping[str, str],
    grace: timedelta,
    with_input: bool,
    lock: int,
) -> Running:
    descriptor = program.descriptor if _BY_DESCRIPTOR else -1
    loop = asyncio.get_running_loop()
    their_control, control = os.pipe()
    reader_end, their_report = os.pipe()
    report = os.fdopen(reader_end, "rb", buffering=0)
    try:
        numbers = (str(their_control), str(their_report), str(grace.total_seconds()), str(descriptor), str(lock))
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(loop),
            sys.executable,
            *("-I", "-S", "-B", str(_KEEPER), *numbers, program.path, *command[1:]),
            stdin=asyncio.subprocess.PIPE if with_input else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**variables, "APPVSS_HOOK": program.path},
            cwd="/",
            start_new_session=True,
            pass_fds=[each for each in (their_control, their_report, descriptor, lock) if each >= 0],
        )
        reader = asyncio.StreamReader(limit=LINE_LIMIT)
        report_pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), report)
    except BaseException:
        os.close(control)
        report.close()
        raise
    finally:
        os.close(their_control)
        os.close(their_report)
    process = asyncio.subprocess.Process(transport, protocol, loop)
    return Running(process, transport, protocol.exited, control, reader, report_pipe)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a command that ends by itself."""

    ended: Ended
    output: Output
    errors: Output
    timed_out: bool = False

    def failure(self, name: str, limit: timedelta) -> str:
        """Why it cannot be relied on, one lower-case sentence; empty: it ended well, and left nobody behind."""
        said = self.errors.in_brief() or self.output.in_brief()
        words = f": {said}" if said else ""
        if self.timed_out:
            return f"the {name} command did not end within {format_duration(limit)} and was ended{words}"
        if self.ended.stuck:
            return f"the {name} command cannot be ended: {', '.join(self.ended.stuck)}"
        if self.ended.code != 0:
            how = "was killed" if self.ended.code is None else _how(self.ended.code)
            return f"the {name} command {how}{words}"
        if self.ended.left:
            return f"the {name} command left {', '.join(self.ended.left)} behind, which was ended"
        return ""


def _how(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"


async def run(
    command: Sequence[str], variables: Mapping[str, str], limit: timedelta, *, grace: timedelta, lock: int = -1
) -> Done:
    """Run a command to its end, at most as long as `limit`; cancelled, it is ended as well.

    Raises:
        SettingInvalid: it is not safe, or not there.
        ServerUnfit: it cannot be executed.
    """
    running = await start(command, variables, grace=timedelta(0), with_input=False, lock=lock)
    timed_out = False
    try:
        async with asyncio.timeout(limit.total_seconds()):
            await running.wait()
    except TimeoutError:
        timed_out = True
    finally:
        ended = await to_the_end(running.end(grace if timed_out else timedelta(0), timedelta(0)))
    return Done(ended, running.output, running.errors, timed_out)
