"""A stage for one run of the fault matrix, with the relays, seams, small disks and supervisors that its plan wants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from appvss import contract
from appvss.cli.broker import broker as broker_command
from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.fuse import mount
from tests.end_to_end.support.leftovers import TAG
from tests.end_to_end.support.stage import Stage, configuration
from tests.faults import disk, seam
from tests.faults.disk import Disk
from tests.faults.plan import APPS, Fault, Phase, Plan, SourceName, Victim
from tests.faults.relay import Relay
from tests.faults.seam import Seam
from tests.faults.supervised import COMMAND, SupervisedBroker
from tests.support.running_broker import APPVSS, ROOT, RunningBroker, launch

SLOW = "slow"
REQUESTER = "requester"
_ORDERS = {"first": "40", "second": "40", SLOW: "60"}
_STYLES = {"first": "async", "second": "threads"}
_SOCKET_FAULTS = (Fault.CLOSED_SOCKET, Fault.SLOW, Fault.GARBAGE)
_SLOW_DISK = (Phase.REQUESTED, Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS)
"""Phases that pass in a moment unless a disk is slow."""


@cache
def keeps_state() -> bool:
    """Whether this broker has a state directory."""
    return any("--state-directory" in option.opts for option in broker_command.params)


@cache
def lacks_fuse() -> str:
    """Why this machine cannot mount a device; empty: it can."""
    with tempfile.TemporaryDirectory(prefix="av-fuse-", dir="/tmp") as folder:
        try:
            descriptor = mount.mount(Path(folder) / "dev")
        except SimulatorUnavailable as error:
            return f"no FUSE here: {error.sentence}"
        mount.unmount(Path(folder) / "dev")
        os.close(descriptor)
    return ""


def cannot(plan: Plan) -> str:
    """Why a plan cannot be played on this machine; empty: it can."""
    if plan.source is SourceName.FREEBSD and lacks_fuse():
        return lacks_fuse()
    if plan.fault is Fault.CLOCK_JUMP and seam.compiler() is None and not _jumps_by_itself(plan):
        return "there is no C compiler for the seam that lets a wall clock jump"
    if plan.fault is Fault.DISK_FULL and not disk.may_mount():
        return "a small disk needs the right to mount one"
    if plan.fault is Fault.DISK_FULL and plan.victim in (Victim.BROKER, Victim.SUPERVISOR) and not keeps_state():
        return "this broker writes to no disk"
    return ""


def _jumps_by_itself(plan: Plan) -> bool:
    """The simulator moves the guest's clock on its own."""
    return plan.victim is Victim.SOURCE and plan.source is SourceName.FREEBSD


class FaultStage(Stage):
    """The processes of one run.

    Args:
        plan: what will be done to them.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.relays: dict[str, Relay] = {}
        self.disk: Disk | None = None
        """The victim's."""
        self.seam: Seam | None = None
        """The victim's, or the broker's for its slow disk."""
        self.unable: dict[str, list[tuple[int, int]]] = {}
        """When the test kept each app from writing: killed, stopped, or with a full disk."""
        self._seam_of: set[str] = set()

    async def build(self) -> None:
        """Start everybody, each with what the plan needs, and wait until all are there."""
        plan = self.plan
        self._make_seam()
        if plan.fault is Fault.DISK_FULL:
            self.disk = await asyncio.to_thread(Disk, self.directory / ("state" if self._is_brokers else "disk"))
            self._at_end.append(self.disk.remove)
        is_host = plan.source is SourceName.FREEBSD
        if is_host:
            await self.start_simulator()
        text = configuration(
            budget="9s" if plan.is_adopted else "3s",
            reserve="500ms",
            hold_limit="12s" if plan.is_adopted else "5s",
            freeze_budget="2500ms",
            mode="automatic" if is_host else "off",
            more=f"[apps]\nrequired = {json.dumps(APPS)}\n",
        )
        if self._is_brokers:  # a new broker must be back while the apps may still come
            text = text.replace('return_grace = "2s"', f'return_grace = "{7 if plan.is_adopted else 4}s"')
        if plan.is_adopted:  # every app comes back, up to 3 s after an attempt that failed, before a thaw is given up
            text = text.replace('thaw_limit = "1s"', 'thaw_limit = "5s"')
        await self._make_relays()
        await self.start_broker(text, device=is_host)
        await self.start_apps(*(self.app_arguments(name) for name in APPS))

    @property
    def _is_brokers(self) -> bool:
        return self.plan.victim in (Victim.BROKER, Victim.SUPERVISOR)

    def _make_seam(self) -> None:
        plan = self.plan
        if seam.compiler() is None:
            return
        if plan.fault is Fault.CLOCK_JUMP and not _jumps_by_itself(plan):
            self._seam_of.add({Victim.APP: plan.app, Victim.SOURCE: REQUESTER}.get(plan.victim, "broker"))
        if plan.phase in _SLOW_DISK and not self._seam_of:
            self._seam_of.add("broker")
        if self._seam_of:
            self.seam = Seam(self.directory / "seam")
            self._at_end.append(self.seam.close)

    async def _make_relays(self) -> None:
        plan = self.plan
        if plan.fault not in _SOCKET_FAULTS:
            return
        if plan.victim is Victim.SOURCE:
            roles = [REQUESTER] if plan.source is SourceName.LOCAL else []
        elif plan.victim is Victim.APP:
            roles = [plan.app]
        else:
            roles = list(APPS) if plan.fault is Fault.CLOSED_SOCKET else []
        for role in roles:
            name = contract.ADMIN_SOCKET if role == REQUESTER else contract.APPS_SOCKET
            self.relays[role] = Relay(self.directory / f"via-{role}", self.directory / "run", name)
            await self.relays[role].start()

    @property
    def can_stall_broker(self) -> bool:
        """Whether the broker's disk and log can be made slow."""
        return self.seam is not None and "broker" in self._seam_of

    def app_arguments(self, name: str) -> tuple[str, ...]:
        """How an app is started, at first and again."""
        plan = self.plan
        limit = str(plan.hold_limit.total_seconds())
        options = ["--order", _ORDERS[name], "--hold-limit", limit]
        if name == SLOW:
            options.append("--prepares")
        if self.disk is not None and plan.victim is Victim.APP and name == plan.app:
            options += ["--disk", str(self.disk.folder)]
        return name, _STYLES.get(name, plan.style), *options

    def mark_unable(self, name: str, since: int) -> None:
        """From `since` to now the test kept an app from writing."""
        self.unable.setdefault(name, []).append((since, time.monotonic_ns()))

    def _environment(self, role: str) -> dict[str, str]:
        environment = super()._environment(role)
        if role in self.relays:
            environment["APPVSS_RUNTIME_DIRECTORY"] = str(self.relays[role].folder)
        if self.seam is not None and role in self._seam_of:
            environment |= self.seam.environment
        return environment

    async def _launch(self, text: str, arguments: tuple[str, ...]) -> RunningBroker:
        known = {TAG: self.tag}
        if self.seam is not None and "broker" in self._seam_of:
            known |= self.seam.environment
        command = ("env", *(f"{name}={value}" for name, value in known.items()), *APPVSS)
        if self.plan.victim is not Victim.SUPERVISOR:
            return await launch(self.directory, text, arguments=arguments, command=command)
        file = self.directory / "broker.toml"
        file.write_text(text)
        if keeps_state():
            arguments = (*arguments, "--state-directory", str(self.directory / "state"))
        process = await asyncio.create_subprocess_exec(
            "env",
            f"{TAG}={self.tag}",
            *COMMAND,
            *command,
            "broker",
            "--config",
            str(file),
            "--runtime-directory",
            str(self.directory / "run"),
            *arguments,
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        return SupervisedBroker(self.directory, process)

    async def close(self) -> list[str]:
        """End everything; what was left behind and should not have been."""
        if self._brokers and isinstance(self.broker, SupervisedBroker) and self.broker.process.returncode is None:
            self.broker.process.kill()  # before the broker, which it would start again
            with suppress(ProcessLookupError):
                self.broker.signal(signal.SIGKILL)
        left = await super().close()
        for relay in self.relays.values():  # when nobody is left who could connect once more
            await relay.close()
        return left + await asyncio.to_thread(self._mounted)

    def _mounted(self) -> list[str]:
        mounted = Path("/proc/self/mountinfo").read_text().splitlines()
        return [line for line in mounted if f"{self.directory}/" in line]
