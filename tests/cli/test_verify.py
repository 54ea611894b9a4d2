"""`appvss verify`: where the evidence comes from, what is shown, the exit codes, and that a signal leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appvss.cli.main import run
from appvss.model.app import AppId, Requirement
from appvss.model.certificate import CertifiedApp
from appvss.model.errors import ExitCode
from appvss.model.grade import Grade
from appvss.model.verdict import AppOutcome, Outcome
from appvss.v1 import admin_pb2
from appvss.verify import outside
from tests.cli.command_line import Ask, ended
from tests.cli.test_certificate import certificate
from tests.sdk.broker_peer import BOUND, GOOD, BrokerPeer, summary
from tests.support.running_broker import ROOT
from tests.verify.fake_engine import said_in

SAID = {"engine": "fake", "marker": "m-1", "data_directory": "/srv/db/data"}
OTHER = {**SAID, "marker": "m-2"}
ALONE = ("--runtime-directory", "/nowhere")


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(outside.VERIFIERS, "fake", "tests.verify.fake_engine")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copied data directory, of the cycle with the marker m-1."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "value").write_text("m-1\n")
    return tmp_path / "copy"


def written(path: Path, evidence: dict[str, str], *, outcome: Outcome | None = None) -> Path:
    """A certificate in which orders-db held with this evidence, or did not."""
    app = CertifiedApp(
        AppId("orders-db"),
        Requirement.REQUIRED,
        50,
        is_quiet=outcome is None,
        hold_limit=GOOD.hold or GOOD.hold,  # type: ignore[arg-type] # it has one
        outcome=outcome,
        reason="a dump is running" if outcome else "",
        evidence=evidence,
    )
    path.write_text(replace(certificate(), apps=(app,)).text())
    return path


def kept(
    peer: BrokerPeer,
    cycle: str,
    evidence: dict[str, str],
    outcome: Outcome = Outcome.HELD,
    grade: Grade | None = None,
) -> None:
    """Let the peer know a cycle in which orders-db had that outcome."""
    part = AppOutcome(AppId("orders-db"), outcome, Requirement.REQUIRED, 50, evidence=evidence, grade=grade)
    line = summary(replace(GOOD, outcomes=(part,)), cycle)
    peer.cycles.append(line)
    peer.details[cycle] = admin_pb2.GetCycleResponse(summary=line)


def test_by_a_certificate(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "certificate.json", SAID)
    assert run(["verify", str(copy), "--app", "orders-db", "--certificate", str(file), *ALONE]) == 0
    out = capsys.readouterr().out
    assert out.startswith("app-verified: orders-db\n")
    assert "ok       marker  the copy has m-1\n" in out
    assert "Whether the hold lasted until the thaw is not known: no broker is running" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines() if "/" not in line)


def test_less_than_app_verified_is_code_14(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "certificate.json", OTHER)
    command = ["verify", str(copy), "--app", "orders-db", "--certificate", str(file), *ALONE]
    assert run([*command, "--json"]) == ExitCode.UNPROVEN
    document = json.loads(capsys.readouterr().out)
    assert (document["message_type"], document["grade"], document["app"]) == ("verification", "fs", "orders-db")
    assert document["findings"][0] == {"name": "marker", "passed": False, "sentence": "the copy has m-1"}
    assert document["evidence"] == OTHER


async def test_by_the_newest_cycle_in_which_it_held(peer: BrokerPeer, ask: Ask, copy: Path) -> None:
    kept(peer, "c-9", OTHER, Outcome.VETOED)
    kept(peer, "c-8", SAID)
    kept(peer, "c-7", OTHER)
    done = await ask("verify", str(copy), "--app", "orders-db")
    assert (done.code, done.err) == (0, "")
    out = " ".join(done.out.split())
    assert "cycle c-8" in out
    assert "no other was named, and the copy names none" in out
    assert "hold the history says that the app held until the thaw" in out


async def test_by_a_named_cycle(peer: BrokerPeer, ask: Ask, copy: Path) -> None:
    kept(peer, "c-8", SAID)
    kept(peer, "c-7", OTHER)
    done = await ask("verify", str(copy), "--app", "orders-db", "--cycle", "c-7", "--json")
    assert (done.code, done.document["grade"], done.document["cycle"]) == (ExitCode.UNPROVEN, "fs", "c-7")
    done = await ask("verify", str(copy), "--app", "orders-db", "--cycle", "c-0")
    assert (done.code, done.out) == (ExitCode.NOT_FOUND, "")


async def test_a_hold_that_was_lost_is_worth_fs_whatever_the_copy_has(
    peer: BrokerPeer, ask: Ask, copy: Path, tmp_path: Path
) -> None:
    kept(peer, certificate().cycle, SAID, Outcome.HOLD_LOST)
    file = written(tmp_path / "certificate.json", SAID)
    done = await ask("verify", str(copy), "--app", "orders-db", "--certificate", str(file), "--json")
    assert (done.code, done.document["grade"]) == (ExitCode.UNPROVEN, "fs")
    assert done.document["findings"][-1]["sentence"] == "the history says hold_lost"


async def test_evidence_that_the_app_did_not_give_in_its_cycle_is_worth_fs(
    peer: BrokerPeer, ask: Ask, copy: Path, tmp_path: Path
) -> None:
    """Whoever changes a certificate can make its digest fit, but not the history."""
    kept(peer, certificate().cycle, OTHER)
    file = written(tmp_path / "certificate.json", SAID)
    done = await ask("verify", str(copy), "--app", "orders-db", "--certificate", str(file), "--json")
    assert (done.code, done.document["grade"]) == (ExitCode.UNPROVEN, "fs")
    assert "other evidence of the app in this cycle than" in done.document["findings"][-1]["sentence"]


async def test_a_cycle_that_did_not_freeze_all_volumes_is_worth_fs(
    peer: BrokerPeer, ask: Ask, copy: Path, tmp_path: Path
) -> None:
    kept(peer, "c-8", SAID, grade=Grade.FS)
    done = await ask("verify", str(copy), "--app", "orders-db", "--json")
    assert (done.code, done.document["grade"]) == (ExitCode.UNPROVEN, "fs")
    found = done.document["findings"][-1]
    assert (found["name"], found["passed"]) == ("hold", False)
    assert "grades the copy of its files fs" in found["sentence"]


def test_by_the_certificate_that_the_copy_carries(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(copy / "certificate.json", SAID)
    assert run(["verify", str(copy), "--app", "orders-db", *ALONE]) == 0
    assert f"the certificate in {copy}" in " ".join(capsys.readouterr().out.split())


def test_an_app_that_the_certificate_has_not_is_code_8(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "certificate.json", SAID)
    assert run(["verify", str(copy), "--app", "order-db", "--certificate", str(file)]) == ExitCode.NOT_FOUND
    err = capsys.readouterr().err
    assert "has no app 'order-db'" in err
    assert "HINT: It has orders-db." in err


def test_an_app_that_did_not_hold_is_code_8(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "certificate.json", {}, outcome=Outcome.VETOED)
    assert run(["verify", str(copy), "--app", "orders-db", "--certificate", str(file)]) == ExitCode.NOT_FOUND
    assert "was not quiet in cycle" in capsys.readouterr().err


def test_without_evidence_by_what_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", str(copy), "--engine", "fake", "--data-directory", "/srv/db/data"]
    assert run(command) == ExitCode.UNPROVEN
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith(f"fs: {copy} ")
    assert "nothing can show that the copy was taken in a hold" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name the app (--app)"),
        (("--engine", "fake"), "--engine needs --data-directory"),
        (("--app", "a", "--volume", "wal.img"), "is not MOUNTPOINT=COPY"),
        (("--app", "a", "--limit", "soon"), "is not a length of time"),
        (("--app", "a", "--work", "/nowhere"), "does not exist"),
    ],
)
def test_what_is_typed_wrong_is_code_2(
    copy: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert run(["verify", str(copy), *arguments]) == ExitCode.USAGE
    assert sentence in capsys.readouterr().err


def test_an_engine_without_a_verifier_is_code_12(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["verify", str(copy), "--engine", "cgroup", "--data-directory", "/srv/db/data", "--json"]
    assert run(command) == ExitCode.UNAVAILABLE
    assert json.loads(capsys.readouterr().err)["name"] == "VerifierUnavailable"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_and_leaves_nothing(copy: Path, tmp_path: Path, number: signal.Signals) -> None:
    (copy / "value").write_text(f"m-1\nhang\n{tmp_path}\n")
    work = tmp_path / "work"
    work.mkdir()
    program = (
        "from appvss.verify import outside; outside.VERIFIERS['fake'] = 'tests.verify.fake_engine'\n"
        "from appvss.cli.main import main; main()"
    )
    named = ("--engine", "fake", "--data-directory", "/srv/db/data", "--work", str(work))
    with said_in(tmp_path) as said:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, "verify", str(copy), *named, stdout=-1, stderr=-1
        )
        async with asyncio.timeout(BOUND):
            while not said():
                assert process.returncode is None
                await asyncio.sleep(0.01)  # the fake says no more than this
    process.send_signal(number)
    done = await ended(process)
    assert (done.code, done.out) == (128 + number, "")
    assert os.listdir(work) == []
    assert not [name for name in os.listdir("/tmp") if name.startswith(f"appvss-v{process.pid}-")]
