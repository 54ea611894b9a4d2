"""A guest under QEMU's software emulation, from its boot to its end, and the ways to talk to it.

    with booted(images, folder) as guest:
        assert guest.run("appvss", "--version").code == 0

Every wait has a bound. Emulation is slow, and three times slower on a busy machine, so the bounds are generous and no
test asserts how long anything took. Whatever happens, the machine has ended when the block is left: it is a child of
this process, it is ended by its own id, and the kernel ends it should this process be killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.vm import build
from tests.vm.build import Images

BOOT_BOUND: Final = 180.0
"""Seconds until the guest answers."""
BOUND: Final = 120.0
"""Seconds that anything in the guest may take, unless a call says otherwise."""
END_BOUND: Final = 20.0
"""Seconds for the machine's end."""
MEMORY: Final = "512"
"""MiB."""
DATA_SIZE: Final = "256M"
DATA_NODE: Final = "data"
"""The data disk's name in the monitor."""
_LATER: Final = 10.0
"""Seconds that the answer of the guest may come later than it should."""
_KERNEL_LINE: Final = "console=ttyS0 panic=-1 quiet no_timer_check tsc=reliable mitigations=off"
AGENT_PORT: Final = "org.qemu.guest_agent.0"
"""The name of the port that QEMU's guest agent serves."""
_PORTS: Final = {"hand": "org.appvss.hand", "agent": AGENT_PORT}


class GuestError(AssertionError):
    """The guest could not do what it was asked to."""


@dataclass(frozen=True, slots=True)
class Done:
    """A program that ended."""

    code: int
    out: str
    err: str


class Program:
    """A program that was started in the guest.

    Args:
        guest: where it runs.
        pid: its process id there.
    """

    def __init__(self, guest: Guest, pid: int) -> None:
        self._guest = guest
        self.pid = pid

    def line(self, pattern: str, *, after: int = 0, timeout: float = BOUND) -> str:
        """Wait until it has said a line in which a regular expression is found; that line.

        Args:
            pattern: the expression.
            after: how many lines are passed over.
            timeout: seconds.
        """
        return str(self._guest.ask("line", timeout, pid=self.pid, pattern=pattern, after=after, timeout=timeout))

    @property
    def said(self) -> list[str]:
        """All that it has said until now."""
        return list(self._guest.ask("said", pid=self.pid))

    def signal(self, number: signal.Signals) -> None:
        self._guest.ask("kill", pid=self.pid, number=int(number))

    def wait(self, timeout: float = BOUND) -> int:
        """Its exit code; negative: the signal that ended it."""
        return int(self._guest.ask("wait", timeout, pid=self.pid, timeout=timeout))


class Guest:
    """A guest that has booted. `booted` makes one."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self._ids = count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._hand = self._connect("hand")
        threading.Thread(target=self._hear, name="guest's hand", daemon=True).start()

    def ask(self, what: str, bound: float = BOUND, **arguments: object) -> Any:
        """Have the hand do something (`guest/hand.py`), and wait for its answer.

        Args:
            what: a function of the hand.
            bound: seconds that it may take.
            arguments: the function's.

        Raises:
            GuestError: it could not do it.
        """
        return self.begin(what, **arguments).result(bound + _LATER)

    def begin(self, what: str, **arguments: object) -> Future[Any]:
        """Have the hand do something, and go on. Much may be under way."""
        number, future = next(self._ids), Future[Any]()
        self._waiting[number] = future
        message = {"id": number, "do": what, "with": arguments}
        try:
            self._hand.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise GuestError(f"the guest has ended: {error}") from error
        return future

    def run(self, *argv: str, timeout: float = BOUND, **environment: str) -> Done:
        """Run a program to its end."""
        return Done(**self.ask("run", timeout, argv=list(argv), timeout=timeout, environment=environment))

    def check(self, *argv: str, timeout: float = BOUND, **environment: str) -> str:
        """Run a program that must succeed; what it has written."""
        done = self.run(*argv, timeout=timeout, **environment)
        if done.code:
            raise GuestError(f"{' '.join(argv)} ended with {done.code}:\n{done.out}{done.err}")
        return done.out

    def start(self, *argv: str, **environment: str) -> Program:
        """Start a program."""
        return Program(self, int(self.ask("start", argv=list(argv), environment=environment)))

    def frozen(self, path: str) -> bool:
        """Whether the file system at a mount point is frozen. One that is not is frozen for a moment by the asking."""
        return bool(self.ask("frozen", path=path))

    def write(self, path: str, text: str = "") -> None:
        """Write a file and have it on disk, which a frozen file system does not do."""
        self.ask("write", path=path, text=text)

    def read(self, path: str) -> str:
        return str(self.ask("read", path=path))

    def port(self, name: str) -> str:
        """The device of the virtio-serial port with that name."""
        file = self.check("grep", "-Rlx", "--include=name", name, "/sys/class/virtio-ports").splitlines()[0]
        return f"/dev/{Path(file).parent.name}"

    def hyperv(self, operation: str, timeout: float = BOUND) -> dict[str, Any]:
        """Be the Hyper-V host for one operation; its reply."""
        return dict(self.ask("hyperv", timeout, operation=operation, timeout=timeout))

    def monitor(self, command: str, **arguments: object) -> Any:
        """One command of QEMU's monitor (QMP), and what it returns."""
        with self._connect("monitor") as connection, connection.makefile("rw") as stream:
            json.loads(stream.readline())
            for name, each in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": name, "arguments": each}) + "\n")
                stream.flush()
                while "event" in (answer := json.loads(stream.readline())):
                    pass
                if "error" in answer:
                    raise GuestError(f"{name}: {answer['error']}")
        return answer["return"]

    def snapshot(self, later: Path) -> None:
        """Leave the data disk's file as it is now; what the guest writes from here on goes to another.

        Args:
            later: the other file, which is made.
        """
        to = {"snapshot-file": str(later), "snapshot-node-name": "later", "format": "qcow2"}
        self.monitor("blockdev-snapshot-sync", **{"node-name": DATA_NODE}, **to)

    @contextmanager
    def agent(self) -> Iterator[GuestAgent]:
        """A connection to QEMU's guest agent, as libvirt makes one. The agent must have been started."""
        with self._connect("agent") as connection:
            agent = GuestAgent(connection)
            agent.synchronize()
            yield agent

    @property
    def console(self) -> str:
        """What the guest has written to its serial console."""
        with suppress(FileNotFoundError):
            return (self.folder / "console.log").read_text(errors="replace")
        return ""

    def _connect(self, name: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + BOUND
        while True:
            try:
                connection.connect(str(self.folder / name))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    connection.close()
                    raise GuestError(f"QEMU serves no {name}:\n{(self.folder / 'qemu.log').read_text()}") from None
                time.sleep(0.02)  # QEMU has just been started, and tells nobody when it listens
        connection.settimeout(BOUND)
        return connection

    def _hear(self) -> None:
        """Give every answer to whoever waits for it."""
        self._hand.settimeout(None)
        with suppress(OSError), self._hand.makefile("rb") as stream:
            for line in stream:
                answer = json.loads(line)
                future = self._waiting.pop(answer["id"])
                if "error" in answer:
                    future.set_exception(GuestError(answer["error"]))
                else:
                    future.set_result(answer["result"])
        for future in list(self._waiting.values()):
            future.set_exception(GuestError(f"the guest has ended:\n{self.console[-2000:]}"))

    def close(self) -> None:
        """End the machine as a power cut does. May be repeated."""
        self.process.kill()
        self.process.wait(END_BOUND)
        with suppress(OSError):
            self._hand.shutdown(socket.SHUT_RDWR)
        self._hand.close()


class GuestAgent:
    """QEMU's guest agent (its documentation: qemu-ga-ref).

    Args:
        connection: to its port.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")
        self._ids = count(1)

    def synchronize(self) -> None:
        """Throw away what an earlier caller left (guest-sync-delimited)."""
        number = next(self._ids) + os.getpid()
        self._connection.sendall(b"\xff")
        self._send("guest-sync-delimited", {"id": number})
        while True:
            line = self._stream.readline().rpartition(b"\xff")[2]
            if line.strip() and json.loads(line).get("return") == number:
                return

    def command(self, name: str, **arguments: object) -> Any:
        """One command, and what it returns.

        Raises:
            GuestError: the agent refused.
        """
        self._send(name, arguments)
        answer = json.loads(self._stream.readline())
        if "error" in answer:
            raise GuestError(answer["error"]["desc"])
        return answer["return"]

    def _send(self, name: str, arguments: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")


def make_data(path: Path) -> None:
    """Make an empty data disk."""
    raw = path.with_suffix(".raw")
    build.run("mke2fs", "-q", "-t", "ext4", str(raw), DATA_SIZE)
    build.run("qemu-img", "convert", "-O", "qcow2", str(raw), str(path))
    raw.unlink()


@contextmanager
def booted(images: Images, tools: Path, folder: Path, data: Path) -> Iterator[Guest]:
    """A guest that answers.

    Args:
        images: what it is booted from.
        tools: the image of `build.tools`.
        folder: for its sockets and logs; short, because a socket's path is.
        data: its data disk (qcow2), which it writes to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            _command(images, tools, folder, data), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        guest = Guest(folder, process)
    except BaseException:
        process.kill()
        process.wait(END_BOUND)
        raise
    try:
        try:
            guest.begin("read", path="/proc/uptime").result(BOOT_BOUND)
        except TimeoutError:
            raise GuestError(f"the guest did not come up in {BOOT_BOUND:.0f} s:\n{guest.console[-4000:]}") from None
        yield guest
    finally:
        guest.close()


def _command(images: Images, tools: Path, folder: Path, data: Path) -> Sequence[str]:
    setpriv = shutil.which("setpriv") or "setpriv"
    ports = [
        option
        for name, port in _PORTS.items()
        for option in (
            *("-chardev", f"socket,id={name},path={folder / name},server=on,wait=off"),
            *("-device", f"virtserialport,chardev={name},name={port}"),
        )
    ]
    disk = "format=raw,if=none,cache=unsafe"
    return [
        *(setpriv, "--pdeathsig", "KILL", "nice", "-n", "10", "qemu-system-x86_64"),
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max", "-smp", "1", "-m", MEMORY),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(images.kernel), "-initrd", str(images.initrd), "-append", _KERNEL_LINE),
        *("-serial", f"file:{folder / 'console.log'}"),
        *("-drive", f"file={images.root},id=root,snapshot=on,{disk}", "-device", "virtio-blk-pci,drive=root"),
        *("-blockdev", f"driver=qcow2,node-name={DATA_NODE},file.driver=file,file.filename={data}"),
        *("-device", f"virtio-blk-pci,drive={DATA_NODE}"),
        *("-drive", f"file={tools},id=tools,readonly=on,{disk}", "-device", "virtio-blk-pci,drive=tools"),
        *("-device", "virtio-serial-pci", *ports),
        *("-qmp", f"unix:{folder / 'monitor'},server=on,wait=off"),
    ]
