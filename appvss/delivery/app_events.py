"""Where the news of the apps go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from appvss.model.app import AppId, Registration


class AppEvents(Protocol):
    """Where the news of the apps go. Called on the event loop; must not block."""

    def registered(self, registration: Registration) -> None:
        """An app has registered, as in force. A `left` follows exactly once."""

    def changed_policy(self, registration: Registration) -> None:
        """The administrator's word over a registered app is another one now: as in force from now on, no claim."""

    def left(self, app: AppId, reason: str, died: bool) -> None:
        """Its stream has ended; `died`: so has its process."""

    def ready(self, app: AppId, cycle: str) -> None:
        """It has prepared."""

    def froze(self, app: AppId, cycle: str, evidence: Mapping[str, str]) -> None:
        """Its ack."""

    def vetoed(self, app: AppId, cycle: str, reason: str, retryable: bool) -> None:
        """It refuses."""

    def lost_hold(self, app: AppId, cycle: str, reason: str) -> None:
        """Its hold has ended by itself."""

    def thawed(self, app: AppId, cycle: str, unbroken: bool, reason: str) -> None:
        """It holds nothing any more."""
