"""The broker's door to Linux's Hyper-V VSS driver over the netlink connector, for kernels without the character device
(facts/linux-hv-vss.md section 3).
"""

from __future__ import annotations

from appvss.sources.linux_netlink.settings import LinuxNetlinkSettings
from appvss.sources.linux_netlink.source import LinuxNetlinkSource

__all__ = ["LinuxNetlinkSettings", "LinuxNetlinkSource"]
