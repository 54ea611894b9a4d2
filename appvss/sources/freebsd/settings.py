"""What an administrator may set about the FreeBSD device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePath

from appvss.model.duration import format_duration
from appvss.model.errors import ConfigurationInvalid
from appvss.model.policy import Overlap
from appvss.model.source import SourceMode
from appvss.sources.wire.freebsd import APP_DEVICE, FS_DEVICE, LAST_MOMENT, LIMIT

SECTION = "sources.freebsd"
"""Where these settings stand in the configuration."""


@dataclass(frozen=True, slots=True)
class FreebsdSettings:
    """Settings of the FreeBSD source.

    Raises:
        ConfigurationInvalid: values that cannot work; all of them are named.
    """

    device: str = APP_DEVICE
    """Path of the device. Default: /dev/hv_appvss_dev. The simulator's file is given here too."""
    mode: SourceMode = SourceMode.AUTOMATIC
    """Refuse to start without the device (`required`), wait for it (`automatic`), never look (`off`). Default:
    automatic."""
    budget: timedelta = LIMIT
    """How long the answer may take, from the driver's receipt of the request. Default, and most: 15s, the driver's own
    limit for apps and file systems together (facts/freebsd-vss.md section 3.4). Half a second of it is never used,
    because an answer that races the driver's timer breaks the driver (trap 13)."""
    filesystem_reserve: timedelta = timedelta(seconds=5)
    """How much of the budget of a freeze is left to `hv_vss_daemon`, which writes out dirty data and suspends the file
    systems after the apps have agreed, within the same 15 s. Default: 5s."""
    hold_limit: timedelta = timedelta(seconds=60)
    """How long apps stay frozen at most after a freeze was agreed to. Default: 60s. The driver sets no limit between
    freeze and thaw and may never send the thaw (section 3.4 and trap 6), so this one alone ends such a hold."""
    overlap: Overlap = Overlap.REFUSE
    """What becomes of a request while another requester's cycle is under way. Default: refuse."""

    def __post_init__(self) -> None:
        problems = tuple(self._problems())
        if problems:
            raise ConfigurationInvalid(SECTION, problems)

    def _problems(self) -> Iterator[str]:
        zero = timedelta(0)
        if not PurePath(self.device).is_absolute() or "\0" in self.device:
            yield f"device: {self.device!r} is not an absolute path"
        if PurePath(self.device).name == PurePath(FS_DEVICE).name:
            # It would answer every READ just as well, and the host would take the apps' word for the file systems'.
            yield f"device: {self.device} is the file systems' side; the apps' is {APP_DEVICE}"
        if not LAST_MOMENT < self.budget <= LIMIT:
            least, most = format_duration(LAST_MOMENT), format_duration(LIMIT)
            yield f"budget: {format_duration(self.budget)} is not more than {least} and at most {most}"
        if not zero <= self.filesystem_reserve < max(self.budget - LAST_MOMENT, timedelta.resolution):
            reserve, budget = format_duration(self.filesystem_reserve), format_duration(self.budget)
            yield f"filesystem_reserve: {reserve} leaves the apps nothing of the budget of {budget}"
        if self.hold_limit <= zero:
            yield f"hold_limit: {format_duration(self.hold_limit)} is no time to take a snapshot"
