"""The test's hand in the guest: it does what it is asked to over a virtio-serial port, one JSON object a line.

    {"id": 7, "do": "run", "with": {"argv": ["true"], "timeout": 60}}  ->  {"id": 7, "result": {...}}
                                                                       or  {"id": 7, "error": "..."}

Every request has a thread of its own, so one that hangs on a frozen file system holds up no other. With the standard
library alone: what it needs is loaded before anything is frozen, and what its processes say
is kept in memory, on no disk.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import hyperv_host

PORT = "org.appvss.hand"
FIFREEZE = 0xC0045877  # linux/fs.h
FITHAW = 0xC0045878


class Process:
    """One process that was started, and all that it has said."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self.pid = self._process.pid
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._said_all = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._said_all = True
            self._news.notify_all()

    def line(self, pattern: str, after: int, timeout: float) -> str:
        """The first line from number `after` on in which the pattern is found."""

        def found() -> str | None:
            return next((line for line in self.lines[after:] if re.search(pattern, line)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or self._said_all, timeout)
            line = found()
        if line is None:
            raise LookupError(f"{pattern!r} is not in what it said:\n" + "\n".join(self.lines))
        return line

    def wait(self, timeout: float) -> int:
        """Its exit code."""
        return self._process.wait(timeout)


PROCESSES: dict[int, Process] = {}


def run(argv: list[str], timeout: float, environment: dict[str, str]) -> dict[str, object]:
    """Run a program to its end."""
    environment = {**os.environ, **environment}
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, env=environment, check=False
    )
    return {
        "code": done.returncode,
        "out": done.stdout.decode(errors="replace"),
        "err": done.stderr.decode(errors="replace"),
    }


def start(argv: list[str], environment: dict[str, str]) -> int:
    """Start a program and go on; its process id."""
    process = Process(argv, environment)
    PROCESSES[process.pid] = process
    return process.pid


def line(pid: int, pattern: str, after: int, timeout: float) -> str:
    """Wait until a process that was started has said a line."""
    return PROCESSES[pid].line(pattern, after, timeout)


def said(pid: int) -> list[str]:
    """All that a process that was started has said until now."""
    return list(PROCESSES[pid].lines)


def wait(pid: int, timeout: float) -> int:
    """The exit code of a process that was started."""
    return PROCESSES[pid].wait(timeout)


def kill(pid: int, number: int) -> None:
    """Send a signal to a process."""
    os.kill(pid, number)


def frozen(path: str) -> bool:
    """Whether the file system is frozen: the kernel refuses to freeze it once more."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FIFREEZE, 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    else:
        fcntl.ioctl(descriptor, FITHAW, 0)
        return False
    finally:
        os.close(descriptor)


def write(path: str, text: str) -> float:
    """Write a file and have it on disk; the seconds that it took. Waits as long as the file system is frozen."""
    began = time.monotonic()
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return time.monotonic() - began


def read(path: str) -> str:
    """A file's text."""
    with open(path, errors="replace") as file:
        return file.read()


def hyperv(operation: str, timeout: float) -> dict[str, object]:
    """Be the Hyper-V host for one operation, and wait for the guest's reply."""
    return hyperv_host.ask(operation, timeout)


DOES = {each.__name__: each for each in (run, start, line, said, wait, kill, frozen, write, read, hyperv)}


class Port:
    """The virtio-serial port."""

    def __init__(self) -> None:
        self._descriptor = os.open(self._path(), os.O_RDWR)
        self._lock = threading.Lock()

    @staticmethod
    def _path() -> str:
        """The device node of the port with our name."""
        while True:
            for folder in glob.glob("/sys/class/virtio-ports/*"):
                with open(f"{folder}/name") as file:
                    if file.read().strip() == PORT:
                        return f"/dev/{os.path.basename(folder)}"
            time.sleep(0.02)  # the port has not been announced yet

    def serve(self) -> None:
        """Do what comes, for ever."""
        rest = b""
        while True:
            chunk = os.read(self._descriptor, 65536)
            if not chunk:
                time.sleep(0.02)  # nobody is connected, and there is no event for that
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            for each in lines:
                threading.Thread(target=self._answer, args=(json.loads(each),), daemon=True).start()

    def _answer(self, request: dict[str, object]) -> None:
        try:
            answer = {"result": DOES[request["do"]](**request["with"])}
        except Exception as error:  # noqa: BLE001 - not swallowed: the test gets it
            answer = {"error": f"{type(error).__name__}: {error}"}
        data = json.dumps({"id": request["id"], **answer}).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._descriptor, data) :]


if __name__ == "__main__":
    print("the guest is up", flush=True)
    Port().serve()
