"""`appvss rehearse` against a real server on a real socket."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from datetime import timedelta

import grpc

from appvss.model.errors import ExitCode
from appvss.model.verdict import Level, Verdict
from tests.cli.command_line import Ask, ended, start
from tests.sdk.broker_peer import FAILED, HELD, BrokerPeer, reached, rehearsal

BUSY = (grpc.StatusCode.ABORTED, "cycle c-7 of hyper-v host is under way (holding)")


async def test_rounds_one_after_the_other_and_what_they_say_together(peer: BrokerPeer, ask: Ask) -> None:
    peer.rehearsals = [rehearsal(), rehearsal(time_to_freeze=timedelta(milliseconds=40))]
    done = await ask("rehearse", "--count", "3")
    assert done.code == ExitCode.SUCCESS
    assert done.err.splitlines() == [
        "round 1 of 3: application, frozen in 12.0ms",
        "round 2 of 3: application, frozen in 40.0ms",
        "round 3 of 3: application, frozen in 40.0ms",
    ]
    assert done.out.splitlines() == [
        "APP            P50     P99     LONGEST  OUTCOMES",
        "orders-db[eu]  12.0ms  12.0ms  12.0ms   held 3",
        "all together   40.0ms  40.0ms  40.0ms   3 rounds",
        "to prepare     30.0ms  30.0ms  30.0ms",
        "",
        "SOURCE   APPS GET  P99     LEFT   HOLD UP TO  SAFE UP TO  FITS",
        "freebsd  9.9s      40.0ms  9.9s   1m00s       55.0s       yes, not serving",
        "local    29.9s     40.0ms  29.9s  5m00s       1m00s       yes",
        "",
        "local may hold for 5m00s, and orders-db[eu] lets go by itself 1m00s after the",
        "answer: a snapshot that takes longer than that loses it.",
    ]
    assert len(peer.rehearsed) == 3
    assert peer.rehearsed[0].requester.startswith("appvss rehearse (user ")


async def test_five_rounds_unless_told_otherwise_with_the_budget_that_was_named(peer: BrokerPeer, ask: Ask) -> None:
    peer.rehearsals = [rehearsal()]
    document = (await ask("rehearse", "--freeze-budget", "9s", "--json")).document
    assert [request.freeze_budget.seconds for request in peer.rehearsed] == [9] * 5
    assert (document["message_type"], document["all_held"], document["fits"]) == ("rehearse", True, True)
    assert document["apps"][0]["time_to_freeze"] == {
        "count": 5,
        "p50_seconds": 0.012,
        "p99_seconds": 0.012,
        "max_seconds": 0.012,
    }
    assert [one["rehearses"] for one in document["rounds"]] == [True] * 5


async def test_an_app_that_fails_in_one_round_is_code_10(peer: BrokerPeer, ask: Ask) -> None:
    peer.rehearsals = [rehearsal(), rehearsal(FAILED), rehearsal()]
    done = await ask("rehearse", "--count", "3")
    assert done.code == ExitCode.NOT_CONSISTENT
    assert "web: a deployment is running\n" in done.out
    assert "1 of 3 rounds would not have been application-consistent." in done.out
    assert "`appvss why c-1`" in done.out


async def test_a_source_that_serves_and_gives_too_little_is_code_13(peer: BrokerPeer, ask: Ask) -> None:
    peer.status.sources[0].condition = "serving"
    peer.rehearsals = [rehearsal(time_to_freeze=timedelta(seconds=11))]
    done = await ask("rehearse", "--count", "1")
    assert done.code == ExitCode.UNFIT
    assert "freebsd gives the apps 9.9s, which is 1.1s too short" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())


async def test_no_app_at_all(peer: BrokerPeer, ask: Ask) -> None:
    nobody = Verdict("c-1", Level.CRASH, (), ("no app was held: nothing in this machine vouches for the snapshot",))
    peer.rehearsals = [rehearsal(nobody, timedelta(0))]
    done = await ask("rehearse", "--count", "1")
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.out.startswith("no app is registered: there was nothing to freeze\n")


async def test_a_cycle_in_the_first_round_is_a_refusal_and_in_a_later_one_ends_it_with_what_there_is(
    peer: BrokerPeer, ask: Ask
) -> None:
    peer.rehearsals = [BUSY]
    done = await ask("rehearse")
    assert (done.code, done.out) == (ExitCode.REFUSED, "")
    assert "cycle c-7 of hyper-v host is under way" in done.err
    peer.rehearsed.clear()
    peer.rehearsals = [rehearsal(), BUSY]
    done = await ask("rehearse")
    assert done.code == ExitCode.REFUSED
    assert "all together   12.0ms  12.0ms  12.0ms   1 round\n" in done.out
    assert len(peer.rehearsed) == 2
    peer.rehearsed.clear()
    done = await ask("rehearse", "--json")
    assert (len(done.document["rounds"]), json.loads(done.err)["name"]) == (1, "CycleBusy")


async def test_ctrl_c_ends_the_round_and_prints_what_there_is(peer: BrokerPeer) -> None:
    peer.rehearsals = [rehearsal()]
    process = await start("rehearse", "--count", "10000", "--runtime-directory", str(peer.directory))
    assert process.stderr is not None
    await process.stderr.readline()
    peer.rehearsals = []
    await reached(peer.rehearsing)
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert done.code == 128 + signal.SIGINT
    assert "orders-db[eu]  12.0ms" in done.out
    await reached(peer.broken)


async def test_ctrl_c_in_the_first_round_has_nothing_to_print(peer: BrokerPeer) -> None:
    process = await start("rehearse", "--runtime-directory", str(peer.directory))
    await reached(peer.rehearsing)
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert (done.code, done.out, done.err) == (128 + signal.SIGINT, "", "")
    await reached(peer.broken)


async def test_an_app_that_is_tolerated_and_fails_is_shown_and_fails_nothing(peer: BrokerPeer, ask: Ask) -> None:
    lesser = replace(FAILED, level=Level.APPLICATION, outcomes=(HELD, *FAILED.outcomes))
    peer.rehearsals = [rehearsal(lesser)]
    done = await ask("rehearse", "--count", "1")
    assert done.code == ExitCode.SUCCESS
    assert "vetoed 1" in done.out
