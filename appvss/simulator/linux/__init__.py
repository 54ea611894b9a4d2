"""Linux's Hyper-V VSS driver as a real file: a FUSE mount with `hv_vss`, and a host."""

from appvss.simulator.event import Event, EventKind
from appvss.simulator.host import BackupResult, Host, HostOutcome, HostResult
from appvss.simulator.hyperv import HostOperation, HostStatus
from appvss.simulator.linux.driver import DriverState, Phase
from appvss.simulator.linux.kernel import MODERN, Kernel, kernel_of
from appvss.simulator.linux.simulator import LinuxSimulator

__all__ = [
    "LinuxSimulator",
    "Kernel",
    "MODERN",
    "kernel_of",
    "DriverState",
    "Phase",
    "Host",
    "HostOperation",
    "HostOutcome",
    "HostResult",
    "HostStatus",
    "BackupResult",
    "Event",
    "EventKind",
]
