"""What the verifier says of copies of a real server: of its hold, of none, of another time, damaged, and led astray.

A server that is killed as a whole and then copied is what a file-system freeze gives (section 1 of the facts).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.adapters.postgresql import Adapter, Recipe, Settings
from appvss.model.errors import CopyInvalid, VerifierUnavailable
from appvss.model.grade import Grade
from appvss.verify import postgresql
from appvss.verify.base import Copy, Finding, Report
from appvss.verify.postgresql_server import cut_off
from tests.adapters.postgresql_ground import Ground, freeze, new_server, new_standby, prepare
from tests.databases.support.servers import server_folder
from tests.support.running_broker import short_directory


@pytest.fixture(scope="module")
def server() -> Iterator[Ground]:
    with new_server(fsync="off") as made:
        made.sql("CREATE TABLE kept (id int PRIMARY KEY, payload text)")
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    """Where copies are made: a folder that the server's user may enter."""
    folder = short_directory()
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Made:
    copy: Copy
    data: Path
    """The data directory in it."""
    evidence: Mapping[str, str]


async def held(server: Ground, place: Path, **settings: object) -> Made:
    """A copy that was taken in a hold; the server runs again afterwards."""
    adapter = Adapter(Settings(server.dsn, **settings))  # type: ignore[arg-type]
    await adapter.prepare(prepare())
    number = server.value("SELECT coalesce(max(id), 0)::int FROM kept") + 1
    server.sql(f"INSERT INTO kept VALUES ({number}, repeat('x', 3000))")
    hold = await adapter.hold(freeze())
    made = killed(server, place, dict(adapter.evidence(hold)))
    await adapter.release(hold, freeze())
    return made


def killed(server: Ground, place: Path, evidence: Mapping[str, str]) -> Made:
    """A copy of a server that was killed; it runs again afterwards."""
    server.kill()
    data = place / "data"
    shutil.copytree(server.data, data, symlinks=True)
    for path in (data, *data.rglob("*")):
        os.chown(path, server.data.stat().st_uid, server.data.stat().st_gid, follow_symlinks=False)
    server.start()
    work = place / "work"
    work.mkdir(mode=0o711)
    return Made(Copy({server.data: data}, work), data, evidence)


def of_name(report: Report, name: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.name == name]


def of(report: Report, name: str) -> Finding:
    return of_name(report, name)[0]


async def test_a_copy_of_the_hold_is_verified(server: Ground, place: Path) -> None:
    made = await held(server, place)
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.APP_VERIFIED, report.findings
    assert report.version == made.evidence["version"]
    assert all(finding.passed for finding in report.findings)
    assert [finding.name for finding in report.findings] == [
        "marker",
        "position",
        "start",
        "recovery",
        "check",
        "check",
    ]
    assert f"redo begins at {made.evidence['redo_lsn']}, as in the hold" in of(report, "position").sentence
    assert "crash recovery, from" in of(report, "recovery").sentence
    assert "pg_amcheck" in of_name(report, "check")[0].sentence
    assert "checksums" in of_name(report, "check")[1].sentence
    assert not (made.data / "postmaster.pid").exists()  # it was stopped


async def test_a_copy_that_was_taken_before_the_hold_is_worth_fs(server: Ground, place: Path) -> None:
    made = killed(server, place, {})
    async with Adapter(Settings(server.dsn)).quiesce(freeze()) as evidence:
        pass
    report = postgresql.verify(made.copy, evidence)
    assert report.grade is Grade.FS, report.findings
    assert "in none of the" in of(report, "marker").sentence
    assert of(report, "check").passed


async def test_a_copy_that_was_taken_long_after_the_hold_is_worth_fs(
    server: Ground, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LONGEST_GAP", timedelta(milliseconds=300))
    adapter = Adapter(Settings(server.dsn))
    hold = await adapter.hold(freeze("an-earlier-one"))
    evidence = adapter.evidence(hold)
    await adapter.release(hold, freeze())  # without a word about its thaw
    server.sql("SELECT pg_sleep(0.4)")
    server.sql("CREATE TABLE later (id int)")
    made = killed(server, place, evidence)
    report = postgresql.verify(made.copy, evidence)
    assert report.grade is Grade.FS, report.findings
    assert of(report, "marker").passed
    assert "of another time" in of(report, "position").sentence


async def test_a_copy_that_was_taken_right_after_the_thaw_is_worth_fs(server: Ground, place: Path) -> None:
    async with Adapter(Settings(server.dsn)).quiesce(freeze("just-over")) as evidence:
        pass
    made = killed(server, place, evidence)
    report = postgresql.verify(made.copy, evidence)
    assert report.grade is Grade.FS, report.findings
    assert of(report, "marker").passed
    assert "taken after the hold" in of(report, "position").sentence


async def test_a_copy_after_a_later_checkpoint_still_has_its_marker(server: Ground, place: Path) -> None:
    """The server makes checkpoints when it likes, also between the hold and the file-system freeze."""
    adapter = Adapter(Settings(server.dsn))
    hold = await adapter.hold(freeze("cycle-two"))
    server.sql("CHECKPOINT")
    made = killed(server, place, dict(adapter.evidence(hold)))
    await adapter.release(hold, freeze())
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.APP_VERIFIED, report.findings
    assert "after a later checkpoint than" in of(report, "position").sentence


def test_a_copy_of_no_cycle_is_worth_fs(server: Ground, place: Path) -> None:
    made = killed(server, place, {})
    report = postgresql.verify(made.copy, {"engine": "postgresql", "data_directory": str(server.data)})
    assert report.grade is Grade.FS
    assert "left no marker" in of(report, "marker").sentence


async def test_a_copy_of_another_server_is_not_of_the_cycle(server: Ground, place: Path) -> None:
    made = await held(server, place)
    report = postgresql.verify(made.copy, {**made.evidence, "system_identifier": "42"})
    assert report.grade is Grade.FS
    assert "the cycle held 42" in of(report, "position").sentence


async def test_a_damaged_table_is_found(server: Ground, place: Path) -> None:
    server.sql("INSERT INTO kept SELECT 1000000 + g, md5(g::text) FROM generate_series(1, 500) g")
    made = await held(server, place)  # with a checkpoint: recovery writes no page anew that was not changed since
    file = made.data / server.value("SELECT pg_relation_filepath('kept')")
    pages = bytearray(file.read_bytes())
    assert len(pages) >= 3 * 8192
    pages[8000:8100] = b"\xff" * 100
    file.write_bytes(pages)
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.RAW, report.findings
    assert not report.findings[-1].passed
    assert "pg_amcheck says" in report.findings[-1].sentence


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("pg_wal", "could not locate a valid checkpoint record"), ("pg_control", "control file cannot be read")],
)
async def test_a_copy_that_does_not_start_is_worth_nothing(
    server: Ground, place: Path, missing: str, sentence: str
) -> None:
    made = await held(server, place)
    if missing == "pg_wal":
        for path in (made.data / "pg_wal").glob("0*"):
            path.unlink()
    else:
        (made.data / "global" / "pg_control").unlink()
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.RAW
    assert sentence in of(report, "start").sentence


async def test_a_copy_is_cut_off_from_the_live_server(server: Ground, place: Path) -> None:
    """Its links, its archive and its settings lead to the live server, which runs beside it; and its recovery creates
    the tablespace again, where it was.
    """
    wal, space = server_folder(place / "wal"), server_folder(place / "space")
    traces = server_folder(place / "traces")
    live = new_server(wal_level="logical")
    live.initialize()
    shutil.rmtree(wal)
    shutil.copytree(live.data / "pg_wal", wal)
    shutil.rmtree(live.data / "pg_wal")
    (live.data / "pg_wal").symlink_to(wal)
    for path in (wal, *wal.rglob("*")):
        os.chown(path, live.data.stat().st_uid, live.data.stat().st_gid)
    with live:
        live.sql(f"CREATE TABLESPACE elsewhere LOCATION '{space}'")
        live.sql("CREATE TABLE kept (id int PRIMARY KEY, payload text) TABLESPACE elsewhere")
        live.sql("SELECT pg_create_logical_replication_slot('of_the_live_one', 'pgoutput')")
        for setting, value in {
            "archive_mode": "always",
            "archive_command": f"touch {traces}/archived",
            "synchronous_standby_names": "a_standby_that_is_not_there",
            "shared_preload_libraries": "a_library_that_is_not_there",
            "primary_conninfo": live.dsn,
        }.items():
            live.sql(f"ALTER SYSTEM SET {setting} = '{value}'")
        made = await held_with(live, place, {wal: place / "copy-wal", space: place / "copy-space"})
        before = {path: path.stat() for path in space.rglob("*")}

        report = postgresql.verify(made.copy, made.evidence)

        assert report.grade is Grade.APP_VERIFIED, report.findings
        assert {path: path.stat().st_mtime_ns for path in before} == {
            path: status.st_mtime_ns for path, status in before.items()
        }
        assert not list(traces.iterdir())  # nothing is waited for
        assert os.readlink(made.data / "pg_wal") == str(place / "copy-wal")
        assert live.value("SELECT count(*)::int FROM kept") == 1


async def held_with(live: Ground, place: Path, others: Mapping[Path, Path]) -> Made:
    """A copy with what lies elsewhere; the live server then runs without the settings of ALTER SYSTEM."""
    live.sql("SET synchronous_commit = local")
    adapter = Adapter(Settings(live.dsn, recipe=Recipe.ATOMIC))
    live.sql("INSERT INTO kept VALUES (1, 'x')")
    hold = await adapter.hold(freeze())
    live.kill()
    data = place / "data"
    for source, target in {live.data: data, **others}.items():
        shutil.copytree(source, target, symlinks=True)
        for path in (target, *target.rglob("*")):
            os.chown(path, live.data.stat().st_uid, live.data.stat().st_gid, follow_symlinks=False)
    (live.data / "postgresql.auto.conf").write_text("")
    live.start()
    live.sql("CHECKPOINT")  # from here on it writes nothing to its tables by itself
    evidence = dict(adapter.evidence(hold))
    await adapter.release(hold, freeze())
    (place / "work").mkdir(mode=0o711)
    return Made(Copy({live.data: data, **others}, place / "work"), data, evidence)


async def test_a_link_to_what_was_not_copied_is_refused(server: Ground, place: Path) -> None:
    made = await held(server, place)
    (made.data / "pg_wal").rename(made.data / "pg_wal.real")
    (made.data / "pg_wal").symlink_to("/srv/wal/not/copied")
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.RAW
    assert "the copy has nothing of /srv/wal/not/copied" in of(report, "start").sentence


async def test_other_links_of_a_data_directory_do_not_lead_to_the_live_server(server: Ground, place: Path) -> None:
    """PostgreSQL makes links for its WAL and its tablespaces alone; people make others, and a server empties
    `pg_stat_tmp` when it starts.
    """
    made = await held(server, place)
    live = server_folder(place / "live")
    for name in ("pg_stat_tmp", "log", "pg_log"):
        server_folder(live / name)
        (live / name / "of-the-live-one").touch()
        shutil.rmtree(made.data / name, ignore_errors=True)
        (made.data / name).symlink_to(live / name)
    (live / "opts").write_text("of the live one")
    (live / "opts").chmod(0o666)
    (made.data / "postmaster.opts").unlink()
    (made.data / "postmaster.opts").symlink_to(live / "opts")
    (made.data / "global" / "pg_internal.init").unlink(missing_ok=True)
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.APP_VERIFIED, report.findings
    assert (live / "pg_stat_tmp" / "of-the-live-one").exists()
    assert (live / "log" / "of-the-live-one").exists()
    assert (live / "opts").read_text() == "of the live one"


async def test_a_folder_of_data_that_is_a_link_is_the_copys_or_refused(server: Ground, place: Path) -> None:
    made = await held(server, place)
    base, live = made.data / "base", server_folder(place / "live") / "base"
    base.rename(live)
    base.symlink_to(live)
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.RAW
    assert f"base is a link to {live}: the copy has nothing of" in of(report, "start").sentence
    base.unlink()
    base.symlink_to("/fast/base")
    os.chown(base, server.data.stat().st_uid, server.data.stat().st_gid, follow_symlinks=False)
    work = place / "work-again"
    work.mkdir(mode=0o711)
    report = postgresql.verify(Copy({**made.copy.files, Path("/fast"): live.parent}, work), made.evidence)
    assert report.grade is Grade.APP_VERIFIED, report.findings


@pytest.mark.parametrize("has_label", [True, False])
def test_a_map_of_tablespaces_leads_into_the_copy(place: Path, has_label: bool) -> None:
    """A base backup has one, and no links: the server would make them, to the live server's folder."""
    data, live, space = place / "data", place / "live space", place / "copy-space"
    for folder in (data / "pg_tblspc", data / "pg_wal", live, space):
        folder.mkdir(parents=True)
    (data / "tablespace_map").write_text(f"16400 {live}\n")
    if has_label:
        (data / "backup_label").touch()
    cut_off(data, Copy({Path("/data"): data, live: space}, place))
    links = {link.name: link.readlink() for link in (data / "pg_tblspc").iterdir()}
    assert links == ({"16400": space} if has_label else {})
    assert (data / "tablespace_map").exists() is not has_label  # without the label no server looks at it


@pytest.mark.parametrize("way", ["a link", "a changed path"])
async def test_a_data_directory_that_leads_to_the_live_server_is_not_touched(
    server: Ground, place: Path, way: str
) -> None:
    """Its `postmaster.pid` would be removed, and a second server started on its files."""
    made = await held(server, place)
    if way == "a link":
        shutil.rmtree(made.data)
        made.data.symlink_to(server.data)
        copy, evidence = Copy({server.data.parent: place}, made.copy.work), made.evidence
    else:
        copy, evidence = made.copy, {**made.evidence, "data_directory": f"{server.data}/{'../' * 9}{server.data}"}
    with pytest.raises(CopyInvalid, match="leads out of the copy"):
        postgresql.verify(copy, evidence)
    assert (server.data / "postmaster.pid").exists()


async def test_a_standbys_copy_is_worth_fs_and_calls_no_primary(server: Ground, place: Path) -> None:
    with new_standby(server) as standby:
        adapter = Adapter(Settings(standby.dsn))
        hold = await adapter.hold(freeze())
        made = killed(standby, place, dict(adapter.evidence(hold)))
        await adapter.release(hold, freeze())
    assert (made.data / "standby.signal").exists()
    senders = server.log.count("walreceiver")
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.FS, report.findings
    assert of(report, "start").passed
    assert server.log.count("walreceiver") == senders


# The backup recipe.


async def backed_up(server: Ground, place: Path) -> tuple[Made, Path]:
    """A copy of the hold of a backup, with its label and WAL kept; the server goes on."""
    outside = place / "outside"
    outside.mkdir()
    adapter = Adapter(Settings(server.dsn, recipe=Recipe.BACKUP, backup_directory=outside))
    data, work = place / "data", place / "work"
    work.mkdir(mode=0o711)
    async with adapter.quiesce(freeze()) as evidence:
        server.sql("INSERT INTO kept SELECT coalesce(max(id), 0) + 1, 'in the hold' FROM kept")
        # File after file, from a server that writes: what a backup's label is for. Its files come and go.
        shutil.copytree(
            server.data, data, symlinks=True, ignore=shutil.ignore_patterns("pg_wal", "*.pid", "pgsql_tmp*")
        )
        server_folder(data / "pg_wal")
        server_folder(data / "pg_wal" / "archive_status")
    for path in (data, *data.rglob("*")):
        os.chown(path, server.data.stat().st_uid, server.data.stat().st_gid, follow_symlinks=False)
    return Made(Copy({server.data: data}, work), data, evidence), outside / freeze().cycle


async def test_a_backups_label_and_wal_are_added_together(server: Ground, place: Path) -> None:
    made, _ = await backed_up(server, place)
    report = postgresql.verify(made.copy, made.evidence)
    assert of(report, "setting").passed
    assert of(report, "start").passed, report.findings
    assert "backup recovery was completed" in of(report, "recovery").sentence
    assert of(report, "check").passed


async def test_a_label_whose_wal_was_not_kept_is_refused(server: Ground, place: Path) -> None:
    made, kept = await backed_up(server, place)
    next((kept / "pg_wal").iterdir()).unlink()
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade is Grade.RAW
    assert "which was not kept: it would not start" in of(report, "start").sentence
    assert not (made.data / "backup_label").exists()


async def test_a_label_of_another_backup_is_not_added(server: Ground, place: Path) -> None:
    made, kept = await backed_up(server, place)
    facts = json.loads((kept / "backup.json").read_text())
    (kept / "backup.json").write_text(json.dumps({**facts, "start": "0/28", "stop": "0/29"}))
    report = postgresql.verify(made.copy, made.evidence)
    assert report.grade in (Grade.RAW, Grade.FS)
    assert "is not this backup's" in of_name(report, "position")[-1].sentence
    assert not (made.data / "backup_label").exists()


async def test_a_backup_whose_label_is_not_here_proves_nothing(server: Ground, place: Path) -> None:
    made = await held(server, place)
    evidence = {**made.evidence, "recipe": "backup", "backup": "file:///nowhere/at/all"}
    report = postgresql.verify(made.copy, evidence)
    assert report.grade is Grade.FS
    assert "are not here" in of(report, "setting").sentence


# What this machine cannot look at.


def test_no_data_directory_is_an_error(place: Path) -> None:
    with pytest.raises(CopyInvalid, match="PG_VERSION"):
        postgresql.verify(Copy({Path("/"): place}, place), {"data_directory": "/"})
    with pytest.raises(CopyInvalid, match="nothing of"):
        postgresql.verify(Copy({Path("/srv"): place}, place), {"data_directory": "/var/lib/pg"})


def test_a_version_that_is_not_installed_is_an_error(place: Path) -> None:
    server_folder(place / "data")
    (place / "data" / "PG_VERSION").write_text("99\n")
    with pytest.raises(VerifierUnavailable, match="no PostgreSQL 99") as unavailable:
        postgresql.verify(Copy({Path("/"): place / "data"}, place), {})
    assert "postgresql-99" in unavailable.value.hint
