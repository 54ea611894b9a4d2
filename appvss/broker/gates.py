"""Everything that must write nothing while a file system may be frozen, as one gate."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final, Protocol

from appvss.sources.base import Source

SETTLE_LIMIT: Final = timedelta(milliseconds=250)
"""How long a file-system freeze waits for what is being written. Whoever does not read the log for longer, or a disk
that takes longer, must not keep the apps frozen."""


class Gate(Protocol):
    """What writes to a disk, and must not while a file system may be frozen."""

    def set_gate(self, *, is_open: bool) -> None:
        """Closed: keep what there is to write in memory."""

    def is_settled(self) -> bool:
        """Whether nothing is being written. With the gate closed it stays so."""

    def settle(self, limit: timedelta) -> bool:
        """Wait until what was being written when the gate was closed is written; False if that takes too long. Blocks
        for `limit` at most.
        """


class Gates:
    """Closes and opens all of them together.

    Args:
        gates: what writes to a disk.
        sources: what may start a process.
    """

    def __init__(self, gates: Iterable[Gate], sources: Iterable[Source]) -> None:
        self._gates = tuple(gates)
        self._sources = tuple(sources)

    def set_gate(self, *, is_open: bool) -> None:
        """Closed: nothing is begun that writes or starts a process."""
        for gate in self._gates:
            gate.set_gate(is_open=is_open)
        for source in self._sources:
            source.set_gate(is_open=is_open)

    def is_settled(self) -> bool:
        """Whether nothing is being written."""
        return all(gate.is_settled() for gate in self._gates)

    def settle(self, limit: timedelta) -> bool:
        """Wait until what was being written when the gate was closed is written; False if that takes too long. Blocks
        for `limit` at most, whatever number of gates there is.
        """
        share = limit / max(len(self._gates), 1)
        settled = [gate.settle(share) for gate in self._gates]  # each gets its time, whatever the others say
        return all(settled)
