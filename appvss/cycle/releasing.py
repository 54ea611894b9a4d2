"""The steps by which requesters let go: of the hold, of a freeze that is under way, of what waits for the cycle's end.

A hold has one requester of its own, whose freeze began the cycle, and may be shared by others that have joined it
(`overlap`). It ends when none of them wants it any longer.
"""

from __future__ import annotations

from collections.abc import Sequence

from appvss.cycle.ending import abort, begin_thaw
from appvss.cycle.inputs import CheckRequested, FreezeRequested, SourceLost, ThawForced, ThawRequested
from appvss.cycle.state import UNHELD, UNSEEN, State, answer_by
from appvss.model.event import EventKind
from appvss.model.phase import Phase
from appvss.model.request import Request, RequestKind

OWED_LIMIT = 8
"""How many thaws may wait for the end of one cycle; a further one is told no at once."""


def thaw(state: State, input: ThawRequested) -> None:
    """A requester ends its hold. The hold of all ends with that of the last one."""
    if _is_foreign(state, input):
        return
    _owe(state, input.request)
    _leave_hold(state, input.request.source)


def _owe(state: State, request: Request) -> None:
    """A thaw that is answered when everything is thawed."""
    if len(state.running.owed) < OWED_LIMIT:
        state.running.owed.append(request)
    else:
        state.answer(request, False, "too many thaws wait for the end of this cycle")


def _leave_hold(state: State, source: str) -> None:
    """A requester wants the hold no longer: thaw when nobody else does."""
    cycle = state.running
    if source == cycle.source:
        cycle.has_finished = True
    else:
        cycle.joined.pop(source, None)
    if cycle.has_finished:
        _thaw_or_hold_on(state)


def _thaw_or_hold_on(state: State) -> None:
    """The cycle's own requester has finished: those that have joined are the only reason to hold on, each for its own
    limit.
    """
    cycle = state.running
    if not cycle.joined:
        begin_thaw(state)
        return
    ends = max((joined.until for joined in cycle.joined.values() if joined.until is not None), default=state.now)
    cycle.stage_deadline = min(cycle.stage_deadline or ends, ends)


def give_up(state: State, input: ThawRequested) -> None:
    """A requester wants the thaw before it was told that everything is held."""
    if _is_foreign(state, input):
        return
    cycle, request = state.running, input.request
    reason = f"{request.requester} asked for the thaw before everything was held"
    if request.source == cycle.source:
        cycle.owed.append(request)
        abort(state, reason)
    else:
        withdraw(state, request.source, reason)
        state.answer(request, True, cycle="")  # nothing was promised to it, and the hold is another's


def thaw_again(state: State, input: ThawRequested) -> None:
    """A thaw while everything is being thawed: it gets the same answer when that is done."""
    if not _is_foreign(state, input):
        _owe(state, input.request)


def _is_foreign(state: State, input: ThawRequested) -> bool:
    """Whether the thaw comes from a source that has no part in the running cycle. Then it is answered, and thaws
    nothing. Whatever the source has waiting will not begin: its requester has given it up.
    """
    request, cycle = input.request, state.running
    reason = f"{request.requester} asked for the thaw before it could begin"
    refuse_waiting(state, reason, request.source, only_superseding=True)
    if request.source == cycle.source or request.source in cycle.sources:
        return False
    thaw_in_rest(state, input)
    return True


def thaw_in_rest(state: State, input: ThawRequested) -> None:
    """A thaw of a source that holds nothing: harmless, and answered with what is known of its last freeze."""
    request = input.request
    closed = state.closed.get(request.source, UNSEEN)
    state.answer(request, closed.thaw_is_fine, closed.reason, closed.verdict, cycle=closed.cycle)


def force_thaw(state: State, input: ThawForced) -> None:
    """End the cycle on somebody's word, and whatever waits for its end: that would freeze again."""
    force_thaw_again(state, input)
    abort(state, input.reason or "the thaw was forced, without a reason")


def force_thaw_again(state: State, input: ThawForced) -> None:
    """Everything is on its way; a request that waits for that would freeze again."""
    refuse_waiting(state, input.reason or "the thaw was forced, without a reason")


def nothing_to_do(state: State, input: object) -> None:
    """What has been asked for is so already."""


def withdraw(state: State, source: str, reason: str) -> None:
    """Tell a requester that has joined, and was not told that everything is held, that it has no part in the cycle."""
    request = state.running.joined[source].request
    if request is None:
        raise AssertionError(f"{source} was told that everything is held")
    _forget_joined(state, source)
    state.answer(request, False, reason, cycle="")


def _forget_joined(state: State, source: str) -> None:
    del state.running.joined[source]
    state.running.sources.discard(source)
    state.closed[source] = UNHELD


def give_up_former(state: State, request: Request) -> None:
    """A source that has one request at a time asks anew: it wants nothing any more of what it asked before, but for
    the cycle that it began itself.
    """
    reason = "a newer request has taken its place"
    refuse_waiting(state, reason, request.source)
    joined = state.running.joined.get(request.source)
    if joined is not None and joined.request is not None:
        withdraw(state, request.source, reason)
    elif joined is not None:
        _leave_hold(state, request.source)


def refuse_waiting(state: State, reason: str, source: str = "", *, only_superseding: bool = False) -> None:
    """Tell requests that wait for the end of the running cycle that they will not begin.

    Args:
        state: the machine's state.
        reason: why, for the requesters.
        source: whose requests; empty: all.
        only_superseding: only those of a source that has one request at a time.
    """
    refused = [
        asked
        for asked in state.waiting
        if (not source or asked.request.source == source) and (asked.request.supersedes or not only_superseding)
    ]
    _refuse(state, refused, reason)


def _refuse(state: State, refused: Sequence[CheckRequested | FreezeRequested], reason: str) -> None:
    for asked in refused:
        state.waiting.remove(asked)
        turn_away(state, asked.request, reason)


def turn_away(state: State, request: Request, reason: str) -> None:
    """Tell a request no that has, or gets, no cycle."""
    if request.kind is RequestKind.FREEZE and request.source != state.running.source:
        state.closed[request.source] = UNHELD
    state.answer(request, False, reason, cycle="")


def lose_source(state: State, input: SourceLost) -> None:
    """A requester is gone: nobody will ever ask for its thaw."""
    forget_requests(state, input)
    cycle = state.running
    if input.source != cycle.source:
        _lose_joined(state, input)
        return
    if input.request and input.request != cycle.freeze:
        return  # it was about one that waited
    cycle.request = None
    reason = f"{cycle.requester} is gone: {input.reason}"
    is_shared = cycle.joined or any(thaw.source in cycle.sources for thaw in cycle.owed)
    if is_shared and state.phase is Phase.HOLDING:
        state.say(EventKind.SOURCE_CHANGED, detail=f"{reason}; others share the hold")
        _leave_hold(state, input.source)
    else:
        abort(state, reason)


def _lose_joined(state: State, input: SourceLost) -> None:
    cycle = state.running
    joined = cycle.joined.get(input.source)
    if joined is None or (input.request and input.request != joined.freeze):
        return
    if joined.request is None:
        _leave_hold(state, input.source)
    else:
        _forget_joined(state, input.source)


def forget_requests(state: State, input: SourceLost) -> None:
    """Nobody waits any more for the answers to a lost requester's requests. Of one of several, only its freeze is known
    by its id; an answer to its thaw does no harm.
    """
    state.waiting = [asked for asked in state.waiting if not _is_lost(asked.request, input)]
    state.running.owed = [request for request in state.running.owed if not _is_lost(request, input)]


def _is_lost(request: Request, input: SourceLost) -> bool:
    return request.source == input.source and input.request in ("", request.id)


def answer_owed(state: State) -> None:
    """Answer the requests whose time is over while the cycle goes on."""
    cycle = state.running
    late = [asked for asked in state.waiting if answer_by(asked.request) <= state.now]
    _refuse(state, late, f"cycle {cycle.id} was not thawed in time for it")
    for source, joined in list(cycle.joined.items()):
        if joined.request is not None and answer_by(joined.request) <= state.now:
            withdraw(state, source, f"the apps were not held in time for {joined.requester}")
    for request in [request for request in cycle.owed if answer_by(request) <= state.now]:
        cycle.owed.remove(request)
        state.answer(request, False, cycle.ended_by or _why_late(state))


def _why_late(state: State) -> str:
    if state.phase is Phase.HOLDING:
        return "another requester that shares the hold has not asked for the thaw yet"
    return "apps have not confirmed their thaw yet"
