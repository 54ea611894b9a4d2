"""The child process that opens, passes on and stays; with files, since it knows nothing of the device."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import SourceError
from appvss.sources.device_opener import DeviceOpener, OpenedDevice
from tests.sources.device_support import without_override

WAIT_MS = 10_000
"""The bound of every wait."""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for a process that is not our child")


@pytest.fixture
def interrupt() -> Iterator[tuple[int, int]]:
    """A pipe: whoever writes to it interrupts an open."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain"
    path.write_text("content")
    return path


def opened(opener: DeviceOpener, interrupt: tuple[int, int]) -> OpenedDevice:
    device = opener.open(interrupt[0])
    assert device is not None
    return device


def alive(pid: int) -> bool:
    """Whether a child of ours with that id is running."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def readable(descriptor: int, within_ms: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(within_ms))


def ends(writer: int, within_ms: int) -> bool:
    """Whether the pipe loses its last reader."""
    poller = select.poll()
    poller.register(writer, 0)
    return any(events & select.POLLERR for _, events in poller.poll(within_ms))


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


def test_the_descriptor_is_of_the_file_and_only_for_reading(plain: Path, interrupt: tuple[int, int]) -> None:
    device = opened(DeviceOpener(str(plain)), interrupt)
    try:
        assert os.read(device.descriptor, 100) == b"content"
        assert fcntl.fcntl(device.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(device.descriptor)
    finally:
        device.close()


def test_the_child_stays_and_keeps_no_copy(tmp_path: Path, interrupt: tuple[int, int]) -> None:
    # A pipe tells its writer when the last reader is gone.
    path = tmp_path / "pipe"
    os.mkfifo(path)
    device = opened(DeviceOpener(str(path)), interrupt)
    try:
        with open(path, "wb", buffering=0) as writer, open(os.devnull, "rb") as other:
            assert not ends(writer.fileno(), 0)
            os.dup2(other.fileno(), device.descriptor, inheritable=False)
            assert ends(writer.fileno(), WAIT_MS)
        assert alive(device.pid)
        assert not readable(device.channel, 0)
        assert os.getsid(device.pid) == device.pid
    finally:
        device.close()


@needs_proc
def test_the_child_ignores_what_asks_a_program_to_stop(plain: Path, interrupt: tuple[int, int]) -> None:
    device = opened(DeviceOpener(str(plain)), interrupt)
    try:
        status = Path(f"/proc/{device.pid}/status").read_text().splitlines()
    finally:
        device.close()
    (ignored,) = (int(line.split()[1], 16) for line in status if line.startswith("SigIgn:"))
    assert all(ignored >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def test_close_ends_the_child_and_leaves_nothing(plain: Path, interrupt: tuple[int, int]) -> None:
    before = descriptors()
    opener = DeviceOpener(str(plain))
    for _ in range(3):
        device = opened(opener, interrupt)
        assert alive(device.pid)
        device.close()
        assert not alive(device.pid)
    assert descriptors() == before


def test_a_killed_child_shows_on_the_channel_and_the_descriptor_survives(
    plain: Path, interrupt: tuple[int, int]
) -> None:
    device = opened(DeviceOpener(str(plain)), interrupt)
    try:
        assert not readable(device.channel, 0)
        os.kill(device.pid, signal.SIGKILL)
        assert readable(device.channel, WAIT_MS)
        assert os.read(device.descriptor, 100) == b"content"
    finally:
        device.close()
    assert not alive(device.pid)


@needs_pidfd
def test_the_child_goes_when_its_parent_is_killed(plain: Path) -> None:
    program = (
        "import sys, os, signal\n"
        "from appvss.sources.device_opener import DeviceOpener\n"
        "device = DeviceOpener(sys.argv[1]).open(0)\n"
        "print(device.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(plain)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            assert not readable(child, 0)
            parent.kill()
            assert readable(child, WAIT_MS)
        finally:
            os.close(child)


@pytest.mark.parametrize(
    ("path", "number"), [("missing", errno.ENOENT), ("plain/below", errno.ENOTDIR), ("x" * 300, errno.ENAMETOOLONG)]
)
def test_a_refused_open_tells_its_errno(plain: Path, interrupt: tuple[int, int], path: str, number: int) -> None:
    before = descriptors()
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        DeviceOpener(str(plain.parent / path)).open(interrupt[0])
    assert caught.value.errno == number
    assert descriptors() == before


def test_without_rights_the_errno_is_eacces(plain: Path, interrupt: tuple[int, int]) -> None:
    weaker = without_override()
    plain.chmod(0)
    program = (
        "import sys\n"
        "from appvss.sources.device_opener import DeviceOpener\n"
        "try:\n"
        "    DeviceOpener(sys.argv[1]).open(0)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    assert run(weaker, program, str(plain), stdin=interrupt[0]) == [str(errno.EACCES)]


def test_what_would_block_an_open_does_not(tmp_path: Path, interrupt: tuple[int, int]) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    opened(DeviceOpener(str(path)), interrupt).close()


def test_an_interrupted_open_leaves_nothing(plain: Path, interrupt: tuple[int, int]) -> None:
    before = descriptors()
    os.write(interrupt[1], b"x")
    opener = DeviceOpener(str(plain))
    assert opener.open(interrupt[0]) is None
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    os.read(interrupt[0], 1)
    opened(opener, interrupt).close()


def test_an_open_that_takes_too_long_is_given_up(plain: Path, interrupt: tuple[int, int]) -> None:
    before = descriptors()
    with pytest.raises(SourceError, match=f"opening {plain} took longer than 0.0ms") as caught:
        DeviceOpener(str(plain), limit=timedelta(0)).open(interrupt[0])
    assert caught.value.hint
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_that_cannot_start_is_told(interrupt: tuple[int, int]) -> None:
    # In a process of its own, with ever more room for descriptors, from none to enough.
    program = (
        "import os, resource\n"
        "from appvss.model.errors import SourceError\n"
        "from appvss.sources.device_opener import DeviceOpener\n"
        "most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "first = os.dup(0)\n"
        "os.close(first)\n"
        "for room in range(10):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (first + room, most))\n"
        "    try:\n"
        "        DeviceOpener('/dev/null').open(0).close()\n"
        "        print('opened')\n"
        "    except SourceError as error:\n"
        "        print(error.sentence)\n"
    )
    lines = run([], program, stdin=interrupt[0])
    assert lines[0] == "the process that opens /dev/null cannot be started: Too many open files"
    assert lines[-1] == "opened"
    assert set(lines) <= {lines[0], lines[-1]}


def test_no_room_for_the_descriptor_is_told(tmp_path: Path, plain: Path, interrupt: tuple[int, int]) -> None:
    # The room goes after the child has started and before it answers: its interpreter waits for a line meanwhile.
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = (
        "import os, resource, sys, threading\n"
        "from appvss.model.errors import SourceError\n"
        "from appvss.sources.device_opener import DeviceOpener\n"
        "path, gate, sys.executable = sys.argv[1:]\n"
        "def open_it():\n"
        "    try:\n"
        "        DeviceOpener(path).open(0)\n"
        "    except SourceError as error:\n"
        "        print(error.sentence)\n"
        "thread = threading.Thread(target=open_it)\n"
        "thread.start()\n"
        "with open(gate, 'w') as waiting:\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "    waiting.write('go')\n"
        "thread.join()\n"
    )
    interpreter = script(tmp_path, f'read line < {gate}; exec {sys.executable} "$@"')
    lines = run([], program, str(plain), str(gate), interpreter, stdin=interrupt[0])
    assert lines == [f"{plain} was opened, and this process has no descriptor left for it"]


@pytest.mark.parametrize(
    ("interpreter", "sentence"),
    [
        ("exit 3", "ended before it had opened"),
        ("exec sleep 60", "took longer than 50.0ms"),
    ],
)
def test_a_child_that_does_not_answer_is_told(
    tmp_path: Path, plain: Path, interrupt: tuple[int, int], interpreter: str, sentence: str
) -> None:
    program = (
        "import datetime, os, sys\n"
        "from appvss.model.errors import SourceError\n"
        "from appvss.sources.device_opener import DeviceOpener\n"
        "path, sys.executable, milliseconds = sys.argv[1:]\n"
        "opener = DeviceOpener(path, datetime.timedelta(milliseconds=int(milliseconds)))\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        opener.open(0)\n"
        "    except SourceError as error:\n"
        "        print(error.sentence)\n"
        "try:\n"
        "    os.waitpid(-1, os.WNOHANG)\n"
        "except ChildProcessError:\n"
        "    print('no child left')\n"
    )
    limit = "50" if "sleep" in interpreter else "10000"
    lines = run([], program, str(plain), script(tmp_path, interpreter), limit, stdin=interrupt[0])
    assert len(lines) == 3
    assert sentence in lines[0]
    assert sentence in lines[1]
    assert lines[2] == "no child left"


def script(folder: Path, command: str) -> str:
    """The path of a shell script, to be taken for the Python interpreter."""
    path = folder / "interpreter"
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o700)
    return str(path)


def run(prefix: list[str], program: str, *arguments: str, stdin: int) -> list[str]:
    """The lines that a Python program prints."""
    answer = subprocess.run(
        [*prefix, sys.executable, "-c", program, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
        timeout=WAIT_MS / 1000,
        check=True,
    )
    return answer.stdout.splitlines()
