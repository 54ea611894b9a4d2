"""history, show and why against a real server on a real socket."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from appvss.model.errors import ExitCode
from appvss.model.verdict import Level
from appvss.v1 import admin_pb2, types_pb2
from tests.cli.command_line import Ask
from tests.sdk.broker_peer import DOUBTFUL, FAILED, GOOD, TIME, BrokerPeer, event, length, restored, summary

GOOD_ID, BAD_ID, REHEARSAL_ID = "20260304T050607Z-aaaaaa", "20260304T040607Z-bbbbbb", "20260304T060607Z-cccccc"


@pytest.fixture
def three(peer: BrokerPeer) -> BrokerPeer:
    """A rehearsal that failed, a good snapshot, and before them one that was not good."""
    peer.cycles = [
        summary(FAILED, REHEARSAL_ID, rehearses=True, source="rehearsal"),
        summary(GOOD, GOOD_ID),
        summary(DOUBTFUL, BAD_ID),
    ]
    return peer


async def test_history_in_lines_newest_first_with_rehearsals_marked(three: BrokerPeer, ask: Ask) -> None:
    done = await ask("history")
    assert (done.code, done.err) == (0, "")
    header, first, second, third, empty, last = done.out.splitlines()
    assert header.split() == ["CYCLE", "LEVEL", "AGO", "TOOK", "HELD", "APPS", "SOURCE"]
    assert first.startswith(REHEARSAL_ID)
    assert first.endswith("4.0s  -     0 of 1  rehearsal")
    assert second.split()[:2] == [GOOD_ID, "application"]
    assert third.endswith("4.0s  3.0s  1 of 2  local")
    assert (empty, last) == ("", f"What was wrong: `appvss why {REHEARSAL_ID}`.")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert three.limits == [20]


async def test_history_takes_a_limit_and_filters(three: BrokerPeer, ask: Ask) -> None:
    async def ids(*arguments: str) -> list[str]:
        return [one["cycle"] for one in (await ask("history", "--json", *arguments)).document["cycles"]]

    assert await ids("--limit", "2") == [REHEARSAL_ID, GOOD_ID]
    assert await ids("--level", "filesystem") == [BAD_ID]
    assert await ids("--app", "orders-db") == [GOOD_ID, BAD_ID]
    assert await ids("--app", "orders-db", "--limit", "1") == [GOOD_ID]
    assert await ids("--app", "nobody") == []
    assert three.limits == [2, 0, 0, 0, 0]


async def test_history_since_a_time_and_since_a_length(three: BrokerPeer, ask: Ask) -> None:
    assert (await ask("history", "--since", "2026-03-04T05:06:07Z", "--json")).document["cycles"]
    assert (await ask("history", "--since", "2h")).out == "no cycle is known that fits\n"
    first, second = three.sinces
    assert first == TIME.replace(microsecond=0)
    assert second is not None
    assert timedelta(0) <= datetime.now(UTC) - timedelta(hours=2) - second < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--since", "2199-01-01T00:00:00Z"], "--since 2199-01-01T00:00:00Z is in the future"),
        (["--since", "yesterday"], "'yesterday' is neither a time nor a length of time"),
        (["--since", "999999999d"], "ago is before all calendars"),
        (["--since", "0001-01-01T00:00:00+14:00"], "is neither a time nor a length of time"),
        (["--since", "\x1b[2J"], "'?[2J' is neither"),
        (["--limit", "0"], "invalid value for '--limit'"),
        (["--level", "good"], "invalid value for '--level'"),
        (["--app", "no name"], "has a character that is not allowed"),
    ],
)
async def test_history_refuses_what_it_cannot_mean(ask: Ask, arguments: list[str], sentence: str) -> None:
    done = await ask("history", *arguments)
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    first, second = done.err.splitlines()
    assert sentence in first
    assert second.startswith("HINT: ")


async def test_history_of_a_broker_that_has_none(peer: BrokerPeer, ask: Ask) -> None:
    del peer.cycles[:]
    assert (await ask("history")).out == "no cycle is known yet\n"
    assert (await ask("history", "--json")).document == {"message_type": "history", "cycles": []}


async def test_show_has_everything_and_takes_the_beginning_of_an_id(three: BrokerPeer, ask: Ask) -> None:
    began = event("cycle_began", cycle=BAD_ID, detail="freeze by appvss freeze through local")
    holding = event("phase_changed", cycle=BAD_ID, phase=types_pb2.PHASE_HOLDING)
    began.since_request.CopyFrom(length(timedelta(0)))
    holding.since_request.CopyFrom(length(timedelta(seconds=1.5)))
    three.details[BAD_ID] = admin_pb2.GetCycleResponse(
        summary=summary(DOUBTFUL, BAD_ID), events=[began, holding], certificate="{}"
    )
    done = await ask("show", "20260304T04")
    assert (done.code, done.err) == (0, "")
    assert f"cycle        {BAD_ID}\nlevel        filesystem\n" in done.out
    assert "held         3.0s, from the last ack to the thaw\n" in done.out
    assert "\n- web vetoed: a deployment is running\n" in done.out
    assert "orders-db[eu]: lsn = 0/16B3748\n" in done.out
    assert "web: a deployment is running (trying again soon may help)\n" in done.out
    rows = [line.split() for line in done.out.splitlines()]
    assert ["/srv", "8:2", "xfs", "held", "7.0ms"] in rows
    assert ["APP", "OUTCOME", "GRADE", "REQUIREMENT", "ORDER", "FROZE", "IN", "HELD", "FOR"] in rows
    assert ["orders-db[eu]", "held", "app", "required", "10", "12.0ms", "3.0s"] in rows
    assert ["web", "vetoed", "-", "tolerated", "50", "-", "-"] in rows
    assert ["/media/stick", "8:17", "exfat", "unfreezable", "-"] in rows
    assert "not frozen, it is read-only: /cdrom\n" in done.out
    assert "/media/stick: exfat has no freeze\n" in done.out
    assert "   +0.0ms  cycle_began         freeze by appvss freeze through local\n" in done.out
    assert "    +1.5s  phase_changed       -> holding\n" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    document = (await ask("show", BAD_ID, "--json")).document
    assert (document["message_type"], document["certificate"]) == ("cycle", "{}")
    assert [one["kind"] for one in document["events"]] == ["cycle_began", "phase_changed"]


@pytest.mark.parametrize("command", ["show", "why"])
async def test_an_id_that_nobody_knows_is_code_8(three: BrokerPeer, ask: Ask, command: str) -> None:
    for word in ("2027", "x" * 5000, "\x1b"):
        done = await ask(command, word)
        assert (done.code, done.out) == (ExitCode.NOT_FOUND, "")
        assert "is known" in done.err
        assert "\x1b" not in done.err
    error = json.loads((await ask(command, "2027", "--json")).err)
    assert (error["name"], error["exit_code"]) == ("CycleUnknown", 8)


async def test_a_beginning_of_several_ids_names_them(three: BrokerPeer, ask: Ask) -> None:
    done = await ask("show", "2026")
    assert done.code == ExitCode.USAGE
    assert f"3 cycles begin with '2026': {REHEARSAL_ID}, {GOOD_ID}, {BAD_ID}" in done.err


async def test_why_passes_over_rehearsals_and_says_when_the_newest_was_fine(three: BrokerPeer, ask: Ask) -> None:
    done = await ask("why")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"The last snapshot was fine: cycle {GOOD_ID} of ")
    assert f"\ncycle {BAD_ID}: filesystem\n" in done.out
    document = (await ask("why", "--json")).document
    assert (document["cycle"]["cycle"], document["newest_cycle"]["cycle"]) == (BAD_ID, GOOD_ID)
    assert [(doubt["kind"], doubt["app"], doubt["lowers"]) for doubt in document["doubts"]][1:] == [
        ("app_vetoed_for_now", "web", False),
        ("app_timed_out", "cache", False),
    ]
    assert all(doubt["next_steps"] for doubt in document["doubts"])


async def test_why_of_a_named_cycle_says_nothing_of_others(three: BrokerPeer, ask: Ask) -> None:
    three.status.restored.CopyFrom(restored())
    out = (await ask("why", "20260304T06")).out
    assert out.startswith(f"rehearsal {REHEARSAL_ID}: failed\n")
    assert (await ask("why", GOOD_ID)).out.endswith("`appvss verify`.\nNothing speaks against it.\n")


async def test_why_begins_with_the_restored_machine(three: BrokerPeer, ask: Ask) -> None:
    three.status.restored.CopyFrom(restored())
    done = await ask("why")
    assert done.out.startswith("This machine was restored from cycle c-0, asked for by hyper-v host (freebsd)")
    assert "`appvss certificate verify /var/lib/appvss`" in done.out
    assert (await ask("why", "--json")).document["restored"]["stage"] == "held"


async def test_why_when_all_is_well_and_when_there_is_nothing(peer: BrokerPeer, ask: Ask) -> None:
    peer.cycles = [summary(GOOD, GOOD_ID)]
    out = (await ask("why")).out
    assert "No cycle that is known was anything less." in out
    assert (await ask("why", "--json")).document["cycle"] is None
    del peer.cycles[:]
    assert (await ask("why")).out.startswith("No cycle is known yet")


async def test_why_tells_of_a_good_snapshot_that_has_something_to_say(peer: BrokerPeer, ask: Ask) -> None:
    noted = summary(GOOD, GOOD_ID)
    noted.verdict.reasons.append("the certificate could not be written: the disk is full")
    peer.cycles = [noted]
    out = (await ask("why")).out
    assert out.startswith(f"cycle {GOOD_ID}: application\n")
    assert "It is named, and" in out


async def test_a_history_that_cannot_be_read_is_a_sentence(peer: BrokerPeer, ask: Ask) -> None:
    peer.failure = (grpc.StatusCode.DEADLINE_EXCEEDED, "the disk has not answered in 10s")
    for command in ("history", "why"):
        done = await ask(command)
        assert (done.code, done.out) == (ExitCode.REFUSED, "")
        assert "the disk has not answered in 10s" in done.err


@pytest.mark.parametrize("level", Level)
async def test_every_level_can_be_asked_for(three: BrokerPeer, ask: Ask, level: Level) -> None:
    found = (await ask("history", "--json", "--level", level.value)).document["cycles"]
    assert all(one["verdict"]["level"] == level for one in found)
