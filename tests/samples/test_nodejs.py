"""The app without an SDK, `samples/nodejs`, as a program of its own: with the real broker, and with the kit.

Each line of its file carries the monotonic time at which it was written, on the clock of this process. So the gap
between two lines proves for how long nothing was written, whenever it is looked at.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.verdict import Level, Outcome, Verdict
from appvss.sdk.admin import AdminClient
from appvss.sdk.testing import FakeApp, FakeBroker
from appvss.v1 import app_pb2
from tests.cli.command_line import ended, start
from tests.support.running_broker import BOUND, RunningBroker, running_broker, short_directory

SAMPLE = Path(__file__).parents[2] / "samples" / "nodejs"
NAME = "nodejs-lines"
LIMIT = timedelta(seconds=BOUND)
SECOND = 1_000_000_000


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    if shutil.which("node") is None:
        pytest.fail("there is no `node`: install Node.js 18 or later to test samples/nodejs")
    if not (SAMPLE / "node_modules" / "@grpc" / "grpc-js").is_dir():
        pytest.fail("samples/nodejs has no packages: run `npm ci --prefix samples/nodejs --ignore-scripts` first")


class Program:
    """One running sample, and its lines."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self.process = process
        self.file = file
        self._follower: asyncio.subprocess.Process | None = None
        self._written: dict[int, int] = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    async def written(self, number: int) -> int:
        """When the line of this number was written, in nanoseconds; waited for. The app must have attached before."""
        if self._follower is None:
            self._follower = await asyncio.create_subprocess_exec(
                "tail", "-n", "+1", "-f", str(self.file), stdout=asyncio.subprocess.PIPE
            )
        assert self._follower.stdout is not None
        async with asyncio.timeout(BOUND):
            while number not in self._written:
                line = await self._follower.stdout.readline()
                assert line, f"nobody follows {self.file} any more"
                count, at = line.split()
                assert int(count) == len(self._written) + 1, "a line is missing, or there twice"
                self._written[int(count)] = int(at)
        return self._written[number]

    async def gap_after(self, number: int) -> int:
        """For how long nothing was written after the line of this number, in nanoseconds. Waits for the next line."""
        return await self.written(number + 1) - await self.written(number)

    def last_line(self) -> int:
        """The number of the last line, from the file; only while the app is frozen is this all that there is."""
        return int(self.file.read_text().splitlines()[-1].split()[0])

    async def kill(self) -> None:
        for process in (self.process, self._follower):
            if process is not None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()


@asynccontextmanager
async def running(runtime_directory: Path, file: Path, name: str = NAME) -> AsyncIterator[Program]:
    """Start the sample. Its log goes to a file beside the sockets, and is shown with a failure."""
    environment = {**os.environ, "APPVSS_RUNTIME_DIRECTORY": str(runtime_directory)}
    with (runtime_directory.parent / f"{name}.log").open("w+") as log:
        process = await asyncio.create_subprocess_exec(
            "node",
            str(SAMPLE / "app.js"),
            str(file),
            name,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
        program = Program(process, file)
        try:
            yield program
            assert process.returncode is None, "it ended by itself"
        finally:
            await program.kill()
            log.seek(0)
            print(log.read())  # noqa: T201 - pytest shows it with a failure


@pytest.fixture
def home() -> Iterator[Path]:
    directory = short_directory()
    yield directory
    shutil.rmtree(directory)


async def attached(broker: RunningBroker) -> None:
    """Wait until the app is registered."""
    async with broker.watching() as watch:
        if not await broker.apps():
            await watch.until("app_registered", app=NAME)


@asynccontextmanager
async def held(
    broker: RunningBroker, *, freeze_budget: timedelta | None = None, hold_limit: timedelta | None = None
) -> AsyncIterator[asyncio.Future[Verdict]]:
    """Everything is held inside; after it, the future has the verdict unless the broker died."""
    verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    with (
        AdminClient(broker.runtime_directory) as admin,
        admin.hold("the test", freeze_budget=freeze_budget, hold_limit=hold_limit) as hold,
    ):
        assert await asyncio.to_thread(hold.wait_held, LIMIT) is not None, hold.verdict
        yield verdict
        if broker.process.returncode is None:
            verdict.set_result(await asyncio.to_thread(hold.finish, LIMIT))


async def assert_holds(broker: RunningBroker, program: Program) -> None:
    """One whole cycle: held with evidence, nothing written meanwhile, and on it goes."""
    async with held(broker) as answer:
        held_at = time.monotonic_ns()
        copy = program.file.read_text()
        assert [app.state for app in await broker.apps()] == ["held"]
        still_held_at = time.monotonic_ns()
    verdict = answer.result()
    assert verdict.level is Level.APPLICATION, verdict.reasons
    (outcome,) = verdict.outcomes
    last = int(outcome.evidence["last_line"])
    assert [int(line.split()[0]) for line in copy.splitlines()] == list(range(1, last + 1))
    assert await program.written(last) <= held_at
    assert await program.written(last + 1) >= still_held_at


async def test_it_is_known_to_the_broker_and_held_with_evidence_and_goes_on(home: Path) -> None:
    async with running_broker(directory=home) as broker, running(broker.runtime_directory, home / "lines") as program:
        await attached(broker)
        (app,) = await broker.apps()
        assert (app.name, list(app.paths), app.peer.pid) == (NAME, [str(home / "lines")], program.pid)
        for _ in range(3):
            await assert_holds(broker, program)
        assert [app.last_error for app in await broker.apps()] == [""]


async def test_what_a_command_copies_during_the_freeze_ends_with_the_evidence(home: Path) -> None:
    async with running_broker(directory=home) as broker, running(broker.runtime_directory, home / "lines") as program:
        await attached(broker)
        await program.written(1)
        where = ("--runtime-directory", str(broker.runtime_directory))
        done = await ended(await start("freeze", *where, "--", "cp", str(home / "lines"), str(home / "copy")))
        assert done.code == 0, done.err
        (outcome,) = (await broker.cycles())[0].verdict.outcomes
        assert (home / "copy").read_text().splitlines()[-1].split()[0] == outcome.evidence["last_line"]


async def test_it_keeps_the_hold_limit_itself_when_the_broker_is_killed_and_comes_back_to_the_next(home: Path) -> None:
    limit = timedelta(seconds=1)
    async with running(home / "run", home / "lines") as program:
        async with running_broker(directory=home) as broker:
            await attached(broker)
            async with held(broker, freeze_budget=limit, hold_limit=limit):
                last = program.last_line()
                await broker.kill()
        assert await program.gap_after(last) >= limit / timedelta(microseconds=1) * 1000
        async with running_broker(directory=home) as broker:
            await attached(broker)
            await assert_holds(broker, program)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_broker_that_ends_in_mid_hold_and_is_there_again_lets_it_go_on_before_its_limit(
    how: signal.Signals, home: Path
) -> None:
    limit = timedelta(seconds=3 * BOUND)  # Whoever waits for that has failed: every wait ends at BOUND.
    async with running(home / "run", home / "lines") as program:
        async with running_broker(directory=home) as broker:
            await attached(broker)
            async with held(broker, hold_limit=limit):
                last = program.last_line()
                broker.signal(how)
                await broker.exit_code()
        async with running_broker(directory=home) as broker:
            assert await program.gap_after(last) < BOUND * SECOND
            await attached(broker)
            await assert_holds(broker, program)


async def test_lines_that_cannot_be_brought_to_the_disk_are_a_veto_with_the_reason(home: Path) -> None:
    async with running_broker(directory=home) as broker, running(broker.runtime_directory, Path(os.devnull)):
        await attached(broker)
        with AdminClient(broker.runtime_directory) as admin, admin.hold("the test") as hold:
            assert await asyncio.to_thread(hold.wait_held, LIMIT) is None
            verdict = await asyncio.to_thread(hold.finish, LIMIT)
    assert verdict.level is Level.FAILED
    (outcome,) = verdict.outcomes
    assert outcome.outcome is Outcome.VETOED
    assert outcome.reason.startswith("the lines cannot be brought to the disk: EINVAL")


# With the kit, which plays what the real broker does only on bad days, and refuses whatever app.proto does not allow.


@asynccontextmanager
async def with_kit(home: Path, file: Path) -> AsyncIterator[tuple[FakeApp, Program]]:
    (home / "run").mkdir()
    async with FakeBroker(home / "run") as broker, running(home / "run", file) as program:
        app = await broker.app(NAME)
        yield app, program
        assert app.refusals == ()


async def test_it_passes_over_what_it_does_not_know_and_answers_what_comes_twice(home: Path) -> None:
    async with with_kit(home, home / "lines") as (app, _program):
        app.send(app_pb2.AttachResponse())
        app.send(app_pb2.AttachResponse.FromString(bytes.fromhex("fa3e03010203")))  # field 1007, of a later version
        app.send(app_pb2.AttachResponse(refusal=app_pb2.Refusal(name="ack_twice", sentence="the test says so")))
        app.send(app_pb2.AttachResponse(goodbye=app_pb2.Goodbye(reason="the test says so")))
        assert (await app.prepare()).ready
        assert not (await app.thaw("unknown")).unbroken
        first = await app.freeze("c1")
        assert first.frozen, first.reason
        assert (await app.freeze("c1")).evidence == first.evidence
        other = await app.freeze("c2")
        assert (other.frozen, other.retryable) == (False, True)
        assert not (await app.abort("the test says so", "unknown")).unbroken
        assert [(await app.thaw("c1")).unbroken for _ in range(3)] == [True, True, True]
        assert not (await app.thaw("c2")).unbroken
        assert (await app.freeze("c3")).frozen
        assert (await app.abort("the test says so", "c3")).unbroken
        assert (app.attachments, app.registration.claim) == (1, None)


async def test_a_hold_outlives_its_stream_and_is_told_in_the_hello(home: Path) -> None:
    async with with_kit(home, home / "lines") as (app, program):
        frozen = await app.freeze("c1")
        assert frozen.frozen, frozen.reason
        incarnation = app.incarnation
        for _ in range(3):
            await app.disconnect()
            claim = await app.returned()
            assert claim is not None
            assert (claim.cycle, app.incarnation) == ("c1", incarnation)
        assert program.last_line() == int(frozen.evidence["last_line"])
        thawed = await app.thaw()
        assert thawed.unbroken, thawed.reason
        await app.disconnect()
        assert await app.returned() is None


async def test_a_process_that_was_stopped_past_its_limit_does_not_say_unbroken(home: Path) -> None:
    limit = timedelta(milliseconds=200)
    (home / "run").mkdir()
    async with (
        FakeBroker(home / "run") as broker,
        running(home / "run", home / "a", "stopped") as program,
        running(home / "run", home / "b", "clock"),
    ):
        stopped, clock = await broker.app("stopped"), await broker.app("clock")
        assert (await stopped.freeze("c1", hold_limit=limit)).frozen
        program.process.send_signal(signal.SIGSTOP)
        try:
            assert (await clock.freeze("c1", hold_limit=limit)).frozen
            assert await clock.hold_lost() == "the hold limit passed before a thaw came"  # so the other one has passed
            answer = asyncio.create_task(stopped.thaw("c1"), name="thaw")
            assert not (await clock.thaw("c1")).unbroken
        finally:
            program.process.send_signal(signal.SIGCONT)
        thawed = await answer
        assert (thawed.unbroken, thawed.reason) == (False, "the hold limit passed before a thaw came")
        assert await stopped.hold_lost() == thawed.reason
        assert stopped.refusals == clock.refusals == ()


async def test_an_app_that_cannot_get_quiet_vetoes_in_time_and_lets_go_of_what_is_aborted(home: Path) -> None:
    pipe = home / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while os.write(end, b"." * select.PIPE_BUF):  # From now on the app's first line is half written for ever.
                pass
        async with with_kit(home, pipe) as (app, _program):
            late = await app.freeze("c1", budget=timedelta(milliseconds=100))
            assert (late.frozen, late.reason) == (False, "the time to get quiet ran out")
            freezing = asyncio.create_task(app.freeze("c2"), name="freeze")
            thawed = await asyncio.create_task(app.abort("the test says so", "c2"), name="abort")  # asked second
            aborted = await freezing
            assert (aborted.frozen, thawed.unbroken) == (False, False)
            assert aborted.reason == thawed.reason == "the cycle ended before the app was frozen"
            freezing = asyncio.create_task(app.freeze("c3"), name="freeze")
            await asyncio.create_task(app.disconnect(), name="disconnect")
            with pytest.raises(ConnectionError):
                await freezing
            assert await app.returned() is None  # An app that has not acked claims no hold.
            assert not (await app.thaw("c3")).unbroken
            os.read(end, 1 << 20)  # The line goes through, and with it every freeze that waited for it goes on.
            vetoed = await app.freeze("c4")
            assert vetoed.reason.startswith("the lines cannot be brought to the disk: EINVAL"), vetoed
    finally:
        os.close(end)
