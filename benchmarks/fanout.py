"""Fan-out: one freeze to N apps until every ack is back, and the thaw, against bare asyncio doing the same bytes.

usage: python -m benchmarks.fanout [--apps 10 100 1000] [--rounds 50] [--processes 4]

The broker side is the real one (registry, service, cycle, loop, journal on disk) in this process; the apps are client
processes that speak the protocol with bare grpc.aio and answer at once, so that what is measured is the broker. The
fan-out is from the first freeze to the last ack; what the journal takes before it and the certificate after it is
measured apart, since the baseline has no disk. The baseline sends messages of the same size over Unix sockets with
asyncio streams and counts the answers. Both run in turns, in one run, on one machine: only the ratio means anything.
Per number of apps the better half of the rounds' medians over the turns is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import grpc

from appvss import contract
from appvss.broker.clock import SystemClock
from appvss.broker.journal import Journal
from appvss.broker.loop import BrokerLoop
from appvss.broker.news import News
from appvss.broker.recent import Recent
from appvss.cycle.machine import Machine
from appvss.cycle.state import CycleSettings
from appvss.delivery.app_service import AppService
from appvss.delivery.registry import Registry
from appvss.delivery.watch import Watchers
from appvss.freezer.null import NullFreezer
from appvss.history import open_state
from appvss.model.cycle import CycleRecord
from appvss.model.past import PastCycle
from appvss.model.phase import Phase
from appvss.model.request import Answer, Request, RequestKind
from appvss.model.verdict import Level
from appvss.v1 import app_pb2
from appvss.witness.witness import Witness
from benchmarks.turns import be_a_process, run_rounds


class Gate:
    """Nothing is logged here."""

    def set_gate(self, *, is_open: bool) -> None:
        """See `appvss.broker.gates.Gate`."""

    def is_settled(self) -> bool:
        """See `appvss.broker.gates.Gate`."""
        return True

    def settle(self, limit: timedelta) -> bool:
        """See `appvss.broker.gates.Gate`."""
        return True


class Source:
    """The requester of the benchmark: it notes when its answers come."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[Answer] | None = None

    def answer(self, answer: Answer) -> None:
        """See `appvss.sources.base.Source`."""
        if self.answered is not None:
            self.answered.set_result(answer)

    def ended(self, record: CycleRecord) -> None:
        """See `appvss.sources.base.Source`."""


def _between(past: PastCycle, first: Phase, second: Phase) -> float:
    """Seconds between the entries of a cycle into two phases."""
    entered = {event.phase: event.since_request for event in past.events if event.kind == "phase_changed"}
    return (entered[second] - entered[first]).total_seconds()


async def broker_side(path: str, apps: int, rounds: int) -> list[float]:
    """Serve at `path` until all apps are there, then freeze and thaw them; seconds from the first freeze to the last
    ack. The medians of journal and certificate go to stdout, on a line of their own.
    """
    clock, ended = SystemClock(), list[PastCycle]()
    history = open_state(Path(path).with_name("state"), keep=10, boot="benchmark", wall=clock.wall).history
    recent = Recent(clock, Watchers())
    loop = BrokerLoop(
        Machine(CycleSettings(), clock.now()),
        clock,
        NullFreezer(),
        Journal(history, clock, boot="benchmark", version="benchmark", policy=tuple),
        Witness(clock),
        recent,
        Gate(),
        ended.append,
    )
    news = News(loop, clock, recent)
    service = AppService(
        news,
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

    async def ask(kind: RequestKind, number: int) -> None:
        source.answered = asyncio.get_running_loop().create_future()
        limit = timedelta(seconds=60)
        news.ask(Request(str(number), "benchmark", kind, "benchmark", clock.now() + limit, hold_limit=limit))
        answer = await source.answered
        if not answer.go_on:
            raise SystemExit(f"the {kind} failed: {answer.reason}")

    disk: list[tuple[float, float]] = []

    async def one(number: int) -> float:
        await ask(RequestKind.FREEZE, number)
        await ask(RequestKind.THAW, number)
        past = ended.pop()
        history.end_cycle(past)
        if past.verdict.level is not Level.APPLICATION:
            raise SystemExit("the cycle was not application-consistent")
        journal = _between(past, Phase.REQUESTED, Phase.FREEZING_APPS)
        disk.append((journal, _between(past, Phase.CERTIFYING, Phase.FREEZING_FILESYSTEMS)))
        return _between(past, Phase.FREEZING_APPS, Phase.CERTIFYING)

    took = await run_rounds(one, rounds)
    print(json.dumps([statistics.median(each) for each in zip(*disk, strict=True)]), flush=True)
    return took


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


def turn(side: str, apps: int, rounds: int, processes: int) -> list[list[float]]:
    """One turn of one side in processes of its own; seconds per round, and before them what else it has measured."""
    me = [sys.executable, "-m", {"broker": "benchmarks.fanout", "baseline": "benchmarks.bare_asyncio"}[side]]
    with tempfile.TemporaryDirectory(prefix="fan") as folder:
        path = str(Path(folder) / "s")
        server = subprocess.Popen([*me, "--serve", path, str(apps), str(rounds)], stdout=subprocess.PIPE, text=True)
        if server.stdout is None or server.stdout.readline().strip() != "ready":
            raise SystemExit(f"the {side} side did not start")
        share, rest = divmod(apps, processes)
        first, helpers = 0, []
        for number in range(processes):
            count = share + (number < rest)
            if count:
                helpers.append(subprocess.Popen([*me, "--clients", path, str(first), str(count)]))
            first += count
        try:
            output, _ = server.communicate(timeout=300)
        finally:
            for process in (server, *helpers):
                process.kill()
                process.wait()
    return [json.loads(line) for line in output.splitlines()]


def measure(apps: int, rounds: int, processes: int, turns: int) -> dict[str, float]:
    """Both sides in turns; milliseconds and the ratio."""
    medians: dict[str, list[float]] = {"broker": [], "baseline": []}
    worst: dict[str, float] = {"broker": 0.0, "baseline": 0.0}
    disk: list[list[float]] = []
    for _ in range(turns):
        for side, found in medians.items():
            *more, took = turn(side, apps, rounds, processes)
            disk += more
            found.append(statistics.median(took))
            worst[side] = max(worst[side], sorted(took)[int(0.99 * len(took))])
    best = {side: _best(found) for side, found in medians.items()}
    journal, certificate = (_best(list(found)) for found in zip(*disk, strict=True))
    return {
        "apps": apps,
        "broker_p50_ms": round(best["broker"] * 1e3, 2),
        "broker_p99_ms": round(worst["broker"] * 1e3, 2),
        "baseline_p50_ms": round(best["baseline"] * 1e3, 2),
        "ratio": round(best["broker"] / best["baseline"], 2),
        "journal_p50_ms": round(journal * 1e3, 2),
        "certificate_p50_ms": round(certificate * 1e3, 2),
    }


def _best(medians: list[float]) -> float:
    """The median of the better half: what other programs took of the machine only ever adds."""
    return statistics.median(sorted(medians)[: (len(medians) + 1) // 2])


def main() -> None:
    """Measure, or be one of the processes of a turn."""
    if not be_a_process(broker_side, grpc_app):
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
