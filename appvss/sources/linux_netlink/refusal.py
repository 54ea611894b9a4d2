"""What a failed system call on the netlink socket means, in words."""

from __future__ import annotations

import errno
import os

from appvss.model.errors import DeviceAbsent, DeviceForbidden, DeviceWrong, SourceError
from appvss.sources.wire.linux_netlink import GROUP, KERNEL

_NO_CONNECTOR = (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EPROTOTYPE)
_FORBIDDEN = (errno.EPERM, errno.EACCES)
_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


def refused_socket(error: OSError) -> SourceError:
    """The error for a socket that could not be made or bound."""
    if error.errno in _NO_CONNECTOR:
        return DeviceAbsent(
            "this kernel has no netlink connector",
            "Use a kernel with CONFIG_CONNECTOR, or the character device /dev/vmbus/hv_vss, or set this source to "
            "`off`.",
        )
    if error.errno in _FORBIDDEN:
        return DeviceForbidden(
            f"uid {os.geteuid()} may not make a netlink socket",
            "Allow AF_NETLINK where the broker is confined: RestrictAddressFamilies= in the unit, or SELinux.",
        )
    if error.errno in _DESCRIPTORS:
        return SourceError(
            f"no netlink socket can be made: {error.strerror}", "Look at this process's limits for descriptors."
        )
    return DeviceWrong(
        f"no netlink socket can be made: {error.strerror}", "Look into the kernel's log; nothing of ours is wrong."
    )


def refused_join(error: OSError) -> SourceError:
    """The error for a multicast group that could not be joined (facts/linux-hv-vss.md section 3.4)."""
    if error.errno in _FORBIDDEN:
        return DeviceForbidden(
            f"uid {os.geteuid()} may not join the netlink group {GROUP}: CAP_NET_ADMIN is missing",
            "Run the broker as root or give it CAP_NET_ADMIN (AmbientCapabilities= and CapabilityBoundingSet= in the "
            "unit); in a container it must be the machine's own, not one of a user namespace.",
        )
    return DeviceWrong(
        f"the netlink group {GROUP} cannot be joined: {error.strerror}", "Look whether the kernel has CONFIG_CONNECTOR."
    )


def refused_registration(portid: int, error: OSError) -> SourceError:
    """The error for a registration that could not be sent. A driver that is not there gives none (section 3.5)."""
    if error.errno != errno.ECONNREFUSED:
        return DeviceWrong(
            f"the registration cannot be sent to port id {portid}: {error.strerror}", "Look at `kernel_portid`."
        )
    if portid == KERNEL:
        return DeviceAbsent(
            "the kernel's connector is not in this network namespace",
            "Run the broker in the machine's own network namespace; with the simulator, set `kernel_portid`.",
        )
    return DeviceAbsent(
        f"nobody has the netlink port id {portid} in this network namespace",
        "Start `appvss simulate linux DIR --netlink` in the same network namespace, or set `kernel_portid` to 0.",
    )
