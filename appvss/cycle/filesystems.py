"""The steps for what the freezer says, from the preparing of file systems to the hold."""

from __future__ import annotations

from appvss.cycle.asking import advance
from appvss.cycle.ending import abort
from appvss.cycle.inputs import (
    DeadlinePassed,
    FilesystemsFailed,
    FilesystemsFrozen,
    FilesystemsLost,
    FilesystemsPrepared,
)
from appvss.cycle.state import State
from appvss.model.event import EventKind
from appvss.model.names import printable
from appvss.model.phase import Phase


def filesystems_prepared(state: State, input: FilesystemsPrepared) -> None:
    """The freezer knows what it will freeze, and has it open."""
    cycle = state.running
    if input.cycle != cycle.id or not cycle.is_preparing_filesystems:
        state.refuse("other_cycle", f"the freezer has prepared for cycle {input.cycle}: nothing was waiting for that")
        return
    cycle.is_preparing_filesystems, cycle.filesystems_missing = False, input.doubts
    cycle.note_filesystems(input.parts)
    _note_paths(state, input)
    state.say(EventKind.FILESYSTEMS_PREPARED, detail="; ".join(input.doubts), took=state.now - state.phase_since)
    advance(state)


def _note_paths(state: State, input: FilesystemsPrepared) -> None:
    """Remember where the paths of the apps lie, and say what is to be known of them before anything is frozen."""
    cycle = state.running
    if input.paths is None:
        return
    cycle.has_located_paths = True
    for app, paths in input.paths.items():
        part = cycle.participants.get(app)
        if part is None or not part.is_looked_up:  # another process has come in its place, with paths of its own
            continue
        part.paths = paths
        said = [f"{path.path}: {path.reason}" for path in paths if path.reason]
        if said:
            state.say(EventKind.PATHS_LOCATED, app, printable("; ".join(said)))


def filesystems_frozen(state: State, input: FilesystemsFrozen) -> None:
    """The freezer has done its part."""
    cycle = state.running
    if input.cycle != cycle.id:
        state.refuse("other_cycle", f"the freezer speaks of cycle {input.cycle}, not of {cycle.id}")
        return
    if cycle.filesystems_done:
        state.refuse("ack_twice", "the freezer has said before that it is done")
        return
    cycle.filesystems_done, cycle.filesystems_frozen = True, input.frozen
    cycle.filesystems_missing += input.doubts
    cycle.note_filesystems(input.parts)
    if input.frozen:
        state.say(EventKind.FILESYSTEMS_FROZE)
    advance(state)


def filesystems_failed(state: State, input: FilesystemsFailed) -> None:
    """The freezer could not prepare, or not freeze."""
    cycle = state.running
    if input.cycle != cycle.id or not (cycle.is_preparing_filesystems or state.phase is Phase.FREEZING_FILESYSTEMS):
        state.refuse("other_cycle", f"the freezer has failed for cycle {input.cycle}: nothing was waiting for that")
        return
    cycle.is_preparing_filesystems = False
    cycle.note_filesystems(input.parts)
    abort(state, f"the file systems could not be frozen: {input.reason}")


def filesystems_deadline(state: State, input: DeadlinePassed) -> None:
    """The file systems, or an app that is away, took all the time that was left."""
    cycle = state.running
    if cycle.filesystems_done:
        gone = ", ".join(map(str, sorted(cycle.away)))
        abort(state, f"the stream of {gone} broke and the time was over before it came back")
    else:
        abort(state, "the file systems were not frozen in the time that was left")


def filesystems_lost(state: State, input: FilesystemsLost) -> None:
    """File systems may have gone on while everything else is held: the snapshot would not be of one instant."""
    cycle = state.running
    if input.cycle != cycle.id or not cycle.filesystems_touched:
        state.refuse("other_cycle", f"the freezer has lost those of cycle {input.cycle}: it froze none for {cycle.id}")
        return
    state.say(EventKind.FILESYSTEMS_LOST, detail=input.reason)
    abort(state, f"the file systems went on before the thaw: {input.reason}")
