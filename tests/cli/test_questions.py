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

from appvss.model.errors import ExitCode
from appvss.v1 import types_pb2
from tests.cli.command_line import Ask, Done, ended, run_apart, start
from tests.sdk.broker_peer import BOUND, BrokerPeer, event, length, reached, restored


async def test_status_in_lines(ask: Ask) -> None:
    done = await ask("status")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:12] == [
        "broker         appvss/0.1.0, process 4711, running for 2h05m",
        "sockets        /run/appvss",
        "configuration  /etc/appvss/broker.toml",
        "history        kept in /var/lib/appvss, 12 cycles",
        "cycle          c-2, holding for 1.5s",
        "held           everything, for 1.5s, 58.5s left; `appvss thaw` ends it now",
        "file systems   THE KERNEL DOES NOT COME BACK; the guardian is process 4712; the",
        "               kernel has not come back from the freeze of /var/lib/slow for",
        "               20.0s; see what its disk does",
        "               - /srv is frozen for 1.5s",
        "               - /var/lib/slow hangs in the kernel",
        "apps           2 registered; expected and not there: billing",
    ]
    lines = lines[5:]
    assert lines[7].startswith("last cycle     c-1, filesystem, 2026-03-0")
    assert lines[8] == "               by appvss freeze (local)"
    assert lines[9:12] == [
        "               - web vetoed: a deployment is running",
        "               what to do: `appvss why c-1`",
        "",
    ]
    assert lines[12].split() == ["SOURCE", "MODE", "CONDITION", "FOR", "APPS", "GET", "HOLD", "OVERLAP"]
    assert lines[13] == "freebsd  automatic  waiting    3m00s  10.0s     1m00s  queue"
    assert lines[15] == "freebsd: /dev/hv_appvss_dev is not there"
    assert all(len(line) <= 80 for line in lines)


async def test_status_of_a_broker_that_has_done_nothing_yet(peer: BrokerPeer, ask: Ask) -> None:
    peer.status.cycle = peer.status.configuration = ""
    for field in ("last_cycle", "absent_apps", "held_for", "hold_left", "history", "freezer"):
        peer.status.ClearField(field)
    out = (await ask("status")).out
    assert "configuration  built-in values\n" in out
    assert "cycle          none is running\n" in out
    assert "apps           2 registered\n" in out
    assert "last cycle     none is known\n" in out
    assert "held" not in out
    assert "history" not in out
    assert "file systems" not in out


async def test_status_names_a_restored_machine_a_failing_history_and_who_is_set_aside(
    peer: BrokerPeer, ask: Ask
) -> None:
    peer.status.restored.CopyFrom(restored())
    peer.status.apps_set_aside.append("web")
    peer.status.history.condition = "failing"
    peer.status.history.waiting = 2
    peer.status.history.detail = "the disk is full"
    out = " ".join((await ask("status")).out.split())
    assert "THIS MACHINE WAS RESTORED FROM CYCLE c-0" in out
    failing = "FAILING, the disk does not take what there is to write in /var/lib/appvss, 12 cycles"
    assert f"{failing}, 2 waiting to be written: the" in out
    assert "set aside: web" in out
    document = (await ask("status", "--json")).document
    assert (document["restored"]["cycle"], document["apps_set_aside"]) == ("c-0", ["web"])
    assert document["history"]["detail"] == "the disk is full"


async def test_the_policy_in_force_and_who_said_so(peer: BrokerPeer, ask: Ask) -> None:
    assert (await ask("status", "--policy")).out.splitlines() == [
        "KEY                      VALUE    FROM",
        'sources.freebsd.overlap  "queue"  /etc/appvss/broker.toml',
        'cycle.thaw_limit         "5s"     built-in',
    ]
    del peer.status.policy[:]
    assert (await ask("status", "--policy")).out == "this broker does not say which policy is in force\n"


async def test_apps_in_lines_with_what_went_wrong_below(ask: Ask) -> None:
    done = await ask("apps")
    assert done.code == 0
    header, first, second, empty, *wrong = done.out.splitlines()
    assert header.split() == ["APP", "STATE", "FOR", "REQUIREMENT", "ORDER", "LAST", "WHO"]
    assert first == "orders-db[eu]  held        1.0s   required     10     held  uid 70, pid 72"
    assert second.endswith("unidentified")
    assert (empty, wrong) == (
        "",
        [
            "web: it has failed its last 4 freezes",
            "web: [red]a deployment?[31m is running (3h00m ago)",
        ],
    )


async def test_an_app_that_is_set_aside_says_why(peer: BrokerPeer, ask: Ask) -> None:
    peer.apps[1].set_aside = "set aside by policy after 4 failures in a row, the last: a deployment is running"
    out = (await ask("apps")).out
    assert "web            set aside  1m30s  tolerated" in out
    assert "web: set aside by policy after 4 failures in a row" in out
    assert "not asked to freeze" in " ".join(out.split())


async def test_an_app_that_only_stands_still_says_so(peer: BrokerPeer, ask: Ask) -> None:
    assert "worth" not in (await ask("apps", "web")).out
    peer.apps[1].grade = types_pb2.GRADE_FS
    assert "worth        fs at most: it only stands still\n" in (await ask("apps", "web")).out
    (document,) = (await ask("apps", "web", "--json")).document["apps"]
    assert document["grade"] == "fs"


async def test_one_app_in_full(peer: BrokerPeer, ask: Ask) -> None:
    done = await ask("apps", "orders-db")
    assert done.code == 0
    assert "who          user 70, process 72\n" in done.out
    assert "order        10, after web\n" in done.out
    assert "paths        /var/db/orders; watched while it is held\n" in done.out
    assert 'order  10     apps.policy "orders-*"\n' in done.out
    assert "c-0: no ack within 2.0s\n" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert (await ask("apps", "orders-db[eu]")).out == done.out
    (document,) = (await ask("apps", "orders-db", "--json")).document["apps"]
    assert (document["refused_messages"], document["registrations"], document["watch_paths"]) == (3, 2, True)
    assert [one["outcome"] for one in document["past"]] == ["held", "timed_out"]


async def test_an_app_that_nobody_knows_is_a_sentence(ask: Ask) -> None:
    done = await ask("apps", "no\x1bname")
    assert (done.code, done.out) == (ExitCode.NOT_FOUND, "")
    assert done.err.startswith("appvss: no app 'no?name' is registered")


async def test_an_app_that_is_not_there_is_nobody(peer: BrokerPeer, ask: Ask) -> None:
    del peer.apps[0]
    peer.apps[0].state = "absent"
    assert (await ask("apps")).out.splitlines()[1].split()[-2:] == ["-", "-"]


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
