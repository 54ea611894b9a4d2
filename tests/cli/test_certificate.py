"""`appvss certificate`: files, folders, histories; proven, unproven, edited, not there."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appvss.cli.main import run
from appvss.model.app import AppId, Registration
from appvss.model.certificate import Certificate, issue
from appvss.model.errors import ExitCode
from appvss.model.instant import Instant
from appvss.model.journal import JournalApp, JournalEntry, Stage
from appvss.model.verdict import Level
from appvss.v1 import admin_pb2
from tests.cli.command_line import Ask
from tests.sdk.broker_peer import GOOD, BrokerPeer, summary

CYCLE = "20260304T050607Z-a1b2c3"
ORDERS = AppId("orders-db", "eu")
SECOND = timedelta(seconds=1)
TIME = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)


def certificate() -> Certificate:
    begun = Instant(100 * SECOND)
    app = JournalApp(
        Registration(ORDERS), 60 * SECOND, begun, begun + timedelta(milliseconds=12), evidence={"lsn": "0/16B3748"}
    )
    entry = JournalEntry(
        cycle=CYCLE,
        source="freebsd",
        requester="hyper-v host",
        stage=Stage.HELD,
        began=begun,
        written=begun + SECOND,
        apps=(app,),
        waves=((ORDERS,),),
        answer_by=begun + 15 * SECOND,
        hold_limit=60 * SECOND,
    )
    return issue(entry, version="appvss/0.1.0", boot="b" * 32, host="guest", time=TIME, policy=())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The state directory of an image that was made in a hold."""
    (tmp_path / "certificate.json").write_text(certificate().text())
    return tmp_path


def keep(peer: BrokerPeer, level: Level = Level.APPLICATION, text: str | None = None) -> None:
    """Let the peer know the cycle, with its certificate."""
    line = summary(replace(GOOD, level=level, reasons=() if level is Level.APPLICATION else ("web was busy",)), CYCLE)
    kept = certificate().text() if text is None else text
    peer.details[CYCLE] = admin_pb2.GetCycleResponse(summary=line, certificate=kept)


def test_show_of_a_file_and_of_the_folder_that_has_it(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["certificate", "show", str(image / "certificate.json")]) == 0
    out = capsys.readouterr().out
    assert f"cycle        {CYCLE}\n" in out
    assert "asked for    by hyper-v host (freebsd)\n" in out
    assert "orders-db[eu]  yes    required     50     12.0ms    1m00s\n" in out
    assert "orders-db[eu]: lsn = 0/16B3748\n" in out
    assert run(["certificate", "show", str(image)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == out.splitlines()[1:]
    assert run(["certificate", "show", str(image), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["message_type"], document["cycle"], document["time"]) == (
        "certificate",
        CYCLE,
        "2026-03-04T05:06:07.000000Z",
    )
    assert (document["apps"][0]["evidence"], document["digest"]) == ({"lsn": "0/16B3748"}, certificate().digest)


def test_a_restored_machine_has_it_under_another_name(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image / "certificate.json").rename(image / "certificate.restored.json")
    assert run(["certificate", "show", str(image)]) == 0
    assert "certificate.restored.json" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "verify"])
def test_what_is_no_certificate_is_code_8(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").write_text("")
    (tmp_path / "other").write_text('{"format": "something"}')
    (tmp_path / "bytes").write_bytes(b"\xff\x00" * 100)
    for name in ("nothing", "pipe", "empty", "other", "bytes", "", "\x1b[31m"):
        assert run(["certificate", command, str(tmp_path) + "/" + name]) == ExitCode.NOT_FOUND
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("appvss: ")
        assert "HINT: " in err
        assert "\x1b" not in err


def test_a_certificate_that_is_far_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(tmp_path / "certificate.json", "wb") as file:
        file.truncate(1 << 30)
    assert run(["certificate", "show", str(tmp_path)]) == ExitCode.NOT_FOUND
    assert "over" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["show", "verify"])
def test_an_edited_certificate_is_code_14(image: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    file = image / "certificate.json"
    file.write_text(file.read_text().replace("0/16B3748", "0/16B3749"))
    assert run(["certificate", command, str(file), "--json"]) == ExitCode.UNPROVEN
    out, err = capsys.readouterr()
    assert (out, json.loads(err)["name"]) == ("", "CertificateEdited")


async def test_the_running_broker_completes_the_proof(peer: BrokerPeer, ask: Ask, image: Path) -> None:
    keep(peer)
    done = await ask("certificate", "verify", str(image))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"PROVEN: cycle {CYCLE}, the verdict is application"
    assert all(len(line) <= 80 for line in done.out.splitlines())
    document = (await ask("certificate", "verify", str(image), "--json")).document
    assert (document["message_type"], document["level"], document["is_proven"]) == ("examination", "application", True)


async def test_a_proof_of_less_than_application_is_code_10(peer: BrokerPeer, ask: Ask, image: Path) -> None:
    keep(peer, Level.CRASH)
    done = await ask("certificate", "verify", str(image))
    assert done.code == ExitCode.NOT_CONSISTENT
    assert done.out.startswith(f"PROVEN: cycle {CYCLE}, the verdict is crash\n")
    assert "web was busy" in done.out


async def test_a_history_that_does_not_belong_to_it_is_code_14(peer: BrokerPeer, ask: Ask, image: Path) -> None:
    keep(peer, text=replace(certificate(), host="other").text())
    done = await ask("certificate", "verify", str(image), "--json")
    assert (done.code, json.loads(done.err)["name"]) == (ExitCode.UNPROVEN, "CertificateUnmatched")
    keep(peer, text="")
    done = await ask("certificate", "verify", str(image))
    assert done.code == ExitCode.UNPROVEN
    assert done.out.startswith(f"NOT PROVEN: cycle {CYCLE}\n")


async def test_a_cycle_that_the_broker_does_not_know_is_not_proven(peer: BrokerPeer, ask: Ask, image: Path) -> None:
    done = await ask("certificate", "verify", str(image))
    assert done.code == ExitCode.UNPROVEN
    assert f"The running broker does not know cycle {CYCLE}." in " ".join(done.out.split())


def test_without_a_broker_and_a_history_it_is_not_proven(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["certificate", "verify", str(image), "--runtime-directory", "/nowhere"])
    assert code == ExitCode.UNPROVEN
    out = " ".join(capsys.readouterr().out.split())
    assert "There is no history at hand: no broker is running" in out
    assert "Name one with --history." in out


def test_a_history_that_is_not_there_is_code_8(image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["certificate", "verify", str(image), "--history", str(image / "nothing"), "--json"])
    assert code == ExitCode.NOT_FOUND
    assert json.loads(capsys.readouterr().err)["name"] == "HistoryUnreadable"


def test_no_command_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["certificate"]) == ExitCode.USAGE
    assert "no command was named" in capsys.readouterr().err
