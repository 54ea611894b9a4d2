"""The broker as a process, from start to end, seen from outside."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from appvss.model.errors import ExitCode
from appvss.v1 import app_pb2, types_pb2
from tests.support.app_process import app_process
from tests.support.broken_core import BROKEN_CORE
from tests.support.holds import HoldCall
from tests.support.raw_app import RawApp, attached, raw_app
from tests.support.running_broker import BOUND, QUIET, RunningBroker, launched_broker, running_broker

Code = grpc.StatusCode


async def mid_hold(broker: RunningBroker, app: RawApp) -> HoldCall:
    hold = await HoldCall.begin(broker)
    await app.freeze()
    await hold.held()
    return hold


def complaint(broker: RunningBroker) -> list[str]:
    """What the command said at its end; the log goes before it."""
    start = next(number for number, line in enumerate(broker.log) if line.startswith("appvss: "))
    return broker.log[start:]


# -- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_at_rest(number: signal.Signals) -> None:
    async with running_broker() as broker:
        broker.signal(number)
        assert await broker.exit_code() == 0
        assert "the broker stops" in broker.log[-1]


async def test_signal_in_mid_hold_thaws_answers_and_says_goodbye() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app, broker.watching() as watch:
        hold = await mid_hold(broker, app)
        broker.signal(signal.SIGTERM)
        assert (await app.hear("abort")).reason == "the broker was told to stop"
        late = await HoldCall.begin(broker, "somebody late")
        assert (await late.ending())[0] is Code.UNAVAILABLE
        await app.say(thawed=app_pb2.Thawed(cycle=(await watch.until("thaw_asked")).cycle, unbroken=True))
        verdict = await hold.verdict()
        assert (verdict.level, verdict.reasons[0]) == (types_pb2.LEVEL_CRASH, "the broker was told to stop")
        assert (await hold.ending())[0] is Code.OK
        assert (await app.hear("goodbye")).reason == "the broker stops"
        assert (await app.ending()).code is Code.UNAVAILABLE
        await watch.until("cycle_ended")
        assert await broker.exit_code() == 0


async def test_signal_while_apps_freeze() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.hear("freeze")
        broker.signal(signal.SIGTERM)
        assert (await app.thaw("abort")).cycle == freeze.cycle
        assert (await hold.verdict()).level == types_pb2.LEVEL_FAILED
        assert await broker.exit_code() == 0


async def test_end_is_bounded_when_an_app_never_confirms() -> None:
    configuration = QUIET.replace('stop_timeout = "5s"', 'stop_timeout = "1s"')
    async with running_broker(configuration) as broker, attached(broker.runtime_directory, "a") as app:
        await mid_hold(broker, app)
        began = asyncio.get_running_loop().time()
        broker.signal(signal.SIGTERM)
        await app.hear("abort")
        assert (await app.hear("goodbye")).reason == "the broker stops"
        assert await broker.exit_code() == 0
        assert asyncio.get_running_loop().time() - began < 4
        assert await broker.line("not every app has confirmed its thaw within 0:00:01")


async def test_end_is_bounded_when_an_app_process_is_stopped() -> None:
    async with running_broker() as broker, app_process(broker.runtime_directory, "a") as app:
        await app.line("welcome")
        app.process.send_signal(signal.SIGSTOP)
        assert await broker.terminate() == 0


async def test_log_is_written_to_its_end() -> None:
    async with running_broker() as broker:
        for number in range(20):
            async with attached(broker.runtime_directory, f"a-{number}"):
                pass
        assert await broker.terminate() == 0
        assert sum("has registered" in line for line in broker.log) == 20
        assert sum("has left" in line for line in broker.log) == 20


async def test_nothing_is_left_open_by_those_who_came_and_went() -> None:
    async with running_broker() as broker:

        async def come(number: int) -> None:
            async with attached(broker.runtime_directory, f"a-{number}", identified=True):
                pass

        async def until_empty() -> int:
            async with asyncio.timeout(BOUND):
                while (await broker.status()).apps:
                    pass
            return len(broker.descriptors())

        for number in range(5):
            await come(number)
        before = await until_empty()
        for number in range(50):
            await come(number)
        count = await until_empty()
        async with asyncio.timeout(BOUND):
            while count > before:  # gRPC closes a connection some time after its last stream
                count = await until_empty()


# -- trouble at the start


async def test_required_device_is_absent() -> None:
    configuration = '[broker]\nsocket_group = ""\n[sources.freebsd]\nmode = "required"\ndevice = "/dev/none-here"\n'
    async with launched_broker(configuration) as broker:
        assert await broker.exit_code() == ExitCode.DEVICE
        sentence, hint = complaint(broker)
        assert "/dev/none-here" in sentence
        assert hint.startswith("HINT: ")
        assert not [line for line in broker.log if "Traceback" in line]
        assert sorted(path.name for path in broker.runtime_directory.iterdir()) == ["broker.lock"]


async def test_required_device_is_not_a_device() -> None:
    configuration = '[broker]\nsocket_group = ""\n[sources.freebsd]\nmode = "required"\ndevice = "/dev/null"\n'
    async with launched_broker(configuration) as broker:
        assert await broker.exit_code() == ExitCode.DEVICE
        assert len(complaint(broker)) == 2


async def test_wrong_configuration() -> None:
    async with launched_broker("[broker]\nlog_level = 7\n") as broker:
        assert await broker.exit_code() == ExitCode.CONFIGURATION
        assert len(complaint(broker)) == 2
        assert not broker.runtime_directory.exists()


async def test_runtime_directory_that_others_may_write_in(directory: Path) -> None:
    (directory / "run").mkdir()
    (directory / "run").chmod(0o777)
    async with launched_broker(directory=directory) as broker:
        assert await broker.exit_code() == ExitCode.FORBIDDEN
        sentence, _hint = complaint(broker)
        assert "others could replace the sockets" in sentence


async def test_as_many_descriptors_as_the_system_allows_are_used() -> None:
    async with running_broker(QUIET + "[apps]\nlimit = 20000\n") as broker:
        soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
        assert soft == hard
        if hard != resource.RLIM_INFINITY and hard < 60_200:
            assert await broker.line(f"{hard} open files are allowed, 20000 apps may need 60200")


# -- reload


async def test_reload_of_a_good_file() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a", requirement=2):
        broker.file.write_text(
            QUIET.replace("debug", "info") + '[apps]\nrequired = ["a", "b"]\nlimit = 2\nlimit_per_uid = 1\n'
        )
        broker.signal(signal.SIGHUP)
        await broker.line("the configuration was reloaded from", str(broker.file))
        assert list((await broker.status()).absent_apps) == ["b"]
        assert (await broker.apps())[0].requirement == types_pb2.REQUIREMENT_REQUIRED
        async with raw_app(broker.runtime_directory) as other:
            await other.say(hello=other.hello_message("other"))
            assert (await other.ending()).code is Code.RESOURCE_EXHAUSTED
        assert not [line for line in broker.log if "takes a restart" in line]


async def test_reload_ends_the_stream_of_an_app_that_may_not_be_there_any_more() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a") as app:
        async with attached(broker.runtime_directory, "b"):
            broker.file.write_text(QUIET + '[[apps.policy]]\nname = "a"\nuid = [4242]\nfreeze_timeout = "1h"\n')
            broker.signal(signal.SIGHUP)
            ending = await app.ending()
            assert ending.code is Code.PERMISSION_DENIED
            assert ending.sentence == (
                'an app without a token may not register as a: apps.policy "a" allows user 4242 alone'
            )
            assert [one.name for one in await broker.apps()] == ["b"]
        await broker.line("WARNING", "freeze_timeout: 1h cannot fit")


async def test_reload_of_a_bad_file_changes_nothing() -> None:
    async with running_broker() as broker:
        broker.file.write_text(QUIET + '[apps]\nrequired = ["b"]\nunknown = 1\n')
        broker.signal(signal.SIGHUP)
        await broker.line("the configuration was not reloaded, the old one stays in force", "unknown")
        assert list((await broker.status()).absent_apps) == []
        broker.file.unlink()
        broker.signal(signal.SIGHUP)
        await broker.line("the configuration was not reloaded", "cannot be read")
        broker.file.write_text(QUIET)
        broker.signal(signal.SIGHUP)
        await broker.line("the configuration was reloaded")


async def test_reload_says_what_takes_a_restart() -> None:
    async with running_broker(QUIET) as broker:
        broker.file.write_text(QUIET + '[sources.local]\nhold_limit = "9s"\n')
        broker.signal(signal.SIGHUP)
        await broker.line("sources has changed; that takes a restart of the broker")
        await broker.line("the configuration was reloaded")
        hold = await HoldCall.begin(broker, hold_limit=timedelta(seconds=10))
        assert (await hold.held()).hold_limit.ToTimedelta() == timedelta(seconds=10)


async def test_reload_in_a_hold_leaves_its_policy_alone() -> None:
    async with running_broker() as broker, attached(broker.runtime_directory, "a", requirement=2) as app:
        hold = await mid_hold(broker, app)
        broker.file.write_text(QUIET + '[apps]\nrequired = ["a"]\n')
        broker.signal(signal.SIGHUP)
        await asyncio.sleep(0)
        await hold.finish()
        await app.thaw()
        verdict = await hold.verdict()
        assert verdict.outcomes[0].requirement == types_pb2.REQUIREMENT_TOLERATED
        await broker.line("the configuration was reloaded")
        assert (await broker.apps())[0].requirement == types_pb2.REQUIREMENT_REQUIRED


# -- the core fails


async def test_failure_of_the_core_lets_everybody_go_and_is_told() -> None:
    async with running_broker(command=BROKEN_CORE) as broker, attached(broker.runtime_directory, "a") as app:
        hold = await HoldCall.begin(broker)
        freeze = await app.freeze()
        abort = await app.hear("abort")
        assert abort.cycle == freeze.cycle
        assert "core has failed" in abort.reason
        assert (await app.hear("goodbye")).reason
        assert (await app.ending()).code is Code.UNAVAILABLE
        assert (await hold.ending())[0] is Code.UNAVAILABLE
        assert await broker.exit_code() == ExitCode.INTERNAL
        sentence, hint = complaint(broker)
        assert sentence == (
            "appvss: the broker's core has failed, and every app was let go: ZeroDivisionError: a bug in two lines"
        )
        assert hint.startswith("HINT: Start it again, and report the bug")
        assert [line for line in broker.log if "CRITICAL" in line]
        assert sum("Traceback" in line for line in broker.log) == 1


async def test_killed_broker_leaves_apps_to_their_own_limit_and_a_new_one_lets_them_go(directory: Path) -> None:
    async with running_broker(directory=directory) as broker, attached(broker.runtime_directory, "a") as app:
        await mid_hold(broker, app)
        cycle = (await broker.status()).cycle
        await broker.kill()
        assert (await app.ending()).code is Code.UNAVAILABLE
    holding = app_pb2.Holding(cycle=cycle)
    holding.held_for.FromTimedelta(timedelta(seconds=1))
    async with (
        running_broker(directory=directory) as again,
        attached(again.runtime_directory, "a", incarnation=app.incarnation, holding=holding) as back,
    ):
        assert (await back.thaw("abort")).cycle == cycle


async def test_broker_does_not_need_anybody_to_read_its_log() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    async with running_broker(stderr=writing) as broker:
        os.close(writing)
        async with attached(broker.runtime_directory, "a") as app:
            hold = await mid_hold(broker, app)
            await hold.finish()
            await app.thaw()
            assert (await hold.verdict()).level == types_pb2.LEVEL_APPLICATION
        assert await broker.terminate() == 0
