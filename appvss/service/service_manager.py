"""What a service tells the service manager that started it: systemd's notification protocol, by hand (sd_notify(3)).

Each message is one datagram of `KEY=VALUE` lines to the socket that `NOTIFY_SOCKET` names. Nothing here blocks, raises
or writes to a disk: the service manager may itself hang on a file system that is frozen, and must not take the service
along. A datagram is no disk write, so the watchdog is told in a hold as well. Without a service manager, as on FreeBSD,
every method does nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Final, Self

from appvss.model.names import printable

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"
WATCHDOG_USEC: Final = "WATCHDOG_USEC"
WATCHDOG_PID: Final = "WATCHDOG_PID"
WAITING_LIMIT: Final = 16
"""Messages that are kept while the service manager does not read; the oldest are dropped."""
_DIGITS_LIMIT: Final = 15
"""Of `WATCHDOG_USEC`: 31 years."""

_log = logging.getLogger("appvss.service_manager")


class ServiceManager:
    """The service manager, or nobody. To be used on the event loop alone, and closed at the end.

    Args:
        address: of its socket, as connect(2) wants it: a path, or a zero and an abstract name. None: there is nobody.
        watchdog_interval: how often it must be told that the service is alive.
    """

    def __init__(self, address: str | None, watchdog_interval: timedelta | None) -> None:
        self.watchdog_interval = watchdog_interval if address is not None else None
        """How often `alive` has to be called, by the event loop itself: a third of what the service manager waits for,
        so that one late call kills nobody. None: there is no watchdog.
        """
        self._address = address
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque(maxlen=WAITING_LIMIT)
        self._is_deaf = False
        """Whether it has been said in the log that nobody takes the messages."""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The service manager of this process.

        Args:
            environment: `os.environ`. The three variables are removed from it, so that no child takes itself for the
                service. A value that makes no sense is said in the log and means that there is nobody, or no watchdog.
        """
        address = _address_of(environment.pop(NOTIFY_SOCKET, ""))
        usec = environment.pop(WATCHDOG_USEC, "")
        pid = environment.pop(WATCHDOG_PID, "")
        is_for_us = pid in ("", str(os.getpid()))  # sd_watchdog_enabled(3): an environment may have been inherited
        return cls(address, _interval_of(usec) if is_for_us else None)

    def ready(self, status: str) -> None:
        """It serves. Also to be said after `reloading`, whether the new configuration was taken or not.

        Args:
            status: one line for people; `systemctl status` shows it.
        """
        self._tell("READY=1", f"MAINPID={os.getpid()}", _status(status))

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow. The time tells it from an earlier reload."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It ends."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people, in the place of the last one."""
        if self._waiting and self._waiting[-1].startswith(b"STATUS="):
            self._waiting.pop()  # so that no number of them pushes a `ready` out
        self._tell(_status(text))

    def alive(self) -> None:
        """The event loop runs: due every `watchdog_interval`. What could not be sent before goes first."""
        if self._flush() and self.watchdog_interval is not None:
            self._send(b"WATCHDOG=1")  # not kept when it fails: an old sign of life means nothing

    def close(self) -> None:
        """Close the socket. Nothing is told any more. May be called twice."""
        self._address = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> None:
        if self._address is not None:
            self._waiting.append("\n".join(lines).encode())
            self._flush()

    def _flush(self) -> bool:
        """Send what waits, in its order; whether nothing waits any more."""
        while self._waiting:
            if not self._send(self._waiting[0]):
                return False
            self._waiting.popleft()
        return True

    def _send(self, message: bytes) -> bool:
        if self._address is None:
            return False
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message, self._address)
        except OSError as error:  # its queue is full, or it is gone
            if not self._is_deaf:
                _log.warning("the service manager does not hear: %s", error.strerror or error)
            self._is_deaf = True
            return False
        self._is_deaf = False
        return True


def _status(text: str) -> str:
    """A line break in a text from elsewhere would begin another assignment."""
    return f"STATUS={printable(text)}"


def _address_of(text: str) -> str | None:
    """The value of `NOTIFY_SOCKET` as an address; None for none, and for a kind that is unknown here."""
    if not text:
        return None
    if len(text) > 1 and text[0] in "/@" and "\0" not in text:
        return "\0" + text[1:] if text[0] == "@" else text
    _log.warning(
        "%s is %r, neither a path nor an abstract name: the service manager is told nothing", NOTIFY_SOCKET, text
    )
    return None


def _interval_of(text: str) -> timedelta | None:
    """A third of the value of `WATCHDOG_USEC`; None for none, and for what is no length."""
    if not text:
        return None
    with contextlib.suppress(ValueError):
        if text.isascii() and len(text) <= _DIGITS_LIMIT and (microseconds := int(text)) > 0:
            return timedelta(microseconds=microseconds) / 3
    _log.warning("%s is %r, not a number of microseconds: there is no watchdog", WATCHDOG_USEC, text)
    return None
