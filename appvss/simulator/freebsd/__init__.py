"""FreeBSD's Hyper-V VSS driver as two real files: a FUSE mount with `hv_appvss_dev` and `hv_fsvss_dev`, and a host."""

from appvss.simulator.event import Event, EventKind, Side
from appvss.simulator.freebsd.fs_side import FsAnswer, FsSide
from appvss.simulator.freebsd.simulator import FreebsdSimulator
from appvss.simulator.host import BackupResult, Host, HostOutcome, HostResult
from appvss.simulator.hyperv import HostOperation, HostStatus, Version

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
