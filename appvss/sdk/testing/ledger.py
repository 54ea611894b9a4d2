"""What a broker asked of one app, and whether the app may say what it says: app.proto, taken literally. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import TypeAlias

from appvss.contract import evidence_of
from appvss.model.app import HoldClaim
from appvss.model.errors import MessageInvalid
from appvss.model.instant import Instant
from appvss.model.names import REASON_LIMIT
from appvss.sdk.testing.results import FreezeResult, PrepareResult, ThawResult
from appvss.v1 import app_pb2

Result: TypeAlias = PrepareResult | FreezeResult | ThawResult


class Kind(StrEnum):
    """What a question asks."""

    PREPARE = "prepare"
    FREEZE = "freeze"
    THAW = "thaw"
    """An abort too: both are answered with thawed."""


@dataclass(slots=True)
class Question:
    """One question, and its one answer."""

    kind: Kind
    cycle: str
    asked_at: Instant
    budget: timedelta | None = None
    result: Result | None = None
    broken: bool = False
    """The stream ended before the answer."""
    overtaken: bool = False
    """A thaw or an abort of the same cycle was asked meanwhile: an ack comes too late."""

    @property
    def is_open(self) -> bool:
        """Whether an answer is still awaited."""
        return self.result is None and not self.broken

    def is_late(self, now: Instant) -> bool:
        """Whether an ack at this instant counts as none."""
        return self.overtaken or (self.budget is not None and now > self.asked_at + self.budget)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the broker answers to a message that it does not accept."""

    name: str
    sentence: str
    late_by: timedelta | None = field(default=None, compare=False)
    """How long after the end of its budget an ack came; None: it was not late by the budget."""
    after_thawed: bool = field(default=False, compare=False)
    """Whether it is an ack of a cycle whose thaw or abort the app had answered before."""


@dataclass(slots=True)
class Ledger:
    """All questions to one app, over all its streams."""

    questions: list[Question] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    held: str = ""
    """The cycle that the app holds, by its own word; empty: none."""
    losses: dict[str, str] = field(default_factory=dict)
    """The holds that the app said to be lost: cycle and reason."""

    def ask(self, kind: Kind, cycle: str, now: Instant, budget: timedelta | None = None) -> Question:
        """Note a question that is about to be sent."""
        question = Question(kind, cycle, now, budget)
        if kind is Kind.THAW:
            for earlier in self.questions:
                earlier.overtaken = earlier.overtaken or earlier.cycle == cycle
        self.questions.append(question)
        return question

    def claim(self, claim: HoldClaim | None) -> None:
        """Note what the app says in its hello that it holds."""
        self.held = claim.cycle if claim is not None else ""

    def break_off(self) -> None:
        """The stream ended: what was asked on it will not be answered."""
        for question in self.questions:
            question.broken = question.broken or question.result is None

    def hear(self, message: app_pb2.AttachRequest, now: Instant) -> Refusal | None:
        """Note what the app says.

        Returns:
            None, or why it is not accepted; then it did not happen.

        Raises:
            MessageInvalid: it breaks a limit of types.proto, or has no place on a stream that is open. The call ends.
        """
        match message.WhichOneof("message"):
            case "ready":
                refusal = self._hear_ready(message.ready, now)
            case "frozen":
                refusal = self._hear_frozen(message.frozen, now)
            case "veto":
                refusal = self._hear_veto(message.veto, now)
            case "thawed":
                refusal = self._hear_thawed(message.thawed, now)
            case "hold_lost":
                refusal = self._hear_hold_lost(message.hold_lost)
            case "hello":
                raise MessageInvalid("a second hello on one stream", "Send the hello first, and only then.")
            case _:
                refusal = Refusal("message_invalid", "the message says nothing that is known")
        if refusal is not None:
            self.refusals.append(refusal)
        return refusal

    def _hear_ready(self, said: app_pb2.Ready, now: Instant) -> Refusal | None:
        question = self._open(said.cycle, now, Kind.PREPARE)
        if isinstance(question, Refusal):
            return question
        if question.is_late(now):
            return _too_late(question, now)
        question.result = PrepareResult(True, "", False, now - question.asked_at)
        return None

    def _hear_frozen(self, said: app_pb2.Frozen, now: Instant) -> Refusal | None:
        evidence = evidence_of(said.evidence)
        question = self._open(said.cycle, now, Kind.FREEZE)
        if isinstance(question, Refusal):
            return question
        if question.is_late(now):
            thawed = any(each.cycle == said.cycle and each.kind is Kind.THAW and each.result for each in self.questions)
            return replace(_too_late(question, now), after_thawed=thawed)
        changed = tuple(name for name, value in said.evidence.items() if evidence.get(name) != value)
        question.result = FreezeResult(True, "", False, now - question.asked_at, evidence, changed)
        self.held = said.cycle
        return None

    def _hear_veto(self, said: app_pb2.Veto, now: Instant) -> Refusal | None:
        _check_reason(said.reason)
        if not said.reason:
            return Refusal("message_invalid", "the veto has no reason")
        question = self._open(said.cycle, now, Kind.FREEZE, Kind.PREPARE)
        if isinstance(question, Refusal):
            return question
        took = now - question.asked_at
        if question.kind is Kind.PREPARE:
            question.result = PrepareResult(False, said.reason, said.retryable, took)
        else:
            question.result = FreezeResult(False, said.reason, said.retryable, took)
        return None

    def _hear_thawed(self, said: app_pb2.Thawed, now: Instant) -> Refusal | None:
        _check_reason(said.reason)
        question = self._open(said.cycle, now, Kind.THAW)
        if isinstance(question, Refusal):
            return question
        question.result = ThawResult(said.unbroken, said.reason, now - question.asked_at)
        if self.held == said.cycle:
            self.held = ""
        return None

    def _hear_hold_lost(self, said: app_pb2.HoldLost) -> Refusal | None:
        _check_reason(said.reason)
        if said.cycle in self.losses:
            return Refusal("ack_twice", f"the hold of cycle {said.cycle} was said to be lost before")
        acks = (each.result for each in self.questions if each.cycle == said.cycle and each.kind is Kind.FREEZE)
        frozen = any(isinstance(result, FreezeResult) and result.frozen for result in acks)
        if not frozen and self.held != said.cycle:
            return Refusal("ack_for_other_cycle", f"there was no hold of cycle {said.cycle}")
        self.losses[said.cycle] = said.reason
        if self.held == said.cycle:
            self.held = ""
        return None

    def _open(self, cycle: str, now: Instant, *kinds: Kind) -> Question | Refusal:
        asked = [question for question in self.questions if question.kind in kinds]
        of_cycle = [question for question in asked if question.cycle == cycle]
        for question in of_cycle:
            if question.is_open:
                return question
        what = " or ".join(kinds)
        if of_cycle:
            return Refusal("ack_twice", f"the {what} of cycle {cycle} has been answered")
        if asked:
            return Refusal("ack_for_other_cycle", f"no {what} of cycle {cycle} was asked")
        return Refusal("ack_before_asked", f"no {what} was asked at all")


def _too_late(question: Question, now: Instant) -> Refusal:
    after = now - question.asked_at
    sentence = f"the answer to the {question.kind} of cycle {question.cycle} came after {after.total_seconds():.3f} s"
    is_over = question.budget is not None and after > question.budget
    return Refusal("ack_too_late", sentence, after - question.budget if is_over and question.budget else None)


def _check_reason(reason: str) -> None:
    if len(reason) > REASON_LIMIT:
        raise MessageInvalid(f"a reason has {len(reason)} characters, over {REASON_LIMIT}", "Send one sentence.")
