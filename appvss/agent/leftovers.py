"""`appvss agent undo`: what a dead agent and its guardian have left behind is ended by whoever finds it."""

from __future__ import annotations

from dataclasses import dataclass

from appvss.agent.child import order_of
from appvss.agent.configuration import AgentConfiguration
from appvss.agent.supervised import UNDO_LIMIT, undo_once
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
    agent, found = configuration.agent, []
    for key in keys_with_records(agent.undo_directory):
        app = configuration.apps.get(key)
        if app is None:
            why = configuration.problems_of(key)
            why = f"its section cannot be used, {why}" if why else "it is not configured"
            sentence = f"{why}; look at {agent.undo_directory}, and undo it by hand"
            found.append(Leftover(key, sentence, is_failure=True))
            continue
        undone = await undo_once(app, order_of(agent, agent.undo_directory, app), UNDO_LIMIT)
        if undone.failure:
            found.append(Leftover(key, undone.failure, is_failure=True))
        elif undone.cycles:
            found.append(Leftover(key, f"the hold of cycle {', '.join(undone.cycles)} is undone", is_failure=False))
        elif has_records(agent.undo_directory, key):
            found.append(Leftover(key, "a living process holds it; it is left alone", is_failure=False))
    return tuple(found)
