"""What a failed open or a failed registration of the device means, in words."""

from __future__ import annotations

import errno
import os

from appvss.model.errors import DeviceAbsent, DeviceBusy, DeviceForbidden, DeviceWrong, SourceError
from appvss.model.names import printable
from appvss.sources.linux_vss.holder import STOCK, STOCK_HINT, holder_of
from appvss.sources.wire.linux_hv_vss import DEVICE

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_REMOVED = (errno.ENXIO, errno.ENODEV, errno.EBADF)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def refused_open(path: str, error: OSError) -> SourceError:
    """The error for an open(2) that failed (errno: facts/linux-hv-vss.md section 1.3).

    Looks through /proc for whoever has the device open, when that is why.
    """
    if error.errno in _ABSENT:
        return DeviceAbsent(
            f"{path} does not exist",
            'Check that this is a Hyper-V guest, that the host offers it the service "Backup (volume checkpoint)", and '
            "that the module hv_utils is loaded. A container sees the device only if it is given to it.",
        )
    if error.errno in _REMOVED:
        return removed(path)
    if error.errno == errno.EBUSY:
        return _busy(path)
    if error.errno in _FORBIDDEN:
        return DeviceForbidden(
            f"uid {os.geteuid()} may not open {path}",
            "Run the broker as root, or give it the device by a rule of udev.",
        )
    return _wrong(path, f"it cannot be opened: {error.strerror}")


def removed(path: str) -> SourceError:
    """The error for a device that is on its way out."""
    return DeviceAbsent(
        f"{path} is being removed",
        'Check that the host still offers this guest the service "Backup (volume checkpoint)".',
    )


def unlike_device(path: str, reason: str) -> SourceError:
    """The error for what can be opened and behaves as the device never does."""
    return _wrong(path, reason)


def _busy(path: str) -> SourceError:
    holder = holder_of(path)
    if holder is None:
        return DeviceBusy(
            f"{path} is open in another process, and it admits only one",
            f"`fuser -v {path}` as root names that process; stop it, or set this source to `off`.",
        )
    pid, program = holder
    sentence = f"{path} is open in process {pid} ({printable(program, 32)}), and it admits only one"
    if program == STOCK:
        return DeviceBusy(sentence, STOCK_HINT)
    return DeviceBusy(sentence, "Stop that process, or set this source to `off`.")


def _wrong(path: str, reason: str) -> SourceError:
    return DeviceWrong(
        f"{path} is not the driver's device: {reason}",
        f"Give the path of Linux's {DEVICE}, or of the simulator's file.",
    )
