"""The verifier of MariaDB on copies that were taken in a hold, without one, too late, and that were damaged.

A copy is made here by a kill of the server: a file-system freeze leaves the same (facts/database-quiesce.md section 1).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from appvss import HoldLost
from appvss.adapters import mariadb, mysql_hold
from appvss.model.errors import VerifierUnavailable
from appvss.model.grade import Grade
from appvss.verify import mariadb as verifier
from appvss.verify import mysql_checks
from appvss.verify.base import Copy, Report
from tests.adapters.support.mysql_world import a_freeze, holder, make_account, run
from tests.databases.support.servers import MariadbServer, server_folder
from tests.support.running_broker import short_directory

pytestmark = pytest.mark.skipif(bool(MariadbServer.why_not()), reason=MariadbServer.why_not() or "-")

GRANTS = ("RELOAD, BINLOG MONITOR, PROCESS, SHOW VIEW, SUPER ON *.*", "CREATE, INSERT, DELETE ON appvss.*")
SMALL = {"innodb-log-file-size": "8M", "innodb-buffer-pool-size": "16M", "performance-schema": "OFF"}


@dataclass
class Ground:
    """A folder for one test's servers and copies."""

    home: Path
    settings: dict[str, str] = field(default_factory=lambda: dict(SMALL))

    def server(self) -> MariadbServer:
        return MariadbServer(self.home / "data", settings=self.settings)

    def copy(self, *names: str) -> Copy:
        """A copy of folders of a server that was killed."""
        place = self.home / "copy"
        place.mkdir(mode=0o711)
        for name in names or ("data",):
            subprocess.run(["cp", "-a", str(self.home / name), str(place / name)], check=True, timeout=30)
        (self.home / "work").mkdir(mode=0o711)
        return Copy({self.home / name: place / name for name in names or ("data",)}, self.home / "work")

    def verify(self, evidence: Mapping[str, str], *names: str) -> Report:
        return verifier.verify(self.copy(*names), evidence)


@pytest.fixture(autouse=True)
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the word that a hold is over, also on a busy machine."""
    monkeypatch.setattr(mysql_hold, "OVER_LIMIT", timedelta(minutes=1))


@pytest.fixture
def ground() -> Iterator[Ground]:
    home = server_folder(short_directory())
    yield Ground(home)
    shutil.rmtree(home)


def make_shop(server: MariadbServer, *statements: str) -> None:
    make_account(server, "appvss", *GRANTS)
    run(server, "CREATE DATABASE shop", "CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY, note TEXT)")
    run(server, *["INSERT INTO shop.orders (note) VALUES ('one')"] * 10, *statements)


async def held_and_killed(server: MariadbServer, cycle: str = "cycle-1") -> Mapping[str, str]:
    """What the adapter says of a hold in which the server is killed."""
    settings = mariadb.Settings(Path(server.socket), user="root")
    with contextlib.suppress(HoldLost):
        async with mariadb.Adapter(settings).quiesce(a_freeze(cycle)) as evidence:
            server.kill()
    return evidence


async def held_and_thawed(server: MariadbServer, *later: str) -> Mapping[str, str]:
    """What the adapter says of a hold that is over when the server is killed, after some statements."""
    async with mariadb.Adapter(mariadb.Settings(Path(server.socket), user="root")).quiesce(a_freeze()) as evidence:
        pass
    if later:
        run(server, *later)
    server.kill()
    return evidence


def running_programs() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True, timeout=10).stdout


def found(report: Report) -> dict[str, bool]:
    return {finding.name: finding.passed for finding in report.findings}


async def test_a_copy_that_was_taken_in_a_hold_is_verified(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server, "CREATE TABLE shop.logs (id INT) ENGINE=MyISAM", "INSERT INTO shop.logs VALUES (1)")
        evidence = await held_and_killed(server)
    report = ground.verify(evidence)
    assert report.grade is Grade.APP_VERIFIED, report
    assert found(report) == dict.fromkeys(("position", "start", "recovery", "redo", "gtid", "marker", "check"), True)
    assert report.version.startswith("10.")
    assert [finding.name for finding in report.findings][:2] == ["position", "start"], "looked at before it was started"


async def test_the_private_server_is_gone_afterwards_and_listened_nowhere(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server)
        evidence = await held_and_killed(server)
    ground.verify(evidence)
    log = (ground.home / "work" / "server" / "log").read_text()
    assert "port: 0" in log
    assert str(ground.home / "copy") not in running_programs()


async def test_the_marker_of_another_cycle_proves_nothing(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server)
        evidence = await held_and_killed(server)
    report = ground.verify({**evidence, "marker": "cycle-2"})
    assert report.grade is Grade.FS
    assert found(report)["marker"] is False
    assert found(report)["position"] is True


async def test_a_copy_from_after_the_hold_proves_nothing(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server)
        adapter = mariadb.Adapter(mariadb.Settings(Path(server.socket), user="root"))
        async with adapter.quiesce(a_freeze()) as evidence:
            pass
        run(server, "INSERT INTO shop.orders (note) VALUES ('too late')")
        server.kill()
    report = ground.verify(evidence)
    assert report.grade is Grade.FS
    assert found(report)["position"] is False
    assert found(report)["gtid"] is False
    assert found(report)["marker"] is False


@pytest.mark.parametrize("moment", ["held", "thawed", "restarted"])
async def test_without_a_binary_log_the_marker_tells_a_later_copy(ground: Ground, moment: str) -> None:
    """As Debian configures it: there is no position that goes on, and the marker's row says when the hold is over."""
    ground.settings["skip-log-bin"] = "1"
    with ground.server() as server:
        make_shop(server)
        if moment == "held":
            evidence = await held_and_killed(server)
        else:
            evidence = await held_and_thawed(server)
        if moment == "restarted":
            server.start()
            run(server, "INSERT INTO shop.orders (note) VALUES ('too late')")
            server.kill()
    assert evidence["position"] == ""
    report = ground.verify(evidence)
    assert report.grade is (Grade.APP_VERIFIED if moment == "held" else Grade.FS), report
    assert found(report)["marker"] is (moment == "held")
    (marker,) = [finding for finding in report.findings if finding.name == "marker"]
    assert ("cycle-1 is over: the copy was taken after it" in marker.sentence) is (moment != "held")


@pytest.mark.parametrize("setting", ["0", "2"])
async def test_a_copy_without_the_word_that_the_hold_is_over_has_nothing_of_later(ground: Ground, setting: str) -> None:
    """Where a commit does not flush the redo log, that word may be as late on the disk as what was committed after it,
    and no later: the redo log is one sequence.
    """
    ground.settings |= {"skip-log-bin": "1", "innodb-flush-log-at-trx-commit": setting}
    ground.settings["innodb-flush-log-at-timeout"] = "2700"
    with ground.server() as server:
        make_shop(server)
        evidence = await held_and_thawed(server, "INSERT INTO shop.orders (note) VALUES ('too late')")
    copy = ground.copy()
    report = verifier.verify(copy, evidence)
    with MariadbServer(copy.locate(ground.home / "data"), settings=ground.settings) as started:
        later = run(started, "SELECT COUNT(*) FROM shop.orders WHERE note = 'too late'")[0][0]
    assert report.grade is Grade.FS if later else report.grade in (Grade.FS, Grade.APP_VERIFIED), report


async def test_without_a_binary_log_nobody_says_that_a_hold_is_over_whose_adapter_was_killed(ground: Ground) -> None:
    """The limit that is documented: the cycle's verdict has the hold as lost, and the copy alone does not show it."""
    ground.settings["skip-log-bin"] = "1"
    with ground.server() as server:
        make_shop(server)
        settings = mariadb.Settings(Path(server.socket), user="root")
        one, freeze = mariadb.Adapter(settings), a_freeze("cycle-0")
        held = await one.hold(freeze)
        evidence = dict(one.evidence(held))
        await one.release(held, freeze)
        with holder("mariadb", socket=server.socket, user="root"):
            pass  # its end is a kill
        evidence["marker"] = str(run(server, "SELECT cycle FROM appvss.marker")[0][0])
        run(server, "INSERT INTO shop.orders (note) VALUES ('too late')")
        server.kill()
    assert evidence["marker"].startswith("by-hand-")
    assert not evidence["marker"].endswith("is over")
    assert ground.verify(evidence).grade is Grade.APP_VERIFIED


async def test_links_to_the_data_are_resolved_in_the_evidence(ground: Ground) -> None:
    """In a copy they would lead to the live server's files, and be refused."""
    (ground.home / "link").symlink_to(ground.home / "data")
    ground.settings["datadir"] = str(ground.home / "link")
    with ground.server() as server:
        make_shop(server)
        evidence = await held_and_killed(server)
    assert evidence["data_directory"] == str(ground.home / "data")
    assert Path(evidence["binlog_file"]).parent == ground.home / "data"
    report = ground.verify(evidence)
    assert report.grade is Grade.APP_VERIFIED, report


@pytest.mark.parametrize("seconds", [0, 7200])
async def test_where_writes_went_on_the_last_one_of_a_copy_is_not_long_after_the_marker(
    ground: Ground, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MySQL's recipe `instance-lock` has it: the position in the copy may be a later one, but not of another time.
    The server is told the time of its statements.
    """
    monkeypatch.setattr(mysql_checks, "LONGEST_GAP", timedelta(hours=1))  # the server is started again in between
    with ground.server() as server:
        make_shop(server)
        evidence = await held_and_killed(server)
        server.start()
        run(server, f"SET STATEMENT timestamp = UNIX_TIMESTAMP() + {seconds} FOR INSERT INTO shop.orders () VALUES ()")
        server.kill()
    report = ground.verify({**evidence, "holds_writes": "no", "position": ""})
    assert found(report)["marker"] is True
    assert found(report)["position"] is (seconds == 0)
    assert report.grade is (Grade.APP_VERIFIED if seconds == 0 else Grade.FS), report


async def test_a_copy_from_before_the_hold_proves_nothing(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server)
        server.kill()
        copy = ground.copy()
        server.start()
        evidence = await held_and_killed(server)
    report = verifier.verify(copy, evidence)
    assert report.grade is Grade.FS
    assert found(report)["marker"] is False


def test_a_copy_without_a_hold_is_worth_what_a_freeze_is(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server)
        server.kill()
    report = ground.verify({})
    assert report.grade is Grade.FS, report
    assert found(report)["check"] is True


def test_tables_without_a_log_are_not_in_order_without_a_hold(ground: Ground) -> None:
    """The first answer counts: no repair may have come before it (section 5.3)."""
    with ground.server() as server:
        make_shop(server, "CREATE TABLE shop.logs (id INT PRIMARY KEY) ENGINE=MyISAM DELAY_KEY_WRITE=1")
        run(server, *[f"INSERT INTO shop.logs VALUES ({number})" for number in range(100)])
        server.kill()
    report = ground.verify({})
    assert report.grade is Grade.RAW
    (check,) = [finding for finding in report.findings if finding.name == "check"]
    assert "shop.logs" in check.sentence


async def test_gtids_that_match_are_no_proof(ground: Ground) -> None:
    """With innodb_flush_log_at_trx_commit=0, and without the adapter's flush, the binary log is whole and the tables
    are not (section 3: 110 to 2260 commits were missing). Here that is certain: the copy has the binary log of the
    hold, and everything else as it was before the commits.
    """
    with ground.server() as server:
        make_shop(server, "CREATE DATABASE appvss")
        run(server, "CREATE TABLE appvss.marker (id INT PRIMARY KEY, cycle VARCHAR(255))")
        server.kill()
        copy = ground.copy()
        server.start()
        evidence = await held_and_killed_without_flush(server)
    for path in (ground.home / "data").glob("binlog.*"):
        shutil.copy2(path, copy.locate(path))
        os.chown(copy.locate(path), path.stat().st_uid, path.stat().st_gid)
    report = verifier.verify(copy, evidence)
    assert found(report)["position"] is True
    assert found(report)["gtid"] is True
    assert found(report)["marker"] is False
    assert found(report)["redo"] is False
    assert report.grade is Grade.FS
    with MariadbServer(copy.locate(ground.home / "data"), settings=SMALL) as started:
        assert run(started, "SELECT COUNT(*) FROM shop.orders WHERE note = 'acknowledged'")[0][0] < 100


async def held_and_killed_without_flush(server: MariadbServer) -> Mapping[str, str]:
    """What an adapter would say that believes in BACKUP STAGE alone."""
    with contextlib.closing(server.connect()) as connection, connection.cursor() as cursor:
        for _ in range(100):
            cursor.execute("INSERT INTO shop.orders (note) VALUES ('acknowledged')")
        cursor.execute("INSERT INTO appvss.marker VALUES (1, 'cycle-1')")
        cursor.execute("BACKUP STAGE START")
        cursor.execute("BACKUP STAGE BLOCK_COMMIT")
        cursor.execute("SELECT @@gtid_binlog_pos")
        ((gtid,),) = cursor.fetchall()
        cursor.execute("SHOW MASTER STATUS")
        ((file, offset, *_),) = cursor.fetchall()
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'")
        ((_, lsn),) = cursor.fetchall()
        server.kill()
    return {
        "engine": "mariadb", "version": "10.11.0", "recipe": "backup-stage", "position": gtid, "marker": "cycle-1",
        "marker_table": "appvss.marker", "data_directory": str(server.data), "binlog_file": str(server.data / file),
        "binlog_offset": str(offset), "redo_lsn": lsn,
    }  # fmt: skip


async def test_a_damaged_table_is_found(ground: Ground) -> None:
    with ground.server() as server:
        make_shop(server, "INSERT INTO shop.orders (note) SELECT REPEAT('x', 1000) FROM shop.seq_1_to_2000")
        run(server, "SET GLOBAL innodb_log_checkpoint_now = 1")
        evidence = await held_and_killed(server)
    copy = ground.copy()
    table = copy.locate(ground.home / "data") / "shop" / "orders.ibd"
    with table.open("r+b") as file:
        file.seek(16384 * 20 + 1000)
        file.write(b"\xee" * 4000)
    report = verifier.verify(copy, evidence)
    assert report.grade is Grade.RAW, report


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data_directory": "/nowhere/data"}, "the copy has nothing of /nowhere/data"),
        ({"redo_directory": "/nowhere/redo"}, "the copy has nothing of /nowhere/redo"),
    ],
)
def test_a_copy_that_cannot_be_started_says_why(ground: Ground, change: dict[str, str], sentence: str) -> None:
    server = ground.server()
    server.initialize()
    server.close()
    report = ground.verify({"engine": "mariadb", "data_directory": str(server.data), "marker": "c", **change})
    assert report.grade is Grade.RAW
    assert sentence in report.findings[-1].sentence


def test_a_server_that_is_not_installed_is_nothing_against_the_copy(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ground.server()
    server.initialize()
    server.close()
    with pytest.raises(VerifierUnavailable, match="older than the copy's 99"):
        ground.verify({"data_directory": str(server.data), "version": "99.1.0-MariaDB"})
    shutil.rmtree(ground.home / "copy")
    shutil.rmtree(ground.home / "work")
    monkeypatch.setenv("APPVSS_MARIADBD", "/bin/true")
    with pytest.raises(VerifierUnavailable, match="/bin/true is not MariaDB"):
        ground.verify({})


async def test_options_in_the_evidence_are_not_believed(ground: Ground) -> None:
    """A certificate is a file: it cannot make the private server run what it wants."""
    with ground.server() as server:
        make_shop(server)
        evidence = await held_and_killed(server)
    options = f"init_file=/etc/passwd port=3306 lower_case_table_names=0 log_error={ground.home}/elsewhere"
    report = ground.verify({**evidence, "start_options": options})
    assert report.grade is Grade.APP_VERIFIED
    assert not (ground.home / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace needs root")
async def test_nothing_of_a_live_server_is_touched_by_a_copy_that_leads_to_it(ground: Ground) -> None:
    """Its binary log has an index of absolute paths, a database is a link, tables lie in folders of their own, also
    those of the database that is a link.
    """
    away, logs, tables, more = (server_folder(ground.home / name) for name in ("away", "logs", "tables", "more"))
    ground.settings["log-bin"] = f"{logs}/bin"
    with ground.server() as server:
        make_shop(server, "CREATE DATABASE linked")
        server.stop()
        shutil.move(server.data / "linked", away / "linked")
        (server.data / "linked").symlink_to(away / "linked")
        server.start()
        run(server, "CREATE TABLE linked.t (id INT)", f"CREATE TABLE shop.far (id INT) DATA DIRECTORY '{tables}'")
        run(server, f"CREATE TABLE linked.far (id INT) ENGINE=InnoDB DATA DIRECTORY '{more}'")
        run(server, f"CREATE TABLE linked.old (id INT) ENGINE=MyISAM DATA DIRECTORY '{more}' INDEX DIRECTORY '{more}'")
        run(server, "SET GLOBAL innodb_log_checkpoint_now = 1")
        run(server, "INSERT INTO linked.t VALUES (1)", "INSERT INTO shop.far VALUES (1)")
        run(server, "INSERT INTO linked.far VALUES (1)", "INSERT INTO linked.old VALUES (1)")
        evidence = await held_and_killed(server)
        copy = ground.copy("data", "away", "logs", "tables", "more")
        server.start()
        run(server, "INSERT INTO linked.t VALUES (2)", "INSERT INTO shop.far VALUES (2)", "FLUSH TABLES")
        run(server, "INSERT INTO linked.far VALUES (2)", "INSERT INTO linked.old VALUES (2)", "FLUSH TABLES")
        run(server, "SET GLOBAL innodb_log_checkpoint_now = 1")
        before = contents(away, logs, tables, more)
        report = verifier.verify(copy, evidence)
        assert report.grade is Grade.APP_VERIFIED, report
        assert contents(away, logs, tables, more) == before
        assert run(server, "SELECT COUNT(*) FROM shop.far") == [(2,)]
    with MariadbServer(copy.locate(ground.home / "data"), settings=SMALL | {"skip-log-bin": "1"}) as private:
        del private  # it starts: that is all that is asked


def contents(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


async def test_tables_outside_that_the_copy_does_not_carry_are_not_read_from_the_live_server(ground: Ground) -> None:
    tables = server_folder(ground.home / "tables")
    with ground.server() as server:
        make_shop(server, f"CREATE TABLE shop.far (id INT) DATA DIRECTORY '{tables}'")
        evidence = await held_and_killed(server)
    report = ground.verify(evidence)
    assert report.grade is Grade.RAW
    assert f"the copy has nothing of {tables}" in report.findings[-1].sentence


async def test_a_link_that_leads_out_of_the_copy_by_a_path_from_where_it_lies_is_refused(ground: Ground) -> None:
    away = server_folder(ground.home / "away")
    with ground.server() as server:
        make_shop(server)
        server.stop()
        shutil.move(server.data / "shop", away / "shop")
        (server.data / "shop").symlink_to("../../away/shop")  # from the copy it leads to the live one
        server.kill()
    copy = ground.copy()
    before = contents(away)
    report = verifier.verify(copy, {})
    assert report.grade is Grade.RAW
    assert "shop leads out of the copy" in report.findings[-1].sentence
    assert contents(away) == before
