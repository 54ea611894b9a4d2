"""One app in a process of its own: `python -m appvss.agent.child serve|look|undo`, started by the agent.

What it is to do comes as one line of JSON on its standard input: the section of the app and that of the agent, with
references to secrets and no secret. `serve` runs until its standard input ends, which is the agent's word to leave and
its death as well. `look` and `undo` write one line of JSON to standard output and end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from appvss.adapters import undo
from appvss.adapters.base import Adapter
from appvss.agent.configuration import AppConfiguration, app_of
from appvss.agent.lines import LineWriter
from appvss.agent.options import AgentOptions
from appvss.agent.serving import Serving, failed
from appvss.agent.undo_places import place_of
from appvss.model.app import AppId
from appvss.model.errors import AppvssError, ExitCode
from appvss.model.names import printable

LINE: Final = "APPVSS_AGENT_LINE"
"""The environment variable with the number of the descriptor on which `serve` speaks to the agent."""
AT_REST: Final = "leave"
"""The line that `serve` reads on its standard input when it is to leave as soon as no cycle is at work with it."""


def order_of(agent: AgentOptions, undo_directory: Path, app: AppConfiguration) -> str:
    """The line that a process of this module is given. Two that are equal mean the same app."""
    runtime = agent.runtime_directory
    return json.dumps(
        {
            "key": app.key,
            "table": app.table,
            "runtime_directory": None if runtime is None else str(runtime),
            "undo_directory": str(undo_directory),
            "log_level": agent.log_level,
            "check_timeout": agent.check_timeout.total_seconds(),
        }
    )


class Orders:
    """What a process of this module was told."""

    def __init__(self, line: str) -> None:
        told = json.loads(line)
        self.app = app_of(told["key"], told["table"])
        self.runtime_directory: str | None = told["runtime_directory"]
        self.undo_place = place_of(Path(told["undo_directory"]), self.app.key)
        self.log_level: str = told["log_level"]
        self.check_timeout = timedelta(seconds=told["check_timeout"])

    def adapter(self) -> Adapter[Any]:
        """The app's adapter, with its name and its place for undo records."""
        adapter = self.app.adapter()
        adapter.undo_directory = self.undo_place
        return adapter


def main(arguments: list[str]) -> int:
    """Carry out what the agent wants; the exit code."""
    line = _first_line()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a library prints is no part of an answer
            orders = Orders(line)
            if arguments == ["serve"]:
                return asyncio.run(_serve(orders))
            if arguments == ["look"]:
                return asyncio.run(_look(orders))
            if arguments == ["undo"]:
                return asyncio.run(_undo(orders))
    except AppvssError as error:
        sys.stderr.write(f"{printable(error.sentence)}; {printable(error.hint)}\n")
        return error.exit_code
    return ExitCode.USAGE


def _first_line() -> str:
    """The order, read without taking in anything that follows it."""
    content = bytearray()
    while not content.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
        content += byte
    return content.decode()


async def _serve(orders: Orders) -> int:
    descriptor = int(os.environ.pop(LINE))
    os.set_inheritable(descriptor, False)
    line = LineWriter(descriptor)
    serving = Serving(orders.app, orders.adapter(), orders.runtime_directory, orders.check_timeout, line)
    _log_to(orders.app.app, serving, line, orders.log_level)
    loop = asyncio.get_running_loop()

    def read() -> None:
        if os.read(sys.stdin.fileno(), 4096):
            serving.leave_at_rest()
        else:
            loop.remove_reader(sys.stdin.fileno())
            serving.leave()

    loop.add_reader(sys.stdin.fileno(), read)
    await serving.run()
    return ExitCode.SUCCESS


def _answer(document: object) -> None:
    with open(1, "wb", closefd=False) as out:
        out.write(json.dumps(document).encode() + b"\n")


async def _look(orders: Orders) -> int:
    from appvss.agent.checking import document_of  # only this process wants it

    adapter = orders.adapter()
    try:
        preflight = await adapter.preflight()
    except Exception as error:  # noqa: BLE001 - a traceback would be shown, whatever is in it
        preflight = failed(error)
    _answer(document_of(adapter, preflight))
    return ExitCode.SUCCESS


async def _undo(orders: Orders) -> int:
    directory = undo.undo_directory(orders.undo_place)
    settled = await undo.settle(directory, {orders.app.key: orders.adapter()})
    told = [
        {
            "cycle": "" if each.pending.record is None else each.pending.record.cycle,
            "failure": each.failure,
            "hint": each.hint,
        }
        for each in settled
    ]
    _answer(told)
    return ExitCode.SUCCESS if all(each.is_undone for each in settled) else ExitCode.REFUSED


class _LineHandler(logging.Handler):
    """Hands records to the agent. It never waits, so it may be used in a hold."""

    def __init__(self, app: AppId, serving: Serving, line: LineWriter) -> None:
        super().__init__()
        self._app = app
        self._serving = serving
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        except Exception as error:  # noqa: BLE001 - a record of any library that cannot be formatted must end nothing
            text = f"a log record of {record.name} cannot be formatted: {error!r}"
        text = text.removeprefix(f"{self._app}: ")  # as the SDK begins every sentence: the agent's log names the app
        log = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(text, 2000),
            "cycle": self._serving.cycle,
        }
        self._line.say({"log": log}, can_be_spared=True)


def _log_to(app: AppId, serving: Serving, line: LineWriter, level: str) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_LineHandler(app, serving, line)]
    root.setLevel(logging.WARNING)
    logging.getLogger("appvss").setLevel(level.upper())
    logging.captureWarnings(capture=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
