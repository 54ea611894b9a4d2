"""`appvss simulate`, through real processes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appvss.sources.wire.freebsd import LINUX, Operation, decode, encode
from tests.simulator.conftest import requires_fuse

__all__ = ["requires_fuse"]

APPVSS = [sys.executable, "-c", "from appvss.cli.main import main; main()"]
SECONDS = 30

WITHOUT_FUSE = """\
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None):
    sys.exit(77)
if libc.mount(b"none", b"/dev", b"tmpfs", 0, None):
    sys.exit(77)
from appvss.cli.main import main
sys.argv[1:] = ["simulate", "freebsd", sys.argv[1]]
main()
"""


class Running:
    """A simulator in a process of its own, whose lines are read by a thread."""

    def __init__(self, directory: Path, *options: str, kind: str = "freebsd", stdin: int = subprocess.PIPE) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*APPVSS, "simulate", kind, str(directory), "--json", *options],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next line with these fields; what comes before it is passed over."""
        while True:
            line = self.lines.get(timeout=SECONDS)
            assert line is not None, f"the simulator ended without {wanted}"
            if all(line.get(key) == value for key, value in wanted.items()):
                return line

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Wait for the end; the exit code and what was written to standard error."""
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="vss-", dir="/tmp"))
    yield parent / "dev"
    ctypes.CDLL(None).umount2(os.fsencode(parent / "dev"), 2)
    shutil.rmtree(parent)


@pytest.fixture
def running(requires_fuse: None, folder: Path) -> Iterator[Running]:
    running = Running(folder)
    try:
        running.until(message_type="ready")
        yield running
    finally:
        running.clean()


def appvss(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [*APPVSS, *(str(argument) for argument in arguments)]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False)


def is_mounted(folder: Path) -> bool:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return any(line.split()[4] == str(folder) for line in file)


def test_a_script_is_carried_out_in_order(running: Running) -> None:
    running.say("# a whole backup\n\ncheck\nfreeze\nwait 1ms\nthaw\nfs veto freeze\nfreeze\nquit\n")
    outcomes = []
    while (line := running.until())["message_type"] != "ended":
        if line["message_type"] == "result":
            outcomes.append((line["command"], line["outcome"]))
    assert outcomes == [
        ("check", "ok"),
        ("freeze", "ok"),
        ("wait 1ms", "done"),
        ("thaw", "ok"),
        ("fs veto freeze", "done"),
        ("freeze", "failed"),
        ("quit", "done"),
    ]
    assert running.end() == (0, "")
    assert not is_mounted(running.directory)
    assert not running.directory.with_name("dev.control").exists()


def test_what_each_side_does_is_printed_before_the_result(running: Running) -> None:
    running.say("freeze\n")
    kinds = []
    while (line := running.until())["message_type"] != "result":
        kinds.append((line["kind"], line["side"]))
    assert kinds == [
        ("host_sent", None),
        ("received", None),
        ("woken", "fs"),
        ("read", "fs"),
        ("wrote", "fs"),
        ("replied", None),
    ]


def test_a_command_in_the_background_holds_nothing_up(running: Running) -> None:
    running.say("fs silent\nfreeze &\nstate\ndetach\n")
    assert running.until(message_type="state")["requests"][0]["operation"] == "freeze"
    assert running.until(message_type="result", command="freeze")["outcome"] == "unanswered"


def test_bad_lines_are_complained_of_and_passed_over(running: Running) -> None:
    running.say("bogus\n" + "x" * 10_000 + "\nwait 5\ndm-info\n")
    assert "bogus" in running.until(message_type="error")["sentence"]
    assert "longer" in running.until(message_type="error")["sentence"]
    assert running.until(message_type="error")["exit_code"] == 2
    assert running.until(message_type="result")["outcome"] == "ok"


def test_an_app_of_another_process_takes_part(running: Running) -> None:
    descriptor = os.open(running.directory / "hv_appvss_dev", os.O_RDONLY)
    try:
        assert running.until(kind="opened", side="app")["pid"] == os.getpid()
        running.say("freeze\n")
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(SECONDS * 1000) == [(descriptor, select.POLLIN)]
        buffer = bytearray(64)
        fcntl.ioctl(descriptor, LINUX.read, buffer, True)
        assert decode(buffer).operation is Operation.FREEZE
        fcntl.ioctl(descriptor, LINUX.write, encode(decode(buffer)))
        assert running.until(message_type="result")["outcome"] == "ok"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unmounts_and_ends(running: Running, number: signal.Signals) -> None:
    running.process.send_signal(number)
    assert running.until(message_type="ended")["reason"] == number.name
    assert running.end() == (0, "")
    assert not is_mounted(running.directory)


def test_a_signal_ends_a_freeze_that_nobody_answers(running: Running) -> None:
    running.say("fs silent\nfreeze\nnever reached\n")
    running.until(kind="read")
    running.process.terminate()
    assert running.end() == (0, "")


@pytest.mark.usefixtures("requires_fuse")
def test_the_end_of_standard_input_ends_nothing(folder: Path) -> None:
    running = Running(folder, stdin=subprocess.DEVNULL)
    try:
        running.until(message_type="ready")
        assert appvss("simulate", "host", folder, "freeze").returncode == 0
        running.process.terminate()
        assert running.end() == (0, "")
    finally:
        running.clean()


def test_another_shell_plays_the_host(running: Running) -> None:
    def host(*words: str) -> tuple[int, str]:
        result = appvss("simulate", "host", running.directory, *words)
        return result.returncode, result.stdout

    code, text = host("freeze")
    assert code == 0
    assert text.startswith("freeze: ok after ")
    assert host("fs", "veto", "freeze") == (0, "fs veto freeze: done\n")
    code, text = host("freeze")
    assert code == 9
    assert "failed" in text
    assert host("clock", "-5s") == (0, "clock -5s: done\n")
    assert host("detach") == (0, "detach: done\n")
    assert host("freeze")[0] == 12
    assert host("help")[0] == 0
    assert host("quit")[0] == 0
    assert running.end() == (0, "")


def test_another_shell_gets_json_and_errors(running: Running) -> None:
    result = appvss("simulate", "host", "--json", running.directory, "state")
    assert json.loads(result.stdout)["attached"] is True
    result = appvss("simulate", "host", running.directory, "bogus")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        "appvss: there is no command 'bogus'",
        "HINT: `help` lists the commands.",
    ]
    appvss("simulate", "host", running.directory, "detach")
    result = appvss("simulate", "host", running.directory, "fs", "open")
    assert result.returncode == 5
    result = appvss("simulate", "host", "--timeout", "50ms", running.directory, "wait", "1m")
    assert result.returncode == 12
    assert "--timeout" in result.stderr


def test_a_second_simulator_is_refused(running: Running) -> None:
    result = appvss("simulate", "freebsd", running.directory)
    assert result.returncode == 12
    assert result.stderr.startswith(f"appvss: another simulator serves {running.directory}\nHINT: ")
    assert is_mounted(running.directory)


def test_the_next_start_cleans_up_after_one_that_was_killed(running: Running) -> None:
    running.process.kill()
    assert running.end()[0] == -signal.SIGKILL
    assert is_mounted(running.directory)
    assert appvss("simulate", "host", running.directory, "freeze").returncode == 12
    again = Running(running.directory)
    try:
        again.until(message_type="ready")
        again.say("freeze\nquit\n")
        assert again.until(message_type="result")["outcome"] == "ok"
        assert again.end() == (0, "")
    finally:
        again.clean()
    assert not is_mounted(running.directory)


def test_somebody_unmounts_it(running: Running) -> None:
    assert ctypes.CDLL(None).umount2(os.fsencode(running.directory), 2) == 0
    code, complaint = running.end()
    assert code == 12
    assert json.loads(complaint)["sentence"] == f"somebody unmounted {running.directory}"


@pytest.mark.usefixtures("requires_fuse")
def test_the_file_system_side_is_left_to_others(folder: Path) -> None:
    running = Running(folder, "--fs", "none")
    try:
        running.until(message_type="ready")
        running.say("freeze &\nstate\n")
        assert running.until(message_type="state")["messages_in_ring"] == 1
        os.close(os.open(folder / "hv_fsvss_dev", os.O_RDONLY))
        assert running.until(kind="received")["operation"] == "freeze"
    finally:
        running.clean()


@pytest.mark.usefixtures("requires_fuse")
def test_a_silent_file_system_side(folder: Path) -> None:
    running = Running(folder, "--fs", "silent", "--debug-kernel")
    try:
        running.until(message_type="ready")
        running.say("freeze &\nstate\n")
        state = running.until(message_type="state")
        assert (state["fs_silent"], state["requests"][0]["places"]) == (True, ["fs answer"])
    finally:
        running.clean()


def test_nobody_reads_what_it_prints(requires_fuse: None, folder: Path) -> None:
    """The reader of its standard output goes away: it serves on."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [*APPVSS, "simulate", "freebsd", str(folder)], stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    try:
        with open(reader, "rb") as output:
            while not output.readline().startswith(b"ready"):
                pass
        for _ in range(3):
            assert appvss("simulate", "host", folder, "freeze").returncode == 0
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()


def test_standard_streams_that_are_closed(requires_fuse: None, folder: Path) -> None:
    words = " ".join(f"'{word}'" for word in [*APPVSS, "simulate", "freebsd", str(folder)])
    process = subprocess.Popen(["/bin/sh", "-c", f"exec {words} <&- >&- 2>&-"])
    try:
        for _ in range(SECONDS):
            if appvss("simulate", "host", folder, "freeze").returncode == 0:
                break
        else:
            pytest.fail("it never answered")
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_is_in_use(folder: Path) -> None:
    folder.mkdir()
    (folder / "file").touch()
    result = appvss("simulate", "freebsd", folder)
    assert result.returncode == 12
    assert result.stderr.splitlines() == [
        f"appvss: {folder} is not empty",
        "HINT: Name an empty folder, or one that does not exist yet.",
    ]


def test_a_machine_without_fuse(folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_FUSE, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if result.returncode == 77:
        pytest.skip("no right to hide /dev/fuse from a child")
    assert result.returncode == 12
    sentence, hint = result.stderr.splitlines()
    assert sentence.startswith(f"appvss: nothing can be mounted at {folder}: /dev/fuse")
    assert hint.startswith("HINT: ")


def test_no_simulator_at_all(folder: Path) -> None:
    result = appvss("simulate", "host", folder, "freeze")
    assert result.returncode == 12
    assert result.stderr.splitlines()[1].startswith("HINT: Start one with `appvss simulate freebsd DIR`")


def test_a_folder_whose_path_is_too_long(folder: Path) -> None:
    result = appvss("simulate", "freebsd", folder / ("x" * 100))
    assert result.returncode == 3
    assert "too long" in result.stderr or "longer than" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("freebsd",), ("host",), ("host", "x"), ("freebsd", "x", "--fs", "bogus")])
def test_a_wrong_command_line(arguments: tuple[str, ...]) -> None:
    result = appvss("simulate", *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["freebsd", "host"])
def test_help(command: str) -> None:
    result = appvss("simulate", command, "--help")
    assert result.returncode == 0
    assert "DIR" in result.stdout
