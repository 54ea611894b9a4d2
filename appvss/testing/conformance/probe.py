"""Whether a write goes through, by a command of the user."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.model.errors import CommandUnusable
from appvss.model.names import printable

_PAUSE: Final = timedelta(milliseconds=50)
"""Between two attempts of a write that is refused at once."""
_DYING: Final = timedelta(seconds=5)
"""How long a command that is killed may take to end."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of the command."""

    went_through: bool
    seen: str
    """How it ended, for people."""
    took: timedelta
    ended: bool = True
    """Whether it ended by itself; False: it was killed at its bound."""


class WriteProbe:
    """Runs the command, each time bounded.

    Args:
        command: program and arguments; exit code 0: a write went through.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self.usual = timedelta(0)
        """How long it takes when nothing is held: the longest that was measured."""

    def attempt(self, bound: timedelta) -> Attempt:
        """Run it once; it is killed at the bound, with its process group.

        Raises:
            CommandUnusable: it cannot be started.
        """
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise CommandUnusable(
                f"the command of --writable, {printable(self._command[0])}, cannot be started: {printable(reason)}",
                "Name a program that this user may execute; it is not read by a shell.",
            ) from error
        try:
            code = process.wait(bound.total_seconds())
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # another user's, or one that waits for a disk
                process.wait(_DYING.total_seconds())
            if isinstance(error, subprocess.TimeoutExpired):
                return Attempt(False, f"no end within {format_duration(bound)}", bound, ended=False)
            raise
        return Attempt(code == 0, f"code {code}", timedelta(seconds=time.monotonic() - began))

    def until_through(self, bound: timedelta) -> Attempt:
        """Try again and again until a write goes through, at most for `bound`; `took` is the time since the call."""
        began = time.monotonic()
        while True:
            passed = timedelta(seconds=time.monotonic() - began)
            one = self.attempt(max(bound - passed, self.usual * 2, _PAUSE))
            passed = timedelta(seconds=time.monotonic() - began)
            if one.went_through or passed >= bound:
                return Attempt(one.went_through, one.seen, passed)
            time.sleep(_PAUSE.total_seconds())
