"""One opening of the device, in a thread of its own: poll(2), and reads and writes of whole messages.

The thread is there because read(2) waits for a message, whatever O_NONBLOCK says (facts/linux-hv-vss.md section 0,
fact 5); it is called only when poll shows that one is there. No child process is needed to open this device: the driver
kills nobody.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
from collections.abc import Callable
from datetime import timedelta

from appvss.model.errors import DeviceWrong
from appvss.model.request import Request, RequestKind
from appvss.sources.base import Clock
from appvss.sources.device_thread import Arrived, DeviceThread, Lapsed, News, Opened, Silence, Unasked
from appvss.sources.linux_hv_vss.refusal import refused_open, removed, unlike_device
from appvss.sources.linux_hv_vss.settings import LinuxHvVssSettings
from appvss.sources.linux_vss.ledger import Ledger, Reply, TooLate, Unheard
from appvss.sources.wire.linux_hv_vss import (
    FAILURE,
    MESSAGE_SIZE,
    SUCCESS,
    Asked,
    Handshake,
    Operation,
    decode,
    encode_registration,
    encode_reply,
)

HANDSHAKE_LIMIT = timedelta(seconds=5)
"""How long the answer to a registration may take. The kernel gives it within the write."""

_logger = logging.getLogger(f"appvss.sources.{LinuxHvVssSettings.NAME}")
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
_READ_SIZE = 4 * MESSAGE_SIZE
"""More than any message has: a read that is too small fails, and leaves the message where it is."""
_NOT_NOW = (errno.EINVAL, errno.EFAULT)
"""How a registration is refused while an operation is open or unread; kernels up to 4.4 say EFAULT to everything."""
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""The driver passes over O_NONBLOCK; it is for what else may lie at a path that was written wrongly."""
_PASSED_ON = (Operation.HOT_BACKUP, Operation.FREEZE, Operation.THAW)
_MILLISECOND = timedelta(milliseconds=1)


class LinuxHvVssDevice(DeviceThread):
    """From one open of the device to its close.

    Args:
        path: the device.
        ledger: used by this thread alone while it runs. What an earlier opening left unanswered is given up, because
            the kernel has answered it at the close.
        clock: for deadlines. Called in the thread.
        tell: takes the news, in the thread, in order; the first is `Opened`. Must not block.
        patience: how long the answer to the registration may take.
    """

    def __init__(
        self,
        path: str,
        ledger: Ledger,
        clock: Clock,
        tell: Callable[[News], None],
        *,
        patience: timedelta = HANDSHAKE_LIMIT,
    ) -> None:
        super().__init__(path, "appvss-linux-hv-vss", tell, _logger)
        self._ledger = ledger
        self._clock = clock
        self._patience = patience
        self._descriptor = -1
        self._is_registered = False

    def _serve(self) -> str | None:
        self._ledger.give_up()
        try:
            self._descriptor = os.open(self.path, _FLAGS)
        except OSError as error:
            raise refused_open(self.path, error) from error
        try:
            return self._relay()
        finally:
            # At once, also in the middle of an operation: a removal waits for it (section 1.3).
            with contextlib.suppress(OSError):
                os.close(self._descriptor)

    def _relay(self) -> str | None:
        self._prove()
        first = self._introduce()
        if first is None:
            return None
        self._tell(Opened(self.path))
        try:
            self._take(first)
            return self._poll()
        except _Over as over:
            return over.reason
        except OSError as error:
            return f"{self.path} is gone: {error.strerror}"
        except DeviceWrong as error:
            return f"{self.path} does not behave any more: {error.sentence}"

    # Before it serves

    def _prove(self) -> None:
        """Look before anything is written: what lies at the path may be somebody's file."""
        shown = self._look(select.POLLIN | select.POLLOUT)
        if shown & _GONE:
            raise removed(self.path)
        if shown & select.POLLOUT:
            raise unlike_device(self.path, "poll(2) calls it ready to be written, which the driver never does")

    def _introduce(self) -> Handshake | Asked | None:
        """Register; the result is the first message, which is the answer to that or, rarely, an operation that was on
        its way before (section 0, fact 8). None: `stop` was called.
        """
        try:
            self._register()
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            poller.register(self._wake_read, select.POLLIN)
            ready = dict(poller.poll(self._patience / _MILLISECOND))
            if self._wake_read in ready and not self._woken():
                return None
            if self._look(select.POLLIN) & select.POLLIN:
                return self._read()
        except DeviceWrong as error:
            raise unlike_device(self.path, error.sentence) from error
        except OSError as error:
            if error.errno == errno.EBADF:
                raise removed(self.path) from error
            raise unlike_device(self.path, f"it does not take a registration: {error.strerror}") from error
        raise unlike_device(self.path, "it does not answer a registration")

    def _register(self) -> None:
        """Register, unless an operation is in the way; then it is done after that has been answered.

        Raises:
            OSError: it is refused, and there is nothing to read that would be the reason.
        """
        try:
            os.write(self._descriptor, encode_registration())
            self._is_registered = True
        except OSError as error:
            if error.errno not in _NOT_NOW or not self._look(select.POLLIN) & select.POLLIN:
                raise

    # While it serves

    def _poll(self) -> str | None:
        """Relay until the device is lost, and say why, or until `stop`: None."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._time_to_wait()))
            if self._wake_read in ready:
                goes_on = self._woken()
                self._write_answers()
                if not goes_on:
                    return None
            state = ready.get(self._descriptor, 0)
            if state & _GONE:
                return f"{self.path} is being removed: poll(2) reports {state:#x}"
            if state and self._look(select.POLLIN) & select.POLLIN:
                self._take(self._read())
            self._carry_out(self._ledger.expire(self._clock.now()))

    def _time_to_wait(self) -> float | None:
        expiry = self._ledger.next_expiry()
        if expiry is None:
            return None
        return max(expiry - self._clock.now(), timedelta(0)) / _MILLISECOND + 1

    def _read(self) -> Handshake | Asked:
        return decode(os.read(self._descriptor, _READ_SIZE))

    def _take(self, message: Handshake | Asked) -> None:
        """What was read. One that comes while another is open shows that the kernel has given that one up."""
        if isinstance(message, Handshake):
            _logger.debug("registered; the kernel calls itself version %d", message.version)
            return
        lapsed = self._ledger.give_up()
        if lapsed is not None:
            self._lapse(lapsed, f"the kernel has given up the {lapsed.kind} and asks for something else")
        operation = message.operation
        if operation in _PASSED_ON:
            self._tell(Arrived(self._ledger.admit(operation, self._clock.now())))
        else:
            self._refuse_unknown(message)

    def _refuse_unknown(self, message: Asked) -> None:
        """An operation that no kernel passes on so far. The daemon that comes with Linux says that all is well; but a
        yes to a question that was not understood is not true, and the host knows what to do with a no.
        """
        self._tell(Unasked(f"operation {message.number} is refused: this broker does not know it"))
        self._write(FAILURE, f"operation {message.number}")

    def _write_answers(self) -> None:
        for identity, go_on in self._take_answers():
            outcome = self._ledger.settle(identity, go_on=go_on, now=self._clock.now())
            if isinstance(outcome, Silence):
                self._unsent(identity, outcome)
            elif isinstance(outcome, Unheard):
                self._lapse(outcome.request, f"the broker agrees to the {outcome.request.kind} after it was refused")
            else:
                self._carry_out(outcome)

    def _carry_out(self, outcome: Reply | TooLate | None) -> None:
        match outcome:
            case None:
                return
            case TooLate(request):
                raise _Over(
                    f"the answer to the {request.kind} comes so late that it might answer something else; "
                    f"{self.path} is opened again instead"
                )
            case Reply(request, status):
                if self._look(select.POLLIN) & select.POLLIN:
                    # Nothing is queued while an operation is open: the kernel has given it up.
                    self._lapse(request, f"the kernel has given up the {request.kind} and asks for something else")
                    return
                try:
                    self._write(status, f"the {request.kind}")
                except _Over:
                    if request.kind is RequestKind.THAW:
                        self._ledger.refused_thaw()
                    raise
                _logger.debug("wrote status %#x for request %s", status, request.id)

    def _write(self, status: int, what: str) -> None:
        try:
            os.write(self._descriptor, encode_reply(status))
        except OSError as error:
            if error.errno not in _NOT_NOW:
                raise
            agreed = "agreed to" if status == SUCCESS else "refused"
            raise _Over(
                f"nobody waits any more for the answer to {what}, which was {agreed}: the kernel had given it up, or "
                f"this machine has hibernated; {self.path} is opened again"
            ) from error
        if not self._is_registered:
            self._register()

    def _lapse(self, request: Request, reason: str) -> None:
        """Nobody will hear what the broker says to a request: what was frozen for it must go on."""
        self._tell(Lapsed(request, reason) if request.kind is RequestKind.FREEZE else Unasked(reason))

    def _look(self, events: int) -> int:
        """What poll(2) shows of the device at this moment."""
        poller = select.poll()
        poller.register(self._descriptor, events)
        return dict(poller.poll(0)).get(self._descriptor, 0)


class _Over(Exception):
    """This opening must end, while the device may be there."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
