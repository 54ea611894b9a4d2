"""A verifier for tests: the "database" is a file `value` in the data directory, and the marker is its first line.

What it does beside depends on the second line: `hang`, `fork` (a child that stays), `crash`, `print`, `write`, `stray`
(it tries to write to the folder that the third line names, and says so there before it ends). To whoever waits it
speaks through a pipe: all other files of the machine are read-only for it.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from appvss.model.grade import Grade
from appvss.verify.base import Copy, Finding, Report


def verify(copy: Copy, evidence: Mapping[str, str]) -> Report:
    """Read the file, write to it, and say what was found."""
    data = copy.locate(evidence["data_directory"])
    marker, *rest = (data / "value").read_text().splitlines()
    mood = rest[0] if rest else ""
    if mood == "hang":
        (Path(rest[1]) / "verifying").write_text("x")
        time.sleep(600)
    if mood == "fork":
        subprocess.Popen(["sleep", rest[1]], start_new_session=True, cwd=data)
    if mood == "stray":
        return Report("fake", "1.0", Grade.FS, tuple(_strayed(Path(rest[1]), copy.work)))
    if mood == "crash":
        raise RuntimeError("the fake has crashed")
    if mood == "print":
        os.write(1, b"x" * 100_000)
    (data / "value").write_text("changed by the verifier")
    with socket.socket() as listening:  # loopback is up, and nobody else is there
        listening.bind(("127.0.0.1", 5432))
    found = marker == evidence.get("marker")
    return Report(
        "fake",
        f"1.0 as {os.getpid()}",
        Grade.APP_VERIFIED if found else Grade.FS,
        (
            Finding("marker", found, f"the copy has {marker}"),
            Finding("work", True, f"{copy.work} {os.listdir(copy.work)}"),
        ),
    )


@contextmanager
def said_in(folder: Path) -> Iterator[Callable[[], bytes]]:
    """A pipe in which the fake says that it has come to the point; what it has said so far, each time it is asked."""
    os.mkfifo(folder / "verifying")
    reading = os.open(folder / "verifying", os.O_RDONLY | os.O_NONBLOCK)

    def said() -> bytes:
        try:
            return os.read(reading, 1)
        except BlockingIOError:  # it is about to
            return b""

    try:
        yield said
    finally:
        os.close(reading)


def _strayed(live: Path, work: Path) -> Iterator[Finding]:
    """What becomes of each way to write to a folder of the live machine, and of what is there."""
    value = live / "value"
    ways: dict[str, Callable[[], object]] = {
        "append": lambda: value.open("a"),
        "open": lambda: value.open("r+"),
        "empty": lambda: os.truncate(value, 0),
        "mode": lambda: value.chmod(0o600),
        "time": lambda: os.utime(value),
        "rename": lambda: value.rename(live / "other"),
        "remove": value.unlink,
        "new": (live / "new").touch,
    }
    for name, way in ways.items():
        try:
            way()
        except OSError as error:
            yield Finding(name, error.errno == errno.EROFS, str(error))
        else:
            yield Finding(name, False, "it was done")
    command = ["unshare", "--mount", "sh", "-c", 'echo changed >> "$1"', "sh", str(value)]  # as covered servers are
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    yield Finding("server", done.returncode != 0 and "Read-only file system" in done.stderr, done.stderr)
    try:
        with closing(sqlite3.connect(live / "sqlite", isolation_level=None)) as database:
            database.execute("INSERT INTO t VALUES (2)")
    except sqlite3.OperationalError as error:
        yield Finding("sqlite", "readonly" in str(error), str(error))
    else:
        yield Finding("sqlite", False, "it was done")
    if shutil.which("redis-server"):
        options = (
            "--port",
            "0",
            "--unixsocket",
            str(work / "s"),
            "--dir",
            str(live),
            "--appendonly",
            "yes",
            "--logfile",
            "",
            "--daemonize",
            "no",
        )
        done = subprocess.run(["redis-server", *options], capture_output=True, text=True, check=False, timeout=60)
        yield Finding("redis", done.returncode != 0 and "Read-only file system" in done.stdout, done.stdout)
    (live / "verifying").write_text("x")
    (live / "go on").read_text()
