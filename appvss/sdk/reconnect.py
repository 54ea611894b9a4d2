"""How an app comes back to its broker: at once, then after short random waits, for ever (ARCHITECTURE section 6)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

from tenacity import RetryCallState, wait_chain, wait_random

from appvss.model.names import printable
from appvss.sdk.quiet import grpc

BACK_OFF: Final = wait_chain(
    *(wait_random(0, longest) for longest in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)), wait_random(0.5, 3)
)
"""Seconds before each further attempt after one that brought no welcome. Random, because after a restart of the broker
all apps come back at the same time; the last entry is used for ever."""
FIRST_WAIT: Final = 0.05
"""Seconds at most before the first attempt after a stream that had its welcome: spreads the apps, and keeps a broker
that cuts every stream from being called without a pause."""

REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
"""The codes with which a broker says no to an app (table at `Attach` in app.proto). Others say that there is none."""


class NotWelcomed(Exception):
    """A call ended without a welcome.

    Args:
        reason: one printable line.
        refused: whether the broker said no, rather than not being there.
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


def not_welcomed(code: grpc.StatusCode, details: str | None) -> NotWelcomed:
    """A call's end without a welcome, in words."""
    return NotWelcomed(printable(f"{code.name}: {details or 'no details'}"), refused=code in REFUSALS)


def look_for(socket_path: str) -> None:
    """Make sure that there is something to call: a call that finds nobody costs memory that is never given back
    (facts/libraries.md section 3, cancelled calls), and an app may wait for its broker for months.

    Raises:
        NotWelcomed: nothing lies at the path.
    """
    if not os.path.exists(socket_path):
        raise NotWelcomed(f"there is no broker: {socket_path} does not exist")


class FailureNotes:
    """Tells the log of attempts that failed, once for each reason and not once for each attempt.

    Args:
        note: takes a level of `logging` and a sentence.
    """

    def __init__(self, note: Callable[[int, str], None]) -> None:
        self._note = note
        self._last = ""

    def forget(self) -> None:
        """The app was welcomed: the next failure is news again."""
        self._last = ""

    def __call__(self, state: RetryCallState) -> None:
        """Called by tenacity after an attempt that failed."""
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, NotWelcomed) and str(error) != self._last:
            self._last = str(error)
            self._note(logging.WARNING if error.refused else logging.INFO, f"not attached: {error}")
