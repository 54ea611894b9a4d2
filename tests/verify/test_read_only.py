"""Whatever leads a verifier to the live machine's files, it cannot write to them; and the machine notices nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.verify.evidence import Evidence
from appvss.verify.outside import Given, Order, Verified, verify
from appvss.verify.read_only import namespace
from tests.support.loop_disks import LoopDisk, LoopDisks, run
from tests.support.running_broker import ROOT
from tests.verify.fake_engine import said_in

BOUND = 120.0
APART = {
    "root": ("unshare", "--mount", "--propagation", "slave"),
    "nobody's root": ("unshare", "--user", "--map-root-user", "--mount", "--propagation", "slave"),
}
LEAVE = """
import os, sys
from pathlib import Path
from appvss.verify import read_only
{before}
try:
    read_only.leave_writable([Path(sys.argv[1])], {machine})
except read_only.VerifierUnavailable as error:
    print(error.sentence)
print(Path("/proc/self/mountinfo").read_text())
{after}
"""


def apart(
    folder: Path, how: str = "root", before: str = "", machine: str = repr(namespace()), after: str = ""
) -> tuple[str, dict[str, tuple[set[str], set[str]]]]:
    """Leave one folder writable in a mount namespace that is made for it: what was said, and what is mounted there,
    with the options of the mount and those of its super block. In no test is it done elsewhere.
    """
    program = LEAVE.format(before=before, machine=machine, after=after)
    command = [*APART[how], sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BOUND, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said, mounts = [], {}
    for line in done.stdout.splitlines():
        if " - " not in line:
            said.append(line)
            continue
        fields = line.split()
        mounts[fields[4]] = (set(fields[5].split(",")), set(fields[-1].split(",")))
    return "\n".join(said).strip(), mounts


def mounts_below(home: Path) -> list[str]:
    """As this process, and with it the machine, has them."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {home}" in line]


def is_writable(*folders: Path) -> bool:
    for folder in folders:
        with tempfile.NamedTemporaryFile("w", dir=folder) as file:
            file.write("it goes on")
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return False
    return True


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir()) if path.is_file()
    }


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_verifier_that_is_led_to_a_live_disk_cannot_write_there_and_the_machine_can(
    loop_disks: LoopDisks, tmp_path: Path, kind: str
) -> None:
    """By any way to write, by a server in a namespace of its own, by SQLite and by Redis. Meanwhile a writer of the
    machine goes on, through a file that it has had open, and others through both mounts of that disk.
    """
    disk = loop_disks.make("live", kind)
    other = loop_disks.bind(disk, "again")
    live = disk.path / "db"
    live.mkdir()
    (live / "value").write_text("of the live server")
    with closing(sqlite3.connect(live / "sqlite")) as database:
        database.execute("CREATE TABLE t (id INT)")
    os.mkfifo(live / "go on")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "value").write_text(f"m-1\nstray\n{live}\n")
    before, mounted = hashes(live), mounts_below(loop_disks.home)
    found: list[Verified] = []
    said = Evidence({"engine": "fake", "data_directory": "/srv/db"}, "c-1", "the test")
    order = Order(
        "a", [Given(copy)], said, limit=timedelta(seconds=BOUND), modules={"fake": "tests.verify.fake_engine"}
    )
    with said_in(live) as asked, (disk.path / "log").open("a") as log:
        verifying = threading.Thread(target=lambda: found.append(verify(order)))
        verifying.start()
        while not asked():
            assert verifying.is_alive()
            time.sleep(0.01)  # the fake says no more than this
        assert hashes(live) == before
        assert is_writable(disk.path, live, other, tmp_path, Path("/tmp"))
        assert mounts_below(loop_disks.home) == mounted
        log.write("it goes on")
        log.flush()
        os.fsync(log.fileno())
        (live / "go on").write_text("x")
        verifying.join(BOUND)
    assert found
    assert [finding for finding in found[0].report.findings if not finding.passed] == []
    assert len(found[0].report.findings) == (11 if shutil.which("redis-server") else 10)
    assert hashes(live) == before
    assert mounts_below(loop_disks.home) == mounted
    assert is_writable(disk.path, live, other, tmp_path)


@pytest.mark.parametrize("how", APART)
def test_the_flag_is_that_of_the_mounts_alone_and_takes_nothing_else_away(loop_disks: LoopDisks, how: str) -> None:
    """Also in a container whose root is nobody on the machine, to which each flag of a mount is locked. Its root is an
    overlay; and what lies below another mount is in nobody's way.
    """
    disk, outer = loop_disks.make("disk"), loop_disks.make("with a space")
    strict = loop_disks.bind(disk, "strict")
    loop_disks.mount_other("-o", "remount,bind,nosuid,nodev,noexec,noatime", str(strict))
    overlay, memory, ours = (loop_disks.home / name for name in ("overlay", "memory", "ours"))
    for folder in (overlay, memory, ours, outer.path / "upper", outer.path / "work"):
        folder.mkdir()
    layers = f"lowerdir=/usr,upperdir={outer.path / 'upper'},workdir={outer.path / 'work'}"
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "overlay"], capture_output=True, timeout=BOUND, check=False)
    if "overlay" in Path("/proc/filesystems").read_text():
        loop_disks.mount_other("-t", "overlay", "-o", layers.replace(" ", "\\ "), "overlay", str(overlay))
    for _ in range(2):  # one of them is hidden
        loop_disks.mount_other("-t", "tmpfs", "memory", str(memory))
    before = mounts_below(loop_disks.home)
    said, mounts = apart(ours, how, after="(Path(sys.argv[1]) / 'x').touch()")
    assert said == ""
    assert mounts_below(loop_disks.home) == before
    for line in before:
        fields = line.split()
        if fields[4] == str(memory):
            continue
        options, of_super = mounts[fields[4]]
        assert options == set(fields[5].split(",")) - {"rw"} | {"ro"}
        assert of_super == set(fields[-1].split(","))
        assert "rw" in of_super
    assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= mounts[str(strict)][0]
    assert "ro" in mounts[str(memory)][0]
    assert "ro" in mounts["/"][0]
    assert "rw" in mounts[str(ours)][0]
    assert "rw" in mounts["/proc"][0]
    assert is_writable(disk.path, strict, outer.path, ours)


def test_in_the_namespace_of_the_machine_nothing_is_changed(loop_disks: LoopDisks) -> None:
    """Here it is one that was made to be taken for that."""
    disk = loop_disks.make("disk")
    for machine in ("read_only.namespace()", "''"):
        said, mounts = apart(disk.path, machine=machine)
        assert said == "the verifier has no mount namespace of its own"
        assert "rw" in mounts[str(disk.path)][0]


def test_a_mount_that_stays_writable_ends_it(loop_disks: LoopDisks) -> None:
    """Here because that namespace itself has a file open for writing."""
    disk, ours = loop_disks.make("disk"), loop_disks.home / "ours"
    ours.mkdir()
    said, mounts = apart(ours, before=f"writing = open({str(disk.path / 'file')!r}, 'w')")
    assert said == f"{disk.path} (ext4) cannot be made read-only for the verifier: device or resource busy"
    assert "rw" in mounts[str(disk.path)][0]


def test_a_mount_that_the_machine_takes_away_meanwhile_is_in_nobodys_way(loop_disks: LoopDisks) -> None:
    """Between the look at what is mounted and the remount."""
    disks = [loop_disks.make(name) for name in ("one", "two")]
    ours = loop_disks.home / "ours"
    ours.mkdir()
    before = (
        "import subprocess\n"
        "look, gone = read_only._mounts, []\n"
        "def looked():\n"
        "    seen = list(look())\n"
        "    if not gone:\n"
        "        gone.append(1)\n"
        f"        subprocess.run(['umount', {str(disks[0].path)!r}], check=True)\n"
        "    return seen\n"
        "read_only._mounts = looked\n"
    )
    said, mounts = apart(ours, before=before)
    assert said == ""
    assert str(disks[0].path) not in mounts
    assert "ro" in mounts[str(disks[1].path)][0]


def test_what_lies_over_a_folder_of_the_machine_can_be_written_to(loop_disks: LoopDisks) -> None:
    """As folders of a copy do for a server whose files have the paths of the live ones."""
    disk, ours = loop_disks.make("disk"), loop_disks.home / "ours"
    ours.mkdir()
    script = 'mount --bind "$1" "$2" && touch "$2/file"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(ours), str(disk.path)]
    apart(ours, after=f"import subprocess; subprocess.run({command!r}, check=True)")
    assert os.listdir(ours) == ["file"]
    assert "file" not in os.listdir(disk.path)


def live_images(disk: LoopDisk) -> str:
    return run("losetup", "--noheadings", "--output", "RO", "--associated", str(disk.image)).strip()


def test_the_device_below_stays_writable(loop_disks: LoopDisks) -> None:
    disk, ours = loop_disks.make("disk"), loop_disks.home / "ours"
    ours.mkdir()
    assert live_images(disk) == "0"
    apart(ours)
    assert live_images(disk) == "0"
    assert is_writable(disk.path)
