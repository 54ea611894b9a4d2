"""One opening of the device, in a thread of its own: poll(2), READ, WRITE.

The thread is there because nothing else works: ioctls may block and so do not belong on the event loop, and the device
can be waited for with poll(2) alone. select(2) never shows it readable and kqueue refuses it, so asyncio cannot watch
it on FreeBSD (facts/freebsd-vss.md section 0, trap 3).
"""

from __future__ import annotations

import fcntl
import logging
import select
import sys
from collections.abc import Callable
from datetime import timedelta

from appvss.model.errors import DeviceWrong
from appvss.sources.base import Clock
from appvss.sources.device_opener import DeviceOpener, OpenedDevice
from appvss.sources.device_thread import Arrived, DeviceThread, News, Opened, Silence, Unasked
from appvss.sources.freebsd.ledger import MOST_OPEN, Ledger
from appvss.sources.freebsd.refusal import refused_open, refused_read, unfilled_read
from appvss.sources.wire.freebsd import EMPTY, MESSAGE_SIZE, Message, Operation, decode, encode, ioctl_numbers

HEARTBEAT = timedelta(seconds=10)
"""How often an idle device is read all the same: the driver does not wake a poller when it detaches (section 1)."""
MOST_READS = 2 * MOST_OPEN
"""How many messages are read before answers get their turn."""

_logger = logging.getLogger("appvss.sources.freebsd")
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
_UNTOUCHED = b"\xff" * MESSAGE_SIZE
"""What a READ's buffer holds before it: no message, so that a device which says yes to every ioctl is found out."""


class FreebsdDevice(DeviceThread):
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
        super().__init__(opener.path, "appvss-freebsd", tell, _logger)
        self._opener = opener
        self._ledger = ledger
        self._clock = clock
        self._heartbeat = heartbeat
        self._numbers = ioctl_numbers(sys.platform)

    def _serve(self) -> str | None:
        try:
            opened = self._opener.open(self._wake_read)
        except OSError as error:
            raise refused_open(self.path, error) from error
        if opened is None:
            return None
        try:
            return self._relay(opened)
        finally:
            opened.close()

    def _relay(self, opened: OpenedDevice) -> str | None:
        first = self._first_read(opened.descriptor)
        self._tell(Opened(f"{self.path}, opened by process {opened.pid}"))
        if first is not None:
            self._admit(first)
        try:
            return self._poll(opened)
        except OSError as error:
            return f"{self.path} is gone: {error.strerror}"
        except DeviceWrong as error:
            return f"{self.path} does not behave any more: {error.sentence}"

    def _poll(self, opened: OpenedDevice) -> str | None:
        """Relay until the device is lost, and say why, or until `stop`: None."""
        poller = select.poll()
        for descriptor in (opened.descriptor, opened.channel, self._wake_read):
            poller.register(descriptor, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._heartbeat / timedelta(milliseconds=1)))
            if self._wake_read in ready:
                goes_on = self._woken()
                self._write_answers(opened.descriptor)
                if not goes_on:
                    return None
            if opened.channel in ready:
                return (
                    f"{self.path} is gone: process {opened.pid}, which had opened it, was killed, "
                    "as the driver does when it detaches"
                )
            state = ready.get(opened.descriptor, 0)
            if state & _GONE:
                return f"{self.path} is gone: poll(2) reports {state:#x}"
            if state or not ready:
                self._read_waiting(opened.descriptor)

    def _first_read(self, descriptor: int) -> Message | None:
        """What waits already, if anything does; above all, the proof that this is the device."""
        try:
            return self._read(descriptor)
        except OSError as error:
            raise refused_read(self.path, error) from error
        except DeviceWrong as error:
            raise unfilled_read(self.path) from error

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
                self._unsent(identity, message)
            else:
                fcntl.ioctl(descriptor, self._numbers.write, encode(message))
                _logger.debug("wrote status %d for request %s", message.status, identity)
