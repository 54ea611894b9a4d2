"""`appvss hook` against a real server, and in a process of its own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from appvss import contract
from appvss.model.errors import ExitCode
from appvss.model.filesystem import FilesystemChoice, Scope
from tests.cli.command_line import Ask, run_apart
from tests.docs.test_pages import rows, section
from tests.sdk.broker_peer import DOUBTFUL, FAILED, GOOD, BrokerPeer, summary


class Mark:
    """What stands for a freeze whose thaw has not come."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "hook.frozen"

    @property
    def is_there(self) -> bool:
        return self._path.exists()

    def leave(self) -> None:
        self._path.touch()


@pytest.fixture
def mark(peer: BrokerPeer) -> Mark:
    return Mark(peer.directory)


async def test_freeze_and_thaw(peer: BrokerPeer, ask: Ask, mark: Mark) -> None:
    done = await ask("hook", "freeze")
    assert (done.code, done.out, done.err) == (0, "", "appvss: held for 1m00s at most, cycle c-1\n")
    assert mark.is_there
    (begin,) = peer.hook_begins
    assert contract.choice_of(begin.filesystems) == FilesystemChoice()
    assert begin.requester.startswith("appvss hook of ")
    assert begin.requester.endswith(f"(process {os.getppid()})")
    done = await ask("hook", "thaw")
    assert (done.code, done.out, done.err) == (0, "", "appvss: cycle c-1: application, held for 3.0s\n")
    assert not mark.is_there


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        (["--filesystems", "declared"], FilesystemChoice(Scope.DECLARED)),
        (["--filesystems", "all"], FilesystemChoice(Scope.ALL)),
        (["--mount", "/srv"], FilesystemChoice(Scope.NAMED, ("/srv",))),
    ],
)
async def test_file_systems_and_lengths(
    peer: BrokerPeer, ask: Ask, options: list[str], choice: FilesystemChoice
) -> None:
    assert (await ask("hook", "freeze", "--hold-limit", "30s", "--freeze-budget", "9s", *options)).code == 0
    (begin,) = peer.hook_begins
    assert contract.choice_of(begin.filesystems) == choice
    assert (begin.hold_limit.seconds, begin.freeze_budget.seconds) == (30, 9)


async def test_a_freeze_that_fails_is_one_line_and_holds_nothing(peer: BrokerPeer, ask: Ask, mark: Mark) -> None:
    peer.hook_answer = FAILED
    done = await ask("hook", "freeze")
    assert done.code == ExitCode.REFUSED
    assert done.err == "appvss: nothing is held: cycle c-1: failed: web vetoed: a deployment is running\n"
    assert not mark.is_there


@pytest.mark.parametrize(
    ("code", "exit_code", "start"),
    [
        (grpc.StatusCode.ABORTED, ExitCode.REFUSED, "appvss: nothing is held: another cycle is running"),
        (grpc.StatusCode.PERMISSION_DENIED, ExitCode.REFUSED, "appvss: nothing is held: the broker refused"),
        (grpc.StatusCode.UNAVAILABLE, ExitCode.BROKER_UNREACHABLE, "appvss: the broker at "),
    ],
)
async def test_a_freeze_that_is_refused(
    peer: BrokerPeer, ask: Ask, mark: Mark, code: grpc.StatusCode, exit_code: ExitCode, start: str
) -> None:
    peer.failure = (code, "it says no")
    done = await ask("hook", "freeze")
    assert done.code == exit_code
    assert done.err.startswith(start)
    assert len(done.err.splitlines()) == 1
    assert not mark.is_there


async def test_a_hold_that_was_not_kept_is_code_10(peer: BrokerPeer, ask: Ask) -> None:
    peer.hook_verdict, peer.hook_is_kept = DOUBTFUL, False
    done = await ask("hook", "thaw")
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.err == "appvss: cycle c-1: filesystem, held for 3.0s: web vetoed: a deployment is running\n"


async def test_a_hold_that_was_kept_and_is_worth_less_is_code_0(peer: BrokerPeer, ask: Ask) -> None:
    peer.hook_verdict = DOUBTFUL
    assert (await ask("hook", "thaw")).code == 0


async def test_a_thaw_without_a_freeze_is_harmless(peer: BrokerPeer, ask: Ask) -> None:
    peer.hook_verdict = None
    for _ in range(2):
        done = await ask("hook", "thaw")
        assert (done.code, done.err) == (0, "appvss: nothing was held\n")
    assert peer.limits == []


# -- a broker that is gone, or another one


async def test_without_a_broker_a_freeze_fails_and_a_thaw_does_no_harm(tmp_path: Path) -> None:
    environment = {"APPVSS_RUNTIME_DIRECTORY": str(tmp_path)}
    done = await run_apart("hook", "freeze", environment=environment)
    assert done.code == ExitCode.BROKER_UNREACHABLE
    assert done.err.startswith("appvss: nothing is held: no broker is running: there is no socket ")
    done = await run_apart("hook", "thaw", environment=environment)
    assert (done.code, done.err) == (0, "appvss: nothing is held: no broker is running\n")


async def test_a_broker_that_is_gone_since_the_freeze_has_lost_the_hold(tmp_path: Path) -> None:
    (tmp_path / "hook.frozen").touch()
    environment = {"APPVSS_RUNTIME_DIRECTORY": str(tmp_path)}
    done = await run_apart("hook", "thaw", environment=environment)
    assert (done.code, done.err) == (ExitCode.NOT_CONSISTENT, "appvss: the hold was lost: its broker is gone\n")
    assert (await run_apart("hook", "thaw", environment=environment)).code == 0


async def test_another_broker_tells_the_verdict_of_the_former_one(peer: BrokerPeer, ask: Ask, mark: Mark) -> None:
    mark.leave()
    peer.hook_verdict = None
    peer.cycles = [summary(GOOD, "c-3"), summary(DOUBTFUL, "c-2", source="hook"), summary(GOOD, "c-1", source="hook")]
    done = await ask("hook", "thaw")
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.err.startswith("appvss: cycle c-2: filesystem, held for 3.0s: ")
    assert not mark.is_there


async def test_another_broker_that_knows_nothing_of_the_hold(peer: BrokerPeer, ask: Ask, mark: Mark) -> None:
    mark.leave()
    peer.hook_verdict, peer.cycles = None, [summary(GOOD, "c-3")]
    done = await ask("hook", "thaw")
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.err == "appvss: the hold was lost: the broker knows nothing of it\n"


async def test_a_broker_that_does_not_answer_may_hold(peer: BrokerPeer, ask: Ask, mark: Mark) -> None:
    mark.leave()
    peer.failure = (grpc.StatusCode.UNAVAILABLE, "the broker stops")
    done = await ask("hook", "thaw")
    assert done.code == ExitCode.BROKER_UNREACHABLE
    assert mark.is_there


# -- the rest


async def test_json(peer: BrokerPeer, ask: Ask) -> None:
    held = (await ask("hook", "freeze", "--json")).document
    assert held == {
        "message_type": "hook",
        "word": "freeze",
        "cycle": "c-1",
        "is_held": True,
        "hold_limit_seconds": 60.0,
        "verdict": None,
        "exit_code": 0,
    }
    thawed = (await ask("hook", "thaw", "--json")).document
    documented = [row[0] for row in rows(section("reference/json.md", "## `hook`"))]
    assert documented == [name for name in held if name != "message_type"]
    assert (thawed["word"], thawed["cycle"], thawed["is_held"], thawed["exit_code"]) == ("thaw", "c-1", False, 0)
    assert thawed["verdict"]["level"] == "application"
    peer.hook_answer = FAILED
    failed = (await ask("hook", "freeze", "--json")).document
    assert (failed["is_held"], failed["verdict"]["level"], failed["exit_code"]) == (False, "failed", 9)
    peer.hook_verdict = None
    assert (await ask("hook", "thaw", "--json")).document["verdict"] is None
    peer.failure = (grpc.StatusCode.ABORTED, "busy")
    assert '"name": "CycleBusy"' in (await ask("hook", "freeze", "--json")).err


async def test_what_a_hook_cannot_mean(peer: BrokerPeer, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await ask("hook")).code == ExitCode.USAGE
    assert (await ask("hook", "freeze", "--filesystems", "some")).code == ExitCode.USAGE
    both = await ask("hook", "freeze", "--filesystems", "all", "--mount", "/srv")
    assert (both.code, "exclude each other" in both.err) == (ExitCode.USAGE, True)
    monkeypatch.setenv("APPVSS_CYCLE", "c-9")
    inside = await ask("hook", "freeze")
    assert (inside.code, "the inside of a hold already" in inside.err) == (ExitCode.REFUSED, True)
    assert peer.hook_begins == []


async def test_words_of_others_cannot_reach_the_terminal(peer: BrokerPeer, ask: Ask) -> None:
    peer.hook_answer = replace(FAILED, reasons=("no\x1b[2J",))
    assert "no?[2J" in (await ask("hook", "freeze")).err
