"""A stage whose broker keeps everything that it writes on a disk that the test freezes: state and log."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from appvss.v1 import app_pb2, types_pb2
from tests.end_to_end.support.fixtures import _stages
from tests.end_to_end.support.leftovers import TAG
from tests.end_to_end.support.stage import Stage
from tests.faults.frozen_disk import FrozenDisk
from tests.support.holds import HoldCall
from tests.support.raw_app import attached, raw_app
from tests.support.running_broker import APPVSS, BOUND, RunningBroker, launch

ANSWER_LIMIT = 5.0
"""Seconds that anything may take to be answered in a hold, on a machine that does much else."""
REFUSED = 30
"""Messages that the broker has to refuse, and wants to log."""
NO_CYCLE = "20200101T000000Z-000000"

Value = TypeVar("Value")


async def answered(question: Awaitable[Value]) -> Value:
    """What is answered in time."""
    async with asyncio.timeout(ANSWER_LIMIT):
        return await question


class FrozenStage(Stage):
    """The processes of one test.

    Args:
        disk: where the broker writes.
    """

    def __init__(self, disk: FrozenDisk) -> None:
        super().__init__()
        self.disk = disk
        self.state_directory = disk.path / "state"
        self.log_file = disk.path / "broker.log"
        self.before: Sequence[str] = ()
        """What stands before the broker's command."""
        self._log = -1
        """Opened before the disk is frozen, and held as a supervisor holds it, for the next broker."""

    async def close(self) -> list[str]:
        """End everything; what was left behind and should not have been."""
        left = await super().close()
        if self._log >= 0:
            os.close(self._log)
        return left

    async def _launch(self, text: str, arguments: tuple[str, ...]) -> RunningBroker:
        if self._log < 0:
            self._log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return await launch(
            self.directory,
            text,
            arguments=(*arguments, "--state-directory", str(self.state_directory)),
            command=("env", f"{TAG}={self.tag}", *self.before, *APPVSS),
            stderr=self._log,
        )

    async def start_quiet_broker(self, text: str, *arguments: str, watched: bool = True) -> RunningBroker:
        """A broker whose log is in the file alone. With a device in the arguments, it is waited for.

        Args:
            text: its configuration.
            arguments: of `appvss broker`.
            watched: whether its events are heard from the beginning.
        """
        self.broker = await self._launch(text, arguments)
        self._brokers.append(self.broker)
        if watched:
            await self.meet_broker()
        else:
            await self.broker.ready()
        if "--device" in arguments:
            await self._has_device()
        return self.broker

    async def _has_device(self) -> None:
        """Wait until the source has its device."""
        sources = {source.name: source.condition for source in (await self.broker.status()).sources}
        if sources["freebsd"] != "serving":
            await self.events.sees("source_changed", detail="freebsd serving")

    async def everything_answers(self, cycle: str) -> None:
        """Ask for everything that the broker knows by itself in a hold. Much of it wants to be logged."""
        broker = self.broker
        assert (await answered(broker.status())).cycle == cycle
        assert await answered(broker.apps())
        async with asyncio.timeout(2 * ANSWER_LIMIT), broker.watching() as watch:
            await self._an_app_comes_and_goes()
            await watch.until("app_registered", app="passer-by")
            await watch.until("app_left", app="passer-by")
        await answered(self._hellos_are_refused())
        late = await answered(HoldCall.begin(broker, "somebody late"))
        assert (await answered(late.ending()))[0] is grpc.StatusCode.ABORTED

    async def the_past_is_known(self, *cycles: str) -> None:
        """Ask for what is on the disk: these cycles, newest first, and one that is not there."""
        broker = self.broker
        assert [each.cycle for each in await answered(broker.cycles())] == list(cycles)
        for known in cycles:
            assert (await answered(broker.cycle(known))).summary.cycle == known
        with pytest.raises(grpc.aio.AioRpcError, match=NO_CYCLE):
            await answered(broker.cycle(NO_CYCLE))

    async def _an_app_comes_and_goes(self) -> None:
        tolerated = types_pb2.REQUIREMENT_TOLERATED  # it comes too late for this cycle
        passer_by = attached(self.broker.runtime_directory, "passer-by", identified=True, requirement=tolerated)
        async with passer_by as app:
            for _ in range(REFUSED):
                await app.say(ready=app_pb2.Ready(cycle=NO_CYCLE))
                assert (await answered(app.hear("refusal"))).name

    async def _hellos_are_refused(self) -> None:
        async with raw_app(self.broker.runtime_directory) as app:
            await app.say(hello=app.hello_message("no name at all"))
            assert (await app.ending()).code is grpc.StatusCode.INVALID_ARGUMENT

    # -- afterwards

    def log(self) -> list[str]:
        """The lines of the log. Not while the disk is frozen and the broker has ended: there is more to come."""
        return self.log_file.read_text().splitlines()

    async def history_is_kept(self, cycles: int) -> None:
        """Wait until everything that waited is on the disk again. Nobody announces that."""
        async with asyncio.timeout(BOUND):
            while True:
                history = (await self.broker.status()).history
                if (history.condition, history.cycles, history.waiting) == ("keeping", cycles, 0):
                    return

    async def history_hangs(self) -> None:
        """Wait until the broker says that its disk does not answer, which takes it a second."""
        async with asyncio.timeout(BOUND):
            while (history := (await self.broker.status()).history).condition != "failing":
                assert history.condition == "keeping"
        assert "does not answer" in history.detail

    def cycles_on_disk(self) -> set[str]:
        """The ids in the history of a broker that has ended, read without its code. No cycle is open."""
        file = self.state_directory / "history.sqlite"
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            assert database.execute("select count(*) from journal").fetchone() == (0,)
            return {str(row[0]) for row in database.execute("select cycle from cycles")}

    @property
    def certificate(self) -> Path:
        """The certificate of the running cycle."""
        return self.state_directory / "certificate.json"


@pytest.fixture
async def stage(disk: FrozenDisk) -> AsyncIterator[FrozenStage]:
    """Nobody is on it yet; at its end nothing is left."""
    stage = FrozenStage(disk)
    _stages.append(stage)
    try:
        yield stage
        lies = stage.lies()
    finally:
        left = await stage.close()
    assert (left, lies) == ([], [])
