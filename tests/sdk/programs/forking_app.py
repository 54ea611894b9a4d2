"""An app with threads that forks when told to: one command a line on stdin, one answer a line on stdout."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import appvss

# From Python 3.12 on, of any fork of a program with threads; it would stand on stderr, which must stay empty otherwise.
warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)

held = threading.Event()


@contextmanager
def quiesce(_: appvss.Freeze) -> Iterator[dict[str, int]]:
    held.set()
    yield {"pid": os.getpid()}
    held.clear()


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def exit_in_order(*_: object) -> NoReturn:
    sys.exit(0)


def live_as_child(what: str) -> NoReturn:
    """What a forked child does; it leaves through the parent's `with` block, as real programs do."""
    if what == "serve":
        with appvss.serve_in_thread("child", quiesce):
            signal.pause()
    elif what == "stay":
        signal.pause()
    sys.exit(0)


def fork(what: str) -> None:
    child = os.fork()
    if child == 0:
        live_as_child(what)
    say(child)


def obey() -> None:
    for line in sys.stdin:
        match line.split():
            case ["fork", what]:
                fork(what)
            case ["wait", child]:
                say(os.waitstatus_to_exitcode(os.waitpid(int(child), 0)[1]))
            case ["held"]:
                say(held.is_set())


def main() -> None:
    signal.signal(signal.SIGTERM, exit_in_order)
    if sys.argv[1] == "fork-first":
        fork("serve")
    with appvss.serve_in_thread("parent", quiesce):
        obey()


if __name__ == "__main__":
    main()
