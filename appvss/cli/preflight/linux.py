"""What a freeze needs of Linux: the Hyper-V device for whoever serves a host, and the rights of whoever freezes."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from appvss.cli.preflight.devices import holders, is_of
from appvss.cli.preflight.finding import Daemon, Finding, Plan, ok, problem, warning
from appvss.model.names import printable

STOCK: Final = "hv_vss_daemon"
"""The program that comes with Linux for this device."""
SERVICES: Final = {
    "hv-vss-daemon": "Debian, Ubuntu",
    "hypervvssd": "Red Hat, Fedora, Oracle",
    "hv_vss_daemon": "SUSE",
}
"""Its service, by distribution."""
BACKUP: Final = "{35fa2e29-ea23-4236-96ae-3a6ebacba440}"
"""The class of the channel that a host offers with its service "Backup" (facts/linux-hv-vss.md section 1.1)."""
_CHANNELS: Final = Path("/sys/bus/vmbus/devices")
_RIGHTS: Final = {
    21: ("CAP_SYS_ADMIN", "the kernel refuses to freeze and to thaw file systems"),
    14: ("CAP_IPC_LOCK", "the guardian may be swapped out, and be late with a thaw"),
    19: ("CAP_SYS_PTRACE", "what is mounted in other namespaces, and who holds a device, cannot be seen"),
}
"""capabilities(7) that freezing needs, by their numbers, and what comes of it without each."""
_VITAL: Final = 21


def hyperv_device(plan: Plan, daemon: Daemon | None, channels: Path = _CHANNELS) -> Finding:
    """The Hyper-V device of Linux's VSS driver. It is never opened: that alone registers somebody with the driver.

    Args:
        plan: what is configured.
        daemon: the broker that runs; None: none does.
        channels: what Hyper-V offers this guest, as sysfs shows it.
    """
    check, path = "device_linux_hv_vss", plan.linux_device
    if plan.linux_device_mode == "off":
        return ok(check, "sources.linux_hv_vss is off, as configured")
    if daemon is not None and daemon.linux_device:
        return ok(check, f"the broker has {daemon.linux_device} open and serves it")
    try:
        path.stat()
    except OSError as error:
        return _absent(check, plan, channels, error)
    if not os.access(path, os.R_OK | os.W_OK):
        return problem(
            check,
            f"user {os.geteuid()} may not open {path}",
            "Run the broker as root, or give it the device by a rule of udev.",
        )
    others = [(pid, name) for pid, name in holders(path) if daemon is None or not is_of(pid, daemon.pid)]
    if others:
        names = ", ".join(name for _, name in others)
        return problem(check, f"{path} is held by {names}, and it admits only one", _cure(others))
    return ok(check, f"{path} is there, may be opened, and is held by nobody else")


def _cure(others: list[tuple[int, str]]) -> str:
    if not any(f"({STOCK})" in name for _, name in others):
        return "Stop that process, or set this source to `off`."
    services = "; ".join(f"{name} ({where})" for name, where in SERVICES.items())
    return (
        f"The broker takes that daemon's place: `systemctl mask --now` its service, which is {services}. To disable it "
        "is not enough, since a rule of udev starts it with the device."
    )


def _absent(check: str, plan: Plan, channels: Path, error: OSError) -> Finding:
    sentence = f"{plan.linux_device} is not there"
    if error.errno not in (errno.ENOENT, errno.ENOTDIR):
        sentence = f"{plan.linux_device} cannot be looked at: {printable(str(error.strerror).lower())}"
    what, hint = _why_absent(channels)
    if plan.linux_device_mode == "required":
        return problem(
            check, f"{sentence}, and sources.linux_hv_vss.mode is required: the broker does not start; {what}", hint
        )
    if channels.is_dir():
        return warning(check, f"{sentence}: no freeze of the host reaches the broker; {what}", hint)
    return ok(check, f"{sentence}, as on every machine but a Linux guest of Hyper-V; its source waits for it")


def _why_absent(channels: Path) -> tuple[str, str]:
    """What is missing, and what to do."""
    if not channels.is_dir():
        return "this is no guest of Hyper-V", 'Set `sources.linux_hv_vss.mode = "automatic"`.'
    if BACKUP not in set(_classes(channels)):
        return (
            "the host does not offer this guest its backup service",
            'Tick "Backup (volume checkpoint)" among the integration services of this guest, on the host.',
        )
    return (
        "the host offers its backup service, and no driver serves it",
        "Load the driver: `modprobe hv_utils`. A kernel before 4.2 has no device, but the source linux_netlink.",
    )


def _classes(channels: Path) -> Iterator[str]:
    for channel in channels.iterdir():
        with contextlib.suppress(OSError):
            yield (channel / "class_id").read_text(encoding="ascii", errors="replace").strip().lower()


def rights(plan: Plan, daemon: Daemon | None, processes: Path = Path("/proc")) -> Finding:
    """Whether the broker, or whoever would start it now, has the rights that freezing needs.

    Args:
        plan: what is configured.
        daemon: the broker that runs; None: none does, and this process stands for it.
        processes: what the kernel tells of processes.
    """
    check, who = "filesystem_rights", "this user" if daemon is None else "the broker"
    if not plan.freezes_filesystems:
        return ok(check, "filesystems.mode is off: none is needed")
    line = _line(processes / ("self" if daemon is None else str(daemon.pid)) / "status", "CapEff:")
    if line is None:
        return warning(
            check, f"which rights {who} has cannot be seen", "Run this as root, on the machine of the broker."
        )
    missing = [number for number in _RIGHTS if not int(line, 16) >> number & 1]
    if not missing:
        return ok(check, f"{who} has every right that freezing file systems needs")
    names = ", ".join(_RIGHTS[number][0] for number in missing)
    sentence = f"{who} lacks {names}: {'; '.join(_RIGHTS[number][1] for number in missing)}"
    hint = (
        "Run the broker as root; in a container, or under a unit of your own, leave it these (docs/install-linux.md). "
        'If nobody wants file systems frozen: `filesystems.mode = "off"`.'
    )
    return (problem if _VITAL in missing else warning)(check, sentence, hint)


def is_locked(pid: int | None, processes: Path = Path("/proc")) -> bool | None:
    """Whether the kernel keeps a process in memory; None: it cannot be seen from here."""
    line = _line(processes / str(pid) / "status", "VmLck:")
    return None if line is None else int(line) > 0


def _line(file: Path, name: str) -> str | None:
    """The value of a line of proc_pid_status(5); None: there is none."""
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return line.split()[1]
    return None
