"""The notification protocol against a real socket: both kinds of address, a full queue, nobody there, wrong values."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.service.service_manager import WAITING_LIMIT, ServiceManager
from tests.support.running_broker import APPVSS, running_broker

BOUND = 10.0
"""Seconds."""
THIRTY_SECONDS = "30000000"


class Heard:
    """The service manager's end."""

    def __init__(self, name: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(BOUND)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.name = name

    def next(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")

    def rest(self) -> list[str]:
        """Everything that is there by now, a text for each datagram."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.socket.recv(65536).decode())
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, directory: Path) -> Iterator[Heard]:
    end = Heard(str(directory / "notify") if request.param == "path" else f"@appvss-{secrets.token_hex(8)}")
    yield end
    end.socket.close()


def manager(heard: Heard, **more: str) -> ServiceManager:
    return ServiceManager.from_environment({"NOTIFY_SOCKET": heard.name, **more})


def test_every_message_is_one_datagram_of_assignments(heard: Heard) -> None:
    service = manager(heard, WATCHDOG_USEC=THIRTY_SECONDS)
    service.ready("serves 3 apps")
    assert heard.next() == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=serves 3 apps"]
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    word, instant = heard.next()
    assert (word, instant.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert before <= int(instant.partition("=")[2]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.status("holds 3 apps")
    assert heard.next() == ["STATUS=holds 3 apps"]
    service.alive()
    assert heard.next() == ["WATCHDOG=1"]
    service.stopping()
    assert heard.next() == ["STOPPING=1"]
    service.close()
    service.close()
    service.stopping()
    service.alive()
    assert heard.rest() == []


def test_a_status_cannot_smuggle_an_assignment_in(heard: Heard) -> None:
    service = manager(heard)
    service.status("an app says\nSTOPPING=1\r\nMAINPID=1\0")
    (line,) = heard.next()
    assert line.startswith("STATUS=an app says")
    service.status("x" * 10_000)
    assert len(heard.next()[0]) < 600
    service.close()


def test_the_variables_are_not_inherited() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    service = ServiceManager.from_environment(environment)
    assert environment == {"HOME": "/"}
    assert service.watchdog_interval == timedelta(microseconds=1)


def test_a_child_of_this_process_inherits_nothing(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", heard.name)
    monkeypatch.setenv("WATCHDOG_USEC", THIRTY_SECONDS)
    service = ServiceManager.from_environment(os.environ)
    service.alive()  # now it has a socket, too
    program = "import os; print([name for name in os.environ if 'NOTIFY' in name or 'WATCHDOG' in name])"
    said = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        timeout=BOUND,
        close_fds=False,
        check=True,
    ).stdout
    service.close()
    assert said == "[]\n"


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [
        (THIRTY_SECONDS, "", timedelta(seconds=10)),
        (THIRTY_SECONDS, "our own", timedelta(seconds=10)),
        (THIRTY_SECONDS, "our parent's", None),
        (THIRTY_SECONDS, "nobody", None),
        ("", "", None),
        ("0", "", None),
        ("-1", "", None),
        ("30s", "", None),
        ("9" * 400, "", None),
        ("\N{ARABIC-INDIC DIGIT FIVE}", "", None),
    ],
)
def test_the_watchdog_is_told_at_a_third_of_its_time_if_it_is_ours(
    usec: str, pid: str, interval: timedelta | None
) -> None:
    # By word, not by number: two processes that collect these tests must find the same ones.
    pid = {"our own": str(os.getpid()), "our parent's": str(os.getppid())}.get(pid, pid)
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}
    assert ServiceManager.from_environment(environment).watchdog_interval == interval


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "@", "/", "relative", "/zero\0byte"])
def test_without_a_service_manager_nothing_happens(name: str, caplog: pytest.LogCaptureFixture) -> None:
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": THIRTY_SECONDS})
    caplog.clear()
    say_everything(service)
    assert not caplog.records


def say_everything(service: ServiceManager) -> None:
    service.ready("serves")
    service.reloading()
    service.status("serves")
    service.alive()
    service.stopping()
    service.close()


@pytest.mark.parametrize("name", ["/no/such/socket", "@no-such-socket", "/" + "x" * 300])
def test_a_service_manager_that_is_gone_is_said_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": name})
    say_everything(service)
    assert len([record for record in caplog.records if "does not hear" in record.message]) == 1


def test_a_full_queue_blocks_nobody_and_what_waits_is_told_in_its_order(directory: Path) -> None:
    heard = Heard(str(directory / "notify"))
    service = manager(heard, WATCHDOG_USEC=THIRTY_SECONDS)
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(limit + 1):  # the kernel's queue holds one more than its limit
        service.status(f"filling {number}")
    service.ready("serves")
    for _ in range(3):
        service.alive()
    service.stopping()
    before = heard.rest()
    assert before == [f"STATUS=filling {number}" for number in range(limit + 1)]
    service.alive()
    kinds = [text.partition("=")[0] for text in heard.rest()]
    assert kinds == ["READY", "STOPPING", "WATCHDOG"]
    service.close()
    heard.socket.close()


def test_what_waits_is_bounded() -> None:
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": "/no/such/socket"})
    for _ in range(10 * WAITING_LIMIT):
        service.reloading()
    assert len(service._waiting) == WAITING_LIMIT
    service.close()


def test_no_number_of_status_lines_pushes_a_ready_out(directory: Path) -> None:
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": str(directory / "notify")})
    service.ready("serves")
    for number in range(10 * WAITING_LIMIT):
        service.status(f"serves {number}")
    heard = Heard(str(directory / "notify"))
    service.alive()
    assert [text.split("\n")[0] for text in heard.rest()] == ["READY=1", f"STATUS=serves {10 * WAITING_LIMIT - 1}"]
    service.close()
    heard.socket.close()


def test_a_service_manager_that_comes_back_hears_what_waited(directory: Path) -> None:
    service = ServiceManager.from_environment({"NOTIFY_SOCKET": str(directory / "notify")})
    service.ready("serves")
    heard = Heard(str(directory / "notify"))
    service.alive()
    assert heard.next()[0] == "READY=1"
    assert heard.rest() == []  # nobody asked for a watchdog
    service.close()
    heard.socket.close()


# -- a broker as a service


async def test_a_broker_tells_its_whole_life(directory: Path) -> None:
    heard = Heard(str(directory / "notify"))
    environment = ("env", f"NOTIFY_SOCKET={heard.name}", "WATCHDOG_USEC=600000")
    state = ("--state-directory", str(directory / "state"))
    home = {"directory": directory, "arguments": state, "command": (*environment, *APPVSS)}

    async def until(wanted: str) -> list[str]:
        """The next message that begins so; of the others, none but a status and a sign of life may come before."""
        async with asyncio.timeout(BOUND):
            while True:
                message = await asyncio.to_thread(heard.next)
                if message[0] == wanted:
                    return message
                assert message[0].partition("=")[0] in ("WATCHDOG", "STATUS"), message

    async with running_broker(**home) as broker:  # type: ignore[arg-type]  # three words, three types
        ready = await until("READY=1")
        assert f"MAINPID={broker.pid}" in ready
        assert str(broker.runtime_directory) in ready[-1]
        for _ in range(3):
            await until("WATCHDOG=1")
        broker.signal(signal.SIGHUP)
        before = time.monotonic_ns() // 1000
        assert abs(int((await until("RELOADING=1"))[1].removeprefix("MONOTONIC_USEC=")) - before) < BOUND * 1_000_000
        await until("READY=1")
        broker.file.write_text("[broker]\nlog_level = 7\n")
        broker.signal(signal.SIGHUP)
        await until("RELOADING=1")
        await until("READY=1")  # with the old configuration
        await until("WATCHDOG=1")
        broker.signal(signal.SIGTERM)
        await until("STOPPING=1")
        assert await broker.exit_code() == 0
    heard.socket.close()


async def test_a_broker_needs_no_service_manager_that_reads(directory: Path) -> None:
    heard = Heard(str(directory / "notify"))
    environment = (
        "env",
        f"NOTIFY_SOCKET={heard.name}",
        "WATCHDOG_USEC=3000",
    )  # a ping each millisecond: soon it is full
    state = ("--state-directory", str(directory / "state"))
    async with running_broker(directory=directory, arguments=state, command=(*environment, *APPVSS)) as broker:
        await broker.line("the service manager does not hear")
        assert (await broker.status()).pid == broker.pid
        assert await broker.terminate() == 0
        assert sum("does not hear" in line for line in broker.log) == 1
    heard.socket.close()
