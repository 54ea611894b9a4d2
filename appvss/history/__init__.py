"""The journal of the running cycle, the certificate, and the history of past cycles: what outlives a broker."""

from __future__ import annotations

from appvss.history.boot import boot_identity
from appvss.history.opening import Opened, open_state
from appvss.history.reader import Reader, read_history
from appvss.history.state import HistoryCondition, HistoryState, JournalFailed, ReadFailed
from appvss.history.store import History

__all__ = [
    "History",
    "HistoryCondition",
    "HistoryState",
    "Opened",
    "ReadFailed",
    "Reader",
    "JournalFailed",
    "boot_identity",
    "open_state",
    "read_history",
]
