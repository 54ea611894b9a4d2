"""What happens in a broker, as records for people and programs: `appvss watch`, the trace of a cycle."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from appvss.model.instant import Instant


class EventKind(StrEnum):
    """What happened. New kinds may come; a reader passes over those that it does not know."""

    CYCLE_BEGAN = "cycle_began"
    CYCLE_ADOPTED = "cycle_adopted"
    REQUESTER_JOINED = "requester_joined"
    REQUEST_QUEUED = "request_queued"
    MACHINE_RESTORED = "machine_restored"
    JOURNAL_WRITTEN = "journal_written"
    JOURNAL_FAILED = "journal_failed"
    CERTIFICATE_WRITTEN = "certificate_written"
    HISTORY_CHANGED = "history_changed"
    PHASE_CHANGED = "phase_changed"
    APP_REGISTERED = "app_registered"
    APP_LEFT = "app_left"
    APP_RETURNED = "app_returned"
    PREPARE_ASKED = "prepare_asked"
    APP_READY = "app_ready"
    FREEZE_ASKED = "freeze_asked"
    APP_FROZE = "app_froze"
    APP_FAILED = "app_failed"
    THAW_ASKED = "thaw_asked"
    APP_THAWED = "app_thawed"
    APP_SET_ASIDE = "app_set_aside"
    APP_APART = "app_apart"
    PATHS_INSPECTED = "paths_inspected"
    PATHS_LOCATED = "paths_located"
    FILESYSTEMS_PREPARED = "filesystems_prepared"
    FILESYSTEMS_FROZE = "filesystems_froze"
    FILESYSTEMS_LOST = "filesystems_lost"
    FILESYSTEMS_THAWED = "filesystems_thawed"
    SOURCE_ANSWERED = "source_answered"
    SOURCE_CHANGED = "source_changed"
    INPUT_REFUSED = "input_refused"
    CYCLE_ENDED = "cycle_ended"


class Event(NamedTuple):
    """One thing that happened. A tuple, because a cycle makes thousands of them while apps are held."""

    kind: EventKind
    at: Instant
    cycle: str = ""
    """The cycle that it belongs to; empty outside of one."""
    app: str = ""
    """The app that it is about, as text; empty when it is about none."""
    phase: str = ""
    """The phase in which the cycle is after it."""
    detail: str = ""
    """One printable sentence: a reason, an answer, a change."""
    took: timedelta | None = None
    """For an event that ends something: how long that took, by the broker's clock."""
