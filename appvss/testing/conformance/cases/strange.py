"""Words that ask nothing, and words from a later version."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from appvss.model.duration import format_duration
from appvss.sdk.clock import now
from appvss.testing.conformance.case import Case
from appvss.testing.conformance.stage import LONG_HOLD, Stage

_LOOK: Final = timedelta(milliseconds=20)
_STRANGE: Final = "O'Brien \"; DROP TABLE t; -- %s {0} \\ $HOME `id` Zoë ☃"
"""Who asks is text of somebody else: quotes, blanks, what a shell or a database would read as its own."""


def unknown_message(stage: Stage) -> str:
    """A message of a later version, at rest and in the hold."""
    stage.app.send_unknown()
    stage.barrier()
    cycle, _ = stage.freeze()
    stage.app.send_unknown()
    stage.thaw(cycle, unbroken=True)
    return "passed over, at rest and in the hold"


def refused_message(stage: Stage) -> str:
    """The broker says that it did not accept a message."""
    for name in ("ack_twice", "a_word_of_a_later_version"):
        stage.app.refuse_message(name, "the check says so")
    stage.barrier()
    cycle, _ = stage.freeze()
    stage.app.refuse_message("not_now", "the check says so")
    stage.thaw(cycle, unbroken=True)
    return "passed over, at rest and in the hold"


def filesystem_freeze(stage: Stage) -> str:
    """The file systems are about to be frozen."""
    stage.app.tell_filesystem_freeze(stage.cycle())
    stage.barrier()
    cycle, _ = stage.freeze()
    heard = stage.app.heard
    stage.app.tell_filesystem_freeze(cycle)
    stage.app.tell_filesystem_freeze(cycle)
    until = now() + stage.subject.silence
    while stage.app.heard == heard and now() < until:
        stage.pass_time(_LOOK)
    said = stage.app.heard - heard
    stage.must(said == 0, f"{said} messages before the thaw came", "not a word until the thaw")
    stage.thaw(cycle, unbroken=True)
    said = stage.app.heard - heard - 1
    stage.must(said == 0, f"{said} messages before its answer to the thaw", "not a word until the thaw")
    return f"silent for {format_duration(stage.subject.silence)}, then thawed, unbroken"


def strange_requester(stage: Stage) -> str:
    """The requester's name is whatever the requester says."""
    cycle = stage.cycle()
    asked = stage.app.ask_freeze(cycle, requester=_STRANGE, budget=stage.subject.budget, hold_limit=LONG_HOLD)
    answer = stage.answer(asked, "the freeze", stage.subject.budget)
    stage.must(answer.frozen, f"a veto: {answer.reason}", "frozen")
    stage.thaw(cycle, unbroken=True)
    return f"held and thawed for {_STRANGE}"


CASES: Final = (
    Case(
        "unknown_message",
        "a message of a kind that it does not know -> passed over; everything goes on",
        "Pass over what you do not know: later versions of the broker say more.",
        unknown_message,
    ),
    Case(
        "refused_message",
        "the broker refuses a message -> noted; everything goes on",
        "A refusal says that your message did not count. Log it, and go on.",
        refused_message,
    ),
    Case(
        "filesystem_freeze",
        "held, and the word that the file systems are about to be frozen -> silence until the thaw, then unbroken",
        "Answer nothing, and wait for nobody whose files may lie on them.",
        filesystem_freeze,
    ),
    Case(
        "strange_requester",
        "a requester whose name has quotes, blanks and other scripts -> held and thawed",
        "Take the requester as text: never as part of a command, a statement or a file's name.",
        strange_requester,
    ),
)
