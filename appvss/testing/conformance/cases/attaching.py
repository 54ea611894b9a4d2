"""How an app comes, and how it takes a no."""

from __future__ import annotations

from typing import Final

from appvss.model.duration import format_duration
from appvss.sdk.quiet import grpc
from appvss.testing.conformance.case import Case
from appvss.testing.conformance.stage import Stage

_REFUSALS: Final = (
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
)


def attaches(stage: Stage) -> str:
    """The program is started again, and its app comes."""
    before = len(stage.broker.turned_away)
    took = stage.restart()
    for call in stage.broker.turned_away[before:]:
        stage.must(call.app != stage.app.registration.app.name, f"a call was refused: {call.code}: {call.sentence}")
    stage.must(stage.app.holding is None, "it says that it holds a cycle, which no process before it can have left it")
    library = stage.app.library or "a library that it does not name"
    return f"{stage.app.registration.app} attached {format_duration(took)} after the start, with {library}"


def identity(stage: Stage) -> str:
    """Who it is, by the kernel."""
    peer = stage.app.peer
    if peer is None:
        stage.skip("it fetches no token: the broker shows it as unidentified, and a configuration may refuse it")
    return f"user {peer.uid}, group {peer.gid}, process {peer.pid}"


def refused_calls(stage: Stage) -> str:
    """Its calls are refused with one code after the other, then it is admitted."""
    stage.tolerates_refused_calls = True
    for code in _REFUSALS:
        since = stage.app.attachments
        turned_away = len(stage.broker.turned_away)
        stage.broker.refuse(code, "the check refuses this call")
        try:
            stage.app.disconnect()
            stage.await_turned_away(turned_away + 1, code.name)
        finally:
            stage.broker.admit()
        claim = stage.returned(since)
        stage.must(claim is None, "it says that it holds a cycle")
    stage.works()
    return f"it came back after each of {', '.join(code.name for code in _REFUSALS)}"


CASES: Final = (
    Case(
        "attaches",
        "started -> it attaches in time, with a hello that keeps to every limit, and claims no hold",
        "Call Attach on the socket apps.sock in APPVSS_RUNTIME_DIRECTORY and send a hello first.",
        attaches,
        ends_process=True,
    ),
    Case(
        "identity",
        "attached -> the kernel says who it is, by the token of apps.peer.sock",
        "Fetch a token and send it as metadata appvss-token, as IDENTITY in app.proto says.",
        identity,
    ),
    Case(
        "refused_calls",
        "refused with a code -> it tries again, with back-off, until it is admitted, and works",
        "Try again for ever, whatever the code; no refusal may end the program.",
        refused_calls,
    ),
)
