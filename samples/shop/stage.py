"""Everything that the shop starts, and ends again: volumes, servers, customers, the played host, broker and agent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from appvss.model.errors import AppvssError
from appvss.sdk.admin import AdminClient
from samples.demo.stage import COMMAND, DemoFailed, Host, LocalRequester, Program, Requester, wait_until
from samples.shop.servers import Carts, Orders, find_program
from samples.shop.volumes import make_volume, mount_memory, unmount_below

CUSTOMERS: Final = 3
BROKER: Final = """\
[sources.freebsd]
mode = "{mode}"
device = "{device}"

[apps]
required = ["shop-orders", "shop-carts"]
"""
AGENT: Final = """\
[agent]
undo_directory = "{memory}/undo"

[apps.shop-orders]
adapter = "postgresql"
dsn = "{dsn}"

[apps.shop-carts]
adapter = "redis"
url = "unix://{socket}"
"""
"""What an administrator writes so that both databases take part in every snapshot."""


def why_not() -> str:
    """Why the shop cannot be opened here; empty: it can."""
    if not sys.platform.startswith("linux"):
        return "its volumes are loop devices of Linux"
    if os.geteuid() != 0:
        return "its volumes are mounted, which only root may"
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        return "there is no loop device (/dev/loop-control)"
    programs = ("postgres", "initdb", "redis-server", "mkfs.ext4", "setpriv", "unshare")
    missing = [name for name in programs if find_program(name) is None and shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Shop:
    """The whole cast. Use it with `open_shop`."""

    def __init__(self, folder: Path, ends: ExitStack, *, local: bool) -> None:
        self.folder = folder
        self.memory = folder / "memory"
        ends.callback(unmount_below, folder)
        mount_memory(self.memory)
        self.volumes = {name: make_volume(folder, name) for name in ("orders", "carts")}
        self.orders = Orders(self.volumes["orders"].path / "data", self.memory / "postgresql")
        ends.callback(self.orders.stop)
        self.carts = Carts(self.volumes["carts"].path / "data", self.memory / "redis")
        ends.callback(self.carts.stop)
        self.orders.set_up()
        self.customers = [self._customer(number, ends) for number in range(1, CUSTOMERS + 1)]
        self._take_part(ends, local=local)

    def _customer(self, number: int, ends: ExitStack) -> Program:
        command = [str(Path(__file__).with_name("customer.py")), str(number), self.orders.dsn, self.carts.socket]
        program = Program(f"customer-{number}", command, self.memory, self.folder / "run")
        ends.callback(program.stop)
        return program

    def _take_part(self, ends: ExitStack, *, local: bool) -> None:
        """Start the host, the broker, and the agent with an app for each database."""
        runtime = self.folder / "run"
        host = None if local else Host(self.memory, runtime)
        if host is not None:
            ends.callback(host.program.stop)
        self.missing_device = host.is_available() if host is not None else "a local requester was asked for"
        mode, device = ("required", host.device) if host and not self.missing_device else ("off", "/dev/hv_appvss_dev")
        (self.memory / "broker.toml").write_text(BROKER.format(mode=mode, device=device))
        self.broker = self._start("broker", ends)
        self.client = AdminClient(runtime)
        ends.callback(self.client.close)
        wait_until(self._answers, "the broker", self.broker)
        settings = AGENT.format(memory=self.memory, dsn=self.orders.dsn, socket=self.carts.socket)
        (self.memory / "agent.toml").write_text(settings)
        self.agent = self._start("agent", ends)
        wait_until(lambda: not self.client.status().absent_apps, "the apps", self.broker, self.agent)
        self.requester: Requester = LocalRequester(self.client) if host is None or self.missing_device else host

    def _start(self, name: str, ends: ExitStack) -> Program:
        command = [COMMAND, name, "--config", str(self.memory / f"{name}.toml")]
        program = Program(name, command, self.memory, self.folder / "run")
        ends.callback(program.stop)
        return program

    def _answers(self) -> bool:
        try:
            self.client.status()
        except AppvssError:
            return False
        return True

    def appvss(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `appvss` command, against this shop's broker."""
        environment = {**os.environ, "APPVSS_RUNTIME_DIRECTORY": str(self.folder / "run")}
        return subprocess.run(
            [sys.executable, COMMAND, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def images(self) -> list[str]:
        """The images of its volumes."""
        return [str(volume.image) for volume in self.volumes.values()]

    def acknowledged(self) -> list[tuple[str, int, int, int]]:
        """What customers were told: `cart` or `order`, the customer, the number, when."""
        found = []
        for customer, program in enumerate(self.customers, 1):
            if program.process.poll() is not None:
                raise DemoFailed(program.complaint())
            whole, _, _ = program.log.read_text().rpartition("\n")  # the last line may be on its way
            for line in whole.splitlines():
                what, number, time = line.split()
                found.append((what, customer, int(number), int(time)))
        return found


@contextmanager
def open_shop(folder: Path, *, local: bool) -> Iterator[Shop]:
    """Start everything below `folder`; end it all afterwards, in reverse."""
    with ExitStack() as ends:
        yield Shop(folder, ends, local=local)
