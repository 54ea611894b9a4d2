"""The options of sources: who may ask for a freeze, and with which limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Final

from appvss.broker.options import AbsolutePath, Count, Length, option
from appvss.model.policy import Overlap
from appvss.model.source import SourceMode
from appvss.model.toml_value import Choice
from appvss.sources.linux_vss.settings import LONGEST_FREEZE, KernelLimits, LinuxVssSettings
from appvss.sources.wire.freebsd import LAST_MOMENT

_INSTANT: Final = timedelta(0)
_TENTH: Final = timedelta(milliseconds=100)
_SECOND: Final = timedelta(seconds=1)
_MINUTE: Final = timedelta(minutes=1)
_HOUR: Final = timedelta(hours=1)
_MODES: Final = (
    "`required`: the broker refuses to start without the device. `automatic`: it waits for it and says so. "
    "`off`: it never looks for it."
)


def _overlap(whose: str) -> Mapping[str, object]:
    return option(
        Choice(Overlap),
        f"What becomes of {whose} while another requester's cycle is under way. `refuse`: the answer is no. `join`: it "
        "shares the hold of that cycle. `queue`: it waits for the end of that cycle, as long as its own time allows.",
    )


def _freeze_budget() -> Mapping[str, object]:
    return option(
        Length(_SECOND, LONGEST_FREEZE, "the kernel gives up after 15m"),
        "The time from the host's request to the end of the freeze, for apps and file systems together. Where the "
        "kernel waits for 10s alone (`kernel_limits`), 8s is the most that counts.",
    )


def _filesystem_reserve() -> Mapping[str, object]:
    return option(
        Length(_INSTANT, 10 * _MINUTE),
        "What of the budget the apps do not get, since the freeze of the file systems needs it. It must lie below "
        "`freeze_budget`, and is never more than half of what the kernel leaves of that.",
    )


def _kernel_limits() -> Mapping[str, object]:
    return option(
        Choice(KernelLimits),
        "How long the kernel waits for answers. `long`: 15m for a freeze, 30s for the rest. `short`: 10s for all. "
        "`automatic`: by its release, `long` from 4.10 on; some distributions have taken it over into older ones.",
    )


def _hold_limit() -> Mapping[str, object]:
    return option(
        Length(_SECOND, _HOUR),
        "The longest hold. When the host has not asked for the thaw by then, everything goes on and the verdict falls.",
    )


@dataclass(frozen=True, slots=True)
class FreebsdOptions:
    """Requests of the hypervisor through FreeBSD's app device."""

    mode: SourceMode = field(
        default=SourceMode.AUTOMATIC,
        metadata=option(
            Choice(SourceMode),
            "`required`: the broker refuses to start without the device. `automatic`: it waits for it and says so. "
            "`off`: it never looks for it.",
        ),
    )
    device: Path = field(
        default=Path("/dev/hv_appvss_dev"), metadata=option(AbsolutePath(), "The device. One program can have it open.")
    )
    budget: timedelta = field(
        default=timedelta(seconds=15),
        metadata=option(
            Length(_SECOND, timedelta(seconds=15), "the kernel gives apps and file systems 15s together"),
            "The time from the host's request to the end of the freeze, for apps and file systems together.",
        ),
    )
    filesystem_reserve: timedelta = field(
        default=timedelta(seconds=5),
        metadata=option(
            Length(_INSTANT, timedelta(seconds=14)),
            "What of the budget the apps do not get, since the file-system freeze that follows theirs needs it. It "
            "must lie below `budget`.",
        ),
    )
    hold_limit: timedelta = field(
        default=timedelta(seconds=60),
        metadata=option(
            Length(_SECOND, _HOUR),
            "The longest hold. When the host has not asked for the thaw by then, everything goes on and the verdict "
            "falls.",
        ),
    )
    overlap: Overlap = field(default=Overlap.REFUSE, metadata=_overlap("the host's freeze"))


@dataclass(frozen=True, slots=True)
class LinuxHvVssOptions:
    """Requests of a Hyper-V host through the device of Linux's VSS driver. The broker takes the place of
    hv_vss_daemon.
    """

    mode: SourceMode = field(default=SourceMode.AUTOMATIC, metadata=option(Choice(SourceMode), _MODES))
    device: Path = field(
        default=Path("/dev/vmbus/hv_vss"),
        metadata=option(AbsolutePath(), "The device. One program can have it open."),
    )
    freeze_budget: timedelta = field(default=_MINUTE, metadata=_freeze_budget())
    filesystem_reserve: timedelta = field(default=15 * _SECOND, metadata=_filesystem_reserve())
    hold_limit: timedelta = field(default=_MINUTE, metadata=_hold_limit())
    kernel_limits: KernelLimits = field(default=KernelLimits.AUTOMATIC, metadata=_kernel_limits())
    overlap: Overlap = field(default=Overlap.REFUSE, metadata=_overlap("the host's freeze"))


@dataclass(frozen=True, slots=True)
class LinuxNetlinkOptions:
    """Requests of a Hyper-V host through the netlink connector, the only way before Linux 4.2."""

    mode: SourceMode = field(
        default=SourceMode.AUTOMATIC,
        metadata=option(
            Choice(SourceMode),
            "`automatic`: it serves where the driver speaks over netlink and has no device. `required`: the broker "
            "refuses to start without the driver. `off`: it never looks for it.",
        ),
    )
    connector: Path = field(
        default=Path("/proc/net/connector"),
        metadata=option(AbsolutePath(), "The kernel's list of who speaks over the connector; the driver is `10:1`."),
    )
    kernel_portid: int = field(
        default=0,
        metadata=option(
            Count(0, 2**32 - 1),
            "The netlink port of the driver, the only sender that is believed: 0 is the kernel, anything else is for "
            "the simulator.",
        ),
    )
    freeze_budget: timedelta = field(default=_MINUTE, metadata=_freeze_budget())
    filesystem_reserve: timedelta = field(default=15 * _SECOND, metadata=_filesystem_reserve())
    hold_limit: timedelta = field(default=_MINUTE, metadata=_hold_limit())
    kernel_limits: KernelLimits = field(default=KernelLimits.AUTOMATIC, metadata=_kernel_limits())
    overlap: Overlap = field(default=Overlap.REFUSE, metadata=_overlap("the host's freeze"))


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """Requests of programs on this machine, such as `appvss freeze`."""

    mode: SourceMode = field(
        default=SourceMode.AUTOMATIC,
        metadata=option(
            Choice(SourceMode),
            "`off`: local requests are refused. The other two mean the same here: there is no device to wait for.",
        ),
    )
    freeze_budget: timedelta = field(
        default=timedelta(seconds=30),
        metadata=option(
            Length(_TENTH, _HOUR),
            "The time for prepare and freeze together when the requester names none, and the most that it may name.",
        ),
    )
    hold_limit: timedelta = field(
        default=timedelta(minutes=5),
        metadata=option(
            Length(_TENTH, 24 * _HOUR), "The longest hold when the requester names none, and the most that it may name."
        ),
    )
    overlap: Overlap = field(default=Overlap.REFUSE, metadata=_overlap("a local freeze"))


@dataclass(frozen=True, slots=True)
class HookOptions:
    """Requests of `appvss hook`, which is run once before a snapshot and once after it."""

    mode: SourceMode = field(
        default=SourceMode.AUTOMATIC,
        metadata=option(
            Choice((SourceMode.AUTOMATIC, SourceMode.OFF)), "`off`: hooks are refused. There is no device to wait for."
        ),
    )
    freeze_budget: timedelta = field(
        default=30 * _SECOND,
        metadata=option(
            Length(_TENTH, _HOUR),
            "The time for prepare and freeze together when the hook names none, and the most that it may name. QEMU's "
            "guest agent answers nobody meanwhile.",
        ),
    )
    hold_limit: timedelta = field(
        default=_MINUTE,
        metadata=option(
            Length(_TENTH, _HOUR), "The longest hold when the hook names none, and the most that it may name."
        ),
    )
    overlap: Overlap = field(default=Overlap.REFUSE, metadata=_overlap("a hook's freeze"))


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Who may ask for a freeze, and with which limits."""

    freebsd: FreebsdOptions = field(default_factory=FreebsdOptions)
    linux_hv_vss: LinuxHvVssOptions = field(default_factory=LinuxHvVssOptions)
    linux_netlink: LinuxNetlinkOptions = field(default_factory=LinuxNetlinkOptions)
    local: LocalOptions = field(default_factory=LocalOptions)
    hook: HookOptions = field(default_factory=HookOptions)


AnySource = FreebsdOptions | LinuxHvVssOptions | LinuxNetlinkOptions | LocalOptions | HookOptions


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """How much time a freeze of a source has."""

    budget: timedelta
    """From the request to the answer."""
    reserve: timedelta
    """What of it the apps do not get."""
    hold_limit: timedelta


def limits_of(options: AnySource) -> SourceLimits:
    """The limits of one source."""
    if isinstance(options, FreebsdOptions):
        return SourceLimits(options.budget - LAST_MOMENT, options.filesystem_reserve, options.hold_limit)
    if isinstance(options, LinuxHvVssOptions | LinuxNetlinkOptions):
        settings = LinuxVssSettings(
            freeze_budget=options.freeze_budget,
            filesystem_reserve=options.filesystem_reserve,
            kernel_limits=options.kernel_limits,
        )
        budgets = settings.budgets(os.uname().release)
        return SourceLimits(budgets.freeze, budgets.reserve, options.hold_limit)
    return SourceLimits(options.freeze_budget, _INSTANT, options.hold_limit)


def sources_of(options: SourceOptions) -> tuple[tuple[str, AnySource], ...]:
    """All sources by their names."""
    return tuple((one.name, getattr(options, one.name)) for one in fields(options))
