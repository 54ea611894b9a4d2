"""In a broker's place: a process that runs a `LinuxFreezer`, does what its standard input says, and can be killed.

    python -m tests.freezer.stand_in DIRECTORY LIMIT WAVE...

Each WAVE is a list of mount points, parted by `:`; LIMIT is the budget and the hold limit of a freeze, in seconds. It
reads `prepare`, `freeze`, `thaw`, and answers each with a line: the word, and what came of it. The first line is the
guardian's process id.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from appvss.freezer.base import FreezeFailed
from appvss.freezer.linux import LinuxFreezer
from tests.freezer.held_disks import ALL, BOUND, now, plan_of


async def serve(directory: Path, limit: timedelta, waves: list[list[Path]]) -> None:
    """Until the end of the input."""
    freezer = LinuxFreezer(plan_of(*waves), directory, now)
    await freezer.start()
    print(freezer.state.guardian_pid, flush=True)  # noqa: T201 - its answer
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            if command == "prepare":
                await freezer.prepare("c", ALL, (), timedelta(seconds=BOUND))
                answer = "well"
            elif command == "freeze":
                parts = (await freezer.freeze("c", limit, limit)).parts
                answer = " ".join(part.outcome for part in parts)
            else:
                thawed = await freezer.thaw("c")
                answer = "unbroken" if thawed.unbroken else thawed.reason
        except FreezeFailed as error:
            answer = str(error)
        print(command, answer, flush=True)  # noqa: T201 - its answer
    await freezer.close()


class StandIn:
    """The process, seen from a test."""

    def __init__(self, process: asyncio.subprocess.Process, guardian: int) -> None:
        self.process = process
        self.guardian = guardian

    def say(self, command: str) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())

    async def answer(self) -> str:
        """What came of the last command."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), BOUND)
        return line.decode().strip().partition(" ")[2]

    async def do(self, command: str) -> str:
        """Both."""
        self.say(command)
        return await self.answer()


@asynccontextmanager
async def stand_in(directory: Path, *waves: list[Path], limit: float = 30.0) -> AsyncIterator[StandIn]:
    """One that has started its guardian; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-B",
        "-m",
        "tests.freezer.stand_in",
        str(directory),
        str(limit),
        *(":".join(map(str, wave)) for wave in waves),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    try:
        assert process.stdout is not None
        first = await asyncio.wait_for(process.stdout.readline(), BOUND)
        yield StandIn(process, int(first))
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(process.wait(), BOUND)


if __name__ == "__main__":
    waves = [[Path(path) for path in wave.split(":")] for wave in sys.argv[3:]]
    asyncio.run(serve(Path(sys.argv[1]), timedelta(seconds=float(sys.argv[2])), waves))
