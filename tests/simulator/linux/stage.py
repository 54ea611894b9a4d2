"""Plays a vector's script on a bench: the pure driver, or the mounted file through real system calls."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from appvss.simulator.event import Event
from appvss.simulator.hyperv import MESSAGE_SIZE, REPLY_FLAGS, HostOperation, parse
from tests.simulator.linux.vectors import MESSAGES, Vector

OPERATIONS = {
    "check": HostOperation.CHECK,
    "freeze": HostOperation.FREEZE,
    "thaw": HostOperation.THAW,
    "dm_info": HostOperation.DM_INFO,
}
HOST_BODY = 0xABCD
"""body.flags of every request, to see what the driver leaves alone."""


class Bench(Protocol):
    """What a script can be played on."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def read(self, size: int) -> bytes: ...
    async def write(self, data: bytes) -> int: ...
    async def polls(self) -> str: ...
    async def host_sends(self, operation: int, vmbus_id: int) -> None: ...
    async def pass_time(self, by: timedelta, *, timers_run: bool) -> None: ...
    async def remove(self) -> None: ...
    async def hibernate(self) -> None: ...
    def take_replies(self) -> list[Event]: ...
    def phase(self) -> str: ...


@dataclass
class Stage:
    bench: Bench
    sent: list[int] = field(default_factory=list)
    """The operations of the host's messages; their VMBus ids count from 1."""
    replied: set[int] = field(default_factory=set)

    async def play(self, vector: Vector) -> None:
        for line in filter(None, (line.strip() for line in vector.script.splitlines())):
            action, _, expected = (part.strip() for part in line.partition("->"))
            try:
                await self.step(action, [part.strip() for part in expected.split(",") if part.strip()])
            except AssertionError as error:
                raise AssertionError(f"vector {vector.number}, step {line!r}: {error}") from error

    async def step(self, action: str, expected: list[str]) -> None:
        try:
            outcome = await self.act(action)
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
        results = [text for text in expected if text == "12" or text in MESSAGES or text.startswith("E")]
        assert [MESSAGES.get(text, text) for text in results] == ([outcome] if outcome else []), outcome
        replies = [text for text in expected if text.startswith("R ")]
        received = self.bench.take_replies()
        assert len(received) == len(replies), received
        for event, text in zip(received, replies, strict=True):
            self.check_reply(event, text)
        for text in expected:
            if text in ("in", "idle", "hup"):
                assert await self.bench.polls() == text
            elif text not in results and text not in replies:
                assert text in self.bench.phase(), self.bench.phase()

    async def act(self, action: str) -> str:
        match action.split():
            case ["open"]:
                await self.bench.open()
            case ["close"]:
                await self.bench.close()
            case ["rd", *size]:
                return (await self.bench.read(int(size[0]) if size else 12)).hex()
            case ["wr", *message]:
                text = message[0] if message else ""
                return str(await self.bench.write(bytes.fromhex(MESSAGES.get(text, text))))
            case ["H", what]:
                operation = OPERATIONS[what].value if what in OPERATIONS else int(what)
                self.sent.append(operation)
                await self.bench.host_sends(operation, len(self.sent))
            case ["remove"]:
                await self.bench.remove()
            case ["hibernate"]:
                await self.bench.hibernate()
            case [time]:
                by = timedelta(seconds=float(time.removeprefix("race")))
                await self.bench.pass_time(by, timers_run=not time.startswith("race"))
            case _:
                raise ValueError(action)
        return ""

    def check_reply(self, event: Event, text: str) -> None:
        _, status, *options = text.split()
        assert event.reply is not None
        assert event.vmbus_id is not None
        assert event.vmbus_id not in self.replied, "answered twice"
        self.replied.add(event.vmbus_id)
        message = parse(event.reply)
        assert len(event.reply) == MESSAGE_SIZE
        assert message.flags == REPLY_FLAGS
        assert message.status == event.status == int(status, 16), message
        assert message.operation == self.sent[event.vmbus_id - 1]
        assert message.body_flags == (int(options[0].removeprefix("flags=")) if options else HOST_BODY), message
