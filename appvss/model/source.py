"""What is known of a source: its mode, as configured, and its condition, as it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from appvss.model.instant import Instant


class SourceMode(StrEnum):
    """What the broker does when the source's device is not there."""

    REQUIRED = "required"
    """Refuse to start."""
    AUTOMATIC = "automatic"
    """Wait for it, and say so."""
    OFF = "off"
    """Never look for it."""


class SourceCondition(StrEnum):
    """How a source is doing."""

    OFF = "off"
    WAITING = "waiting"
    """Its device is not there, or busy; it tries again."""
    SERVING = "serving"
    """Requests can come."""
    LOST = "lost"
    """Its device went away; whatever it held has been let go; it tries again."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """One source, as `appvss status` shows it."""

    name: str
    mode: SourceMode
    condition: SourceCondition
    since: Instant
    detail: str = ""
    """One sentence: the device's path, or why it is not serving and what to do."""
