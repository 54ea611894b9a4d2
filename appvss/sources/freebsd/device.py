"""One opening of the device, in a thread of its own: poll(2), READ, WRITE.

The thread is there because nothing else works: ioctls may block and so do not belong on the event loop, and the device
can be waited for with poll(2) alone. select(2) never shows it readable and kqueue refuses it, so asyncio cannot watch
it on FreeBSD (facts/freebsd-vss.md section 0, trap 3).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta

from appvss.model.errors import DeviceWrong, SourceError
from appvss.model.request import Request
from appvss.sources.base import Clock
from appvss.sources.device_opener import DeviceOpener, OpenedDevice
from appvss.sources.freebsd.ledger import MOST_OPEN, Ledger, Silence
from appvss.sources.freebsd.refusal import refused_open, refused_read, unfilled_read
from appvss.sources.wire.freebsd import EMPTY, MESSAGE_SIZE, Message, Operation, decode, encode, ioctl_numbers

HEARTBEAT = timedelta(seconds=10)
"""How often an idle device is read all the same: the driver does not wake a poller when it detaches (section 1)."""
MOST_ANSWERS = 4 * MOST_OPEN
"""How many answers may wait to be written. There are never more than the requests that are open; the rest are
mistakes."""
MOST_READS = 2 * MOST_OPEN
"""How many messages are read before answers get their turn."""

_logger = logging.getLogger("appvss.sources.freebsd")
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
_UNTOUCHED = b"\xff" * MESSAGE_SIZE
"""What a READ's buffer holds before it: no message, so that a device which says yes to every ioctl is found out."""


@dataclass(frozen=True, slots=True)
class Opened:
    """News: the device is open and has answered a READ."""

    pid: int
    """The process that opened it for us."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """News: a request."""

    request: Request


@dataclass(frozen=True, slots=True)
class Unasked:
    """News: a message that is not made a request, and why."""

    reason: str


News = Opened | Arrived | Unasked


class FreebsdDevice:
    """From one open of the device to its close.

    Args:
        opener: opens the device. Used by this thread alone while it runs.
        ledger: a fresh one: what an earlier opening left unanswered is not ours to answer.
        clock: for deadlines, and to read msgids. Called in the thread.
        tell: takes the news, in the thread, in order; the first is `Opened`. Must not block.
        heartbeat: how often an idle device is read all the same.
    """

    def __init__(
        self,
        opener: DeviceOpener,
        ledger: Ledger,
        clock: Clock,
        tell: Callable[[News], None],
        *,
        heartbeat: timedelta = HEARTBEAT,
    ) -> None:
        self.finished: Future[str | None] = Future()
        """Set when everything is closed. The result is why the device was lost, or None after `stop`.

        Raises:
            SourceError: the device could not be opened, or is not what it should be.
        """
        self._opener = opener
        self._ledger = ledger
        self._clock = clock
        self._tell = tell
        self._heartbeat = heartbeat
        self._answers: queue.Queue[tuple[str, bool]] = queue.Queue(MOST_ANSWERS)
        self._numbers = ioctl_numbers(sys.platform)
        self._thread = threading.Thread(target=self._main, name="appvss-freebsd", daemon=True)
        self._wake_read, self._wake_write = -1, -1

    def start(self) -> None:
        """Begin to open the device.

        Raises:
            SourceError: the machine has no descriptors or threads left.
        """
        try:
            self._wake_read, self._wake_write = os.pipe()
            os.set_blocking(self._wake_read, False)
            os.set_blocking(self._wake_write, False)
            self.finished.set_running_or_notify_cancel()  # so that nobody can cancel it while the thread runs
            self._thread.start()
        except (OSError, RuntimeError) as error:
            for descriptor in (self._wake_read, self._wake_write):
                if descriptor >= 0:
                    os.close(descriptor)
            raise SourceError(
                f"no thread can be started for {self._opener.path}: {error}",
                "Look at this process's limits for descriptors and threads.",
            ) from error

    def answer(self, identity: str, *, go_on: bool) -> None:
        """Have an answer written. Does not block; called in the thread that also calls `stop`, and not after it."""
        try:
            self._answers.put_nowait((identity, go_on))
            # A full pipe wakes the thread as well as one more byte would.
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"a")
        except queue.Full:
            _logger.error("the answer to request %s is not sent: %d others wait", identity, MOST_ANSWERS)
        except BrokenPipeError:
            self._discard_answers()

    def stop(self) -> None:
        """Have the device closed, after the answers that wait. Does not block; `finished` tells when it is done."""
        if self._wake_write >= 0:
            os.close(self._wake_write)
            self._wake_write = -1

    def join(self, limit: timedelta) -> bool:
        """Wait for the thread's end; False if `limit` has passed before. At once, when `finished` is done."""
        self._thread.join(limit.total_seconds())
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            reason = self._serve()
        except BaseException as error:  # noqa: BLE001 - not swallowed: it is raised where `finished` is awaited
            self.finished.set_exception(error)
        else:
            self.finished.set_result(reason)

    def _serve(self) -> str | None:
        try:
            try:
                opened = self._opener.open(self._wake_read)
            except OSError as error:
                raise refused_open(self._opener.path, error) from error
            if opened is None:
                return None
            try:
                return self._relay(opened)
            finally:
                opened.close()
        finally:
            os.close(self._wake_read)
            self._discard_answers()

    def _relay(self, opened: OpenedDevice) -> str | None:
        first = self._first_read(opened.descriptor)
        self._tell(Opened(opened.pid))
        if first is not None:
            self._admit(first)
        path = self._opener.path
        try:
            return self._poll(opened)
        except OSError as error:
            return f"{path} is gone: {error.strerror}"
        except DeviceWrong as error:
            return f"{path} does not behave any more: {error.sentence}"

    def _poll(self, opened: OpenedDevice) -> str | None:
        """Relay until the device is lost, and say why, or until `stop`: None."""
        poller = select.poll()
        for descriptor in (opened.descriptor, opened.channel, self._wake_read):
            poller.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._heartbeat / timedelta(milliseconds=1)))
            if self._wake_read in ready:
                # The pipe first: an answer that is put after this wakes the thread again.
                open_end = os.read(self._wake_read, 4096)
                self._write_answers(opened.descriptor)
                if not open_end:
                    return None
            if opened.channel in ready:
                return (
                    f"{self._opener.path} is gone: process {opened.pid}, which had opened it, was killed, "
                    "as the driver does when it detaches"
                )
            state = ready.get(opened.descriptor, 0)
            if state & _GONE:
                return f"{self._opener.path} is gone: poll(2) reports {state:#x}"
            if state or not ready:
                self._read_waiting(opened.descriptor)

    def _first_read(self, descriptor: int) -> Message | None:
        """What waits already, if anything does; above all, the proof that this is the device."""
        path = self._opener.path
        try:
            return self._read(descriptor)
        except OSError as error:
            raise refused_read(path, error) from error
        except DeviceWrong as error:
            raise unfilled_read(path) from error

    def _read_waiting(self, descriptor: int) -> None:
        for _ in range(MOST_READS):
            message = self._read(descriptor)
            if message is None:
                return
            self._admit(message)

    def _read(self, descriptor: int) -> Message | None:
        buffer = bytearray(_UNTOUCHED)
        fcntl.ioctl(descriptor, self._numbers.read, buffer, True)
        message = decode(buffer)
        if message == EMPTY:
            return None
        if message.operation is Operation.NONE:
            raise DeviceWrong(f"READ brought status {message.status} without an operation", "Look at the path.")
        return message

    def _admit(self, message: Message) -> None:
        admitted = self._ledger.admit(message, self._clock.now(), self._clock.wall())
        self._tell(Unasked(admitted.reason) if isinstance(admitted, Silence) else Arrived(admitted))

    def _write_answers(self, descriptor: int) -> None:
        for identity, go_on in self._take_answers():
            message = self._ledger.settle(identity, go_on=go_on, now=self._clock.now())
            if isinstance(message, Silence):
                _logger.warning("the answer to request %s is not sent: %s", identity, message.reason)
            else:
                fcntl.ioctl(descriptor, self._numbers.write, encode(message))
                _logger.debug("wrote status %d for request %s", message.status, identity)

    def _discard_answers(self) -> None:
        for identity, _ in self._take_answers():
            _logger.warning("the answer to request %s is not sent: the device is closed", identity)

    def _take_answers(self) -> Iterator[tuple[str, bool]]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._answers.get_nowait()
