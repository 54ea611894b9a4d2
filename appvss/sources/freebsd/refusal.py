"""What a failed open or a failed first READ of the device means, in words."""

from __future__ import annotations

import errno
import os

from appvss.model.errors import DeviceAbsent, DeviceBusy, DeviceForbidden, DeviceWrong, SourceError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_DETACHED = (errno.ENXIO, errno.ENODEV)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def refused_open(path: str, error: OSError) -> SourceError:
    """The error for an open(2) that failed (errno: facts/freebsd-vss.md section 2.4)."""
    if error.errno in _ABSENT:
        return DeviceAbsent(
            f"{path} does not exist",
            'Check that this is a Hyper-V guest, that the host offers it the service "Backup (volume checkpoint)", and '
            "that the driver is loaded: see hv_vss(4). A jail does not see the device.",
        )
    if error.errno in _DETACHED:
        return _without_driver(path)
    if error.errno == errno.EBUSY:
        return DeviceBusy(
            f"{path} is open in another process, and it admits only one",
            f"`fstat {path}` on FreeBSD, or `fuser {path}`, names that process; stop it, or set this source to `off`.",
        )
    if error.errno in _FORBIDDEN:
        return DeviceForbidden(
            f"uid {os.geteuid()} may not open {path}",
            "Run the broker as root or as a member of the device's group: wheel, or the one that devfs.rules gives it.",
        )
    return _wrong(path, f"it cannot be opened: {error.strerror}")


def refused_read(path: str, error: OSError) -> SourceError:
    """The error for a READ that failed on a descriptor that was opened just now."""
    if error.errno in _DETACHED:
        return _without_driver(path)
    return _wrong(path, f"it does not answer the driver's READ: {error.strerror}")


def unfilled_read(path: str) -> SourceError:
    """The error for a READ that succeeded and brought what the driver never brings."""
    return _wrong(path, "its READ brings no message of the driver")


def _without_driver(path: str) -> SourceError:
    return DeviceAbsent(
        f"{path} has no driver behind it any more",
        'Check that the host still offers this guest the service "Backup (volume checkpoint)".',
    )


def _wrong(path: str, reason: str) -> SourceError:
    return DeviceWrong(
        f"{path} is not the driver's device: {reason}",
        "Give the path of FreeBSD's /dev/hv_appvss_dev, or of the simulator's file; see hv_vss(4).",
    )
