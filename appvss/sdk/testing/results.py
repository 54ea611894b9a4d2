"""What an app answered, as the test sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """The answer to a prepare.

    Attributes:
        ready: True: the slow work is done. False: it is vetoed.
        reason: the veto's reason; empty when ready.
        retryable: whether the veto says that trying again soon may help.
        took: from the question to the answer.
    """

    ready: bool
    reason: str
    retryable: bool
    took: timedelta


@dataclass(frozen=True, slots=True)
class FreezeResult:
    """The answer to a freeze.

    Attributes:
        frozen: True: the app holds. False: it is vetoed.
        evidence: what the app gave with its ack; empty for a veto.
        reason: the veto's reason; empty when frozen.
        retryable: whether the veto says that trying again soon may help.
        took: from the question to the answer.
        evidence_changed: the names of evidence that a broker keeps only cut or changed, because it is too long or not
            printable (the limits stand in types.proto).
    """

    frozen: bool
    reason: str
    retryable: bool
    took: timedelta
    evidence: Mapping[str, str] = field(default_factory=dict)
    evidence_changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ThawResult:
    """The answer to a thaw or an abort.

    Attributes:
        unbroken: whether the app says that its hold was unbroken from its ack to the thaw.
        reason: why not; empty when unbroken.
        took: from the question to the answer.
    """

    unbroken: bool
    reason: str
    took: timedelta
