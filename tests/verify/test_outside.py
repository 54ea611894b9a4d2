"""A copy is verified privately, within its time, and without traces; what is no copy is refused."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.model.errors import (
    CopyInUse,
    CopyInvalid,
    EvidenceMissing,
    VerifierUnavailable,
    VerifyError,
)
from appvss.model.grade import Grade
from appvss.model.names import printable
from appvss.verify.evidence import Evidence
from appvss.verify.outside import VERIFIERS, Given, Order, Verified, verify
from tests.cli.test_certificate import certificate
from tests.support.loop_disks import LoopDisk, LoopDisks, run, why_not
from tests.support.running_broker import ROOT, short_directory
from tests.verify.fake_engine import said_in

MODULES = {"fake": "tests.verify.fake_engine"}
STAYS = f"987.{os.getpid()}"
"""How long a child of the fake sleeps: nobody else's does for just as long."""
SAID = Evidence({"engine": "fake", "marker": "m-1", "data_directory": "/srv/db/data"}, "c-1", "the test")


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """After each test nothing is left: no folder, no mount, no loop device, no process."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    work = short_directory()
    yield work
    assert os.listdir(work) == []
    work.rmdir()
    assert list(Path("/tmp").glob(f"appvss-v{os.getpid()}-*")) == []
    assert f" {work}/" not in Path("/proc/self/mountinfo").read_text()
    if not why_not("ext4"):
        assert f"{work}/" not in run("losetup", "--list", "--noheadings", "--output", "BACK-FILE")
    table = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"sleep {STAYS}" not in table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copied data directory."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "value").write_text("m-1\n")
    return data


def verified(work: Path, path: Path, evidence: Evidence | None = SAID, **more: object) -> Verified:
    options: dict[str, object] = {"limit": timedelta(seconds=60), "modules": MODULES, **more}
    return verify(Order("orders-db", [Given(path)], evidence, work=work, **options))  # type: ignore[arg-type]


def filled(disk: LoopDisk, value: str = "m-1\n", below: str = "data") -> Path:
    """Let a disk have the database; its image, complete."""
    (disk.path / below).mkdir(parents=True)
    (disk.path / below / "value").write_text(value)
    subprocess.run(["sync", "-f", str(disk.path)], check=True, timeout=30)
    return disk.image


def copied(disks: LoopDisks, disk: LoopDisk) -> Path:
    """A copy of its image, which is not mounted."""
    copy = disks.home / "images" / f"copy-of-{disk.path.name}"
    disks.freeze(disk.path)
    try:
        run("cp", "--sparse=always", str(disk.image), str(copy))
    finally:
        disks.thaw(disk.path)
    return copy


def test_a_folder_is_verified_and_left_as_it_is(no_traces: Path, folder: Path) -> None:
    found = verified(no_traces, folder)
    assert (found.report.grade, found.report.engine) == (Grade.APP_VERIFIED, "fake")
    assert found.evidence == SAID
    assert found.report.findings[1].sentence.endswith("[]")
    assert (folder / "value").read_text() == "m-1\n"


def test_a_marker_of_another_cycle_is_worth_less(no_traces: Path, folder: Path) -> None:
    (folder / "value").write_text("m-0\n")
    assert verified(no_traces, folder).report.grade is Grade.FS


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_an_image_of_a_volume(no_traces: Path, loop_disks: LoopDisks, kind: str) -> None:
    disk = loop_disks.make("volume", kind)
    filled(disk)
    image = copied(loop_disks, disk)
    before = image.read_bytes()
    assert verified(no_traces, image).report.grade is Grade.APP_VERIFIED
    assert image.read_bytes() == before


def test_one_of_several_devices_of_a_btrfs_is_not_mounted(no_traces: Path, tmp_path: Path) -> None:
    """The kernel would mount it together with the live others, and write to them."""
    if reason := why_not("btrfs"):
        pytest.skip(reason)
    images = [tmp_path / "one", tmp_path / "two"]
    for image in images:
        with image.open("wb") as file:
            file.truncate(256 << 20)
    run("mkfs.btrfs", "-q", "-f", "-d", "raid1", "-m", "raid1", *map(str, images))
    with pytest.raises(CopyInvalid, match="it is one of 2 devices of a btrfs"):
        verified(no_traces, images[0])


def test_what_has_its_journal_on_another_device_is_not_mounted(no_traces: Path, tmp_path: Path) -> None:
    """The kernel would replay the live one, and call it clean."""
    if reason := why_not("ext4"):
        pytest.skip(reason)
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(48 << 20)
    run("mkfs.ext4", "-q", "-F", str(image))
    with image.open("r+b") as file:
        file.seek(0x400 + 0xE4)
        file.write(struct.pack("<I", 0x0810))
    with pytest.raises(CopyInvalid, match="its journal is on another device"):
        verified(no_traces, image)


def test_an_image_of_a_disk_with_partitions(no_traces: Path, loop_disks: LoopDisks) -> None:
    """The second partition has the machine's tree."""
    whole = loop_disks.home / "images" / "whole"
    mebibyte = 2048  # sectors
    entries = [
        struct.pack("<B3xB3xII", 0, 0x83, *place) for place in ((mebibyte, 8 * mebibyte), (9 * mebibyte, 40 * mebibyte))
    ]
    with whole.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(446)
        file.write(b"".join(entries).ljust(64, b"\0") + b"\x55\xaa")
    part = loop_disks.home / "images" / "part"
    with part.open("wb") as file:
        file.truncate(40 << 20)
    source = loop_disks.home / "tree"
    (source / "srv/db/data").mkdir(parents=True)
    (source / "srv/db/data/value").write_text("m-1\n")
    run("mkfs.ext4", "-q", "-F", "-d", str(source), str(part))
    run("dd", f"if={part}", f"of={whole}", "bs=1M", "seek=9", "conv=notrunc,sparse", "status=none")

    assert verified(no_traces, whole).report.grade is Grade.APP_VERIFIED
    with pytest.raises(CopyInvalid, match="no file system of the image can be mounted in partition 1"):
        verify(Order("a", [Given(whole, partition=1)], SAID, work=no_traces, modules=MODULES))


def test_several_volumes(no_traces: Path, loop_disks: LoopDisks) -> None:
    """What lay elsewhere must be named; then the copies stand for the machine's paths."""
    data, wal = loop_disks.make("data"), loop_disks.make("wal")
    filled(data)
    filled(wal, below="log")
    image, other = copied(loop_disks, data), copied(loop_disks, wal)
    said = Evidence({**SAID.values, "wal_directory": "/srv/wal/log"}, "c-1", "the test")
    with pytest.raises(CopyInvalid, match="had files in /srv/wal/log, of which no copy was named"):
        verified(no_traces, image, said)
    both = [Given(image), Given(other, Path("/srv/wal"))]
    assert verify(Order("a", both, said, work=no_traces, modules=MODULES)).report.grade is Grade.APP_VERIFIED


def test_a_volume_that_was_mounted_within_another_is_there_again(no_traces: Path, loop_disks: LoopDisks) -> None:
    """As a disk for the WAL alone is, in the data directory."""
    data, wal, log = loop_disks.make("data"), loop_disks.make("wal"), loop_disks.make("log")
    (data.path / "data" / "wal").mkdir(parents=True)
    (data.path / "data" / "value").symlink_to("wal/log/here/value")
    (wal.path / "log").mkdir()
    filled(log, below="here")
    places = {data: None, wal: Path("/srv/db/data/wal"), log: Path("/srv/db/data/wal/log")}
    given = [Given(copied(loop_disks, disk), place) for disk, place in places.items()]
    assert verify(Order("a", given, SAID, work=no_traces, modules=MODULES)).report.grade is Grade.APP_VERIFIED


def test_a_link_out_of_a_folder_is_not_followed_to_the_live_files(
    no_traces: Path, folder: Path, tmp_path: Path
) -> None:
    """Where a folder was mounted is said, so nobody has looked for the way to the data."""
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "db").symlink_to(tmp_path)
    given = [Given(tmp_path / "backup", Path("/srv"))]
    with pytest.raises(CopyInvalid, match="/srv/db/data leads out of"):
        verify(Order("a", given, SAID, work=no_traces, modules=MODULES))
    changed = Evidence({**SAID.values, "data_directory": "/srv/../data"}, "c-1", "the test")
    with pytest.raises(CopyInvalid, match="leads out of"):
        verify(Order("a", given, changed, work=no_traces, modules=MODULES))


def test_a_link_out_of_an_image_is_not_followed_to_the_live_files(no_traces: Path, loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("volume")
    (disk.path / "db").symlink_to("/srv/live")
    given = [Given(copied(loop_disks, disk), Path("/srv"))]
    with pytest.raises(CopyInvalid, match="/srv/db/data leads out of the copy"):
        verify(Order("a", given, SAID, work=no_traces, modules=MODULES))


def test_an_image_without_the_apps_files(no_traces: Path, loop_disks: LoopDisks) -> None:
    disk = loop_disks.make("volume")
    (disk.path / "other").mkdir()
    with pytest.raises(CopyInvalid, match="the copy has nothing of /srv/db/data"):
        verified(no_traces, copied(loop_disks, disk))


@pytest.mark.parametrize("kind", ["ext4", "btrfs"])
def test_what_is_mounted_is_no_copy(no_traces: Path, loop_disks: LoopDisks, kind: str) -> None:
    disk = loop_disks.make("volume", kind)
    with pytest.raises(CopyInUse, match="is mounted at"):
        verified(no_traces, disk.image)
    (device,) = run("losetup", "--noheadings", "--output", "NAME", "--associated", str(disk.image)).split()
    with pytest.raises(CopyInUse, match="is mounted at"):
        verified(no_traces, Path(device))


def test_a_folder_that_is_written_to_is_no_copy(no_traces: Path, folder: Path) -> None:
    with (
        (folder / "value").open("a"),
        pytest.raises(CopyInUse, match=r"is written to by .* \(\d+\): that is no snapshot"),
    ):
        verified(no_traces, folder)
    with (folder / "value").open():
        assert verified(no_traces, folder).report.grade is Grade.APP_VERIFIED


def test_what_is_no_image(no_traces: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount an image")
    with pytest.raises(CopyInvalid, match="no such file"):
        verified(no_traces, tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CopyInvalid, match="no file, block device or folder"):
        verified(no_traces, tmp_path / "pipe")
    (tmp_path / "noise").write_bytes(os.urandom(1 << 20))
    with pytest.raises(CopyInvalid, match="nothing that is known as a file system"):
        verified(no_traces, tmp_path / "noise")
    (tmp_path / "qcow2").write_bytes(b"QFI\xfb\0\0\0\3" + bytes(1 << 16))
    with pytest.raises(CopyInvalid, match="the image is in the format qcow2"):
        verified(no_traces, tmp_path / "qcow2")
    (tmp_path / "empty").touch()
    with pytest.raises(CopyInvalid):
        verified(no_traces, tmp_path / "empty")


def test_an_engine_without_a_verifier(no_traces: Path, folder: Path) -> None:
    said = Evidence({**SAID.values, "engine": "mongodb"})
    with pytest.raises(VerifierUnavailable, match="mongodb copies cannot be verified"):
        verified(no_traces, folder, said)


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_verifier_whose_driver_is_not_there_says_what_to_install(
    no_traces: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str
) -> None:
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "pymysql.py").write_text("raise ModuleNotFoundError('none', name='pymysql')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'lacking'}:{ROOT}")
    said = Evidence({**SAID.values, "engine": engine})
    with pytest.raises(VerifierUnavailable, match="needs the Python package pymysql"):
        verified(no_traces, folder, said, modules=VERIFIERS)


def test_a_verifier_that_hangs_ends_with_its_time(no_traces: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "value").write_text(f"m-1\nhang\n{tmp_path}\n")
    with said_in(tmp_path) as said:
        with pytest.raises(VerifyError, match=r"the copy was not verified within 10\.0s"):
            verified(no_traces, folder, limit=timedelta(seconds=10))  # in which it comes to the point, under any load
        assert said() == b"x"


def test_what_a_verifier_has_started_ends_with_it(no_traces: Path, folder: Path) -> None:
    (folder / "value").write_text(f"m-1\nfork\n{STAYS}\n")
    assert verified(no_traces, folder).report.grade is Grade.APP_VERIFIED


def test_a_verifier_that_crashes_says_so(no_traces: Path, folder: Path) -> None:
    (folder / "value").write_text("m-1\ncrash\n")
    with pytest.raises(VerifyError, match="the verifier failed: RuntimeError: the fake has crashed"):
        verified(no_traces, folder)


def test_a_verifier_that_prints_disturbs_nothing(no_traces: Path, folder: Path) -> None:
    (folder / "value").write_text("m-1\nprint\n")
    assert verified(no_traces, folder).report.grade is Grade.APP_VERIFIED


def test_a_path_that_was_cut_is_not_looked_for(no_traces: Path, folder: Path, loop_disks: LoopDisks) -> None:
    cut = replace(SAID, values={**SAID.values, "log_directory": printable("/srv/db/" + "log" * 100, 256)})
    disk = loop_disks.make("volume")
    filled(disk)
    for copy in (folder, copied(loop_disks, disk)):
        with pytest.raises(EvidenceMissing, match="its log_directory is cut at 256 characters"):
            verified(no_traces, copy, cut)


def test_the_certificate_that_the_copy_carries_says_what_the_app_had_said(
    no_traces: Path, loop_disks: LoopDisks
) -> None:
    """Here it has none of an adapter's evidence, which is said."""
    disk = loop_disks.make("root")
    filled(disk, below="srv/db/data")
    with pytest.raises(EvidenceMissing, match="nobody knows what orders-db has said: no broker"):
        verified(no_traces, copied(loop_disks, disk), None, unknown="no broker")
    (disk.path / "var/lib/appvss").mkdir(parents=True)
    (disk.path / "var/lib/appvss/certificate.json").write_text(certificate().text())
    with pytest.raises(
        EvidenceMissing, match=r"the certificate that the image carries .* has no app 'orders-db'"
    ) as seen:
        verified(no_traces, copied(loop_disks, disk), None)
    assert seen.value.hint == "It has orders-db[eu]."


def test_who_is_not_root_can_verify_a_folder_and_no_image(
    no_traces: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert verified(no_traces, folder).report.grade is Grade.APP_VERIFIED
    (tmp_path / "image").write_bytes(bytes(1 << 16))
    with pytest.raises(VerifierUnavailable, match="only root can mount an image"):
        verified(no_traces, tmp_path / "image")


def test_a_lack_of_room_is_said(no_traces: Path, loop_disks: LoopDisks, tmp_path: Path) -> None:
    small = loop_disks.make("small")
    image = tmp_path / "image"
    image.write_bytes(os.urandom(48 << 20))
    with pytest.raises(VerifierUnavailable, match="has no room for a copy of"):
        verify(Order("a", [Given(image)], SAID, work=small.path, modules=MODULES))
    assert [name for name in os.listdir(small.path) if name != "lost+found"] == []


def test_two_at_once(no_traces: Path, folder: Path) -> None:
    """Each has a network of its own: both start a server on the same port."""
    found: list[Grade] = []
    threads = [
        threading.Thread(target=lambda: found.append(verified(no_traces, folder).report.grade)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [Grade.APP_VERIFIED] * 2
