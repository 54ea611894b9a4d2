"""The verifier of Redis: what a copy of a cycle earns, and what one that was made without a hold, or cut, does not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from appvss.model.errors import VerifierUnavailable
from appvss.model.grade import Grade
from appvss.verify.base import Copy, Report
from appvss.verify.redis import dump_time, verify
from tests.adapters.redis_stage import adapter_of, freeze, running, wait_until
from tests.databases.support.servers import RedisServer
from tests.support.running_broker import ROOT, short_directory

CYCLE = "3f6c1d0a-6f0e-4c57-9d7c-5a0c2b8d1e77"


@dataclass
class Bench:
    """A server, and the folder that its copies lie in."""

    server: RedisServer
    room: Path
    copies: int = 0

    def copy(self) -> Path:
        """The data folder as it is now, of a server that has handed everything to the kernel or holds."""
        self.copies += 1
        target = self.room / f"copy-{self.copies}"
        subprocess.run(["cp", "-a", str(self.server.data), str(target)], check=True)
        return target

    async def held_copy(self, cycle: str = CYCLE) -> tuple[Path, Mapping[str, str]]:
        async with adapter_of(self.server).quiesce(freeze(cycle=cycle)) as evidence:
            copy = self.copy()
        return copy, evidence

    def verify(self, copy: Path, evidence: Mapping[str, str]) -> Report:
        self.copies += 1
        work = self.room / f"work-{self.copies}"
        work.mkdir()
        return verify(Copy({self.server.data: copy}, work), evidence)


@pytest.fixture(scope="module")
def benches() -> Iterator[dict[str, Bench]]:
    room = short_directory()
    with running("aof") as aof, running("rdb") as rdb:
        for server in (aof, rdb):
            with server.connect() as client:
                client.mset({f"key-{number}": "x" * 50 for number in range(100)})
        rooms = {name: room / name for name in ("aof", "rdb")}
        for path in rooms.values():
            path.mkdir()
        yield {"aof": Bench(aof, rooms["aof"]), "rdb": Bench(rdb, rooms["rdb"])}
    shutil.rmtree(room)


@pytest.fixture(params=["aof", "rdb"])
def bench(request: pytest.FixtureRequest, benches: dict[str, Bench]) -> Bench:
    return benches[request.param]


def failed(report: Report) -> set[str]:
    return {finding.name for finding in report.findings if not finding.passed}


async def test_a_copy_of_a_cycle_earns_the_highest_grade(bench: Bench) -> None:
    copy, evidence = await bench.held_copy()
    report = bench.verify(copy, evidence)
    assert report.grade is Grade.APP_VERIFIED, report.findings
    assert not failed(report)
    assert report.version == evidence["version"]
    assert {finding.name for finding in report.findings} == {"position", "check", "marker", "start", "recovery"}
    with bench.server.connect() as client:
        keys = client.dbsize()
    assert any(f" {keys} keys" in finding.sentence for finding in report.findings)


async def test_a_copy_of_a_cycle_can_be_verified_twice_with_the_same_word(bench: Bench) -> None:
    copy, evidence = await bench.held_copy()
    assert bench.verify(copy, evidence).grade is bench.verify(copy, evidence).grade is Grade.APP_VERIFIED


async def test_a_copy_without_a_hold_is_worth_a_freeze_of_file_systems(bench: Bench) -> None:
    await bench.held_copy()
    report = bench.verify(bench.copy(), {})
    assert report.grade is Grade.FS
    assert failed(report) == {"position", "marker"}


async def test_a_copy_that_was_taken_after_the_cycle_does_not_pass_for_its_own(bench: Bench) -> None:
    """The key is still there, and says that the cycle is over; the size of an append-only file tells as well."""
    _, evidence = await bench.held_copy()
    with bench.server.connect() as client:
        client.set("later", "1")
        if evidence["recipe"] == "rdb":
            client.bgsave()
            wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"])
        else:
            wait_until(lambda: not client.info("persistence")["aof_buffer_length"])
    report = bench.verify(bench.copy(), evidence)
    assert report.grade is Grade.FS
    assert "marker" in failed(report)
    assert "position" in failed(report) or evidence["recipe"] == "rdb"


async def test_a_dump_of_a_later_second_is_told_by_its_time_alone(benches: dict[str, Bench]) -> None:
    bench = benches["rdb"]
    copy, evidence = await bench.held_copy()
    made = dump_time(copy / "dump.rdb")
    assert made is not None
    report = bench.verify(copy, {**evidence, "rdb_last_save_time": str(made - 1)})
    assert report.grade is Grade.FS
    assert failed(report) == {"position"}


async def test_a_copy_of_another_cycle_does_not_pass(bench: Bench) -> None:
    copy, evidence = await bench.held_copy("another-cycle")
    report = bench.verify(copy, {**evidence, "marker": CYCLE})
    assert report.grade is Grade.FS
    assert "another-cycle" in next(each.sentence for each in report.findings if each.name == "marker")


async def test_a_copy_that_was_taken_before_the_cycle_does_not_pass(bench: Bench) -> None:
    await bench.held_copy("the one before")
    copy = bench.copy()
    _, evidence = await bench.held_copy()
    report = bench.verify(copy, evidence)
    assert report.grade is Grade.FS
    assert "marker" in failed(report)


async def test_a_server_that_was_started_on_an_append_only_file_counts_its_base_as_well(
    benches: dict[str, Bench],
) -> None:
    bench = benches["aof"]
    with bench.server.connect() as client:
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        wait_until(lambda: not client.info("persistence")["aof_rewrite_scheduled"])
    copy, evidence = await bench.held_copy()
    assert bench.verify(copy, evidence).grade is Grade.APP_VERIFIED
    bench.server.stop()
    bench.server.start()
    copy, evidence = await bench.held_copy()
    assert bench.verify(copy, evidence).grade is Grade.APP_VERIFIED


async def test_an_append_only_file_that_was_cut_off_starts_and_is_no_copy_of_a_hold(benches: dict[str, Bench]) -> None:
    bench = benches["aof"]
    copy, evidence = await bench.held_copy()
    log = next((copy / "appendonlydir").glob("*.incr.aof"))
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 3)
    report = bench.verify(copy, evidence)
    assert report.grade is Grade.FS
    assert failed(report) >= {"position", "check", "recovery"}


async def test_a_dump_that_is_damaged_is_worth_nothing(benches: dict[str, Bench]) -> None:
    bench = benches["rdb"]
    copy, evidence = await bench.held_copy()
    with (copy / "dump.rdb").open("r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 50)
    report = bench.verify(copy, evidence)
    assert report.grade is Grade.RAW
    assert failed(report) >= {"check", "start"}


async def test_what_a_server_would_load_is_looked_at_where_no_recipe_is_known(benches: dict[str, Bench]) -> None:
    """By `--engine redis`. With an append-only file a server loads nothing else, and an old dump may lie beside it."""
    bench = benches["aof"]
    copy, evidence = await bench.held_copy()
    older, _ = await benches["rdb"].held_copy()
    shutil.copyfile(older / "dump.rdb", copy / "dump.rdb")
    report = bench.verify(copy, {"engine": "redis", "data_directory": evidence["data_directory"]})
    assert report.grade is Grade.FS
    assert "redis-check-aof" in next(each.sentence for each in report.findings if each.name == "check")


@pytest.mark.parametrize("where", ["", "appendonlydir"])
async def test_no_link_in_the_servers_folders_leads_out_of_the_copy(benches: dict[str, Bench], where: str) -> None:
    """A server writes files of names that can be guessed, such as its temporary list of the append-only files."""
    bench = benches["aof"]
    copy, evidence = await bench.held_copy()
    live = bench.room / f"live-{where or 'dir'}"
    live.write_text("of the live one")
    (copy / where / "temp-appendonly.aof.manifest").symlink_to(live)
    report = bench.verify(copy, evidence)
    assert report.grade is Grade.RAW
    assert "out of the copy" in report.findings[0].sentence
    assert live.read_text() == "of the live one"
    (copy / where / "temp-appendonly.aof.manifest").rename(copy / where / "of-somebody-else")
    assert bench.verify(copy, evidence).grade is Grade.APP_VERIFIED


def test_a_copy_without_any_file_of_a_server(benches: dict[str, Bench]) -> None:
    bench = benches["rdb"]
    (bench.room / "empty").mkdir()
    for evidence in ({}, {"data_directory": str(bench.server.data), "recipe": "rdb"}, {"data_directory": "/nowhere"}):
        assert bench.verify(bench.room / "empty", evidence).grade is Grade.RAW


async def test_a_folder_with_a_long_name_is_no_obstacle(benches: dict[str, Bench]) -> None:
    bench = benches["rdb"]
    copy, evidence = await bench.held_copy()
    work = bench.room / ("long" * 25) / ("name" * 10)
    work.mkdir(parents=True)
    assert verify(Copy({bench.server.data: copy}, work), evidence).grade is Grade.APP_VERIFIED


@pytest.mark.parametrize("name", ["appendonlydir", "dump.rdb"])
async def test_a_link_out_of_the_copy_is_not_followed(benches: dict[str, Bench], name: str) -> None:
    """It leads to the live server's files, which a private server would append to."""
    bench = benches["aof" if name == "appendonlydir" else "rdb"]
    copy, evidence = await bench.held_copy()
    live = bench.server.data / name
    subprocess.run(["rm", "-r", str(copy / name)], check=True)  # noqa: ASYNC221 # a moment
    (copy / name).symlink_to(live)
    report = bench.verify(copy, {**evidence, "log_directory": "/nowhere"})
    assert report.grade is Grade.RAW
    assert "out of the copy" in report.findings[0].sentence


async def test_an_append_only_folder_on_another_volume_is_found_in_the_copy(benches: dict[str, Bench]) -> None:
    bench = benches["aof"]
    copy, evidence = await bench.held_copy()
    elsewhere = bench.room / "copy-of-the-log-volume"
    (copy / "appendonlydir").rename(elsewhere)
    (copy / "appendonlydir").symlink_to("/fast/log")
    work = bench.room / "work-of-two-volumes"
    work.mkdir()
    files = {bench.server.data: copy, bench.room / "fast": elsewhere}
    report = verify(Copy(files, work), {**evidence, "log_directory": str(bench.room / "fast")})
    assert report.grade is Grade.APP_VERIFIED, report.findings


async def test_a_machine_without_the_server_says_so(benches: dict[str, Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benches["rdb"]
    copy, evidence = await bench.held_copy()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(VerifierUnavailable, match="neither redis-server nor valkey-server is installed"):
        bench.verify(copy, evidence)


async def test_the_private_server_has_no_port_and_leaves_nothing(bench: Bench) -> None:
    copy, evidence = await bench.held_copy()
    bench.verify(copy, evidence)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout  # noqa: ASYNC221
    assert str(copy) not in listed
    with bench.server.connect() as client:
        assert client.ping()


async def test_the_private_server_ends_with_a_verifier_that_is_killed(benches: dict[str, Bench]) -> None:
    """With its process group, at the end of its time. As root a process namespace would see to it; others have none."""
    bench = benches["rdb"]
    copy, _ = await bench.held_copy()
    program = (
        "import sys, time; from pathlib import Path; from appvss.verify.redis_server import PrivateServer\n"
        "PrivateServer(*map(Path, sys.argv[1:])).start({}); print('started', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(  # noqa: ASYNC220 # a moment
        [sys.executable, "-c", program, copy, bench.room], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    ) as verifier:
        assert verifier.stdout is not None
        try:
            assert verifier.stdout.readline() == b"started\n"
        finally:
            os.killpg(verifier.pid, signal.SIGKILL)
    wait_until(lambda: not answers(bench.room / "redis.sock"))


def answers(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(place)) == 0


async def test_a_dump_tells_when_it_was_begun(benches: dict[str, Bench]) -> None:
    with benches["rdb"].server.connect() as client:
        before, _ = client.time()
    copy, evidence = await benches["rdb"].held_copy()
    made = dump_time(copy / "dump.rdb")
    assert made is not None
    assert before <= made <= int(evidence["rdb_last_save_time"])
    assert dump_time(copy / "absent") is None
