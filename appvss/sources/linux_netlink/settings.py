"""What an administrator may set about the netlink connector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import ClassVar

from appvss.sources.linux_vss.settings import LinuxVssSettings
from appvss.sources.wire.linux_netlink import KERNEL

CONNECTOR = "/proc/net/connector"
"""The kernel's list of who uses the connector; in the machine's own network namespace alone."""
MAX_PORTID = 2**32 - 1


@dataclass(frozen=True, slots=True)
class LinuxNetlinkSettings(LinuxVssSettings):
    """Settings of the source for Linux's VSS driver over netlink.

    Raises:
        ConfigurationInvalid: values that cannot work; all of them are named.
    """

    NAME: ClassVar[str] = "linux_netlink"
    connector: str = CONNECTOR
    """Path of the list in which the driver stands as 10:1. Default: /proc/net/connector. The simulator's list is given
    here too."""
    kernel_portid: int = KERNEL
    """The netlink port id of the driver: the only sender that is believed, and where answers go. Default: 0, the
    kernel, which nobody else can have. The simulator has 10000001."""

    def _own_problems(self) -> Iterator[str]:
        if not PurePath(self.connector).is_absolute() or "\0" in self.connector:
            yield f"connector: {self.connector!r} is not an absolute path"
        if not 0 <= self.kernel_portid <= MAX_PORTID:
            yield f"kernel_portid: {self.kernel_portid} does not fit into 32 bits"
