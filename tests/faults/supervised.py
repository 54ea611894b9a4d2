"""A broker that is started again whenever it ends (`supervisor`), seen from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc

from tests.support.running_broker import BOUND, RunningBroker

COMMAND = (sys.executable, "-IS", str(Path(__file__).with_name("supervisor.py")))
"""What stands before the command that is supervised."""
_STARTED = "supervisor: started "


class SupervisedBroker(RunningBroker):
    """The supervisor and whichever broker it runs now. `process` is the supervisor, `pid` the broker."""

    @property
    def starts(self) -> list[int]:
        """The process ids of all brokers so far."""
        return [int(line[len(_STARTED) :]) for line in self.log if line.startswith(_STARTED)]

    @property
    def pid(self) -> int:
        starts = self.starts
        return starts[-1] if starts else 0

    def signal(self, number: signal.Signals) -> None:
        """To the broker; the supervisor gets none."""
        os.kill(self.pid, number)

    async def ready(self) -> None:
        """Wait until the admin socket answers: that of the broker that runs now, not what is left of the former."""
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    await super().ready()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    return

    async def replaced(self, old: int) -> None:
        """Wait until another broker than this one has been started."""

        def is_new() -> bool:
            return self.pid != old

        assert self.process.returncode is None, "the supervisor has given up"
        async with self._news:
            await self._news.wait_for(is_new)

    async def terminate(self) -> int:
        """SIGTERM for the supervisor, which passes it on and starts no other; the broker's exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.exit_code()
