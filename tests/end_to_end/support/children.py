"""Processes that talk in lines. Every line is read at once, kept, and may be waited for, with a bound."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.support.write_log import WriteLog
from tests.support.running_broker import BOUND

_SHOWN = 60
"""Lines of each stream that a failure shows."""


@dataclass(frozen=True)
class Line:
    """What a process has said."""

    at: int
    """When it was heard: nanoseconds of CLOCK_MONOTONIC."""
    text: str


@dataclass(frozen=True)
class Hold:
    """A hold that a requester was told was good."""

    acked: int
    """When the requester had heard that everything is held."""
    thaw_asked: int
    """When it was about to ask for the thaw."""
    mounts: tuple[str, ...] = ()
    """The file systems that the requester has named: apps that have their files elsewhere are not asked. Empty: all."""


class Child:
    """One process with pipes as its standard streams. Only the stage starts and ends it.

    Args:
        name: for people.
        process: just started.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.out: list[Line] = []
        self.err: list[Line] = []
        self._news = asyncio.Condition()
        self._readers = {
            asyncio.create_task(self._read(stream, lines), name=f"lines of {name}")
            for stream, lines in ((process.stdout, self.out), (process.stderr, self.err))
        }

    @property
    def pid(self) -> int:
        return self.process.pid

    async def _read(self, stream: asyncio.StreamReader | None, lines: list[Line]) -> None:
        assert stream is not None
        while text := await stream.readline():
            async with self._news:
                lines.append(Line(time.monotonic_ns(), text.decode(errors="replace").rstrip("\n")))
                self._news.notify_all()

    async def hear(self, wanted: Callable[[str], bool], what: str, after: int = 0) -> Line:
        """The first line of standard output that is `wanted`, from number `after` on."""
        seen = after

        def found() -> Line | None:
            nonlocal seen
            while seen < len(self.out):
                seen += 1
                if wanted(self.out[seen - 1].text):
                    return self.out[seen - 1]
            return None

        try:
            async with asyncio.timeout(BOUND), self._news:
                while (line := found()) is None:
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{self.name} has not said: {what}") from None
        return line

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end, and for that of its streams; its exit code."""
        async with asyncio.timeout(BOUND):
            code = await self.process.wait()
            await asyncio.wait(self._readers)
        return code

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.close_input()
        await self.ended()

    def let_go(self) -> None:
        """End it, at the end of a test. Does not wait."""
        if self.process.returncode is None:
            self.process.kill()
        self.close_input()

    def close_input(self) -> None:
        """It has heard everything."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def report(self) -> str:
        parts = [f"---- {self.name}, process {self.pid}, code {self.process.returncode}"]
        for stream, lines in (("out", self.out), ("err", self.err)):
            parts += [f"{stream} {line.at / 1e9:.3f} {line.text}" for line in lines[-_SHOWN:]]
        return "\n".join(parts)


class ObservedApp(Child):
    """An `observed_app`.

    Args:
        name: under which it registers.
        process: just started.
        folder: where it writes.
        is_careless: whether it writes in its hold.
    """

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, folder: Path, *, is_careless: bool = False
    ) -> None:
        super().__init__(name, process)
        self.is_careless = is_careless
        self.data = folder / f"{name}.data"
        self._log = folder / f"{name}.log"
        self._numbers = itertools.count(1)

    async def told(self, command: str) -> None:
        """Have a command carried out."""
        after = len(self.out)
        self.say(command)
        await self.hear(lambda text: text == command, command, after)

    async def writes(self) -> int:
        """Wait until it has begun and ended another write; when it began."""
        number = next(self._numbers)
        self.say(f"next {number}")
        line = await self.hear(lambda text: text.startswith(f"next {number} "), "its next write")
        return int(line.text.split()[2])

    def log(self) -> WriteLog:
        return WriteLog.read(self._log)


class Simulator(Child):
    """An `appvss simulate ... --json`.

    Args:
        process: just started.
        folder: where the devices are.
        node: the one that the broker opens.
    """

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, node: str = "hv_appvss_dev") -> None:
        super().__init__("simulator", process)
        self.folder = folder
        self.device = folder / node
        self._thaws: list[tuple[int, int]] = []
        """When the host asked for each thaw, and the place in the lines where that was."""

    async def until(self, after: int = 0, **wanted: Any) -> dict[str, Any]:
        """The first line with these fields, from number `after` on. `heard_at` is when it was heard."""
        line = await self.hear(lambda text: _has(text, wanted), str(wanted), after)
        return {**json.loads(line.text), "heard_at": line.at}

    def found(self, after: int = 0, **wanted: Any) -> list[dict[str, Any]]:
        """What it has said with these fields so far."""
        return [json.loads(line.text) for line in self.out[after:] if _has(line.text, wanted)]

    async def is_served(self) -> None:
        """FreeBSD: wait until somebody has the apps' device open. Without that the driver answers for the file systems
        alone.
        """
        steps = [place for place, line in enumerate(self.out) if _has(line.text, {"side": "app"}) and _moves(line.text)]
        if not steps or not _has(self.out[steps[-1]].text, {"kind": "opened"}):
            await self.until(steps[-1] if steps else 0, kind="opened", side="app")

    async def result(self, command: str, after: int) -> dict[str, Any]:
        """How a command ended that was given with `begin`."""
        return await self.until(after, message_type="result", command=command)

    def begin(self, command: str) -> int:
        """Give it a command and do not wait; the place in its lines from which on to look for the result."""
        after = len(self.out)
        if command == "thaw":
            self._thaws.append((time.monotonic_ns(), after))
        self.say(f"{command} &")
        return after

    def holds(self) -> Iterator[Hold]:
        """Every hold that the host was promised, and that it was told at the thaw was kept."""
        for thaw_asked, place in self._thaws:
            told = [line for line in self.out[:place] if _has(line.text, {"message_type": "result"})]
            freezes = [line for line in told if json.loads(line.text)["command"] == "freeze"]
            kept = self.found(place, message_type="result", command="thaw")[:1]
            if freezes and _has(freezes[-1].text, {"outcome": "ok"}) and [each["outcome"] for each in kept] == ["ok"]:
                yield Hold(freezes[-1].at, thaw_asked)

    async def do(self, command: str) -> dict[str, Any]:
        """Give it a command; how it ended."""
        return await self.result(command, self.begin(command))

    async def agrees(self, command: str) -> dict[str, Any]:
        """The same for a command that must be agreed to, or done."""
        result = await self.do(command)
        assert result["outcome"] in ("ok", "done"), result
        return result

    async def refuses(self, command: str) -> dict[str, Any]:
        """The same for a request of the host that the guest must refuse, by its word and not by the driver's timer."""
        result = await self.do(command)
        assert result["outcome"] == "failed", result
        assert result["took_seconds"] < 15, result
        return result

    def let_go(self) -> None:
        """SIGTERM, so that it unmounts."""
        if self.process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        self.close_input()


def _moves(text: str) -> bool:
    """Whether a line tells of somebody who comes to a device or leaves it."""
    return json.loads(text).get("kind") in ("opened", "closed", "killed")


def _has(text: str, wanted: dict[str, Any]) -> bool:
    line = json.loads(text)
    return all(line.get(key) == value for key, value in wanted.items())


class Requester(Child):
    """An `appvss freeze` whose command says `held CYCLE`, and ends with the code that it is given."""

    COMMAND = 'echo "held $APPVSS_CYCLE"; read -r code; exit "${code:-9}"'

    mounts: tuple[str, ...] = ()
    """The file systems that it names."""
    _held: Line | None = None
    _finished = 0

    async def held(self) -> Line:
        """Wait until its command runs in the hold."""
        self._held = await self.hear(lambda text: text.startswith("held "), "that all are held")
        return self._held

    def finish(self, code: int = 0) -> None:
        """Let its command end."""
        self._finished = time.monotonic_ns()
        self.say(str(code))

    def holds(self) -> Iterator[Hold]:
        """The hold, if it was told that it was kept."""
        if self._held is not None and self._finished and self.process.returncode == 0:
            yield Hold(self._held.at, self._finished, self.mounts)

    @property
    def document(self) -> dict[str, Any]:
        """What it has said at its end, with `--json`."""
        document = json.loads(self.out[-1].text)
        assert isinstance(document, dict)
        return document
