"""The verifier of MySQL, where there is one (`APPVSS_MYSQLD`); what it has in common with MariaDB's is tested there."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from appvss import HoldLost
from appvss.adapters import mysql, mysql_hold
from appvss.adapters.mysql import Recipe
from appvss.model.grade import Grade
from appvss.verify import mysql as verifier
from appvss.verify.base import Copy, Report
from tests.adapters.support.mysql_server import MysqlServer, why_no_mysql
from tests.adapters.support.mysql_world import a_freeze, run
from tests.databases.support.servers import server_folder
from tests.support.running_broker import short_directory

pytestmark = pytest.mark.skipif(bool(why_no_mysql()), reason=why_no_mysql() or "-")

NEVER = {"innodb-flush-log-at-trx-commit": "0", "innodb-flush-log-at-timeout": "2700"}


@dataclass
class Ground:
    """A folder for one test's servers and copies."""

    home: Path

    def verify(self, evidence: Mapping[str, str]) -> Report:
        """On a copy of a server that was killed."""
        place = self.home / "copy"
        subprocess.run(["cp", "-a", str(self.home / "data"), str(place)], check=True, timeout=30)
        (self.home / "work").mkdir(mode=0o711)
        return verifier.verify(Copy({self.home / "data": place}, self.home / "work"), evidence)


@pytest.fixture(autouse=True)
def enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the word that a hold is over, also on a busy machine."""
    monkeypatch.setattr(mysql_hold, "OVER_LIMIT", timedelta(minutes=1))


@pytest.fixture
def ground() -> Iterator[Ground]:
    home = server_folder(short_directory())
    yield Ground(home)
    shutil.rmtree(home)


def make_shop(server: MysqlServer, engine: str = "InnoDB") -> None:
    run(server, "CREATE DATABASE shop", f"CREATE TABLE shop.orders (id INT PRIMARY KEY) ENGINE={engine}")
    run(server, *[f"INSERT INTO shop.orders VALUES ({number})" for number in range(50)])


async def held_and_killed(server: MysqlServer, recipe: Recipe = Recipe.AUTO) -> Mapping[str, str]:
    """What the adapter says of a hold in which the server is killed, after what a hold lets through."""
    adapter = mysql.Adapter(mysql.Settings(Path(server.socket), user="root", recipe=recipe))
    with contextlib.suppress(HoldLost):
        async with adapter.quiesce(a_freeze()) as evidence:
            if evidence["recipe"] == mysql.INSTANCE_LOCK:
                run(server, "INSERT INTO shop.orders VALUES (1000)")
            server.kill()
    return evidence


def found(report: Report) -> dict[str, bool]:
    return {finding.name: finding.passed for finding in report.findings}


@pytest.mark.parametrize(
    ("engine", "settings", "recipe"),
    [
        ("InnoDB", {}, Recipe.AUTO),
        ("InnoDB", {}, Recipe.READ_LOCK),
        ("InnoDB", NEVER, Recipe.AUTO),
        ("MyISAM", {}, Recipe.AUTO),
    ],
)
async def test_a_copy_that_was_taken_in_a_hold_is_verified(
    ground: Ground, engine: str, settings: dict[str, str], recipe: Recipe
) -> None:
    with MysqlServer(ground.home / "data", settings=settings) as server:
        make_shop(server, engine)
        evidence = await held_and_killed(server, recipe)
    report = ground.verify(evidence)
    assert report.grade is Grade.APP_VERIFIED, report
    expected = ("position", "start", "recovery", "redo", "gtid", "marker", "check")
    assert found(report) == dict.fromkeys(expected, True), report


@pytest.mark.parametrize("recipe", Recipe)
@pytest.mark.parametrize("settings", [{}, NEVER], ids=["flushed", "unflushed"])
async def test_a_copy_that_was_taken_right_after_the_thaw_proves_nothing(
    ground: Ground, settings: dict[str, str], recipe: Recipe
) -> None:
    """Also where a commit alone does not bring to the disk that the hold is over."""
    with MysqlServer(ground.home / "data", settings={**settings, "skip-log-bin": "1"}) as server:
        make_shop(server)
        adapter = mysql.Adapter(mysql.Settings(Path(server.socket), user="root", recipe=recipe))
        async with adapter.quiesce(a_freeze()) as evidence:
            pass
        server.kill()
    report = ground.verify(evidence)
    assert report.grade is Grade.FS, report
    assert found(report)["marker"] is False


@pytest.mark.parametrize("recipe", Recipe)
async def test_a_copy_without_a_binary_log_is_verified(ground: Ground, recipe: Recipe) -> None:
    with MysqlServer(ground.home / "data", settings={"skip-log-bin": "1"}) as server:
        make_shop(server)
        evidence = await held_and_killed(server, recipe)
    assert "binlog_file" not in evidence
    report = ground.verify(evidence)
    assert report.grade is Grade.APP_VERIFIED, report


async def test_with_the_instance_lock_a_copy_from_after_the_thaw_proves_nothing(ground: Ground) -> None:
    """A later position is no reason there, and one within a minute was none."""
    with MysqlServer(ground.home / "data") as server:
        make_shop(server)
        async with mysql.Adapter(mysql.Settings(Path(server.socket), user="root")).quiesce(a_freeze()) as evidence:
            pass
        server.kill()
    assert evidence["recipe"] == mysql.INSTANCE_LOCK
    report = ground.verify(evidence)
    assert report.grade is Grade.FS, report
    assert (found(report)["position"], found(report)["marker"]) == (True, False)


async def test_links_to_the_data_are_resolved_in_the_evidence(ground: Ground) -> None:
    (ground.home / "link").symlink_to(ground.home / "data")
    with MysqlServer(ground.home / "data", settings={"datadir": str(ground.home / "link")}) as server:
        make_shop(server)
        evidence = await held_and_killed(server)
    report = ground.verify(evidence)
    assert report.grade is Grade.APP_VERIFIED, report


async def test_a_copy_from_before_or_after_the_hold_proves_nothing(ground: Ground) -> None:
    with MysqlServer(ground.home / "data") as server:
        make_shop(server)
        adapter = mysql.Adapter(mysql.Settings(Path(server.socket), user="root", recipe=Recipe.READ_LOCK))
        async with adapter.quiesce(a_freeze()) as evidence:
            pass
        run(server, "INSERT INTO shop.orders VALUES (1000)")
        server.kill()
    report = ground.verify(evidence)
    assert report.grade is Grade.FS
    assert (found(report)["position"], found(report)["gtid"]) == (False, False)


def test_tables_without_a_log_are_not_in_order_without_a_hold(ground: Ground) -> None:
    with MysqlServer(ground.home / "data") as server:
        make_shop(server, "MyISAM")
        server.kill()
    report = ground.verify({})
    assert report.grade is Grade.RAW
    assert "shop.orders" in report.findings[-1].sentence


def test_a_copy_without_a_hold_is_worth_what_a_freeze_is(ground: Ground) -> None:
    with MysqlServer(ground.home / "data", settings=NEVER) as server:
        make_shop(server)
        server.kill()
    assert ground.verify({}).grade is Grade.FS
