"""The file-system side, played by the simulator itself, so that the app device can be used without `hv_vss_daemon`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appvss.model.errors import DeviceAbsent, DeviceBusy, UsageError
from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.freebsd.machine import Machine
from appvss.simulator.machine import PLAYED
from appvss.sources.wire.freebsd import FAILURE, SUCCESS, Message, Operation, decode, encode

SCRIPT_LIMIT: Final = 1_000
"""Longest script of answers."""


class FsAnswer(StrEnum):
    """What the file-system side does with a request."""

    OK = "ok"
    VETO = "veto"
    SILENT = "silent"
    """Reads the request and never answers it."""
    DIE = "die"
    """Reads the request and dies."""


@dataclass(frozen=True, slots=True)
class FsState:
    """The file-system side as it is."""

    opened: bool
    """Whether the simulator holds the fs device open."""
    silent: bool
    vetoes: frozenset[Operation]
    script: tuple[FsAnswer, ...]


class FsSide:
    """Opens the fs device inside of the simulator and answers by itself.

    Like `hv_vss_daemon`, which devd starts, it opens the device whenever the driver attaches, and nothing brings it
    back when it has died.

    Args:
        machine: the driver.
        automatic: whether to open the device at every attachment; otherwise it is left to another program.
    """

    def __init__(self, machine: Machine, *, automatic: bool) -> None:
        self._machine = machine
        self._automatic = automatic
        self._opened = False
        self._silent = False
        self._vetoes: frozenset[Operation] = frozenset()
        self._script: deque[FsAnswer] = deque()

    @property
    def state(self) -> FsState:
        """The file-system side as it is."""
        return FsState(self._opened, self._silent, self._vetoes, tuple(self._script))

    def open(self) -> None:
        """Open the fs device and work off what waits. Nothing happens when it is open already.

        Raises:
            DeviceBusy: another program has it.
            DeviceAbsent: the driver is not attached.
        """
        if self._opened:
            return
        if not self._machine.attached:
            raise DeviceAbsent("the driver is detached", "Attach it first.")
        try:
            self._opened = True
            self._machine.open(Side.FS, None)
        except OSError:
            self._opened = False
            raise DeviceBusy(
                "another program has the fs device open", "Let that program play the file-system side, or stop it."
            ) from None
        self._work()

    def die(self) -> None:
        """Close the fs device, as the death of its owner does; nothing is answered."""
        if self._opened:
            self._opened = False
            self._machine.close_side(Side.FS, PLAYED)

    def answer_all(self) -> None:
        """From now on agree to everything."""
        self._behave(silent=False, vetoes=frozenset())

    def veto(self, *operations: Operation) -> None:
        """From now on refuse these operations and agree to all others."""
        self._behave(silent=False, vetoes=frozenset(operations))

    def keep_silent(self) -> None:
        """From now on read requests and answer none."""
        self._behave(silent=True, vetoes=frozenset())

    def play(self, script: Iterable[FsAnswer]) -> None:
        """Answer the next requests in this way, one each; then as before.

        Raises:
            UsageError: more than `SCRIPT_LIMIT` answers.
        """
        answers = deque(script, maxlen=SCRIPT_LIMIT + 1)
        if len(answers) > SCRIPT_LIMIT:
            raise UsageError(f"the script has more than {SCRIPT_LIMIT} answers", "Split it.")
        self._script = answers

    def notice(self, event: Event) -> None:
        """Act on what happened to the driver."""
        if event.kind is EventKind.ATTACHED and self._automatic:
            self.open()
        elif event.kind is EventKind.DETACHED:
            self._opened = False
        elif event.kind is EventKind.WOKEN and event.side is Side.FS:
            self._work()

    def _behave(self, *, silent: bool, vetoes: frozenset[Operation]) -> None:
        self._silent, self._vetoes = silent, vetoes
        self._script.clear()

    def _work(self) -> None:
        while self._opened and self._machine.readable(Side.FS):
            request = decode(self._machine.read(Side.FS, PLAYED))
            answer = self._next_answer(request.operation)
            if answer is FsAnswer.DIE:
                self.die()
            elif answer is not FsAnswer.SILENT:
                status = SUCCESS if answer is FsAnswer.OK else FAILURE
                reply = Message(request.operation, status, request.msgid)
                self._machine.write(Side.FS, encode(reply), PLAYED)

    def _next_answer(self, operation: Operation) -> FsAnswer:
        if self._script:
            return self._script.popleft()
        if self._silent:
            return FsAnswer.SILENT
        return FsAnswer.VETO if operation in self._vetoes else FsAnswer.OK
