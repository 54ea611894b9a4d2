"""The broker's own time from POLLIN on the FreeBSD device to the WRITE of its ack, with 10 idle apps.

The device is the simulator's real file, and the simulator notes when a request began to wait and when its answer was
written. What the apps took of that is the time from the broker's question to its last ack, as the broker measured it.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from appvss.sdk.admin import AdminClient
from benchmarks.processes import COMMAND, PATIENCE, broker, idle_apps, wait_until

APPS = 10
SECTION = '[sources.freebsd]\nmode = "required"\ndevice = "{device}"\n'
_DEVICES = {"freebsd": ("hv_appvss_dev", "freebsd"), "linux": ("hv_vss", "linux_hv_vss")}
"""The file and the source, by the system that is played."""


@dataclass(frozen=True, slots=True)
class AckPath:
    """Milliseconds."""

    rounds: int
    total_p50: float
    total_p99: float
    own_p50: float
    own_p99: float
    share: float
    """Of the median total, the part that is not the apps', 0 to 1."""


class Host:
    """`appvss simulate`, driven through its pipes.

    Args:
        folder: gets `dev`, where the devices are.
        system: `freebsd` or `linux`.
    """

    def __init__(self, folder: Path, system: str = "freebsd") -> None:
        name, self._source = _DEVICES[system]
        self.device = folder / "dev" / name
        command = [*COMMAND, "simulate", system, str(folder / "dev"), "--json"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._until("ready")

    def ask(self, command: str) -> list[dict[str, Any]]:
        """One command; everything that happened until its result."""
        if self._process.stdin is None:
            raise AssertionError("there is a pipe")
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._until("result")

    def _until(self, kind: str) -> list[dict[str, Any]]:
        if self._process.stdout is None:
            raise AssertionError("there is a pipe")
        messages = []
        for line in self._process.stdout:
            messages.append(json.loads(line))
            if messages[-1]["message_type"] == kind:
                return messages
        raise SystemExit("the simulator has ended; it needs /dev/fuse and the right to mount")

    def is_served(self, client: AdminClient) -> bool:
        """Whether the broker serves the device."""
        return any(each.name == self._source and each.condition == "serving" for each in client.status().sources)

    def close(self) -> None:
        """Unmount and end."""
        self._process.terminate()
        self._process.wait(PATIENCE)


def measure(rounds: int = 200) -> AckPath:
    """Freeze and thaw so many times."""
    with tempfile.TemporaryDirectory(prefix="ack") as name:
        folder = Path(name)
        host = Host(folder)
        try:
            with (
                broker(folder, sections=SECTION.format(device=host.device)) as (_, client),
                idle_apps(folder, client, APPS, processes=2),
            ):
                wait_until(lambda: host.is_served(client), "the device")
                totals, own = [], []
                for _ in range(rounds):
                    total, apps = _one(host, client)
                    totals.append(total)
                    own.append(total - apps)
        finally:
            host.close()
    share = _percentile(own, 0.5) / _percentile(totals, 0.5)
    parts = [_percentile(values, part) for values in (totals, own) for part in (0.5, 0.99)]
    return AckPath(rounds, *(round(part, 2) for part in parts), share=round(share, 2))


def _one(host: Host, client: AdminClient) -> tuple[float, float]:
    """Milliseconds from POLLIN to WRITE, and from the broker's question to its last ack."""
    events = [message for message in host.ask("freeze") if message["message_type"] == "device_event"]
    waiting = next(time_of(event) for event in events if event["kind"] == "received")
    written = next(time_of(event) for event in events if event["kind"] == "wrote" and event["side"] == "app")
    host.ask("thaw")
    outcomes = client.cycles(limit=1)[0].verdict.outcomes
    slowest = max(part.time_to_freeze.total_seconds() for part in outcomes if part.time_to_freeze is not None)
    return (written - waiting).total_seconds() * 1000, slowest * 1000


def time_of(event: dict[str, Any]) -> datetime:
    """When a device event was."""
    return datetime.fromisoformat(event["time"])


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
