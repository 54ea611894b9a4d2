"""Fan-out: one freeze to N apps until every ack is back, and the thaw, against bare asyncio doing the same bytes.

usage: python benchmarks/fanout.py [--apps 10 100 1000] [--rounds 50] [--processes 4]

The broker side is the real one (registry, service, cycle, loop) in this process; the apps are client processes that
speak the protocol with bare grpc.aio and answer at once, so that what is measured is the broker. The baseline sends
messages of the same size over Unix sockets with asyncio streams and counts the answers. Both run in turns, in one run,
on one machine: only the ratio means anything. Per number of apps the better half of the rounds' medians over the turns
is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import grpc

from appvss import contract
from appvss.broker.clock import SystemClock
from appvss.broker.loop import BrokerLoop
from appvss.broker.recent import Recent
from appvss.cycle.machine import Machine
from appvss.cycle.state import CycleSettings
from appvss.delivery.app_service import AppService
from appvss.delivery.registry import Registry
from appvss.delivery.watch import Watchers
from appvss.freezer.null import NullFreezer
from appvss.model.cycle import CycleRecord
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.verdict import Level
from appvss.v1 import app_pb2

WARM_UP = 3
PAUSE = 0.02
"""Seconds between rounds, so that one round's end is not the next one's beginning."""


class Gate:
    """Nothing is logged here."""

    def set_gate(self, *, is_open: bool) -> None:
        """See `appvss.broker.loop.Gate`."""

    def settle(self, limit: timedelta) -> None:
        """See `appvss.broker.loop.Gate`."""


class Source:
    """The requester of the benchmark: it notes when its answers come."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[Answer] | None = None
        self.record: CycleRecord | None = None

    def answer(self, answer: Answer) -> None:
        """See `appvss.sources.base.Source`."""
        if self.answered is not None:
            self.answered.set_result(answer)

    def ended(self, record: CycleRecord) -> None:
        """See `appvss.sources.base.Source`."""
        self.record = record


async def broker_side(path: str, apps: int, rounds: int) -> list[float]:
    """Serve at `path` until all apps are there, then freeze and thaw them; seconds from request to the last ack."""
    clock = SystemClock()
    loop = BrokerLoop(Machine(CycleSettings(), clock.now()), clock, NullFreezer(), Recent(clock, Watchers()), Gate())
    service = AppService(
        loop,
        Registry(apps, apps),
        in_force=lambda registration: registration,
        admits_unidentified=True,
        version="benchmark",
        now=clock.now,
    )
    source = Source()
    loop.connect(service, {"benchmark": source})  # type: ignore[dict-item] - only these two calls are made
    server = grpc.aio.server(options=contract.SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service.handler(),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("ready", flush=True)
    while len(service.registry) < apps:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)

    async def ask(kind: RequestKind, number: int) -> float:
        source.answered = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        limit = timedelta(seconds=60)
        loop.ask(Request(str(number), "benchmark", kind, "benchmark", clock.now() + limit, hold_limit=limit))
        answer = await source.answered
        took = time.perf_counter() - began
        if not answer.go_on:
            raise SystemExit(f"the {kind} failed: {answer.reason}")
        return took

    async def one(number: int) -> float:
        took = await ask(RequestKind.FREEZE, number)
        await ask(RequestKind.THAW, number)
        if source.record is None or source.record.verdict.level is not Level.APPLICATION:
            raise SystemExit("the cycle was not application-consistent")
        return took

    return await _rounds(one, rounds)


async def baseline_side(path: str, apps: int, rounds: int) -> list[float]:
    """The same bytes both ways over plain asyncio streams; seconds from the first write to the last answer."""
    message = app_pb2.AttachResponse(freeze=app_pb2.Freeze(cycle="20261120T150031Z-4f2a9c", requester="benchmark"))
    message.freeze.budget.FromTimedelta(timedelta(seconds=59.9))
    message.freeze.hold_limit.FromTimedelta(timedelta(seconds=60))
    data = _framed(message.SerializeToString())
    writers: list[asyncio.StreamWriter] = []
    count = 0
    all_in = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        await _read(reader)
        writers.append(writer)
        while (answer := await _read(reader)) is not None:
            app_pb2.AttachRequest.FromString(answer)
            count += 1
            if count == apps:
                all_in.set()

    server = await asyncio.start_unix_server(serve, path, backlog=4096)
    print("ready", flush=True)
    while len(writers) < apps:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)

    async def one(_number: int) -> float:
        nonlocal count
        count = 0
        all_in.clear()
        began = time.perf_counter()
        for writer in writers:
            writer.write(data)
        await all_in.wait()
        return time.perf_counter() - began

    took = await _rounds(one, rounds)
    server.close()
    return took


async def _rounds(one: Callable[[int], Awaitable[float]], rounds: int) -> list[float]:
    took = []
    for number in range(WARM_UP + rounds):
        took.append(await one(number))
        await asyncio.sleep(PAUSE)
    return took[WARM_UP:]


async def grpc_app(path: str, number: int) -> None:
    """One app: answers every freeze and thaw at once."""
    channel = grpc.aio.insecure_channel(f"unix:{path}", options=contract.APP_CHANNEL_OPTIONS)
    call = channel.stream_stream(
        "/appvss.v1.AppService/Attach",
        request_serializer=app_pb2.AttachRequest.SerializeToString,
        response_deserializer=app_pb2.AttachResponse.FromString,
    )()
    hello = app_pb2.Hello(protocol_versions=[1], name=f"app-{number}", incarnation=f"{number:016d}")
    try:
        await call.write(app_pb2.AttachRequest(hello=hello))
        while (message := await call.read()) is not grpc.aio.EOF:
            what = message.WhichOneof("message")
            if what == "freeze":
                await call.write(app_pb2.AttachRequest(frozen=app_pb2.Frozen(cycle=message.freeze.cycle)))
            elif what == "thaw":
                thawed = app_pb2.Thawed(cycle=message.thaw.cycle, unbroken=True)
                await call.write(app_pb2.AttachRequest(thawed=thawed))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # the broker side has ended


async def plain_app(path: str, number: int) -> None:
    """One app of the baseline."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(_framed(f"app-{number}".encode()))
    while (data := await _read(reader)) is not None:
        message = app_pb2.AttachResponse.FromString(data)
        frozen = app_pb2.AttachRequest(frozen=app_pb2.Frozen(cycle=message.freeze.cycle))
        writer.write(_framed(frozen.SerializeToString()))


def _framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


async def _read(reader: asyncio.StreamReader) -> bytes | None:
    try:
        (length,) = struct.unpack("<I", await reader.readexactly(4))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def clients(side: str, path: str, first: int, count: int) -> None:
    """`count` apps in this process."""
    app = grpc_app if side == "broker" else plain_app
    tasks = []
    for number in range(first, first + count):
        tasks.append(asyncio.create_task(app(path, number), name=f"app {number}"))
        if number % 64 == 63:
            await asyncio.sleep(0.005)
    await asyncio.wait(tasks, timeout=300)


async def serve(side: str, path: str, apps: int, rounds: int) -> None:
    """One side of one turn: prints the seconds of its rounds and ends."""
    took = await {"broker": broker_side, "baseline": baseline_side}[side](path, apps, rounds)
    print(json.dumps(took), flush=True)
    os._exit(0)  # a thousand streams need not be closed one by one


def turn(side: str, apps: int, rounds: int, processes: int) -> list[float]:
    """One turn of one side in processes of its own; seconds per round."""
    me = [sys.executable, __file__]
    with tempfile.TemporaryDirectory(prefix="fan") as folder:
        path = str(Path(folder) / "s")
        server = subprocess.Popen(
            [*me, "--serve", side, path, str(apps), str(rounds)], stdout=subprocess.PIPE, text=True
        )
        if server.stdout is None or server.stdout.readline().strip() != "ready":
            raise SystemExit(f"the {side} side did not start")
        share, rest = divmod(apps, processes)
        first, helpers = 0, []
        for number in range(processes):
            count = share + (number < rest)
            if count:
                helpers.append(subprocess.Popen([*me, "--clients", side, path, str(first), str(count)]))
            first += count
        try:
            output, _ = server.communicate(timeout=300)
        finally:
            for process in (server, *helpers):
                process.kill()
                process.wait()
    return [float(took) for took in json.loads(output.splitlines()[-1])]


def measure(apps: int, rounds: int, processes: int, turns: int) -> dict[str, float]:
    """Both sides in turns; milliseconds and the ratio."""
    medians: dict[str, list[float]] = {"broker": [], "baseline": []}
    worst: dict[str, float] = {"broker": 0.0, "baseline": 0.0}
    for _ in range(turns):
        for side, found in medians.items():
            took = turn(side, apps, rounds, processes)
            found.append(statistics.median(took))
            worst[side] = max(worst[side], sorted(took)[int(0.99 * len(took))])
    # The better half: what other programs took of the machine only ever adds.
    best = {side: statistics.median(sorted(found)[: (len(found) + 1) // 2]) for side, found in medians.items()}
    return {
        "apps": apps,
        "broker_p50_ms": round(best["broker"] * 1e3, 2),
        "broker_p99_ms": round(worst["broker"] * 1e3, 2),
        "baseline_p50_ms": round(best["baseline"] * 1e3, 2),
        "ratio": round(best["broker"] / best["baseline"], 2),
    }


def main() -> None:
    """Measure, or be one of the processes of a turn."""
    if sys.argv[1:2] == ["--serve"]:
        side, path, apps, rounds = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
        asyncio.run(serve(side, path, apps, rounds))
    if sys.argv[1:2] == ["--clients"]:
        asyncio.run(clients(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apps", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    for apps in options.apps:
        print(json.dumps(measure(apps, options.rounds, options.processes, options.turns)), flush=True)


if __name__ == "__main__":
    main()
