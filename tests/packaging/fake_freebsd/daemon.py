"""What FreeBSD's daemon(8) does with the options that our rc.d script gives it. Its standard error stands for syslog.

`FAKE_DAEMON=hasty` in the environment: it ends at once on SIGTERM, as the one of FreeBSD 13 does, and does not wait for
the program that it has told to end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType


def options() -> argparse.Namespace:
    """The options, as in daemon(8)."""
    parser = argparse.ArgumentParser("daemon", allow_abbrev=False)
    parser.add_argument("-c", action="store_true", required=True)
    parser.add_argument("-f", action="store_true", required=True)
    parser.add_argument("-P", type=Path, required=True, dest="pid_file")
    parser.add_argument("-R", type=int, required=True, dest="delay")
    for name in "tlsT":
        parser.add_argument(f"-{name}", required=True)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    return parser.parse_args()


def supervise(arguments: argparse.Namespace) -> None:
    """Run the program, again and again."""
    told = False
    child: subprocess.Popen[bytes] | None = None

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True
        if child is not None:
            child.send_signal(signal.SIGTERM)
        if os.environ.get("FAKE_DAEMON") == "hasty":
            arguments.pid_file.unlink()
            os._exit(1)

    signal.signal(signal.SIGTERM, end)
    while not told:
        child = subprocess.Popen(arguments.program, stdin=subprocess.DEVNULL)
        child.wait()
        child = None
        if not told:
            time.sleep(arguments.delay)
    arguments.pid_file.unlink()


def main() -> None:
    """Detach, then supervise."""
    arguments = options()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.chdir("/")
    arguments.pid_file.write_text(str(os.getpid()))
    log = os.open(os.environ["FAKE_SYSLOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    supervise(arguments)


if __name__ == "__main__":
    sys.exit(main())
