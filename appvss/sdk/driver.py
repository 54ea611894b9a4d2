"""What the two shells share: it feeds the machine, one input at a time, and hands its effects to the shell in order."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final, Protocol

from appvss.model.instant import Instant
from appvss.sdk import effects
from appvss.sdk.clock import now
from appvss.sdk.declaration import Declaration
from appvss.sdk.effects import Effect
from appvss.sdk.freeze import Ending, Freeze, Prepare
from appvss.sdk.inputs import Input
from appvss.sdk.log import HeldBackLog
from appvss.sdk.machine import AppMachine
from appvss.sdk.wire import input_of, remark_of
from appvss.v1 import app_pb2

OUTBOX_LIMIT: Final = 256
"""How many messages may wait to be written. A broker that asks and does not read its answers loses the stream."""


class Shell(Protocol):
    """What does the work. Every method is called with the driver's lock held, returns at once, and may not raise."""

    def send(self, message: app_pb2.AttachRequest) -> None:
        """Queue a message for the present stream."""

    def drop_stream(self) -> None:
        """End the present call; `StreamEnded` follows."""

    def run_prepare(self, prepare: Prepare) -> None:
        """Begin the prepare function; `PrepareEnded` follows."""

    def end_prepare(self) -> None:
        """Interrupt the prepare function where that can be done."""

    def enter(self, freeze: Freeze) -> None:
        """Begin to enter the app's context; `Entered` or `EnterFailed` follows."""

    def end_entering(self) -> None:
        """Interrupt the entering. The freeze's `ended` is set already."""

    def leave(self, *, early: bool) -> None:
        """Begin to leave the context; `Left` follows. `early`: not for a thaw; the freeze's `ended` is set already."""

    def arm(self, deadline: Instant | None) -> None:
        """See to it that `DeadlinePassed` is told at this instant, and at no other that was asked for before."""

    def finish(self) -> None:
        """Nothing is held any more and nothing runs: what was to be closed can be closed."""


class Driver:
    """The way from an input to the effects, the same under threads and on an event loop.

    Args:
        declaration: the app.
        shell: carries the effects out.
    """

    def __init__(self, declaration: Declaration, shell: Shell) -> None:
        self._declaration = declaration
        self._shell = shell
        self._machine = AppMachine(declaration.registration.hold_limit)
        self._log = HeldBackLog(str(declaration.app))
        self._inputs: deque[Input] = deque()
        # Reentrant, and `_stepping` beside it: a signal handler or an eager task may tell something within a step.
        self._lock = threading.RLock()
        self._stepping = False
        self._ending = Ending()
        self._filesystem_freeze = threading.Event()

    @property
    def attached(self) -> bool:
        """Whether the broker has registered the app on the present stream."""
        return self._machine.attached

    def tell(self, happened: Input) -> None:
        """Take an input to the machine and have its effects carried out."""
        with self._lock:
            self._inputs.append(happened)
            if self._stepping:
                return
            self._stepping = True
            try:
                while self._inputs:
                    for effect in self._machine.handle(self._inputs.popleft(), now()):
                        self._carry_out(effect)
                self._shell.arm(self._machine.next_deadline())
            finally:
                self._stepping = False
        self._hand_on()

    def hear(self, response: app_pb2.AttachResponse) -> None:
        """Take what the broker said. What is not known is passed over (`app.proto`, AttachResponse)."""
        happened = input_of(response)
        if happened is not None:
            self.tell(happened)
            return
        remark = remark_of(response)
        if remark is not None:
            self.note(logging.WARNING if response.HasField("refusal") else logging.INFO, remark)

    def note(self, level: int, sentence: str) -> None:
        """Say something to the app's log, now or as soon as nothing can be held."""
        self._log.add(level, sentence)
        self._hand_on()

    def _hand_on(self) -> None:
        if not self._machine.may_hold:
            self._log.hand_on()

    def _carry_out(self, effect: Effect) -> None:  # noqa: C901 - one line for each effect, nothing decided
        shell = self._shell
        match effect:
            case effects.Greet():
                shell.send(self._declaration.hello(effect.claim))
            case effects.Send():
                shell.send(effect.message)
            case effects.DropStream():
                self._log.add(logging.WARNING, f"the stream is dropped: {effect.reason}")
                shell.drop_stream()
            case effects.RunPrepare():
                shell.run_prepare(Prepare(effect.cycle, effect.requester, effect.budget))
            case effects.EndPrepare():
                shell.end_prepare()
            case effects.Enter():
                self._ending = Ending()
                self._filesystem_freeze = threading.Event()
                freeze = Freeze(
                    effect.cycle,
                    effect.requester,
                    effect.budget,
                    effect.hold_limit,
                    ended=self._ending,
                    filesystem_freeze=self._filesystem_freeze,
                )
                shell.enter(freeze)
            case effects.EndEntering():
                self._ending.end(effect.reason)
                shell.end_entering()
            case effects.TellFilesystemFreeze():
                self._filesystem_freeze.set()
            case effects.Leave():
                if effect.ended is not None:
                    self._ending.end(effect.ended)
                shell.leave(early=effect.ended is not None)
            case effects.Note():
                self._log.add(effect.level, effect.sentence)
            case effects.Finish():
                shell.finish()
