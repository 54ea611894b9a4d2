"""What the agent tells the service manager that started it: systemd's notification protocol (sd_notify(3)).

One datagram for each message; it is no disk write and never waits, so it may be sent in a hold. Without a service
manager every method does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final, Self

from appvss.model.names import printable

NOTIFY_SOCKET: Final = "NOTIFY_SOCKET"


class ServiceManager:
    """The service manager, or nobody.

    Args:
        address: of its socket, as connect(2) wants it. None: there is nobody.
    """

    def __init__(self, address: str | None) -> None:
        self._address = address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """The service manager of this process. Its variables are removed: no child is the service.

        Args:
            environment: `os.environ`.
        """
        text = environment.pop(NOTIFY_SOCKET, "")
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            environment.pop(name, None)
        if len(text) < 2 or text[0] not in "/@" or "\0" in text:
            return cls(None)
        return cls("\0" + text[1:] if text[0] == "@" else text)

    def ready(self, status: str) -> None:
        """The agent runs its apps. Also said after `reloading`, whether the new configuration was taken or not."""
        self._tell("READY=1", f"MAINPID={os.getpid()}", f"STATUS={printable(status)}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The agent ends."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """The event loop runs: due far more often than `WatchdogSec=` says. Without a watchdog nobody minds it."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.setblocking(False)
            speaker.sendto("\n".join(lines).encode(), self._address)
