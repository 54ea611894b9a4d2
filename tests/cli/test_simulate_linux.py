"""`appvss simulate linux`, through real processes. What it has in common with `simulate freebsd` is tested there."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_simulate import SECONDS, Running, appvss, folder, is_mounted
from tests.simulator.conftest import requires_fuse

__all__ = ["folder", "requires_fuse"]


@pytest.fixture
def running(requires_fuse: None, folder: Path) -> Iterator[Running]:
    running = Running(folder, kind="linux")
    try:
        ready = running.until(message_type="ready")
        assert (ready["device"], ready["kernel"]) == (str(folder / "hv_vss"), "6.1")
        yield running
    finally:
        running.clean()


def test_a_daemon_of_another_process_takes_part(running: Running) -> None:
    descriptor = os.open(running.directory / "hv_vss", os.O_RDWR)
    try:
        assert running.until(kind="opened")["pid"] == os.getpid()
        os.write(descriptor, b"\x81" + bytes(11))
        assert os.read(descriptor, 4) == b"\x81\0\0\0"
        running.say("freeze\n")
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(SECONDS * 1000) == [(descriptor, select.POLLIN)]
        assert os.read(descriptor, 12)[0] == 5
        os.write(descriptor, bytes(12))
        assert running.until(message_type="result")["outcome"] == "ok"
        running.say("state\nremove\nstate\n")
        assert running.until(message_type="state")["open"] is True
        assert running.until(kind="leaving")["detail"]
        assert running.until(message_type="state")["phase"] == "device_dying"
    finally:
        os.close(descriptor)
    running.until(kind="detached")


def test_another_shell_plays_the_host(running: Running) -> None:
    def host(*words: str) -> tuple[int, str]:
        result = appvss("simulate", "host", running.directory, *words)
        return result.returncode, result.stdout

    code, text = host("freeze")
    assert (code, "failed" in text, "0x80004005" in text) == (9, True, True)
    assert host("dm-info")[0] == 0
    assert host("state") == (0, "not open, ready\n")
    assert host("remove") == (0, "remove: done\n")
    assert host("freeze")[0] == 12
    assert host("hibernate")[0] == 5
    assert host("return") == (0, "return: done\n")
    assert host("quit")[0] == 0
    assert running.end() == (0, "")


def test_a_signal_unmounts_and_ends(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    assert running.until(message_type="ended")["reason"] == "SIGTERM"
    assert running.end() == (0, "")
    assert not is_mounted(running.directory)


@pytest.mark.usefixtures("requires_fuse")
def test_an_old_kernel(folder: Path) -> None:
    running = Running(folder, "--kernel", "4.8", kind="linux")
    try:
        assert running.until(message_type="ready")["kernel"] == "4.8"
        running.say("check\n")
        assert running.until(message_type="result")["outcome"] == "ok"
    finally:
        running.clean()


@pytest.mark.parametrize("arguments", [("linux",), ("linux", "x", "--kernel", "4.1"), ("linux", "x", "--kernel")])
def test_a_wrong_command_line(arguments: tuple[str, ...]) -> None:
    result = appvss("simulate", *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_help() -> None:
    result = appvss("simulate", "linux", "--help")
    assert result.returncode == 0
    assert "DIR/hv_vss" in result.stdout
