"""status, apps, watch and thaw against a real server on a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import grpc
import pytest

from appvss.cli.main import run
from appvss.model.errors import ExitCode
from appvss.v1 import types_pb2
from tests.cli.command_line import Done, ended, run_apart, start
from tests.sdk.broker_peer import BOUND, BrokerPeer, event, length, reached

Ask = Callable[..., "asyncio.Future[Done]"]


@pytest.fixture
def ask(peer: BrokerPeer, capsys: pytest.CaptureFixture[str]):
    """Run a command in a thread of this process: the peer lives on this test's loop."""

    async def ask(*arguments: str) -> Done:
        line = [*arguments, "--runtime-directory", str(peer.directory)]
        code = await asyncio.wait_for(asyncio.to_thread(run, line), BOUND)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return ask


async def test_status_in_lines(ask: Ask) -> None:
    done = await ask("status")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:5] == [
        "broker         appvss/0.1.0, process 4711, running for 2h05m",
        "sockets        /run/appvss",
        "configuration  /etc/appvss/broker.toml",
        "cycle          c-2, holding for 1.5s",
        "apps           2 registered, expected and not there: billing",
    ]
    assert lines[5].startswith("last cycle     c-1, filesystem, 2026-03-0")
    assert lines[5].endswith("took 4.0s, asked for by appvss freeze (local)")
    assert lines[6:8] == ["               - web vetoed: a deployment is running", ""]
    assert lines[8].split() == ["SOURCE", "MODE", "CONDITION", "FOR", "DETAIL"]
    assert lines[9] == "freebsd  automatic  waiting    3m00s  /dev/hv_appvss_dev is not there"


async def test_status_of_a_broker_that_has_done_nothing_yet(peer: BrokerPeer, ask: Ask) -> None:
    peer.status.cycle = peer.status.configuration = ""
    peer.status.ClearField("last_cycle")
    del peer.status.absent_apps[:]
    out = (await ask("status")).out
    assert "configuration  built-in values\n" in out
    assert "cycle          none is running\n" in out
    assert "apps           2 registered\n" in out
    assert "last cycle     none since the broker started\n" in out


async def test_apps_in_lines_with_what_went_wrong_below(ask: Ask) -> None:
    done = await ask("apps")
    assert done.code == 0
    header, first, second, wrong = done.out.splitlines()
    assert header.split() == ["APP", "STATE", "FOR", "REQUIREMENT", "ORDER", "NEEDS", "HOLDS", "WHO", "LAST"]
    assert first.split("  ")[0] == "orders-db[eu]"
    assert "uid 70, pid 72" in first
    assert first.endswith("held")
    assert "unidentified" in second
    assert wrong == "web: [red]a deployment?[31m is running"


async def test_an_app_that_is_not_there_is_nobody(peer: BrokerPeer, ask: Ask) -> None:
    del peer.apps[0]
    peer.apps[0].state = "absent"
    peer.apps[0].ClearField("hold_limit")
    assert (await ask("apps")).out.splitlines()[1].split()[-4:] == ["-", "-", "-", "-"]


async def test_no_apps_at_all(peer: BrokerPeer, ask: Ask) -> None:
    del peer.apps[:]
    assert (await ask("apps")).out == "no app is registered, and none is expected\n"
    assert (await ask("apps", "--json")).document == {"message_type": "apps", "apps": []}


async def test_thaw_says_what_it_ended(peer: BrokerPeer, ask: Ask) -> None:
    assert await ask("thaw", "--reason", "the disk is full") == Done(
        0, "cycle c-2 is ended and everything goes on\n", ""
    )
    assert (await ask("thaw", "--json")).document == {"message_type": "thaw", "thawed_cycle": "c-2"}
    peer.thawed_cycle = ""
    assert await ask("thaw") == Done(0, "no cycle was running; nothing is held\n", "")
    assert (await ask("thaw", "--json")).document == {"message_type": "thaw", "thawed_cycle": None}
    assert peer.thaw_reasons[:2] == ["the disk is full", f"appvss thaw by user {os.getuid()}"]


async def test_a_thaw_that_is_not_confirmed_is_a_refusal(peer: BrokerPeer, ask: Ask) -> None:
    peer.failure = (grpc.StatusCode.DEADLINE_EXCEEDED, "web has not confirmed")
    done = await ask("thaw")
    assert done.code == ExitCode.REFUSED
    assert "web has not confirmed" in done.err


async def test_on_a_terminal_tables_are_drawn_and_markup_of_apps_is_not_obeyed(peer: BrokerPeer) -> None:
    peer.apps[1].instance = "a"
    peer.apps[1].state = "[bold]x[/bold]"
    shown = await on_a_terminal(peer, {"TERM": "xterm", "COLUMNS": "200"})
    assert "\x1b[32mheld\x1b[0m" in shown
    assert "[bold]x[/bold]" in shown
    assert "\x1b[31m is running" not in shown


@pytest.mark.parametrize("environment", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_a_terminal_without_colour_gets_plain_lines(peer: BrokerPeer, environment: dict[str, str]) -> None:
    assert "\x1b" not in await on_a_terminal(peer, environment)


async def on_a_terminal(peer: BrokerPeer, environment: dict[str, str]) -> str:
    """What `appvss apps` writes to a terminal."""
    ours, theirs = pty.openpty()
    process = await start(
        "apps", "--runtime-directory", str(peer.directory), environment=environment, stdout=theirs, stdin=theirs
    )
    os.close(theirs)
    shown = asyncio.create_task(asyncio.to_thread(read_all, ours), name="terminal")
    done = await ended(process)
    assert (done.code, done.err) == (0, "")
    return await asyncio.wait_for(shown, BOUND)


def read_all(descriptor: int) -> str:
    parts = []
    try:
        while part := os.read(descriptor, 4096):
            parts.append(part)
    except OSError:  # Linux says EIO when nobody has the other side open any more
        pass
    finally:
        os.close(descriptor)
    return b"".join(parts).decode()


@pytest.fixture
async def watcher(peer: BrokerPeer) -> AsyncIterator[Callable[..., object]]:
    started: list[asyncio.subprocess.Process] = []

    async def watch(*arguments: str) -> asyncio.subprocess.Process:
        process = await start(
            "watch", *arguments, "--runtime-directory", str(peer.directory), environment={"TZ": "UTC"}
        )
        started.append(process)
        await reached(peer.watching)
        return process

    yield watch
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def next_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), BOUND)).decode()


async def test_watch_shows_every_event_at_once_and_ends_cleanly_at_ctrl_c(peer: BrokerPeer, watcher) -> None:
    process = await watcher()
    await peer.events.put(
        event("phase_changed", cycle="c-1", phase=types_pb2.PHASE_HOLDING, since_request=length(timedelta(seconds=1.5)))
    )
    assert await next_line(process) == (
        "2026-03-04 05:06:07.123+00:00      +1.5s  c-1  phase_changed        -> holding\n"
    )
    await peer.events.put(
        event("app_froze", cycle="c-1", app="web", took=length(timedelta(milliseconds=12)), detail="lsn\x1b[2J 7")
    )
    assert await next_line(process) == (
        "2026-03-04 05:06:07.123+00:00             c-1  app_froze            web  took 12.0ms  lsn?[2J 7\n"
    )
    process.send_signal(signal.SIGINT)
    assert await ended(process) == Done(0, "", "")
    await reached(peer.unwatched)


async def test_watch_json_is_one_object_a_line(peer: BrokerPeer, watcher) -> None:
    process = await watcher("--json")
    for kind in ("source_changed", "app_registered"):
        await peer.events.put(event(kind, app="web"))
        document = json.loads(await next_line(process))
        assert (document["message_type"], document["kind"], document["app"]) == ("event", kind, "web")
        assert (document["time"], document["cycle"], document["phase"]) == ("2026-03-04T05:06:07.123000Z", None, None)
    process.send_signal(signal.SIGINT)
    assert (await ended(process)).code == 0


async def test_watch_ends_when_the_broker_stops(peer: BrokerPeer) -> None:
    peer.failure = (grpc.StatusCode.UNAVAILABLE, "the broker stops")
    done = await run_apart("watch", "--runtime-directory", str(peer.directory))
    assert done.code == ExitCode.BROKER_UNREACHABLE
    assert "the broker stops" in done.err


async def test_watch_whose_reader_goes_away_ends(peer: BrokerPeer) -> None:
    reader, writer = os.pipe()
    process = await start("watch", "--runtime-directory", str(peer.directory), stdout=writer)
    os.close(writer)
    os.close(reader)
    await reached(peer.watching)
    await peer.events.put(event("app_left"))
    assert await ended(process) == Done(128 + signal.SIGPIPE, "", "")
    await reached(peer.unwatched)
