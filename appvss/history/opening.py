"""How a broker comes into its state, and what it has when the disk does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.history.entrance import Entrance, look
from appvss.history.state import HistoryState
from appvss.history.store import STUCK_LIMIT, History
from appvss.model.journal import JournalEntry
from appvss.model.past import Restored

OPEN_LIMIT: Final = timedelta(seconds=10)
"""How long an opening may take for whoever is in no hurry."""
CLOSE_LIMIT: Final = timedelta(seconds=1)
"""How long the end of a history may take that was not let in."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a broker finds at its start."""

    history: History
    """It runs; whoever has it owes a `close`."""
    open_cycle: JournalEntry | None
    """The cycle that a broker of this boot left open: it is to be adopted, and `History.end_cycle` is to follow."""
    restored: Restored | None
    """The cycle of another boot that was open: found just now, and not told again by a later start."""
    certificate: str = ""
    """The text of the open cycle's certificate, which lies on disk; empty: it has none."""
    notes: tuple[str, ...] = ()
    """What is to be said to the administrator, one sentence each, in lower case."""


def open_state(
    directory: Path,
    *,
    keep: int,
    boot: str,
    wall: Callable[[], timedelta],
    on_change: Callable[[HistoryState], None] | None = None,
    limit: timedelta = OPEN_LIMIT,
    copies: Path | None = None,
    is_held: Callable[[JournalEntry], bool] = lambda entry: False,
) -> Opened:
    """The state in `directory`, for this broker alone. Blocking: call it before anything is held, not on the loop.

    A disk that cannot be used (read-only, full, forbidden) is no error: the history is then kept in memory, says so in
    its state, and no journal entry can be written. What can be read there is read.

    A disk that takes no write within `limit` is none either. What could be read counts, what ends waits in memory, and
    as soon as the disk answers the history opens itself. What then speaks against it leaves it in memory.

    In a hold nothing is written: when the cycle that was found may have file systems frozen, the gate of the history is
    closed, and until `set_gate` opens it the history answers from what was read.

    Args:
        directory: the state directory; made if it is not there.
        keep: how many ended cycles are kept.
        boot: identity of this boot (`boot.boot_identity`).
        wall: the wall clock, as time since 1970-01-01 UTC.
        on_change: told, on the history's thread, when the history's condition has changed.
        limit: how long to wait for the disk at most.
        copies: a directory of the broker's alone, on another file system than the state (best in memory), where a copy
            may be made for a moment; None: where temporary files go.
        is_held: whether an open cycle of this boot may have file systems frozen at this moment.

    Raises:
        LockHeld: another broker has the directory.
        HistoryTooNew: a newer version wrote the history. It is left as it is.
        StateDirectoryUnusable: the directory is none, or others own it or may write in it.
    """
    until = time.monotonic() + limit.total_seconds()
    seen = look(directory, boot, wall, copies, limit)
    found = seen.found
    is_in_hold = found.open_cycle is not None and is_held(found.open_cycle)
    history = History(
        Entrance(seen, boot=boot, keep=keep, wall=wall),
        is_open=not is_in_hold,
        restored=found.restored or found.remembered,
        running=found.open_cycle.cycle if found.open_cycle is not None else "",
        on_change=on_change,
        stuck_after=min(limit, STUCK_LIMIT),
    )
    history.start()
    left = timedelta(0) if is_in_hold else timedelta(seconds=max(until - time.monotonic(), 0.0))
    try:
        entered = history.entered(left)
    except BaseException:
        history.close(CLOSE_LIMIT)
        raise
    if entered is not None:
        found = entered
    elif not is_in_hold:
        found.notes.append(history.state.detail)
    return Opened(history, found.open_cycle, found.restored, found.certificate, tuple(found.notes))
