"""The netlink side of Linux's VSS driver on a real connector socket, in a private network namespace, and a host."""

from appvss.simulator.linux_netlink.kernel import MODERN, NetlinkKernel, kernel_of
from appvss.simulator.linux_netlink.port import PORTID
from appvss.simulator.linux_netlink.simulator import NetlinkSimulator

__all__ = ["MODERN", "PORTID", "NetlinkKernel", "NetlinkSimulator", "kernel_of"]
