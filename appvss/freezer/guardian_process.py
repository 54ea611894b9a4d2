"""The guardian, seen from the broker: its start, the channel to it, and its end.

Beside the channel it has two things that all its children have, too, so that they tell of the last of them: the locked
runtime directory (`record.lock`), for another broker, and the writing end of a pipe, for this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.freezer import guardian, record
from appvss.freezer.aside import Aside
from appvss.model.duration import format_duration

START_LIMIT: Final = timedelta(seconds=10)
"""How long the guardian's start may take."""
END_LIMIT: Final = timedelta(seconds=2)
"""How long its end may take when nothing is frozen."""

_logger = logging.getLogger("appvss.freezer.guardian_process")
_PROGRAM: Final = Path(guardian.__file__)
_left_behind: Final[list[subprocess.Popen[bytes]]] = []
"""Guardians that still thaw when nobody waits for them any more."""

Message = Mapping[str, Any]


class GuardianAbsent(Exception):
    """There is no guardian, and none can be started. Its text is one lower-case sentence."""


@dataclass(frozen=True, slots=True)
class _Started:
    """What a start has made."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    family: int
    """The reading end of the pipe that ends with the last of them."""
    released: tuple[record.Released, ...]
    """What a former broker and its guardian had left frozen."""

    def close(self) -> None:
        """Let go of it: without a channel a guardian ends."""
        self.channel.close()
        os.close(self.family)
        _left_behind.append(self.process)


class GuardianProcess:
    """One guardian. `start` makes it; whoever has it owes a `close`.

    Args:
        started: the process and what leads to it.
        hear: told of every message, on the event loop.
        lost: told once when the guardian is gone before `close`.
    """

    def __init__(
        self, started: _Started, hear: Callable[[Message], None], lost: Callable[[GuardianProcess], None]
    ) -> None:
        self.pid = started.process.pid
        self.is_alive = True
        """Whether the channel is open."""
        self.is_gone = False
        """Whether it and all its children have ended: nothing is thawed by them any more."""
        self.locked = 0
        """The errno with which the kernel has refused to keep it in memory; zero: it does."""
        self._process = started.process
        self._channel = started.channel
        self._family = started.family
        self._hear = hear
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._gone = asyncio.Event()
        self._loop.add_reader(self._channel, self._read)
        self._loop.add_reader(self._family, self._end_of_family)

    @classmethod
    async def start(
        cls,
        directory: Path,
        hear: Callable[[Message], None],
        lost: Callable[[GuardianProcess], None],
        patience: timedelta = record.GUARDIAN_LIMIT,
    ) -> GuardianProcess:
        """Start one, and thaw first what a record says is frozen. Never while anything is held.

        Args:
            directory: the runtime directory.
            hear: told of every message.
            lost: told when it is gone.
            patience: how long a former one is waited for, which may still thaw.

        Raises:
            GuardianAbsent: a former one is still at work, or the machine does not let it be started.
        """
        aside = Aside(lambda: _spawn(directory, patience), "start the guardian", _Started.close)
        try:
            async with asyncio.timeout((patience + START_LIMIT).total_seconds()):
                started = await aside.result()
                for each in started.released:
                    _tell(each)
                process = cls(started, hear, lost)
                try:
                    await process._until_ready()
                except BaseException:
                    process.kill()
                    process.let_go()
                    raise
        except TimeoutError as error:
            raise GuardianAbsent(f"the guardian did not start within {format_duration(START_LIMIT)}") from error
        return process

    async def _until_ready(self) -> None:
        await self._ready
        if not self.is_alive:
            raise GuardianAbsent(f"the guardian (process {self.pid}) ended at its start")

    # -- words

    async def until_writable(self) -> None:
        """Wait until the channel has room; it has some for hundreds of messages."""
        if self.is_alive:
            self._writable.clear()
            self._loop.add_writer(self._channel, self._writable.set)
            try:
                await self._writable.wait()
            finally:
                if self.is_alive:
                    self._loop.remove_writer(self._channel)

    def try_to_send(self, message: Message, descriptor: int = -1) -> bool:
        """Tell it something; False: the channel is full.

        Raises:
            OSError: it is gone.
        """
        if not self.is_alive:
            raise BrokenPipeError
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))] if descriptor >= 0 else []
        try:
            self._channel.sendmsg([json.dumps(message).encode()], rights)
        except BlockingIOError:
            return False
        return True

    def _read(self) -> None:
        while self.is_alive:
            try:
                packet = self._channel.recv(guardian.PACKET_LIMIT)
            except BlockingIOError:
                return
            except OSError:  # it died with words of ours unread
                packet = b""
            if not packet:
                self._hang_up()
                self._lost(self)
                return
            message = json.loads(packet)
            if message["said"] == "ready":
                self._greet(message)
            elif message["said"] == "failed":
                _logger.error("the guardian (process %d) has failed: %s", self.pid, message["reason"])
            else:
                self._hear(message)

    def _greet(self, message: Message) -> None:
        self.locked = int(message["locked"])
        if self.locked:
            _logger.warning("the guardian is not locked in memory: %s", os.strerror(self.locked))
        if protected := int(message["protected"]):
            _logger.info("the guardian is not spared when memory runs out: %s", os.strerror(protected))
        if not self._ready.done():
            self._ready.set_result(None)

    def _hang_up(self) -> None:
        if self.is_alive:
            self.is_alive = False
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
            self._writable.set()
            self._channel.close()
            if not self._ready.done():
                self._ready.set_result(None)

    # -- its end

    def kill(self) -> None:
        """End it, if it has not ended: its children thaw by themselves. One of them that is stopped goes on."""
        if self._process.returncode is None:  # it has not been reaped, so its number is nobody else's
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
                os.killpg(self.pid, signal.SIGCONT)

    def _end_of_family(self) -> None:
        self._loop.remove_reader(self._family)
        os.close(self._family)
        self._family = -1
        self._process.wait()  # it has ended: this takes no time
        self.is_gone = True
        self._gone.set()

    async def until_gone(self, limit: timedelta | None = None) -> bool:
        """Wait until it and all its children have ended; False: `limit` has passed before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if limit is None else limit.total_seconds()):
                await self._gone.wait()
        return self.is_gone

    async def close(self, *, is_free: bool) -> None:
        """Have it thaw whatever may be frozen, and end; wait for that, twice `END_LIMIT` at most.

        Args:
            is_free: whether nothing is frozen, so that one that does not end may be killed.
        """
        self._hang_up()
        if not await self.until_gone(END_LIMIT) and is_free:
            self.kill()
            await self.until_gone(END_LIMIT)
        if not self.is_gone:
            _logger.error("the guardian (process %d) still thaws, and is left behind", self.pid)
        self.let_go()

    def let_go(self) -> None:
        """Wait for nothing any more."""
        self._hang_up()
        if self._family >= 0:
            self._loop.remove_reader(self._family)
            os.close(self._family)
            self._family = -1
            _left_behind.append(self._process)


def _tell(released: record.Released) -> None:
    if released.failure:
        _logger.error("%s may still be frozen by a former broker: %s", released.path, released.failure)
    elif released.was_frozen:
        _logger.warning("%s was still frozen by a former broker, and goes on now", released.path)


def _spawn(directory: Path, patience: timedelta) -> _Started:
    """Start the process. Blocks.

    Raises:
        GuardianAbsent: it cannot be started.
    """
    _left_behind[:] = [process for process in _left_behind if process.poll() is None]
    try:
        lock = record.lock_within(directory, patience)
    except BlockingIOError as error:
        raise GuardianAbsent(f"a former guardian still has file systems to thaw (lock on {directory})") from error
    except OSError as error:
        raise GuardianAbsent(f"the runtime directory {directory} cannot be locked: {error.strerror}") from error
    with contextlib.ExitStack() as closing, contextlib.ExitStack() as failing:
        closing.callback(os.close, lock)
        released = record.release(directory)
        try:
            family, writing = os.pipe()
            closing.callback(os.close, writing)
            failing.callback(os.close, family)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            closing.callback(theirs.close)
            failing.callback(ours.close)
            ours.setblocking(False)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(_PROGRAM), str(theirs.fileno()), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=(theirs.fileno(), lock, writing),
                start_new_session=True,
            )
        except OSError as error:
            raise GuardianAbsent(f"the guardian cannot be started: {error.strerror}") from error
        failing.pop_all()
        return _Started(process, ours, family, released)
