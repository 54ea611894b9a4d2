"""What waits for the history's thread, and for whom it is done."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TypeVar

from appvss.history.state import JournalFailed, ReadFailed
from appvss.model.journal import JournalEntry

_logger = logging.getLogger("appvss.history.jobs")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Read:
    """A question: its work, and who waits. `work` raises nothing."""

    work: Callable[[], None]
    refuse: Callable[[ReadFailed], None]


@dataclass(frozen=True, slots=True)
class Write:
    """A journal entry that is to be written."""

    entry: JournalEntry
    certificate: str
    written: Future[None]


def attempt(change: Callable[[], None]) -> str:
    """Why a change could not be made; empty: it was."""
    try:
        change()
    except JournalFailed as error:
        return str(error)
    except Exception as error:
        _logger.exception("a write of the history has met a defect")
        return f"the journal cannot be written: {error!r}"
    return ""


def settle(future: Future[_T], end: _T | Exception) -> None:
    """Give a future its end, unless whoever waits has had enough: then nobody looks."""
    try:
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)
    except InvalidStateError:
        _logger.debug("nobody waits for an answer of the history any more")
