"""An app that is held under the eyes of a witness, for the tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from appvss.model.app import AppId
from appvss.model.instant import Instant
from appvss.witness import Witness

BOUND = timedelta(seconds=20)
APP = AppId("orders-db")


class MachineClock:
    """The real clocks."""

    def now(self) -> Instant:
        return Instant(timedelta(microseconds=time.monotonic_ns() // 1000))

    def wall(self) -> timedelta:
        return timedelta(microseconds=time.time_ns() // 1000)


CLOCK = MachineClock()


@contextmanager
def witness(**arguments: int | timedelta) -> Iterator[Witness]:
    """A witness, ended with the block."""
    made = Witness(CLOCK, **arguments)  # type: ignore[arg-type] # named by the test
    try:
        yield made
    finally:
        made.close(BOUND)


def begin(witness: Witness, cycle: str, *paths: Path, app: AppId = APP) -> None:
    """The app acks."""
    witness.begin(cycle, app, tuple(str(path) for path in paths))


def said(witness: Witness, cycle: str, limit: timedelta = BOUND) -> Mapping[AppId, str]:
    """What the witness says of the hold so far."""
    return witness.inspect(cycle, limit).result(2 * BOUND.total_seconds())
