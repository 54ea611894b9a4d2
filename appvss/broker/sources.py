"""The sources of a broker, made from its configuration."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from appvss.broker.configuration import Configuration
from appvss.model.policy import Overlap
from appvss.model.source import SourceMode
from appvss.sources.base import Clock, Source
from appvss.sources.freebsd import FreebsdSettings, FreebsdSource
from appvss.sources.hook import HookSource
from appvss.sources.linux_hv_vss import LinuxHvVssSettings, LinuxHvVssSource
from appvss.sources.linux_netlink import LinuxNetlinkSettings, LinuxNetlinkSource
from appvss.sources.local import HOOK, REHEARSAL, LocalSettings, LocalSource


@dataclass(frozen=True, slots=True)
class Sources:
    """Every source of one broker."""

    known: Mapping[str, Source]
    """Those that administrators see, by their names."""
    local: LocalSource
    hooks: HookSource
    rehearsals: LocalSource


def make_sources(configuration: Configuration, clock: Clock) -> Sources:
    """The sources with their settings as configured; none serves before it is run."""
    local = LocalSource(_local_settings(configuration), clock)
    hooks = HookSource(_hook_settings(configuration), clock)
    known: Mapping[str, Source] = {
        "freebsd": FreebsdSource(_freebsd_settings(configuration), clock),
        "linux_hv_vss": LinuxHvVssSource(_linux_hv_vss_settings(configuration), clock),
        "linux_netlink": LinuxNetlinkSource(
            _linux_netlink_settings(configuration), clock, device=configuration.sources.linux_hv_vss.device
        ),
        "local": local,
        HOOK: hooks,
    }
    return Sources(known, local, hooks, LocalSource(_rehearsal_settings(configuration), clock, REHEARSAL))


def _local_settings(configuration: Configuration) -> LocalSettings:
    local = configuration.sources.local
    return LocalSettings(local.mode, local.freeze_budget, local.hold_limit, local.overlap)


def _hook_settings(configuration: Configuration) -> LocalSettings:
    hook = configuration.sources.hook
    return LocalSettings(hook.mode, hook.freeze_budget, hook.hold_limit, hook.overlap)


def _rehearsal_settings(configuration: Configuration) -> LocalSettings:
    """Rehearsals have the limits of local requests, and may always be asked for."""
    return replace(_local_settings(configuration), mode=SourceMode.AUTOMATIC, overlap=Overlap.REFUSE)


def _freebsd_settings(configuration: Configuration) -> FreebsdSettings:
    freebsd = configuration.sources.freebsd
    return FreebsdSettings(
        device=str(freebsd.device),
        mode=freebsd.mode,
        budget=freebsd.budget,
        filesystem_reserve=freebsd.filesystem_reserve,
        hold_limit=freebsd.hold_limit,
        overlap=freebsd.overlap,
    )


def _linux_hv_vss_settings(configuration: Configuration) -> LinuxHvVssSettings:
    options = configuration.sources.linux_hv_vss
    return LinuxHvVssSettings(
        device=str(options.device),
        mode=_linux_mode(options.mode),
        freeze_budget=options.freeze_budget,
        filesystem_reserve=options.filesystem_reserve,
        hold_limit=options.hold_limit,
        overlap=options.overlap,
        kernel_limits=options.kernel_limits,
    )


def _linux_netlink_settings(configuration: Configuration) -> LinuxNetlinkSettings:
    options = configuration.sources.linux_netlink
    return LinuxNetlinkSettings(
        connector=str(options.connector),
        kernel_portid=options.kernel_portid,
        mode=_linux_mode(options.mode),
        freeze_budget=options.freeze_budget,
        filesystem_reserve=options.filesystem_reserve,
        hold_limit=options.hold_limit,
        overlap=options.overlap,
        kernel_limits=options.kernel_limits,
    )


def _linux_mode(mode: SourceMode) -> SourceMode:
    """Nothing is looked for in vain where Linux's driver cannot be."""
    return mode if sys.platform.startswith("linux") or mode is SourceMode.REQUIRED else SourceMode.OFF
