"""Plays a vector's script on a bench: the pure driver, or the mounted files through real system calls."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from appvss.simulator.event import Event, Side
from appvss.simulator.freebsd.driver import KernelPanic
from appvss.simulator.hyperv import MESSAGE_SIZE, REPLY_FLAGS, HostOperation, HostStatus, parse
from appvss.sources.wire.freebsd import LAYOUT
from tests.simulator.freebsd.vectors import Vector

SIDES = {"A": Side.APP, "F": Side.FS}
OPERATIONS = {
    "check": HostOperation.CHECK,
    "freeze": HostOperation.FREEZE,
    "thaw": HostOperation.THAW,
    "dm": HostOperation.DM_INFO,
}
HOST_BODY = 0xABCD
"""body.flags of every request, to see what the driver leaves alone."""


class Bench(Protocol):
    """What a script can be played on."""

    async def open(self, side: Side) -> None: ...
    async def close(self, side: Side) -> None: ...
    async def read(self, side: Side) -> bytes: ...
    async def write(self, side: Side, data: bytes) -> None: ...
    async def unknown_ioctl(self, side: Side) -> None: ...
    async def polls(self, side: Side) -> bool: ...
    async def host_sends(self, operation: int, transaction: int, vmbus_id: int) -> None: ...
    async def pass_time(self, by: timedelta, *, timers_run: bool) -> None: ...
    async def detach(self) -> list[Side]: ...
    def take_replies(self) -> list[Event]: ...
    def newest_msgid(self) -> int: ...
    def wall(self) -> timedelta: ...


@dataclass
class Stage:
    bench: Bench
    sent: list[tuple[int, int]] = field(default_factory=list)
    """Operation and transaction id of each message of the host."""
    last_read: dict[Side, tuple[int, int, int]] = field(default_factory=dict)
    newest_read: tuple[int, int, int] = (0, 0, 0)
    previous_read: tuple[int, int, int] = (0, 0, 0)

    async def play(self, vector: Vector) -> None:
        for opening in filter(None, (part.strip() for part in vector.start.split(","))):
            if opening.endswith("closed"):
                await self.bench.open(SIDES[opening[0]])
                await self.bench.close(SIDES[opening[0]])
            else:
                for letter in opening.split():
                    await self.bench.open(SIDES[letter])
        for line in filter(None, (line.strip() for line in vector.script.splitlines())):
            action, _, expected = (part.strip() for part in line.partition("->"))
            try:
                await self.step(action, [part.strip() for part in re.split(r",(?!\d)", expected) if part.strip()])
            except AssertionError as error:
                raise AssertionError(f"vector {vector.number}, step {line!r}: {error}") from error

    async def step(self, action: str, expected: list[str]) -> None:
        outcome = ""
        killed: list[Side] = []
        try:
            killed = await self.act(action)
        except KernelPanic:
            outcome = "panic"
        except OSError as error:
            outcome = errno.errorcode[error.errno or 0]
        wanted = [text for text in expected if text in ("EBUSY", "panic")]
        assert wanted == ([outcome] if outcome else []), outcome
        replies = [text for text in expected if text.startswith("R ")]
        received = self.bench.take_replies()
        assert len(received) == len(replies), received
        for event, text in zip(received, replies, strict=True):
            self.check_reply(event, text)
        for text in expected:
            if text not in wanted and text not in replies:
                await self.check(text, killed)

    async def act(self, action: str) -> list[Side]:
        words = action.split()
        match words:
            case ["H", what, *options]:
                operation = OPERATIONS[what].value if what in OPERATIONS else int(what)
                transaction = int(options[0].removeprefix("ic=")) if options else len(self.sent) + 100
                self.sent.append((operation, transaction))
                await self.bench.host_sends(operation, transaction, len(self.sent))
            case ["open", letter]:
                await self.bench.open(SIDES[letter])
            case ["close", letter]:
                await self.bench.close(SIDES[letter])
            case ["detach"]:
                return await self.bench.detach()
            case [letter, "rd"]:
                await self.read(SIDES[letter])
            case [letter, "ioctl"]:
                await self.bench.unknown_ioctl(SIDES[letter])
            case [letter, "wr", status, *options]:
                await self.write(SIDES[letter], int(status, 0), " ".join(options))
            case [time]:
                by = timedelta(seconds=float(time.removeprefix("race")))
                await self.bench.pass_time(by, timers_run=not time.startswith("race"))
            case _:
                raise ValueError(action)
        return []

    async def read(self, side: Side) -> None:
        data = await self.bench.read(side)
        assert len(data) == 64
        assert data[16:] == bytes(48)
        message = LAYOUT.unpack(data)
        self.previous_read, self.newest_read = self.newest_read, message
        if message[2]:
            self.last_read[side] = message
        else:
            assert message == (0, 1, 0)

    async def write(self, side: Side, status: int, option: str) -> None:
        source = SIDES[option[-1]] if option.startswith("of ") else side
        opt, _, msgid = self.last_read.get(source, (2, 0, 0))
        if option.startswith("opt="):
            opt = int(option.removeprefix("opt="))
        elif option == "msgid+1":
            msgid += 1
        elif option == "unread":
            msgid = self.bench.newest_msgid()
        data = LAYOUT.pack(opt, status, msgid)
        await self.bench.write(side, data[:16] + b"\xee" * 48 if option == "reserved" else data)

    async def check(self, text: str, killed: list[Side]) -> None:
        match text.split():
            case [letter, "P"]:
                assert await self.bench.polls(SIDES[letter]), text
            case [letter, "-"]:
                assert not await self.bench.polls(SIDES[letter]), text
            case ["same"]:
                assert self.newest_read[2] == self.previous_read[2] != 0, (self.previous_read, self.newest_read)
            case ["newest"]:
                assert self.newest_read[2] == self.bench.newest_msgid()
            case ["stamped"]:
                assert self.bench.newest_msgid() == self.bench.wall() // timedelta(microseconds=1) * 1000
            case ["kills", *letters]:
                assert killed == [SIDES[letter] for letter in letters]
            case _:
                opt, status = (int(number) for number in text.strip("()").split(","))
                assert self.newest_read[:2] == (opt, status), self.newest_read

    def check_reply(self, event: Event, text: str) -> None:
        _, word, *options = text.split()
        wanted = {key: int(value) for key, value in (option.split("=") for option in options)}
        number = wanted.get("id", len(self.sent))
        operation, transaction = self.sent[number - 1]
        assert event.reply is not None
        message = parse(event.reply)
        assert event.vmbus_id == number
        assert len(event.reply) == MESSAGE_SIZE
        assert message.flags == REPLY_FLAGS
        assert message.status == event.status == (HostStatus.OK if word == "ok" else HostStatus.FAIL)
        assert message.operation == wanted.get("op", operation)
        assert message.transaction == wanted.get("ic", transaction)
        bodies = {int(HostOperation.CHECK): 5, int(HostOperation.DM_INFO): 0}
        assert message.body_flags == wanted.get("body", bodies.get(message.operation, HOST_BODY)), message
