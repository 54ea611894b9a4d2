"""What the administrator's configuration decides, and where each value comes from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Overlap(StrEnum):
    """What becomes of a source's freeze while a cycle of another source is under way."""

    REFUSE = "refuse"
    """It is told no at once."""
    JOIN = "join"
    """It shares the hold of the running cycle, which lasts until the last of its requesters asks for the thaw. A check
    cannot join: it is queued."""
    QUEUE = "queue"
    """It waits for the end of the running cycle, as long as its own time allows."""


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """One value in force, for people."""

    key: str
    """What it decides, such as `requirement` or `sources.freebsd.overlap`."""
    value: str
    """As the configuration would write it."""
    origin: str
    """Who said so: `built-in`, `the app`, `command line`, or the place in the configuration file, such as
    `apps.policy "orders-*"`."""
