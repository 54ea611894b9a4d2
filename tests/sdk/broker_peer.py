"""The other side of the admin socket: a real gRPC server that says what a test tells it to, and notes what it heard."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from appvss import contract
from appvss.model.app import AppId, Requirement
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, FilesystemPart
from appvss.model.grade import Grade
from appvss.model.verdict import AppOutcome, Level, Outcome, Verdict
from appvss.v1 import admin_pb2, admin_pb2_grpc, requester_pb2, requester_pb2_grpc, types_pb2

BOUND = 20.0
"""Seconds after which a wait of a test has failed."""
TIME = datetime(2026, 3, 4, 5, 6, 7, 123000, tzinfo=UTC)

HELD = AppOutcome(
    app=AppId("orders-db", "eu"),
    outcome=Outcome.HELD,
    requirement=Requirement.REQUIRED,
    order=10,
    time_to_freeze=timedelta(milliseconds=12),
    hold=timedelta(seconds=3),
    evidence={"lsn": "0/16B3748"},
    grade=Grade.APP,
)
VETOED = AppOutcome(
    app=AppId("web"),
    outcome=Outcome.VETOED,
    requirement=Requirement.TOLERATED,
    order=50,
    reason="a deployment is running",
    retryable=True,
)
IGNORED = AppOutcome(app=AppId("cache"), outcome=Outcome.TIMED_OUT, requirement=Requirement.IGNORED, order=60)
GOOD = Verdict("c-1", Level.APPLICATION, (HELD,), (), timedelta(seconds=3))
DOUBTFUL = Verdict(
    cycle="c-1",
    level=Level.FILESYSTEM,
    outcomes=(HELD, VETOED, IGNORED),
    reasons=("web vetoed: a deployment is running",),
    hold=timedelta(seconds=3),
    filesystems=(
        FilesystemPart("/srv", "8:2", "xfs", FilesystemOutcome.HELD, time_to_freeze=timedelta(milliseconds=7)),
        FilesystemPart("/media/stick", "8:17", "exfat", FilesystemOutcome.UNFREEZABLE, "exfat has no freeze"),
        FilesystemPart("/cdrom", "11:0", "ext4", FilesystemOutcome.SKIPPED, "it is read-only"),
    ),
)
FAILED = Verdict("c-1", Level.FAILED, (VETOED,), ("web vetoed: a deployment is running",))


def length(value: timedelta) -> contract.Duration:
    return contract.duration_message(value)


def summary(
    verdict: Verdict = DOUBTFUL, cycle: str = "c-1", *, rehearses: bool = False, source: str = "local"
) -> admin_pb2.CycleSummary:
    message = admin_pb2.CycleSummary(
        cycle=cycle,
        source=source,
        requester="appvss freeze",
        took=length(timedelta(seconds=4)),
        phase=types_pb2.PHASE_COMPLETED,
        verdict=contract.verdict_message(replace(verdict, cycle=cycle)),
        rehearses=rehearses,
    )
    message.time.FromDatetime(TIME)
    return message


def rehearsal(
    verdict: Verdict = GOOD, time_to_freeze: timedelta = timedelta(milliseconds=12)
) -> requester_pb2.RehearseResponse:
    return requester_pb2.RehearseResponse(
        summary=summary(verdict, rehearses=True, source="rehearsal"),
        time_to_prepare=length(timedelta(milliseconds=30)),
        time_to_freeze=length(time_to_freeze),
    )


def status() -> admin_pb2.GetStatusResponse:
    return admin_pb2.GetStatusResponse(
        broker="appvss/0.1.0",
        pid=4711,
        uptime=length(timedelta(hours=2, minutes=5)),
        phase=types_pb2.PHASE_HOLDING,
        cycle="c-2",
        phase_for=length(timedelta(seconds=1.5)),
        apps=2,
        absent_apps=["billing"],
        sources=[
            admin_pb2.Source(
                name="freebsd",
                mode="automatic",
                condition="waiting",
                detail="/dev/hv_appvss_dev is not there",
                since=length(timedelta(minutes=3)),
                budget=length(timedelta(seconds=15)),
                reserve=length(timedelta(seconds=5)),
                hold_limit=length(timedelta(seconds=60)),
                overlap="queue",
            ),
            admin_pb2.Source(
                name="local",
                mode="automatic",
                condition="serving",
                since=length(timedelta(hours=2, minutes=5)),
                budget=length(timedelta(seconds=30)),
                hold_limit=length(timedelta(minutes=5)),
                overlap="refuse",
            ),
        ],
        last_cycle=summary(),
        runtime_directory="/run/appvss",
        configuration="/etc/appvss/broker.toml",
        history=admin_pb2.History(directory="/var/lib/appvss", condition="keeping", cycles=12),
        policy=[
            admin_pb2.PolicyValue(key="sources.freebsd.overlap", value='"queue"', origin="/etc/appvss/broker.toml"),
            admin_pb2.PolicyValue(key="cycle.thaw_limit", value='"5s"', origin="built-in"),
        ],
        held_for=length(timedelta(seconds=1.5)),
        hold_left=length(timedelta(seconds=58.5)),
        freezer=admin_pb2.Freezer(
            mode="linux",
            condition="hanging",
            guardian_pid=4712,
            frozen=[admin_pb2.FrozenFilesystem(path="/srv", since=length(timedelta(seconds=1.5)))],
            hanging=["/var/lib/slow"],
            detail="the kernel has not come back from the freeze of /var/lib/slow for 20.0s; see what its disk does",
        ),
    )


def filesystems() -> admin_pb2.ListFilesystemsResponse:
    return admin_pb2.ListFilesystemsResponse(
        scope=types_pb2.FILESYSTEM_SCOPE_ALL,
        planned=[
            admin_pb2.PlannedFilesystem(
                path="/mnt/image", device="990:0", type="ext4", source="/dev/loop0", wave=1, lies_on=["991:2"]
            ),
            admin_pb2.PlannedFilesystem(
                path="/srv", device="991:2", type="xfs", source="/dev/sda2", wave=2, others=["/home"]
            ),
        ],
        left=[
            admin_pb2.LeftFilesystem(
                path="/boot/efi",
                device="991:1",
                type="vfat",
                outcome=types_pb2.FILESYSTEM_OUTCOME_EXCLUDED,
                reason="the configuration leaves it out",
            ),
            admin_pb2.LeftFilesystem(
                path="/media/stick",
                device="991:17",
                type="exfat",
                outcome=types_pb2.FILESYSTEM_OUTCOME_UNFREEZABLE,
                reason="exfat has no freeze",
                lowers=True,
            ),
        ],
        warnings=[
            admin_pb2.FilesystemWarning(
                kind="overlay",
                path="/srv",
                sentence="the upper directory of the overlay /merged lies on /srv: even a look-up beside a writer "
                "hangs until the thaw",
                dead_locks=True,
            )
        ],
    )


def restored() -> admin_pb2.Restored:
    message = admin_pb2.Restored(
        cycle="c-0", source="freebsd", requester="hyper-v host", stage="held", certificate="{}"
    )
    message.time.FromDatetime(TIME)
    return message


def past(cycle: str, outcome: types_pb2.Outcome.ValueType, reason: str = "") -> admin_pb2.AppPast:
    message = admin_pb2.AppPast(cycle=cycle, outcome=outcome, reason=reason)
    if not reason:
        message.time_to_freeze.FromTimedelta(timedelta(milliseconds=12))
    message.time.FromDatetime(TIME)
    return message


def apps() -> list[admin_pb2.App]:
    return [
        admin_pb2.App(
            name="orders-db",
            instance="eu",
            state="held",
            since=length(timedelta(seconds=1)),
            requirement=types_pb2.REQUIREMENT_REQUIRED,
            order=10,
            after=["web"],
            freeze_timeout=length(timedelta(seconds=2)),
            hold_limit=length(timedelta(seconds=60)),
            peer=types_pb2.Peer(uid=70, gid=71, pid=72),
            paths=["/var/db/orders"],
            library="appvss-python/0.1.0",
            last_outcome=contract.outcome_message(HELD),
            past=[past("c-1", types_pb2.OUTCOME_HELD), past("c-0", types_pb2.OUTCOME_TIMED_OUT, "no ack within 2.0s")],
            policy=[admin_pb2.PolicyValue(key="order", value="10", origin='apps.policy "orders-*"')],
            refused_messages=3,
            registrations=2,
            watch_paths=True,
        ),
        admin_pb2.App(
            name="web",
            state="registered",
            since=length(timedelta(seconds=90)),
            requirement=types_pb2.REQUIREMENT_TOLERATED,
            order=50,
            hold_limit=length(timedelta(seconds=60)),
            last_error="[red]a deployment\x1b[31m is running",
            last_error_ago=length(timedelta(hours=3)),
            failures_in_row=4,
        ),
    ]


def event(kind: str, **fields: object) -> types_pb2.Event:
    message = types_pb2.Event(kind=kind, **fields)
    message.time.FromDatetime(TIME)
    return message


@dataclass
class BrokerPeer(admin_pb2_grpc.AdminServiceServicer, requester_pb2_grpc.RequesterServiceServicer):
    """Answers with its attributes. A test changes them before it calls."""

    directory: Path
    status: admin_pb2.GetStatusResponse = field(default_factory=status)
    apps: list[admin_pb2.App] = field(default_factory=apps)
    cycles: list[admin_pb2.CycleSummary] = field(default_factory=lambda: [summary()])
    details: dict[str, admin_pb2.GetCycleResponse] = field(default_factory=dict)
    """What is told of a cycle, instead of its line in `cycles` and one event."""
    rehearsals: list[requester_pb2.RehearseResponse | tuple[grpc.StatusCode, str]] = field(default_factory=list)
    """What each rehearsal ends with, one after the other; the last one again and again. Empty: never."""
    filesystems: admin_pb2.ListFilesystemsResponse = field(default_factory=filesystems)
    choices: list[FilesystemChoice] = field(default_factory=list)
    """What was asked about file systems."""
    hook_answer: Verdict | str = "held"
    """What a freeze of a hook ends with: `held`, `nothing` (an empty answer), or a verdict."""
    hook_verdict: Verdict | None = GOOD
    """What a thaw of a hook is told."""
    hook_is_kept: bool = True
    hook_begins: list[requester_pb2.Begin] = field(default_factory=list)
    thawed_cycle: str = "c-2"
    failure: tuple[grpc.StatusCode, str] | None = None
    """What every call ends with, instead of its answer."""
    silent: bool = False
    """Whether calls are taken and never answered."""
    hold_script: list[Verdict | str] = field(default_factory=lambda: ["held", "finish", GOOD])
    """What a hold does, step by step: `held` tells the requester, `finish` waits for its thaw, `wait` for `go_on`,
    `hang` for ever; a verdict ends it."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    events: asyncio.Queue[types_pb2.Event] = field(default_factory=asyncio.Queue)

    watching: asyncio.Event = field(default_factory=asyncio.Event)
    """A watcher is there."""
    unwatched: asyncio.Event = field(default_factory=asyncio.Event)
    """A watcher went away."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    begin: requester_pb2.Begin | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The requester asked for the thaw."""
    broken: asyncio.Event = field(default_factory=asyncio.Event)
    """The requester ended the call before it was over."""
    thaw_reasons: list[str] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    sinces: list[datetime | None] = field(default_factory=list)
    rehearsed: list[requester_pb2.RehearseRequest] = field(default_factory=list)
    rehearsing: asyncio.Event = field(default_factory=asyncio.Event)
    """A rehearsal that does not end is under way."""

    async def _before(self, context: grpc.aio.ServicerContext) -> None:
        if self.failure is not None:
            await context.abort(*self.failure)
        if self.silent:
            await asyncio.Event().wait()

    async def GetStatus(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        return self.status

    async def ListApps(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        return admin_pb2.ListAppsResponse(apps=self.apps)

    async def ListCycles(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        self.limits.append(request.limit)
        since = request.since.ToDatetime(tzinfo=UTC) if request.HasField("since") else None
        self.sinces.append(since)
        found = [cycle for cycle in self.cycles if since is None or cycle.time.ToDatetime(tzinfo=UTC) >= since]
        return admin_pb2.ListCyclesResponse(cycles=found[: request.limit or None])

    async def GetCycle(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        if request.cycle in self.details:
            return self.details[request.cycle]
        for cycle in self.cycles:
            if cycle.cycle == request.cycle:
                return admin_pb2.GetCycleResponse(summary=cycle, events=[event("cycle_began", cycle=cycle.cycle)])
        return await context.abort(grpc.StatusCode.NOT_FOUND, f"no cycle {request.cycle} is known")

    async def Rehearse(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        self.rehearsed.append(request)
        number = len(self.rehearsed) - 1
        if not self.rehearsals:
            self.rehearsing.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.broken.set()
        end = self.rehearsals[min(number, len(self.rehearsals) - 1)]
        if isinstance(end, tuple):
            await context.abort(*end)
        return end

    async def ListFilesystems(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        self.choices.append(contract.choice_of(request.choice))
        return self.filesystems

    async def HookFreeze(self, request, context):  # noqa: N802 the contract names it
        self.hook_begins.append(request.begin)
        await self._before(context)
        if isinstance(self.hook_answer, Verdict):
            ended = requester_pb2.Ended(verdict=contract.verdict_message(self.hook_answer))
            return requester_pb2.HookFreezeResponse(ended=ended)
        if self.hook_answer == "nothing":
            return requester_pb2.HookFreezeResponse()
        held = requester_pb2.Held(cycle="c-1", hold_limit=length(timedelta(seconds=60)))
        return requester_pb2.HookFreezeResponse(held=held)

    async def HookThaw(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        if self.hook_verdict is None:
            return requester_pb2.HookThawResponse()
        return requester_pb2.HookThawResponse(
            verdict=contract.verdict_message(self.hook_verdict), kept=self.hook_is_kept
        )

    async def ForceThaw(self, request, context):  # noqa: N802 the contract names it
        await self._before(context)
        self.thaw_reasons.append(request.reason)
        return admin_pb2.ForceThawResponse(thawed_cycle=self.thawed_cycle)

    async def WatchEvents(self, request, context):  # noqa: N802 the contract names it
        self.watching.set()
        try:
            await self._before(context)
            while True:
                yield admin_pb2.WatchEventsResponse(event=await self.events.get())
        finally:
            self.unwatched.set()

    async def Hold(self, request_iterator, context):  # noqa: N802 the contract names it
        requests = aiter(request_iterator)
        self.begin = (await anext(requests)).begin
        self.begun.set()
        try:
            await self._before(context)
            for step in self.hold_script:
                if isinstance(step, Verdict):
                    yield requester_pb2.HoldResponse(ended=requester_pb2.Ended(verdict=contract.verdict_message(step)))
                elif step == "held":
                    held = requester_pb2.Held(cycle="c-1", hold_limit=length(timedelta(seconds=30)))
                    yield requester_pb2.HoldResponse(held=held)
                elif step == "finish":
                    request = await anext(requests, None)
                    if request is None:
                        self.broken.set()
                        return
                    assert request.HasField("finish")
                    self.finished.set()
                elif step == "wait":
                    await self.go_on.wait()
                else:
                    await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.broken.set()
            raise


@contextlib.asynccontextmanager
async def broker_peer() -> AsyncIterator[BrokerPeer]:
    """A peer that serves the admin socket of a runtime directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="av", dir="/tmp"))
    server = grpc.aio.server(options=contract.SERVER_OPTIONS)
    peer = BrokerPeer(directory)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(peer, server)
    requester_pb2_grpc.add_RequesterServiceServicer_to_server(peer, server)
    server.add_insecure_port(f"unix:{contract.socket_path(directory, contract.ADMIN_SOCKET)}")
    await server.start()
    try:
        yield peer
    finally:
        await server.stop(grace=0)
        shutil.rmtree(directory)


async def reached(happening: asyncio.Event) -> None:
    """Wait until it has happened; fail when it does not."""
    await asyncio.wait_for(happening.wait(), BOUND)
