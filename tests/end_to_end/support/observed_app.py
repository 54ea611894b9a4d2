"""An app in a process of its own that writes without a pause, and keeps a log of everything that it does.

    python -m tests.end_to_end.support.observed_app NAME FOLDER async|threads [--hold-limit SECONDS] ...

It writes records of one size to FOLDER/NAME.data, and for each, and for each step of a freeze, a line to
FOLDER/NAME.log, with instants of CLOCK_MONOTONIC, which all processes of a machine share (`write_log` reads it):

    write BEGAN ENDED             a record was written; while the app is quiet there is none
    quiet AT BUDGET HOLD_LIMIT    a freeze has stopped the writer
    frozen AT                     it is about to be acked
    released AT                   the writer may go on

With `--disk FOLDER` its data lies there instead, and a freeze writes a checkpoint beside it, which fails when that disk
is full; a record that finds no room is no write, and is tried again.

On standard input it takes, and on standard output it answers with the same words:

    close GATE       from now on it waits in `prepare`, `freeze` or `thaw`, as long as its budget or its limit lets it
    open             it waits no longer, anywhere
    veto, agree      it refuses every freeze, or none
    next NUMBER      answered, with the instant, when the next record has been written

At the end of its standard input it ends, so none is ever left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import appvss

RECORD = b"%031d\n"
_GATES = ("prepare", "freeze", "thaw")
_LOOK_AGAIN = 0.02
_PAUSE = 0.003


class Records:
    """The file that is protected, and the log beside it."""

    def __init__(self, name: str, folder: Path, disk: Path | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.path = (disk or folder) / f"{name}.data"
        self._checkpoint = disk / f"{name}.checkpoint" if disk is not None else None
        self._data = os.open(self.path, flags)
        self._log = os.open(folder / f"{name}.log", flags)
        self.number = 0
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask(self, number: str) -> None:
        """Have the next write answered."""
        self._asked.put(number)

    def write(self) -> None:
        """One record and its line. Who asked before it began is answered after it."""
        asked = []
        with contextlib.suppress(queue.Empty):
            while True:
                asked.append(self._asked.get_nowait())
        self.number += 1
        began = time.monotonic_ns()
        try:
            os.write(self._data, RECORD % self.number)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            for number in asked:
                self.ask(number)
            return
        ended = time.monotonic_ns()
        self._append(f"write {began} {ended}")
        for number in asked:
            say(f"next {number} {began}")

    def flush(self) -> None:
        """What a database does to become quiet: one more write, which needs room on its disk."""
        if self._checkpoint is not None:
            self._checkpoint.write_bytes(bytes(4096))

    def note(self, what: str, *lengths: timedelta) -> None:
        """A line about this instant."""
        words = (f"{length // timedelta(microseconds=1) * 1000}" for length in lengths)
        self._append(" ".join((what, str(time.monotonic_ns()), *words)))

    def _append(self, line: str) -> None:
        os.write(self._log, f"{line}\n".encode())


class Gates:
    """Where the app waits when it is told to."""

    def __init__(self) -> None:
        self._open = {gate: threading.Event() for gate in _GATES}
        self.vetoes = False
        self.open()

    def open(self) -> None:
        for event in self._open.values():
            event.set()

    def close(self, gate: str) -> None:
        self._open[gate].clear()

    def wait(self, gate: str, check: Callable[[], None]) -> None:
        """Wait in a thread; `check` raises when there is no more time."""
        while not self._open[gate].wait(_LOOK_AGAIN):
            check()

    async def pass_through(self, gate: str) -> None:
        """Wait on an event loop, which cancels it when there is no more time."""
        while not self._open[gate].is_set():  # noqa: ASYNC110 - the gates are moved by another thread
            await asyncio.sleep(_LOOK_AGAIN)

    def judge(self) -> None:
        if self.vetoes:
            raise appvss.Veto("it was told to refuse", retryable=True)


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def obey(gates: Gates, records: Records) -> None:
    """Carry out what comes on standard input, to its end."""
    for line in sys.stdin:
        match line.split():
            case ["close", gate]:
                gates.close(gate)
            case ["open"]:
                gates.open()
            case ["veto"]:
                gates.vetoes = True
            case ["agree"]:
                gates.vetoes = False
            case ["next", number]:
                records.ask(number)
                continue
            case _:
                say(f"what is {line!r}")
        say(line.strip())
    os._exit(0)


async def run_async(options: argparse.Namespace, gates: Gates, records: Records) -> None:
    writing = asyncio.Lock()

    async def prepare(_prepare: appvss.Prepare) -> None:
        await gates.pass_through("prepare")

    @asynccontextmanager
    async def quiesce(freeze: appvss.Freeze) -> AsyncIterator[dict[str, int]]:
        gates.judge()
        async with contextlib.nullcontext() if options.careless else writing:
            records.note("quiet", freeze.budget, freeze.hold_limit)
            try:
                await gates.pass_through("freeze")
                records.flush()
                records.note("frozen")
                yield {"records": records.number}
            finally:
                records.note("released")
        await gates.pass_through("thaw")

    async def write() -> None:
        while True:
            async with writing:
                records.write()
            await asyncio.sleep(_PAUSE)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(
            appvss.serve(
                options.name,
                quiesce,
                prepare=prepare if options.prepares else None,
                order=options.order,
                requirement=options.requirement,
                hold_limit=timedelta(seconds=options.hold_limit),
                paths=[records.path],
            )
        )


def run_in_threads(options: argparse.Namespace, gates: Gates, records: Records) -> None:
    writing = threading.Lock()

    def prepare(prepare: appvss.Prepare) -> None:
        def check() -> None:
            if not prepare.budget_left():
                raise TimeoutError("there is no time left to prepare")

        gates.wait("prepare", check)

    @contextmanager
    def quiesce(freeze: appvss.Freeze) -> Iterator[dict[str, int]]:
        gates.judge()
        with contextlib.nullcontext() if options.careless else writing:
            records.note("quiet", freeze.budget, freeze.hold_limit)
            try:
                gates.wait("freeze", freeze.check)
                records.flush()
                records.note("frozen")
                yield {"records": records.number}
            finally:
                records.note("released")
        gates.wait("thaw", freeze.check)

    with appvss.serve_in_thread(
        options.name,
        quiesce,
        prepare=prepare if options.prepares else None,
        order=options.order,
        requirement=options.requirement,
        hold_limit=timedelta(seconds=options.hold_limit),
        paths=[records.path],
    ):
        while True:
            with writing:
                records.write()
            time.sleep(_PAUSE)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("style", choices=["async", "threads"])
    parser.add_argument("--hold-limit", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--order", type=int, default=50)
    parser.add_argument("--requirement", default="required")
    parser.add_argument("--prepares", action="store_true", help="it has a prepare function")
    parser.add_argument("--disk", type=Path, metavar="FOLDER", help="where its data is; else in FOLDER")
    parser.add_argument("--careless", action="store_true", help="it acks, and writes all the same")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gates, records = Gates(), Records(options.name, options.folder, options.disk)
    threading.Thread(target=obey, args=(gates, records), daemon=True).start()
    if options.style == "async":
        asyncio.run(run_async(options, gates, records))
    else:
        run_in_threads(options, gates, records)


if __name__ == "__main__":
    main()
