"""Where a cycle is."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a cycle is (ARCHITECTURE section 4, with three additions: `idle`, `prepared` and
    `certifying`).

    `prepared` exists because on Hyper-V check and freeze are two requests of one snapshot: what was prepared for the
    check serves the freeze that follows, under the same cycle id.
    """

    IDLE = "idle"
    """No cycle since the broker started."""
    REQUESTED = "requested"
    """The request has come; the journal is being written; no app has been asked to freeze."""
    PREPARING = "preparing"
    PREPARED = "prepared"
    """A check has been answered; the freeze is awaited. Nothing is held."""
    FREEZING_APPS = "freezing_apps"
    CERTIFYING = "certifying"
    """Every app is held; the certificate is being written, so that the snapshot carries it."""
    FREEZING_FILESYSTEMS = "freezing_filesystems"
    HOLDING = "holding"
    THAWING_FILESYSTEMS = "thawing_filesystems"
    THAWING_APPS = "thawing_apps"
    COMPLETED = "completed"
    ABORTING = "aborting"
    ABORTED = "aborted"

    @property
    def is_resting(self) -> bool:
        """Whether no cycle is under way, so that a new one may begin."""
        return self in _RESTING


_RESTING = frozenset({Phase.IDLE, Phase.COMPLETED, Phase.ABORTED})
