"""The broker's places: real directories, sockets, locks and mounts."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.cli.preflight import devices, mounts, places
from appvss.cli.preflight.finding import Daemon, Finding, Grade, Plan

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these look at Linux's /proc")
NO_PROCESS = 4194400


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="av", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def plan(directory: Path, **fields: object) -> Plan:
    values: dict[str, object] = {
        "runtime_directory": directory,
        "state_directory": directory / "state",
        "socket_group": "",
        "app_limit": 10,
        "device": directory / "device",
        "device_mode": "automatic",
        "hold_limit": timedelta(seconds=60),
        "origin": "",
    }
    return Plan(**{**values, **fields})  # type: ignore[arg-type]  # as a test writes it


def daemon(**fields: object) -> Daemon:
    return Daemon(**{"pid": os.getpid(), "uid": os.geteuid(), **fields})  # type: ignore[arg-type]


def only(findings: Iterator[Finding], check: str) -> Finding:
    (found,) = [one for one in findings if one.check == check]
    assert (found.hint == "") is (found.grade is Grade.OK)
    return found


def test_a_runtime_directory_that_is_not_there_is_made_by_the_broker(directory: Path) -> None:
    found = only(places.runtime_directory(plan(directory / "run"), None), "runtime_directory")
    assert (found.grade, found.sentence.endswith("the broker makes it")) == (Grade.OK, True)


def test_a_runtime_directory_in_which_everybody_may_write(directory: Path) -> None:
    directory.chmod(0o777)
    found = only(places.runtime_directory(plan(directory), None), "runtime_directory")
    assert found.grade is Grade.PROBLEM
    assert "mode 777: others could replace the sockets" in found.sentence


def test_a_runtime_directory_that_is_a_file(directory: Path) -> None:
    (directory / "run").write_text("")
    (found,) = places.runtime_directory(plan(directory / "run"), None)
    assert (found.grade, found.sentence) == (Grade.PROBLEM, f"{directory}/run is no directory")


def make_sockets(directory: Path, apps: int = 0o660, admin: int = 0o600) -> list[socket.socket]:
    made = []
    for name, mode in (("apps.sock", apps), ("apps.peer.sock", apps), ("admin.sock", admin)):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / name))
        (directory / name).chmod(mode)
        made.append(listener)
    return made


def test_sockets_as_the_broker_makes_them(directory: Path) -> None:
    made = make_sockets(directory)
    assert {one.grade for one in places.sockets(plan(directory), daemon())} == {Grade.OK}
    for listener in made:
        listener.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: (path / "admin.sock").chmod(0o666), "admin.sock has mode 666: more than 600"),
        (lambda path: (path / "apps.sock").chmod(0o777), "apps.sock has mode 777: more than 660"),
        (lambda path: (path / "apps.peer.sock").unlink(), "apps.peer.sock is not there"),
        (lambda path: ((path / "apps.sock").unlink(), (path / "apps.sock").write_text("")), "apps.sock is no socket"),
    ],
)
def test_one_socket_that_is_not_as_it_should_be(directory: Path, change, sentence: str) -> None:
    made = make_sockets(directory)
    change(directory)
    (found,) = [one for one in places.sockets(plan(directory), daemon()) if one.grade is Grade.PROBLEM]
    assert sentence in found.sentence
    for listener in made:
        listener.close()


def test_sockets_that_the_groups_members_may_not_use(directory: Path) -> None:
    made = make_sockets(directory, apps=0o600)
    found = [one for one in places.sockets(plan(directory, socket_group="root"), daemon()) if one.grade != Grade.OK]
    assert len(found) == 2
    assert "members of root cannot take part" in found[0].sentence
    for listener in made:
        listener.close()


def test_sockets_of_another_user(directory: Path) -> None:
    made = make_sockets(directory)
    found = list(places.sockets(plan(directory), daemon(uid=os.geteuid() + 1)))
    assert {one.grade for one in found} == {Grade.PROBLEM}
    for listener in made:
        listener.close()


def test_a_lock_that_nobody_holds_whatever_number_stands_in_it(directory: Path) -> None:
    path = directory / "broker.lock"
    assert places.lock(path, None).grade is Grade.OK
    path.write_text(f"{os.getpid()}\n")
    assert places.lock(path, None).grade is Grade.OK


def test_a_lock_that_is_held(directory: Path) -> None:
    path = directory / "broker.lock"
    path.write_text(f"{os.getpid()}\n")
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert places.lock(path, daemon()).grade is Grade.OK
        foreign = places.lock(path, daemon(pid=NO_PROCESS))
        assert (foreign.grade, f"held by process {os.getpid()}" in foreign.sentence) == (Grade.PROBLEM, True)
        assert places.lock(path, None).grade is Grade.PROBLEM
    assert places.lock(path, daemon(pid=NO_PROCESS)).grade is Grade.PROBLEM


def test_a_group_that_is_not_there_and_one_that_is(directory: Path) -> None:
    assert places.socket_group(plan(directory)).grade is Grade.OK
    assert places.socket_group(plan(directory, socket_group="root")).grade is Grade.OK
    found = places.socket_group(plan(directory, socket_group="no-such-group"))
    assert (found.grade, "groupadd --system no-such-group" in found.hint) == (Grade.WARNING, True)


def test_a_state_directory_of_its_own(directory: Path) -> None:
    directory.chmod(0o700)
    assert only(places.state_directory(directory, None), "state_directory").grade is Grade.OK
    assert only(places.state_directory(directory, None), "state_space").grade is Grade.OK


@pytest.mark.parametrize(("mode", "grade"), [(0o770, Grade.PROBLEM), (0o702, Grade.PROBLEM), (0o755, Grade.WARNING)])
def test_a_state_directory_that_is_open_to_others(directory: Path, mode: int, grade: Grade) -> None:
    directory.chmod(mode)
    found = only(places.state_directory(directory, None), "state_directory")
    assert (found.grade, f"mode {mode:o}" in found.sentence) == (grade, True)


def test_a_state_directory_of_another_user(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give something away")
    directory.chmod(0o700)
    os.chown(directory, 12345, 12345)
    found = only(places.state_directory(directory, None), "state_directory")
    assert (found.grade, "belongs to user 12345" in found.sentence) == (Grade.PROBLEM, True)
    assert only(places.state_directory(directory, daemon(uid=12345)), "state_directory").grade is Grade.OK


def test_a_state_directory_that_is_none(directory: Path) -> None:
    path = directory / "state"
    found = only(places.state_directory(path, None), "state_directory")
    assert (found.grade, "not there yet" in found.sentence) == (Grade.OK, True)
    path.write_text("")
    (one,) = places.state_directory(path, None)
    assert (one.grade, one.sentence) == (Grade.PROBLEM, f"{path} is no directory")
    path.unlink()
    path.symlink_to(directory / "nowhere")
    (one,) = places.state_directory(path, None)
    assert one.grade is Grade.PROBLEM


@pytest.fixture
def memory() -> Iterator[Path]:
    """A small file system in memory, mounted for one test."""
    path = Path(tempfile.mkdtemp(prefix="av", dir="/tmp"))
    mount = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=512k,mode=700", "appvss-test", str(path)), capture_output=True, check=False
    )
    if mount.returncode:
        path.rmdir()
        pytest.skip("this user may not mount")
    try:
        yield path
    finally:
        subprocess.run(("umount", str(path)), check=True)
        path.rmdir()


def test_a_state_directory_in_memory_on_a_full_disk_that_is_then_read_only(memory: Path) -> None:
    found = only(places.state_directory(memory, None), "state_file_system")
    assert (found.grade, f"tmpfs on {memory}" in found.sentence) == (Grade.WARNING, True)
    found = only(places.state_directory(memory, None), "state_space")
    assert (found.grade, "is full: 512.0 KiB free" in found.sentence) == (Grade.PROBLEM, True)
    subprocess.run(("mount", "-o", "remount,ro", str(memory)), check=True)
    found = only(places.state_directory(memory, None), "state_space")
    assert (found.grade, "is read-only" in found.sentence) == (Grade.PROBLEM, True)
    other = memory / "not" / "there"
    assert mounts.mount_of(other) == mounts.Mount(str(memory), "tmpfs")


def test_every_path_is_on_some_file_system() -> None:
    root = mounts.mount_of(Path("/no/such/path"))
    assert root is not None
    assert root.point == "/"
    proc = mounts.mount_of(Path("/proc/self"))
    assert proc is not None
    assert proc.kind == "proc"


def test_a_device_that_is_not_there(directory: Path) -> None:
    assert devices.device(plan(directory), None).grade is Grade.OK
    assert devices.device(plan(directory, device_mode="off"), None).sentence == "sources.freebsd is off, as configured"
    found = devices.device(plan(directory, device_mode="required"), None)
    assert (found.grade, "the broker does not start" in found.sentence) == (Grade.PROBLEM, True)


def test_a_device_is_never_opened_and_its_holder_is_named(directory: Path) -> None:
    device = directory / "device"
    os.mkfifo(device)  # an open of it would hang
    assert devices.device(plan(directory), None).grade is Grade.OK
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os,sys; os.open(sys.argv[1], os.O_RDWR); print(flush=True); sys.stdin.read()",
            device,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        found = devices.device(plan(directory), None)
        assert (found.grade, f"held by process {holder.pid} (" in found.sentence) == (Grade.PROBLEM, True)
        assert devices.device(plan(directory), daemon(pid=holder.pid)).grade is Grade.OK
        assert devices.device(plan(directory), daemon()).grade is Grade.OK  # a child of the broker
        found = devices.device(plan(directory), daemon(device="/dev/the_served_one"))
        assert (found.grade, found.sentence) == (Grade.OK, "the broker has /dev/the_served_one open and serves it")
    finally:
        holder.communicate(b"")


def test_a_device_that_is_a_folder_or_that_this_user_may_not_open(directory: Path) -> None:
    (directory / "device").mkdir()
    assert devices.device(plan(directory), None).sentence == f"{directory}/device is no device"


def test_what_freebsds_fstat_says() -> None:
    text = (
        "USER     CMD          PID   FD MOUNT      INUM MODE         SZ|DV R/W NAME\n"
        "root     hv_vss_daem   812    3 /dev         71 crw-r-----  hv_appvss_dev r  /dev/hv_appvss_dev\n"
        "garbage\n"
    )
    assert list(devices.in_fstat(text)) == [(812, "process 812 (hv_vss_daem)")]
    assert list(devices.in_fstat("")) == []


def test_what_freebsds_mount_says() -> None:
    text = "/dev/da0p2\t/\tufs\trw\t1 1\ntmpfs\t/tmp\ttmpfs\trw\t0 0\nshort\n"
    assert mounts.in_mount(text) == [mounts.Mount("/", "ufs"), mounts.Mount("/tmp", "tmpfs")]
    assert mounts.Mount("/srv", "nfs").is_remote
