"""`appvss agent undo`: what a dead agent and its guardian have left behind is ended by whoever finds it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from appvss.agent.child import order_of
from appvss.agent.configuration import AgentConfiguration
from appvss.agent.supervised import undo_once
from appvss.agent.undo_places import has_records, keys_with_records


@dataclass(frozen=True, slots=True)
class Leftover:
    """What one app had left, and what became of it."""

    key: str
    outcome: str
    """One lower-case sentence."""
    is_failure: bool
    """Whether something is in force that should not be."""


async def end_leftovers(configuration: AgentConfiguration) -> tuple[Leftover, ...]:
    """Undo everything whose owner is dead; one for each app that has left something."""
    keys = keys_with_records(configuration.agent.undo_directory)
    async with asyncio.TaskGroup() as tasks:  # all at once: one that takes long keeps no other application quiet
        ending = [tasks.create_task(_end_leftover(configuration, key), name=f"undo {key}") for key in keys]
    return tuple(found for each in ending if (found := each.result()) is not None)


async def _end_leftover(configuration: AgentConfiguration, key: str) -> Leftover | None:
    agent, app = configuration.agent, configuration.apps.get(key)
    if app is None:
        why = configuration.problems_of(key)
        why = f"its section cannot be used, {why}" if why else "it is not configured"
        return Leftover(key, f"{why}; look at {agent.undo_directory}, and undo it by hand", is_failure=True)
    undone = await undo_once(app, order_of(agent, agent.undo_directory, app))
    if undone.failure:
        return Leftover(key, undone.failure, is_failure=True)
    if undone.cycles:
        return Leftover(key, f"the hold of cycle {', '.join(undone.cycles)} is undone", is_failure=False)
    if has_records(agent.undo_directory, key):
        return Leftover(key, "a living process holds it; it is left alone", is_failure=False)
    return None
