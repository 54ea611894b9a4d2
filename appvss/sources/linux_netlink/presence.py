"""Whether the driver is there, and whether anybody else serves it. Everything here reads /proc: call it in a thread.

The driver says nothing when it comes or goes, and a registration that nobody takes succeeds all the same; all that can
be seen is the connector's list (facts/linux-hv-vss.md sections 0 fact 15, and 3.1).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from appvss.model.errors import DeviceAbsent, DeviceBusy, SourceError
from appvss.model.names import printable
from appvss.model.source import SourceMode
from appvss.sources.linux_netlink.settings import LinuxNetlinkSettings
from appvss.sources.linux_vss.holder import STOCK, STOCK_HINT, holder_of_link
from appvss.sources.wire.linux_netlink import GROUP, VALUE, driver_name, members

SOCKETS: Final = Path("/proc/self/net/netlink")
"""The netlink sockets of this network namespace."""
_TABLE_LIMIT: Final = 1 << 20
"""How many characters of a table are read; one of sockets has about 90 for each."""
_NAME_LIMIT: Final = 40


def look(settings: LinuxNetlinkSettings, device: Path, portid: int | None) -> str:
    """The driver's name in the connector's list, if this source is to serve it.

    Args:
        settings: what the administrator set.
        device: the driver's character device.
        portid: of our own socket, which is no rival; None: there is none yet.

    Raises:
        SourceError: the driver is not there, its device is there and better, or somebody else serves it.
    """
    name = _listed(settings.connector)
    if settings.mode is SourceMode.AUTOMATIC and os.path.lexists(device):
        raise SourceError(
            f"{device} is there and is used instead: it admits one program alone, and netlink does not",
            "Nothing needs to be done; set this source's mode to `required` to use netlink all the same.",
        )
    rivals = {port: inode for port, inode in members(_sockets()).items() if port != portid}
    if rivals:
        raise _busy(*next(iter(rivals.items())))
    return name


def _busy(portid: int, inode: int) -> SourceError:
    pid, program = holder_of_link(f"socket:[{inode}]") or (None, "")
    name = f"process {pid} ({printable(program, _NAME_LIMIT)})" if pid else f"whoever has the netlink port id {portid}"
    return DeviceBusy(
        f"{name} serves the driver, too, and whoever replies first speaks for both",
        STOCK_HINT if program == STOCK else "Stop that program, or set this source to `off`.",
    )


def _listed(connector: str) -> str:
    try:
        name = driver_name(_read(Path(connector)))
    except OSError as error:
        raise DeviceAbsent(
            f"{connector} cannot be read: {error.strerror}",
            "The list is there in the machine's own network namespace alone, on a kernel with CONFIG_CONNECTOR.",
        ) from error
    if not name:
        raise DeviceAbsent(
            f"{connector} does not list {GROUP}:{VALUE}: the VSS driver is not loaded",
            'Check that this is a Hyper-V guest, that the host offers it the service "Backup (volume checkpoint)", and '
            "that the module hv_utils is loaded.",
        )
    return printable(name, _NAME_LIMIT)


def _sockets() -> str:
    try:
        return _read(SOCKETS)
    except OSError:  # a process that may not see it must go without
        return ""


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_TABLE_LIMIT)
