"""FreeBSD's Hyper-V VSS driver as two real files: a FUSE mount with `hv_appvss_dev` and `hv_fsvss_dev`, and a host."""

from appvss.simulator.freebsd.event import Event, EventKind, Side
from appvss.simulator.freebsd.fs_side import FsAnswer, FsSide
from appvss.simulator.freebsd.host import BackupResult, Host, HostOutcome, HostResult
from appvss.simulator.freebsd.hyperv import HostOperation, HostStatus, Version
from appvss.simulator.freebsd.simulator import FreebsdSimulator

__all__ = [
    "FreebsdSimulator",
    "Host",
    "HostOperation",
    "HostOutcome",
    "HostResult",
    "HostStatus",
    "BackupResult",
    "Version",
    "FsAnswer",
    "FsSide",
    "Event",
    "EventKind",
    "Side",
]
