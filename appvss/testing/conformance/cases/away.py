"""The broker dies, says goodbye, comes back or does not; streams are cut in every state."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from appvss.model.app import HoldClaim
from appvss.model.duration import format_duration
from appvss.model.instant import Instant
from appvss.sdk.clock import now
from appvss.testing.conformance.case import Case, Unmet
from appvss.testing.conformance.stage import LONG_HOLD, REQUESTER, Stage


def _must_claim(stage: Stage, claim: HoldClaim | None, cycle: str, cut: Instant) -> None:
    """It came back and says what it holds, and since when.

    Args:
        stage: where it is played.
        claim: what it said in its hello.
        cycle: the cycle that it holds.
        cut: when its stream ended: its hello came later, so it says at least how long it had held then.
    """
    if claim is None:
        stage.skip_past_limit()
    stage.must(
        claim is not None and claim.cycle == cycle,
        "no hold in its hello" if claim is None else f"it says that it holds {claim.cycle}",
        f"its hello says that it holds {cycle}",
        "A broken stream does not end a hold: go on holding, and say so in the next hello.",
    )
    if claim is not None:
        least, most, margin = cut - stage.acked_at, now() - stage.acked_at, stage.subject.margin
        stage.must(
            least - margin <= claim.held_for <= most + margin,
            f"its hello says that it has held for {format_duration(claim.held_for)}",
            f"between {format_duration(least)} and {format_duration(most)}, counted from its ack",
            "Count from your ack, on a monotonic clock, over every stream: a broker takes less for another hold.",
        )


def broker_back(stage: Stage) -> str:
    """The broker is killed in the hold and started again."""
    cycle, _ = stage.freeze()
    cut, since = now(), stage.app.attachments
    stage.broker.stop()
    stage.broker.start()
    claim = stage.returned(since)
    _must_claim(stage, claim, cycle, cut)
    stage.thaw(cycle, unbroken=True)
    return "it came back, said what it held, and the hold was unbroken"


def broker_goodbye(stage: Stage) -> str:
    """The broker says goodbye, at rest and in the hold."""
    since = stage.app.attachments
    stage.broker.stop("the check stops the broker")
    stage.broker.start()
    stage.must(stage.returned(since) is None, "it says that it holds a cycle", "it holds nothing")
    cycle, _ = stage.freeze()
    cut, since = now(), stage.app.attachments
    stage.broker.stop("the check stops the broker")
    stage.broker.start()
    _must_claim(stage, stage.returned(since), cycle, cut)
    stage.thaw(cycle, unbroken=True)
    return "it came back both times, and the hold was unbroken"


def broker_lost(stage: Stage) -> str:
    """The broker is killed in the hold and does not come back before the limit."""
    limit = stage.hold_limit
    cycle, _ = stage.freeze(hold_limit=limit)
    since = stage.app.attachments
    stage.broker.stop()
    try:
        stage.pass_time(limit + stage.subject.margin)
    finally:
        stage.broker.start()
    claim = stage.returned(since)
    stage.must(
        claim is None,
        f"its hello says that it still holds, {format_duration(stage.subject.margin)} after its limit",
        "it went on by itself at its limit",
        "Keep the limit yourself: a broker that died must not leave you frozen.",
    )
    stage.thaw(cycle, unbroken=False)
    # A hold that ended while there was no stream may be told late or not at all: the hello that claims none says it.
    reason = stage.app.losses.get(cycle)
    stage.works()
    return f"it claimed no hold{f', said hold_lost ({reason})' if reason else ''}, and works"


def broker_gone_while_freezing(stage: Stage) -> str:
    """The broker is killed right after its question, and a while later."""
    stage.works()
    for part in (0.0, 0.5):
        cycle = stage.cycle()
        since = stage.app.attachments
        asked = stage.app.ask_freeze(cycle, requester=REQUESTER, budget=stage.subject.budget, hold_limit=LONG_HOLD)
        stage.pass_time(stage.time_to_freeze * part)
        stage.broker.stop()
        asked.cancel()
        stage.broker.start()
        claim = stage.returned(since)
        _let_go(stage, cycle, claim)
    stage.works()
    return "it came back each time, let go of what it held, and works"


def _let_go(stage: Stage, cycle: str, claim: HoldClaim | None) -> None:
    """Thaw the cycle, whether it is held or not."""
    stage.must(claim is None or claim.cycle == cycle, "it says that it holds another cycle")
    thawed = stage.answer(stage.app.ask_thaw(cycle), "the thaw", stage.subject.budget)
    if claim is None and thawed.unbroken:
        raise Unmet("unbroken = true for a hold that it did not claim", "unbroken = false")


def stream_cut_at_rest(stage: Stage) -> str:
    """The stream is cut while nothing is asked."""
    for _ in range(3):
        since = stage.app.attachments
        stage.app.disconnect()
        stage.must(stage.returned(since) is None, "it says that it holds a cycle", "it holds nothing")
    stage.works()
    return "it came back three times, and works"


def stream_cut_while_preparing(stage: Stage) -> str:
    """The stream is cut right after a prepare."""
    if not stage.app.registration.prepares:
        stage.skip("its hello does not ask for prepare messages: it is never sent one")
    since = stage.app.attachments
    asked = stage.app.ask_prepare(stage.cycle(), requester=REQUESTER, budget=stage.subject.budget)
    stage.app.disconnect()
    asked.cancel()
    stage.must(stage.returned(since) is None, "it says that it holds a cycle", "it holds nothing")
    stage.works()
    return "it came back, and works"


def stream_cut_while_freezing(stage: Stage) -> str:
    """The stream is cut right after a freeze, and a while later."""
    stage.works()
    for part in (0.0, 0.5):
        cycle = stage.cycle()
        since = stage.app.attachments
        asked = stage.app.ask_freeze(cycle, requester=REQUESTER, budget=stage.subject.budget, hold_limit=LONG_HOLD)
        stage.pass_time(stage.time_to_freeze * part)
        stage.app.disconnect()
        asked.cancel()
        _let_go(stage, cycle, stage.returned(since))
    stage.works()
    return "it came back each time, let go of what it held, and works"


def stream_cut_in_hold(stage: Stage) -> str:
    """The stream is cut in the hold, several times, and once more after so long that the length of the hold shows."""
    cycle, _ = stage.freeze()
    shows = stage.subject.margin * 1.2
    for wait in (timedelta(0), timedelta(0), shows if shows * 2 < stage.app.registration.hold_limit else timedelta(0)):
        stage.pass_time(wait)
        cut, since = now(), stage.app.attachments
        stage.app.disconnect()
        _must_claim(stage, stage.returned(since), cycle, cut)
    stage.thaw(cycle, unbroken=True)
    return "it came back three times, said what it held, and the hold was unbroken"


def stream_cut_while_thawing(stage: Stage) -> str:
    """The stream is cut right after the thaw."""
    cycle, _ = stage.freeze()
    since = stage.app.attachments
    asked = stage.app.ask_thaw(cycle)
    stage.app.disconnect()
    asked.cancel()
    claim = stage.returned(since)
    stage.must(claim is None or claim.cycle == cycle, "it says that it holds another cycle")
    stage.answer(stage.app.ask_thaw(cycle), "the thaw again")
    stage.works()
    return "it came back, answered the thaw again, and works"


_COME_BACK: Final = "Call Attach again, with back-off, for ever; a question that was open is gone with its stream."
_HOLD_ON: Final = "A broken stream does not end a hold: go on holding until the limit, and say so in the next hello."

CASES: Final = (
    Case(
        "stream_cut_at_rest", "its stream is cut at rest -> it attaches again and works", _COME_BACK, stream_cut_at_rest
    ),
    Case(
        "stream_cut_while_preparing",
        "its stream is cut while it prepares -> it attaches again, claims no hold and works",
        _COME_BACK,
        stream_cut_while_preparing,
    ),
    Case(
        "stream_cut_while_freezing",
        "its stream is cut while it gets quiet -> it attaches again, claims a hold only if it acked, and works",
        _COME_BACK,
        stream_cut_while_freezing,
    ),
    Case(
        "stream_cut_in_hold",
        "its stream is cut in the hold -> it attaches again and claims the hold, which is unbroken",
        _HOLD_ON,
        stream_cut_in_hold,
    ),
    Case(
        "stream_cut_while_thawing",
        "its stream is cut right after the thaw -> it attaches again, answers the thaw again and works",
        _COME_BACK,
        stream_cut_while_thawing,
    ),
    Case(
        "broker_back",
        "the broker is killed in the hold and is back -> the app claims the hold, which is unbroken",
        _HOLD_ON,
        broker_back,
    ),
    Case(
        "broker_goodbye",
        "the broker says goodbye and is back -> the app attaches again; a hold goes on and is unbroken",
        _HOLD_ON,
        broker_goodbye,
    ),
    Case(
        "broker_lost",
        "the broker is killed in the hold and away past the limit -> the app goes on by itself, and claims no hold",
        "Keep the hold limit yourself; a hello after it claims no hold.",
        broker_lost,
    ),
    Case(
        "broker_gone_while_freezing",
        "the broker is killed while the app gets quiet -> it lets go, attaches again and works",
        _COME_BACK,
        broker_gone_while_freezing,
    ),
)
