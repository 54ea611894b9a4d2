"""One app's side of `proto/appvss/v1/app.proto`, pure: inputs in, effects out, the time is an argument.

    idle --PrepareAsked--> preparing --PrepareEnded--> idle
    idle --FreezeAsked--> entering --Entered--> held
                          entering --EnterFailed--> idle
                          entering --Entered, but too late--> leaving
    held --ThawAsked, AbortAsked, DeadlinePassed, CloseAsked--> leaving --Left--> idle

`AppMachine.handle` looks at the clock before it looks at the input: a process that was stopped past a limit loses its
hold before it can claim anything, whether its timer fired or not. The table at the end of the file is the whole
behaviour; a pair that it lacks is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from appvss.contract import PROTOCOL_VERSIONS
from appvss.model.app import HoldClaim
from appvss.model.duration import format_duration
from appvss.model.instant import Instant
from appvss.sdk import inputs
from appvss.sdk.effects import (
    DropStream,
    Effect,
    EndEntering,
    EndPrepare,
    Enter,
    Finish,
    Greet,
    Leave,
    Note,
    RunPrepare,
    Send,
    TellFilesystemFreeze,
)
from appvss.sdk.inputs import Failure, Input, Question, WorkEnded
from appvss.sdk.states import Entering, Held, Idle, Leaving, Preparing, State
from appvss.v1 import app_pb2

GREETING_LIMIT: Final = timedelta(seconds=10)
"""How long a call may take to bring its welcome: twice what the broker gives the hello."""
_NOTHING: Final = timedelta(0)
_STREAM_BROKE: Final = "the stream to the broker broke before the app was frozen"


@dataclass(frozen=True, slots=True)
class _Past:
    """How the last freeze ended, for a thaw that comes late or twice."""

    cycle: str
    unbroken: bool
    reason: str


class AppMachine:
    """What an app owes its broker, kept.

    Args:
        hold_limit: the longest hold that the app has declared.
    """

    def __init__(self, hold_limit: timedelta) -> None:
        self.state: State = Idle()
        self.attached = False
        self._hold_limit = hold_limit
        self._greeting_deadline: Instant | None = None
        self._closing: str | None = None
        self._past: _Past | None = None
        self._unsaid: _Past | None = None
        self._effects: list[Effect] = []

    @property
    def may_hold(self) -> bool:
        """Whether the app's context may be entered: nothing that could block on a frozen disk may be done."""
        return isinstance(self.state, Entering | Held | Leaving)

    def next_deadline(self) -> Instant | None:
        """When `handle` must be called with `DeadlinePassed` at the latest."""
        deadlines = [self._greeting_deadline]
        match self.state:
            case Preparing(answered=False) | Entering(ended=None) | Held():
                deadlines.append(self.state.deadline)
            case _:
                pass
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle(self, happened: Input, now: Instant) -> list[Effect]:
        """Take note of what happened, and say what is to be done, in this order."""
        self._effects = []
        if isinstance(happened, inputs.StreamEnded):
            self.attached = False  # What the clock brings is not said to a stream that is gone.
        self._pass_deadlines(now)
        if isinstance(happened, WorkEnded):
            # It has ended, though late: there is nothing left to interrupt.
            self._effects = [each for each in self._effects if not isinstance(each, EndPrepare | EndEntering | Leave)]
        if isinstance(happened, Question) and not self.attached:
            self._effects.append(DropStream("the broker's first message was not a welcome"))
        else:
            row = _TABLE.get((type(self.state), type(happened)), AppMachine._refuse)
            self.state = row(self, self.state, happened, now)
        if self._closing is not None and isinstance(self.state, Idle):
            self._effects.append(Finish())
        return self._effects

    def _pass_deadlines(self, now: Instant) -> None:
        if self._greeting_deadline is not None and now >= self._greeting_deadline:
            self._greeting_deadline = None
            self._effects.append(DropStream(f"no welcome came within {format_duration(GREETING_LIMIT)}"))
        match self.state:
            case Preparing(answered=False) as state if now >= state.deadline:
                reason = f"the time to prepare, {format_duration(state.budget)}, ran out"
                self.state = self._end_prepare(state, reason)
            case Entering(ended=None) as state if now >= state.deadline:
                self.state = self._end_entering(
                    state, f"the time to get quiet, {format_duration(state.budget)}, ran out"
                )
            case Held() as state if now >= state.deadline:
                self.state = self._lose(
                    state, f"the hold limit of {format_duration(state.limit)} passed before a thaw came"
                )
            case _:
                pass

    # Words to the broker. What is said on no stream is lost, but for a lost hold.

    def _send(self, message: app_pb2.AttachRequest) -> None:
        if self.attached:
            self._effects.append(Send(message))

    def _send_veto(self, cycle: str, failure: Failure) -> None:
        veto = app_pb2.Veto(cycle=cycle, reason=failure.reason, retryable=failure.retryable)
        self._send(app_pb2.AttachRequest(veto=veto))

    def _send_frozen(self, state: Held) -> None:
        self._send(app_pb2.AttachRequest(frozen=app_pb2.Frozen(cycle=state.cycle, evidence=state.evidence)))

    def _send_thawed(self, past: _Past, times: int = 1) -> None:
        thawed = app_pb2.Thawed(cycle=past.cycle, unbroken=past.unbroken, reason=past.reason)
        for _ in range(times):
            self._send(app_pb2.AttachRequest(thawed=thawed))

    def _send_hold_lost(self, cycle: str, reason: str) -> None:
        self._effects.append(Note(logging.WARNING, f"the hold of cycle {cycle} is lost: {reason}"))
        if self.attached:
            self._send(app_pb2.AttachRequest(hold_lost=app_pb2.HoldLost(cycle=cycle, reason=reason)))
        else:
            self._unsaid = _Past(cycle, False, reason)

    # The stream.

    def _greet(self, state: State, _happened: inputs.StreamOpened, now: Instant) -> State:
        self._greeting_deadline = now + GREETING_LIMIT
        claim = HoldClaim(state.cycle, now - state.since) if isinstance(state, Held) else None
        self._effects.append(Greet(claim))
        return state

    def _be_welcomed(self, state: State, welcomed: inputs.Welcomed, _now: Instant) -> State:
        self._greeting_deadline = None
        if welcomed.protocol_version not in PROTOCOL_VERSIONS:
            self._effects.append(DropStream(f"the broker chose protocol version {welcomed.protocol_version}"))
            return state
        self.attached = True
        if self._unsaid is not None:
            lost = app_pb2.HoldLost(cycle=self._unsaid.cycle, reason=self._unsaid.reason)
            self._send(app_pb2.AttachRequest(hold_lost=lost))
            self._unsaid = None
        return state

    def _lose_stream(self, state: State, _happened: inputs.StreamEnded, _now: Instant) -> State:
        """A question that was open goes with its stream. A hold does not."""
        self._greeting_deadline = None
        match state:
            case Preparing(answered=False):
                return self._end_prepare(state, _STREAM_BROKE)
            case Entering():
                return replace(self._end_entering(state, _STREAM_BROKE), veto_owed=False, thaws_owed=0)
            case Leaving():
                return replace(state, veto=None, thaws_owed=0)
            case _:
                return state

    # Prepare.

    def _start_prepare(self, state: Idle, asked: inputs.PrepareAsked, now: Instant) -> State:
        refusal = self._closing or _too_short("time to prepare", asked.budget)
        if refusal:
            self._send_veto(asked.cycle, Failure(refusal))
            return state
        self._effects.append(RunPrepare(asked.cycle, asked.requester, asked.budget))
        return Preparing(asked.cycle, asked.budget, now + asked.budget)

    def _prepare_again(self, state: State, asked: inputs.PrepareAsked, now: Instant) -> State:
        match state:
            case Preparing(cycle=asked.cycle, answered=False):
                return state  # The same question: its answer is under way.
            case Held(cycle=asked.cycle):
                self._send(app_pb2.AttachRequest(ready=app_pb2.Ready(cycle=asked.cycle)))
                return state
            case _:
                return self._be_busy(state, asked, now)

    def _end_prepare(self, state: Preparing, reason: str) -> Preparing:
        """Answer at once: nothing is held, and the function may take its time to notice."""
        self._effects.append(EndPrepare(reason))
        self._send_veto(state.cycle, Failure(reason))
        return replace(state, answered=True)

    def _finish_prepare(self, state: Preparing, ended: inputs.PrepareEnded, _now: Instant) -> State:
        if not state.answered:
            if ended.failure is None:
                self._send(app_pb2.AttachRequest(ready=app_pb2.Ready(cycle=state.cycle)))
            else:
                self._send_veto(state.cycle, ended.failure)
        return Idle()

    def _close_preparing(self, state: Preparing, happened: inputs.CloseAsked, now: Instant) -> State:
        self._close(state, happened, now)
        return state if state.answered else self._end_prepare(state, happened.reason)

    # Freeze.

    def _start_entering(self, state: Idle, asked: inputs.FreezeAsked, now: Instant) -> State:
        refusal = (
            self._closing
            or _too_short("time to get quiet", asked.budget)
            or _too_short("time to stay quiet", asked.hold_limit)
        )
        if refusal:
            self._send_veto(asked.cycle, Failure(refusal))
            return state
        limit = min(asked.hold_limit, self._hold_limit)
        self._effects.append(Enter(asked.cycle, asked.requester, asked.budget, limit))
        return Entering(asked.cycle, asked.budget, limit, now + asked.budget)

    def _freeze_again(self, state: State, asked: inputs.FreezeAsked, now: Instant) -> State:
        match state:
            case Entering(cycle=asked.cycle, ended=None):
                return state  # The same question: its answer is under way.
            case Held(cycle=asked.cycle):
                self._send_frozen(state)  # A veto would say that nothing is held.
                return state
            case _:
                return self._be_busy(state, asked, now)

    def _be_busy(self, state: State, asked: inputs.PrepareAsked | inputs.FreezeAsked, _now: Instant) -> State:
        self._send_veto(asked.cycle, Failure(self._closing or f"the app is {state}", retryable=self._closing is None))
        return state

    def _refuse_question(self, state: State, asked: inputs.QuestionUnusable, _now: Instant) -> State:
        self._effects.append(Note(logging.ERROR, f"the broker's question cannot be used: {asked.reason}"))
        if not (isinstance(state, Held) and state.cycle == asked.cycle):
            self._send_veto(asked.cycle, Failure(asked.reason))
        return state

    def _end_entering(self, state: Entering, reason: str) -> Entering:
        """The veto waits until the context is left, since it says that nothing is held."""
        if state.ended is not None:
            return state
        self._effects.append(EndEntering(reason))
        return replace(state, ended=reason)

    def _hold(self, state: Entering, entered: inputs.Entered, now: Instant) -> State:
        if state.ended is None:
            held = Held(state.cycle, now, state.hold_limit, entered.evidence)
            self._send_frozen(held)
            return held
        self._effects.append(Leave(state.ended))
        return Leaving(state.cycle, state.ended, Failure(state.ended) if state.veto_owed else None, state.thaws_owed)

    def _fail_entering(self, state: Entering, failed: inputs.EnterFailed, _now: Instant) -> State:
        failure = failed.failure if state.ended is None else Failure(state.ended)
        self._effects.append(Note(logging.INFO, f"cycle {state.cycle} is vetoed: {failure.reason}"))
        if state.veto_owed:
            self._send_veto(state.cycle, failure)
        self._past = _Past(state.cycle, False, f"the app was not frozen: {failure.reason}")
        self._send_thawed(self._past, state.thaws_owed)
        return Idle()

    def _hear_of_filesystem_freeze(self, state: Held, told: inputs.FilesystemFreezeTold, _now: Instant) -> State:
        if told.cycle == state.cycle:
            self._effects.append(TellFilesystemFreeze())
        return state

    # The end of a hold.

    def _lose(self, state: Held, reason: str) -> State:
        self._send_hold_lost(state.cycle, reason)
        self._effects.append(Leave(reason))
        return Leaving(state.cycle, reason)

    def _lose_by_itself(self, state: Held, left: inputs.Left, _now: Instant) -> State:
        reason = left.failure.reason if left.failure is not None else "the app went on by itself"
        self._past = _Past(state.cycle, False, reason)
        self._send_hold_lost(state.cycle, reason)
        return Idle()

    def _finish_leaving(self, state: Leaving, left: inputs.Left, _now: Instant) -> State:
        reason = state.ended or (left.failure.reason if left.failure is not None else "")
        if left.failure is not None:
            sentence = f"letting go of cycle {state.cycle} went wrong: {left.failure.reason}"
            self._effects.append(Note(logging.WARNING, sentence))
        self._past = _Past(state.cycle, not reason, reason)
        if state.veto is not None:
            self._send_veto(state.cycle, state.veto)
        self._send_thawed(self._past, state.thaws_owed)
        return Idle()

    def _thaw(self, state: State, asked: inputs.ThawAsked | inputs.AbortAsked, _now: Instant) -> State:
        if isinstance(state, Idle) or state.cycle != asked.cycle:
            self._answer_from_memory(asked.cycle)
            return state
        match state:
            case Preparing():
                after = state if state.answered else self._end_prepare(state, _ended_early(asked))
                self._answer_from_memory(asked.cycle)
                return after
            case Entering():
                return replace(self._end_entering(state, _ended_early(asked)), thaws_owed=state.thaws_owed + 1)
            case Held():
                self._effects.append(Leave())
                return Leaving(state.cycle, None, thaws_owed=1)
            case Leaving():
                return replace(state, thaws_owed=state.thaws_owed + 1)

    def _answer_from_memory(self, cycle: str) -> None:
        if self._past is not None and self._past.cycle == cycle:
            self._send_thawed(self._past)
        else:
            self._send_thawed(_Past(cycle, False, f"this app holds nothing for cycle {cycle}"))

    # The end of it all.

    def _close(self, state: State, happened: inputs.CloseAsked, _now: Instant) -> State:
        self._closing = self._closing or happened.reason
        match state:
            case Entering():
                return self._end_entering(state, happened.reason)
            case Held():
                return self._lose(state, happened.reason)
            case _:
                return state

    def _stay(self, state: State, _happened: Input, _now: Instant) -> State:
        return state

    def _refuse(self, state: State, happened: Input, _now: Instant) -> State:
        self._effects.append(Note(logging.ERROR, f"{type(happened).__name__} is refused: the app is {state}"))
        return state


def _too_short(what: str, length: timedelta) -> str:
    return "" if length > _NOTHING else f"the broker gives no {what}: {format_duration(length)}"


def _ended_early(asked: inputs.ThawAsked | inputs.AbortAsked) -> str:
    if isinstance(asked, inputs.AbortAsked):
        return f"the broker aborted the cycle before the app was frozen: {asked.reason}"
    return "the broker thawed the cycle before the app was frozen"


_Row = Callable[..., State]
_ANYWHERE: Final[Mapping[type, _Row]] = {
    inputs.StreamOpened: AppMachine._greet,
    inputs.Welcomed: AppMachine._be_welcomed,
    inputs.StreamEnded: AppMachine._lose_stream,
    inputs.QuestionUnusable: AppMachine._refuse_question,
    inputs.FilesystemFreezeTold: AppMachine._stay,  # nothing is held: it is about a cycle that is over here
    inputs.ThawAsked: AppMachine._thaw,
    inputs.AbortAsked: AppMachine._thaw,
    inputs.DeadlinePassed: AppMachine._stay,
    inputs.CloseAsked: AppMachine._close,
}
_TABLE: Final[Mapping[tuple[type, type], _Row]] = {
    **{
        (state, happened): row
        for state in (Idle, Preparing, Entering, Held, Leaving)
        for happened, row in _ANYWHERE.items()
    },
    (Idle, inputs.PrepareAsked): AppMachine._start_prepare,
    (Idle, inputs.FreezeAsked): AppMachine._start_entering,
    (Preparing, inputs.PrepareAsked): AppMachine._prepare_again,
    (Preparing, inputs.FreezeAsked): AppMachine._be_busy,
    (Preparing, inputs.PrepareEnded): AppMachine._finish_prepare,
    (Preparing, inputs.CloseAsked): AppMachine._close_preparing,
    (Entering, inputs.PrepareAsked): AppMachine._be_busy,
    (Entering, inputs.FreezeAsked): AppMachine._freeze_again,
    (Entering, inputs.Entered): AppMachine._hold,
    (Entering, inputs.EnterFailed): AppMachine._fail_entering,
    (Held, inputs.PrepareAsked): AppMachine._prepare_again,
    (Held, inputs.FreezeAsked): AppMachine._freeze_again,
    (Held, inputs.FilesystemFreezeTold): AppMachine._hear_of_filesystem_freeze,
    (Held, inputs.Left): AppMachine._lose_by_itself,
    (Leaving, inputs.PrepareAsked): AppMachine._be_busy,
    (Leaving, inputs.FreezeAsked): AppMachine._be_busy,
    (Leaving, inputs.Left): AppMachine._finish_leaving,
}
