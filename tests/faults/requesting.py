"""Whoever asks for the snapshot of a run, and what it was told. It goes its whole way by itself; the run may keep it
from its freeze or its thaw for a while. Nothing that happens to it is an error here: it is what the run is about.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from tests.end_to_end.support.children import Requester
from tests.end_to_end.support.stage import Stage
from tests.faults.plan import Phase, Plan


@dataclass
class Told:
    """What a requester was told of one hold."""

    source: str
    cycle: str = ""
    """Only a local requester knows it."""
    acked: int = 0
    """When it had heard that all are held; 0: it never was."""
    thaw_asked: int = 0
    """When it was about to ask for the thaw; 0: it never did."""
    level: str = ""
    """`application` when it was told that all was well; another level, or empty: it was told no, or nothing."""
    words: list[str] = field(default_factory=list)
    """All of it, for people."""


class Requesting:
    """One requester on its way through one cycle.

    Args:
        stage: where.
        plan: of the run.
    """

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.plan = plan
        self.told = Told(plan.source)
        self.may_freeze = asyncio.Event()
        self.may_thaw = asyncio.Event()
        self.held = asyncio.Event()
        """It has heard that all are held."""

    async def run(self) -> None:
        """Go the whole way, or as far as it goes."""
        raise NotImplementedError

    async def _hold(self) -> None:
        self.held.set()
        await self.may_thaw.wait()
        await asyncio.sleep(self.plan.hold.total_seconds())


class Host(Requesting):
    """The simulated Hyper-V host: check, freeze, thaw."""

    _was_ours = True
    """Whether every answer so far was a broker's."""

    async def run(self) -> None:
        if self.plan.phase is not Phase.REQUESTED and not await self._agreed("check"):
            return
        await self.may_freeze.wait()
        if not await self._agreed("freeze"):
            return
        await self._hold()
        if self.plan.is_adopted:  # a snapshot takes longer than the start of a broker
            await self.stage.simulator.is_served()
        self.told.thaw_asked = time.monotonic_ns()
        if await self._agreed("thaw") and self._was_ours:
            self.told.level = "application"

    async def _agreed(self, command: str) -> bool:
        simulator = self.stage.simulator
        begun = simulator.begin(command)
        result: dict[str, Any] = await simulator.result(command, begun)
        # The driver answers for the file systems alone as long as nobody has the apps' device open
        # (facts/freebsd-vss.md section 2): that is no word of ours.
        ours = simulator.found(begun, kind="wrote", side="app", operation=command, status=0)
        self._was_ours = self._was_ours and bool(ours)
        self.told.words.append(f"{command}: {result['outcome']} {result.get('detail') or ''}")
        if command == "freeze" and result["outcome"] == "ok":
            self.told.acked = result["heard_at"]
        return bool(result["outcome"] == "ok")


class Local(Requesting):
    """`appvss freeze`.

    Args:
        stage: where.
        plan: of the run.
        snapshot: a command that takes the snapshot, in shell words.
    """

    def __init__(self, stage: Stage, plan: Plan, snapshot: str = "true") -> None:
        super().__init__(stage, plan)
        self._command = ("sh", "-c", f'echo "held $APPVSS_CYCLE"; read -r code; {snapshot} || exit 3; exit "$code"')
        self.requester: Requester | None = None
        self.exit_code: int | None = None
        self.started = asyncio.Event()

    async def run(self) -> None:
        await self.may_freeze.wait()
        self.requester = requester = await self.stage.start_requester(command=self._command)
        self.started.set()
        held = asyncio.create_task(requester.held(), name="held")
        ended = asyncio.create_task(requester.process.wait(), name="end of the requester")
        try:
            await asyncio.wait({held, ended}, return_when=asyncio.FIRST_COMPLETED)
            if held.done():
                line = held.result()
                self.told.acked, self.told.cycle = line.at, line.text.split()[1]
                await self._hold()
                self.told.thaw_asked = time.monotonic_ns()
                requester.finish()
        finally:
            for task in (held, ended):
                task.cancel()
            await asyncio.wait({held, ended})
        self.exit_code = await requester.ended()
        self._hear_the_end(requester)

    def _hear_the_end(self, requester: Requester) -> None:
        self.told.words.append(f"exit code {self.exit_code}")
        last = requester.out[-1].text if requester.out else ""
        if last.startswith("{"):
            document = requester.document
            verdict = document.get("verdict")
            self.told.words.append(last)
            if verdict is not None:
                self.told.level = verdict["level"]
