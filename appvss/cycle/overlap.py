"""A request while a cycle runs: it takes its place, shares its hold, waits for its end, or is told no."""

from __future__ import annotations

from dataclasses import replace

from appvss.cycle.ending import abort
from appvss.cycle.inputs import CheckRequested, FreezeRequested
from appvss.cycle.releasing import give_up_former, turn_away
from appvss.cycle.state import Joined, State, answer_by
from appvss.model.event import EventKind
from appvss.model.filesystem import Scope
from appvss.model.phase import Phase
from appvss.model.policy import Overlap
from appvss.model.request import Request, RequestKind

WAITING_LIMIT = 8
"""How many requests may wait for the end of one cycle."""
_UNDOING = frozenset({Phase.ABORTING, Phase.THAWING_FILESYSTEMS, Phase.THAWING_APPS})
_SHARED = frozenset(
    {
        Phase.REQUESTED,
        Phase.PREPARING,
        Phase.FREEZING_APPS,
        Phase.CERTIFYING,
        Phase.FREEZING_FILESYSTEMS,
        Phase.HOLDING,
    }
)
"""The phases in which a hold can be shared: its end has not begun."""


def begin_instead(state: State, asked: CheckRequested | FreezeRequested) -> None:
    """A request while a cycle runs. What becomes of it stands in the request (`supersedes`, `overlap`); a rehearsal
    gives way to any other request, and takes nobody's place.
    """
    cycle, request = state.running, asked.request
    if request.supersedes:
        give_up_former(state, request)
    # Where the apps' paths lie may be another thing when it begins: then it asks everybody.
    later = replace(asked, request=replace(request, apart=frozenset()))
    if _takes_its_place(state, request):
        state.waiting.insert(0, later)
        if state.phase not in _UNDOING:
            abort(state, f"{request.requester} asked for a new {request.kind} before the thaw of this cycle came")
    elif request.overlap is Overlap.JOIN and _can_share(state, request):
        _share(state, request)
    elif request.overlap is Overlap.REFUSE or len(state.waiting) >= WAITING_LIMIT:
        turn_away(state, request, f"cycle {cycle.id} of {cycle.requester} is under way ({state.phase})")
    else:
        state.waiting.append(later)
        state.say(EventKind.REQUEST_QUEUED, detail=f"{request.kind} by {request.requester} through {request.source}")


def _takes_its_place(state: State, request: Request) -> bool:
    """Whether the running cycle ends for the request's sake, or is ending, and the request comes next."""
    cycle = state.running
    if request.supersedes and request.source == cycle.source:
        # A hold that lasts for those that have joined it is not its own any more.
        return state.phase in _UNDOING or not cycle.has_finished
    gives_way = state.phase is Phase.PREPARED or cycle.rehearses
    return gives_way and not request.rehearses and all(other.request.rehearses for other in state.waiting)


def _can_share(state: State, request: Request) -> bool:
    cycle = state.running
    is_other = request.source != cycle.source and (request.supersedes or request.source not in cycle.sources)
    is_hold = request.kind is RequestKind.FREEZE and not request.rehearses and not cycle.is_check
    is_possible = state.phase in _SHARED and not cycle.away and answer_by(request) > state.now
    # What it wants frozen is, or will be: no file system can be added to a hold, and no app that is not asked.
    has_filesystems = request.filesystems.scope is Scope.NONE or request.filesystems == cycle.filesystems
    is_enough = has_filesystems and cycle.apart <= request.apart
    return is_other and is_hold and is_possible and is_enough


def _share(state: State, request: Request) -> None:
    cycle = state.running
    cycle.joined[request.source] = Joined(request.requester, request.id, request)
    cycle.sources.add(request.source)
    state.say(EventKind.REQUESTER_JOINED, detail=f"{request.requester} through {request.source}")
    if state.phase is Phase.HOLDING:
        agree_with_joined(state)


def agree_with_joined(state: State) -> None:
    """Everything is held: tell those who wait for it. The hold ends for all with that of the cycle at the latest."""
    cycle = state.running
    if cycle.stage_deadline is None:
        raise AssertionError(f"cycle {cycle.id} holds without a limit")
    for joined in cycle.joined.values():
        request = joined.request
        if request is not None and answer_by(request) > state.now:  # the others are told no by `answer_owed`
            limit = min(request.hold_limit, cycle.stage_deadline - state.now)
            joined.request, joined.until = None, state.now + limit
            state.answer(request, True, hold_limit=limit)
