"""The reader of traces sees what is forbidden: lines as strace(1) writes them, and a program that does it all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.system_calls import Trace, tracing, why_not
from tests.support.running_broker import BOUND

FORBIDDEN = (
    'write(2</mnt/disk/broker.log>, "x\\n", 2) = 2',
    'write(2</mnt/disk/broker.log>, "x\\n", 2 <unfinished ...>',
    'pwrite64(7</mnt/disk/state/history.sqlite-wal>, "7\\177", 4096, 0) = 4096',
    "fsync(7</mnt/disk/state/history.sqlite>) = 0",
    "ftruncate(7</mnt/disk/x (deleted)>, 0) = 0",
    'openat(AT_FDCWD</work>, "/mnt/disk/new", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 9</mnt/disk/new>',
    'openat(AT_FDCWD</work>, "/usr/lib/python3.11/bisect.py", O_RDONLY|O_CLOEXEC) = 9</usr/lib/python3.11/bisect.py>',
    'openat(AT_FDCWD</work>, "/usr/lib/__pycache__/bisect.cpython-311.pyc", O_RDONLY <unfinished ...>',
    'openat(AT_FDCWD</work>, "/usr/lib/libm.so.6", O_RDONLY|O_CLOEXEC) = 3</usr/lib/libm.so.6>',
    'rename("/a", "/b") = 0',
    'execve("/bin/true", ["true"], 0x7ffe /* 3 vars */) = 0',
    "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = 42",
    "vfork() = 42",
    "mmap(NULL, 32768, PROT_READ|PROT_WRITE, MAP_SHARED, 8</mnt/disk/state/history.sqlite-shm>, 0) = 0x7f",
)
ALLOWED = (
    'write(5<UNIX-STREAM:[12->13,"/tmp/av-x/run/admin.sock"]>, "x", 1) = 1',
    'write(6<anon_inode:[eventfd]>, "\\1", 8) = 8',
    'write(2<pipe:[1234]>, "x", 1) = 1',
    'write(2</dev/pts/0<char 136:0>>, "x", 1) = 1',
    'sendmsg(5<UNIX-STREAM:[12->13,"/tmp/av-x/run/admin.sock"]>, {msg_name=NULL}, 0) = 1',
    'openat(AT_FDCWD</work>, "/proc/self/stat", O_RDONLY|O_CLOEXEC) = 9</proc/1/stat>',
    'openat(AT_FDCWD</work>, "/dev/null", O_RDWR|O_CLOEXEC) = 9</dev/null<char 1:3>>',
    "clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD|CLONE_SYSVSEM, exit_signal=0}, 88) = 42",
    "mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f",
    "mmap(NULL, 4096, PROT_READ, MAP_SHARED, 8</mnt/disk/x>, 0) = 0x7f",
    "ioctl(9</tmp/av-x/dev/hv_appvss_dev>, _IOC(_IOC_READ, 0x76, 0x3, 0x40), 0x7ffd) = 0",
)


def trace_of(file: Path, *texts: str) -> Trace:
    file.write_text("".join(f"123 1700000000.{number:06} {text}\n" for number, text in enumerate(texts)))
    return Trace.read(file)


@pytest.mark.parametrize("text", FORBIDDEN)
def test_forbidden(tmp_path: Path, text: str) -> None:
    assert trace_of(tmp_path / "trace", text).forbidden == [text]


@pytest.mark.parametrize("text", ALLOWED)
def test_allowed(tmp_path: Path, text: str) -> None:
    trace = trace_of(tmp_path / "trace", text)
    assert len(trace.calls) == 1
    assert trace.forbidden == []


def test_only_what_lies_between_counts(tmp_path: Path) -> None:
    trace = trace_of(tmp_path / "trace", FORBIDDEN[0], ALLOWED[0], FORBIDDEN[1], "+++ exited with 0 +++")
    assert trace.between(trace.first("write").at, trace.last("write").at).calls == (trace.calls[1],)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_program_that_does_what_is_forbidden(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys, threading\n"
        "os.rename('nothing', 'nowhere') if False else None\n"
        "threading.Thread(target=lambda: None).start()\n"
        "open('written', 'w').write('x')\n"
        "subprocess.run(['true'])\n"
        "import xml.dom.minidom\n"
    )
    command = [*tracing(tmp_path / "trace"), sys.executable, "-I", "-S", "-c", program]
    subprocess.run(command, cwd=tmp_path, timeout=BOUND, check=True)
    found = "\n".join(Trace.read(tmp_path / "trace").forbidden)
    for part in ('"written", O_WRONLY|O_CREAT', f"write(3<{tmp_path}/written>", "execve(", "minidom", "fork("):
        assert part in found, (part, found)
