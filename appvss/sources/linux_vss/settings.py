"""What an administrator may set about Linux's VSS driver, however it is reached, and what a kernel leaves of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar, Final

from appvss.model.duration import format_duration
from appvss.model.errors import ConfigurationInvalid
from appvss.model.policy import Overlap
from appvss.model.source import SourceMode
from appvss.sources.wire.linux_hv_vss import LONG_LIMITS, SHORT_LIMITS, Limits, limits_of


def margin_of(limit: timedelta) -> timedelta:
    """How long before the kernel's limit the answer is given at the latest: 5 s of 30 s and more, 2 s of 10 s.

    The kernel began to count before we had read the operation, and an answer that comes too late is worse than none:
    it answers the operation after it (facts/linux-hv-vss.md section 7.1, C23).
    """
    return min(timedelta(seconds=5), limit / 5)


LONGEST_FREEZE: Final = LONG_LIMITS.freeze - margin_of(LONG_LIMITS.freeze)
LONGEST_CHECK: Final = LONG_LIMITS.check - margin_of(LONG_LIMITS.check)


class KernelLimits(StrEnum):
    """How long the kernel waits for answers."""

    AUTOMATIC = "automatic"
    """By the kernel's release: `long` from 4.10 on."""
    LONG = "long"
    """15 minutes for a freeze, 30 s for the rest: also some older kernels of distributions."""
    SHORT = "short"
    """10 s for everything."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """How long the answer to each operation may take here, from its reading on; and the kernel's own limits."""

    freeze: timedelta
    thaw: timedelta
    check: timedelta
    reserve: timedelta
    """What of a freeze's belongs to the file systems."""
    limits: Limits


@dataclass(frozen=True, slots=True)
class LinuxVssSettings:
    """What the settings of both sources for Linux's VSS driver have in common.

    Raises:
        ConfigurationInvalid: values that cannot work; all of them are named.
    """

    NAME: ClassVar[str]
    """The source's name in requests, states, logs and the configuration."""

    mode: SourceMode = SourceMode.AUTOMATIC
    """Refuse to start without the driver (`required`), wait for it (`automatic`), never look (`off`). Default:
    automatic."""
    freeze_budget: timedelta = timedelta(seconds=60)
    """How long a freeze may take, apps and file systems together. Default: 60s; at most 895s, because the kernel waits
    for 15 minutes (facts/linux-hv-vss.md section 1.5). On a kernel that waits for 10 s alone it is 8s, whatever stands
    here."""
    filesystem_reserve: timedelta = timedelta(seconds=15)
    """How much of the budget of a freeze is left to the file systems, which are frozen after the apps have agreed.
    Default: 15s. It is never more than half of the budget, or of what the kernel leaves of that."""
    check_budget: timedelta = LONGEST_CHECK
    """How long the answer to HOT_BACKUP may take, with which the host asks whether a freeze would work. Default, and
    most: 25s of the kernel's 30 s; 8s where it waits for 10 s."""
    hold_limit: timedelta = timedelta(seconds=60)
    """How long apps and file systems stay frozen at most after a freeze was agreed to. Default: 60s. The kernel sets no
    limit between freeze and thaw, and its agreement is no proof that a thaw follows (section 0, fact 9), so this one
    alone ends such a hold."""
    overlap: Overlap = Overlap.REFUSE
    """What becomes of a request while another requester's cycle is under way. Default: refuse."""
    kernel_limits: KernelLimits = KernelLimits.AUTOMATIC
    """How long the kernel waits for answers. Default: automatic, by its release."""

    def __post_init__(self) -> None:
        problems = tuple(self._problems())
        if problems:
            raise ConfigurationInvalid(f"sources.{self.NAME}", problems)

    def budgets(self, release: str) -> Budgets:
        """What may be used of these times on a kernel.

        Args:
            release: the kernel's, as os.uname tells it.
        """
        match self.kernel_limits:
            case KernelLimits.LONG:
                limits = LONG_LIMITS
            case KernelLimits.SHORT:
                limits = SHORT_LIMITS
            case KernelLimits.AUTOMATIC:
                limits = limits_of(release)
        freeze = min(self.freeze_budget, limits.freeze - margin_of(limits.freeze))
        return Budgets(
            freeze=freeze,
            thaw=limits.thaw - margin_of(limits.thaw),
            check=min(self.check_budget, limits.check - margin_of(limits.check)),
            reserve=min(self.filesystem_reserve, freeze / 2),
            limits=limits,
        )

    def _own_problems(self) -> Iterator[str]:
        """What is wrong with the settings that one source has alone."""
        yield from ()

    def _problems(self) -> Iterator[str]:
        yield from self._own_problems()
        zero = timedelta(0)
        for key, value, most in (
            ("freeze_budget", self.freeze_budget, LONGEST_FREEZE),
            ("check_budget", self.check_budget, LONGEST_CHECK),
        ):
            if not zero < value <= most:
                yield f"{key}: {format_duration(value)} is not between nothing and {format_duration(most)}"
        if self.filesystem_reserve < zero:
            yield f"filesystem_reserve: {format_duration(self.filesystem_reserve)} is less than nothing"
        if self.hold_limit <= zero:
            yield f"hold_limit: {format_duration(self.hold_limit)} is no time to take a snapshot"
