"""A stage on Linux: a host that freezes file systems, all of which are loop disks in the test's own folder.

    data = stage.disks.make("data")
    await stage.start_simulator()
    await stage.start_broker()
    await stage.start_app("orders", "async", "--disk", str(data.path))
    await stage.host_freezes()

Every broker is contained (`tests.support.contained`), which is proved again before every freeze.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appvss import contract
from appvss.model.verdict import Verdict
from tests.end_to_end.support.children import Child, ObservedApp, Requester
from tests.end_to_end.support.leftovers import TAG
from tests.end_to_end.support.stage import Simulated, Stage
from tests.support import disk_writers
from tests.support.contained import apart, containing, is_contained
from tests.support.loop_disks import LoopDisk, LoopDisks, takes_a_write, why_not
from tests.support.running_broker import APPVSS, RunningBroker, launch, short_directory

DEVICE = Simulated("linux_hv_vss", ("linux",), "hv_vss")
NETLINK = Simulated("linux_netlink", ("linux", "--netlink"), "connector", is_device=False)
OFF = Simulated("local", (), "", is_device=False)
"""No driver at all."""
WRITERS = Path(disk_writers.__file__)


@dataclass(frozen=True)
class DiskWrite:
    """One write that was taken: when it began and ended, nanoseconds of CLOCK_MONOTONIC."""

    began: int
    ended: int


class DiskWriters(Child):
    """The independent observer of file systems (`tests/support/disk_writers.py`)."""

    def writes(self, number: int) -> list[DiskWrite]:
        """All that were taken so far by the file system of this number."""
        words = (line.text.split() for line in self.out)
        return [DiskWrite(int(each[2]), int(each[3])) for each in words if each[:2] == [str(number), "wrote"]]

    def waits(self, number: int) -> bool:
        """Whether a write to it has begun that has not been taken: in a hold, one that hangs."""
        words = [line.text.split() for line in self.out]
        return [each[1] for each in words if each[0] == str(number)][-1:] == ["begins"]

    async def is_waiting(self, number: int) -> None:
        """Wait for that; to be asked in a hold, since it is so for a moment with every write."""
        while not self.waits(number):
            await self.hear(lambda text: text.startswith(f"{number} begins "), "that a write begins", len(self.out))

    async def writes_again(self, number: int) -> None:
        """Wait until a write has been taken that began after this."""
        now = time.monotonic_ns()

        def is_new(text: str) -> bool:
            words = text.split()
            return words[:2] == [str(number), "wrote"] and int(words[2]) > now

        await self.hear(is_new, f"that number {number} took a write", after=len(self.out))


class LinuxStage(Stage):
    """The processes and the disks of one test.

    Args:
        disks: with nothing in its folder yet, in which everything of this stage will lie.
        simulated: which driver is played.
    """

    def __init__(self, disks: LoopDisks, simulated: Simulated = DEVICE) -> None:
        super().__init__(simulated, disks.home)
        self.disks = disks
        self.state_on: LoopDisk | None = None
        """The disk on which the broker keeps its state and its log; None: neither is on one that can be frozen."""
        self.broker_environment: dict[str, str] = {}
        """What brokers get to know besides."""
        self._devices = disks.home / "devices"
        self._devices.mkdir()
        # Shared: a simulator that is started again is seen by a broker that has a mount namespace of its own.
        disks.mount_other("-t", "tmpfs", "--make-shared", "tmpfs", str(self._devices))

    @property
    def _device_folder(self) -> Path:
        return self._devices / "dev"

    def configuration(
        self,
        *,
        budget: str = "8s",
        reserve: str = "3s",
        hold_limit: str = "10s",
        grace: str = "2s",
        unfreezable: str = "lower",
        exclude: tuple[Path, ...] = (),
        more: str = "",
    ) -> str:
        """A configuration with limits that a test can wait for, which freezes this stage's disks alone.

        Args:
            budget: of a freeze.
            reserve: what of it belongs to the file systems.
            hold_limit: of every source.
            grace: how long an app may be away.
            unfreezable: what it means that one has no freeze.
            exclude: those of the disks that are not frozen.
            more: further lines, below `[sources.NAME]` of the driver's source.
        """
        modes = [("freebsd", "off"), ("linux_hv_vss", "off"), ("linux_netlink", "off"), ("local", "automatic")]
        limits = f'freeze_budget = "{budget}"\nhold_limit = "{hold_limit}"\n'
        parts = ['[broker]\nsocket_group = ""\nlog_level = "debug"\nstop_timeout = "5s"\n']
        for name, mode in modes:
            part = f'[sources.{name}]\nmode = "{"automatic" if name == self._simulated.source else mode}"\n'
            part += limits if mode == "automatic" or name == self._simulated.source else ""
            if name == self._simulated.source != "local":
                part += f'filesystem_reserve = "{reserve}"\n{more}'
            parts.append(part)
        parts.append(f'[cycle]\nthaw_limit = "2s"\nreturn_grace = "{grace}"\n')
        parts.append(containing(self.directory, *map(str, exclude)) + f'unfreezable = "{unfreezable}"\n')
        return "\n".join(parts)

    # -- starting

    async def start_broker(self, text: str = "", *, device: bool = True) -> RunningBroker:
        """See `Stage.start_broker`; without any driver it waits for none."""
        if not text and not self._brokers:
            text = self.configuration()
        broker = await super().start_broker(text, device=device and bool(self._simulated.command))
        await self.is_contained()
        return broker

    async def _launch(self, text: str, arguments: tuple[str, ...]) -> RunningBroker:
        known = {TAG: self.tag, **self.broker_environment}
        command = (*apart(self.directory), "env", *(f"{name}={value}" for name, value in known.items()), *APPVSS)
        if self.state_on is None:
            return await launch(self.directory, text, arguments=arguments, command=command)
        disk = self.state_on.path
        log = os.open(disk / "broker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            arguments = (*arguments, "--state-directory", str(disk / "state"))
            return await launch(self.directory, text, arguments=arguments, command=command, stderr=log)
        finally:
            os.close(log)

    async def start_writers(self, size: int, *disks: LoopDisk) -> DiskWriters:
        """Processes that write to each of these, and depend on nobody; each has begun.

        Args:
            size: bytes of each write.
            disks: their numbers are the places.
        """
        words = (sys.executable, "-I", "-S", "-B", str(WRITERS), str(size), *(str(disk.path) for disk in disks))
        writers = self.keep(DiskWriters("writers", await self._start(*words, role="writers")))
        async with asyncio.TaskGroup() as tasks:
            for number, disk in enumerate(disks):
                tasks.create_task(writers.writes_again(number), name=f"first write to {disk.path}")
        return writers

    async def start_app(self, name: str, style: str, *options: str, on: LoopDisk | None = None) -> ObservedApp:
        """See `Stage.start_app`.

        Args:
            name: under which it registers.
            style: `async` or `threads`.
            options: of `observed_app`.
            on: where its data lies.
        """
        return await super().start_app(name, style, *options, *(("--disk", str(on.path)) if on else ()))

    async def start_requester(self, *options: str, command: tuple[str, ...] = ()) -> Requester:
        """See `Stage.start_requester`."""
        await self.is_contained()
        return await super().start_requester(*options, command=command)

    # -- what the host asks

    async def is_contained(self) -> list[str]:
        """What a freeze would take now: nothing that is not this stage's."""
        return await is_contained(self.broker, self.directory)

    async def begin_freeze(self) -> int:
        """The host asks for the freeze; see `Simulator.begin`."""
        await self.is_contained()
        return self.simulator.begin("freeze")

    async def host_freezes(self) -> int:
        """The host's freeze, which must be agreed to; when it had heard that."""
        result = await self.simulator.result("freeze", await self.begin_freeze())
        assert result["outcome"] == "ok", result
        return int(result["heard_at"])

    async def host_is_refused(self) -> dict[str, Any]:
        """The host's freeze, which must be refused by the broker's word."""
        result = await self.simulator.result("freeze", await self.begin_freeze())
        assert result["outcome"] == "failed", result
        return result

    async def backs_up(self, *, patiently: bool = False) -> None:
        """See `Stage.backs_up`; every file system takes a write afterwards."""
        await self.is_contained()
        await super().backs_up(patiently=patiently)
        await self.takes_writes()

    # -- what must be true

    async def takes_writes(self, *but: LoopDisk, within: float = 2.0) -> None:
        """Every file system but these takes a write in so many seconds, also one that nobody has frozen."""
        disks = [disk for disk in self.disks.made if disk not in but]
        async with asyncio.TaskGroup() as tasks:
            writes = {
                disk.path: tasks.create_task(asyncio.to_thread(takes_a_write, disk.path, within), name=str(disk.path))
                for disk in disks
            }
        assert all(write.result() for write in writes.values()), {
            path: write.result() for path, write in writes.items()
        }

    async def verdict(self) -> Verdict:
        """The verdict of the last cycle, once it has ended."""
        await self.rests()
        (last,) = await self.broker.cycles(1)
        return contract.verdict_of(last.verdict)

    def report(self) -> str:
        """What everybody has said."""
        parts = [super().report()]
        if self.state_on is not None:
            parts.append("---- log of the brokers")
            parts += (self.state_on.path / "broker.log").read_text().splitlines()[-100:]
        return "\n".join(parts)

    async def close(self) -> list[str]:
        """End everything; what was left behind and should not have been. The disks are closed by whoever made them."""
        left = await super().close()
        record = self.directory / "run" / "frozen.json"
        return left + ([f"{record} says that something is frozen"] if record.exists() else [])


@asynccontextmanager
async def linux_stage(simulated: Simulated = DEVICE) -> AsyncIterator[LinuxStage]:
    """A stage without anybody on it. At its end nothing is left, and no requester was told what the logs belie. Skips,
    with the reason, where there can be none.
    """
    if reason := why_not("ext4"):
        pytest.skip(reason)
    disks = await asyncio.to_thread(LoopDisks, short_directory())
    try:
        stage = LinuxStage(disks, simulated)
        try:
            yield stage
            lies = stage.lies()
        finally:
            left = await stage.close()
        assert (left, lies) == ([], [])
    finally:
        await asyncio.to_thread(disks.close)
