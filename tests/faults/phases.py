"""A cycle is brought to a phase and stays there: the app `slow` waits at a gate, the others are where they would be.

`first` and `second` freeze before `slow` does and are thawed after it, so that they are held in every phase in which
`slow` keeps the broker waiting for its ack or for its thaw. Phases are known from the broker's own events.
"""

from __future__ import annotations

from dataclasses import dataclass

from appvss.model.phase import Phase
from tests.end_to_end.support.children import Requester
from tests.end_to_end.support.stage import OFF, Stage

HOST_PHASES = (Phase.PREPARING, Phase.PREPARED, Phase.FREEZING_APPS, Phase.HOLDING, Phase.THAWING_APPS)
LOCAL_PHASES = (Phase.PREPARING, Phase.FREEZING_APPS, Phase.HOLDING, Phase.THAWING_APPS)
SLOW = "slow"
_GATES = {Phase.PREPARING: "prepare", Phase.FREEZING_APPS: "freeze", Phase.THAWING_APPS: "thaw"}


@dataclass(frozen=True)
class Waiting:
    """The host's request that is not answered yet, or the next one that it will make."""

    command: str
    begun: int = -1
    """The place in the simulator's lines from which on its result is looked for; -1: it is not made yet."""


async def start_apps(stage: Stage, style: str = "async", *options: str) -> None:
    """The three apps; `style` is that of the slow one."""
    await stage.start_apps(
        ("first", "async", "--order", "40", *options),
        ("second", "threads", "--order", "40", *options),
        (SLOW, style, "--order", "60", "--prepares", *options),
    )


async def start_for_host(stage: Stage, text: str = "", style: str = "async") -> None:
    """Everything that a host's cycle needs."""
    await stage.start_simulator()
    await stage.start_broker(text)
    await start_apps(stage, style)


async def start_for_local(stage: Stage, text: str = OFF, *options: str) -> None:
    """Everything that a local cycle needs; no device."""
    await stage.start_broker(text, device=False)
    await start_apps(stage, "async", *options)


async def close_gate(stage: Stage, phase: Phase) -> None:
    if phase in _GATES:
        await stage.apps[SLOW].told(f"close {_GATES[phase]}")


async def host_reaches(stage: Stage, phase: Phase) -> Waiting:
    """The host's cycle is in this phase."""
    host, events = stage.simulator, stage.events
    await close_gate(stage, phase)
    if phase is Phase.PREPARING:
        begun = host.begin("check")
        await events.sees("prepare_asked", app=SLOW)
        return Waiting("check", begun)
    await host.agrees("check")
    if phase is Phase.PREPARED:
        return Waiting("freeze")
    if phase is Phase.FREEZING_APPS:
        begun = host.begin("freeze")
        await events.sees("freeze_asked", app=SLOW)
        return Waiting("freeze", begun)
    await host.agrees("freeze")
    if phase is Phase.HOLDING:
        return Waiting("thaw")
    begun = host.begin("thaw")
    await events.sees("thaw_asked", app=SLOW)
    return Waiting("thaw", begun)


async def host_is_refused(stage: Stage, waiting: Waiting) -> None:
    """The host's open request, or the one that it makes now, is refused by the broker's word and not by a timer."""
    begun = waiting.begun if waiting.begun >= 0 else stage.simulator.begin(waiting.command)
    result = await stage.simulator.result(waiting.command, begun)
    assert result["outcome"] == "failed", result
    assert result["took_seconds"] < 14, result


async def local_reaches(stage: Stage, phase: Phase, *options: str) -> Requester:
    """A local requester's cycle is in this phase."""
    await close_gate(stage, phase)
    requester = await stage.start_requester(*options)
    if phase is Phase.PREPARING:
        await stage.events.sees("prepare_asked", app=SLOW)
    elif phase is Phase.FREEZING_APPS:
        await stage.events.sees("freeze_asked", app=SLOW)
    else:
        await requester.held()
    if phase is Phase.THAWING_APPS:
        requester.finish()
        await stage.events.sees("thaw_asked", app=SLOW)
    return requester
