"""Mounting and unmounting, the lock, stale mounts, and machines on which it is not possible."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.fuse import mount

AS_NOBODY = """\
import os, sys
from pathlib import Path
from appvss.model.errors import SimulatorUnavailable
from appvss.simulator.fuse import mount
folder = Path(sys.argv[1])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.environ["PATH"] = "/nowhere"
try:
    mount.mount(folder)
except SimulatorUnavailable as error:
    print(error.sentence, error.hint, sep="|")
"""
MOUNT_AND_DIE = """\
import sys
from pathlib import Path
from appvss.simulator.fuse import mount
mount.mount(Path(sys.argv[1]))
"""


def mounts_at(folder: Path) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line for line in file if line.split()[4] == str(folder)]


@pytest.fixture
def lock(folder: Path) -> mount.FolderLock:
    return mount.FolderLock(folder)


def test_the_lock_is_for_one(folder: Path, lock: mount.FolderLock) -> None:
    lock.take()
    assert lock.folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(SimulatorUnavailable, match="another simulator serves") as refusal:
        mount.FolderLock(folder).take()
    assert str(folder) in refusal.value.sentence
    lock.release()
    assert not lock.folder.exists()
    lock.take()
    lock.release()


def test_the_lock_is_for_one_however_often_it_changes_hands(folder: Path) -> None:
    """Each release removes the file under the others' hands; nobody may end up with a lock on a removed file."""
    holders: list[mount.FolderLock] = []
    most = 0

    def take_and_release() -> None:
        nonlocal most
        for _ in range(300):
            lock = mount.FolderLock(folder)
            try:
                lock.take()
            except SimulatorUnavailable:
                continue
            holders.append(lock)
            most = max(most, len(holders))
            holders.remove(lock)
            lock.release()

    threads = [threading.Thread(target=take_and_release) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not mount.control_folder(folder).exists()


def test_the_lock_folder_that_cannot_be_made(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(SimulatorUnavailable, match="cannot be used"):
        mount.FolderLock(folder / "below").take()


def test_the_lock_folder_of_somebody_else(lock: mount.FolderLock) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    lock.folder.mkdir()
    os.chown(lock.folder, 65534, 65534)
    with pytest.raises(SimulatorUnavailable, match="belongs to somebody else"):
        lock.take()


def test_a_lock_file_that_is_a_link_is_refused(folder: Path, lock: mount.FolderLock) -> None:
    lock.folder.mkdir()
    (lock.folder / "lock").symlink_to(folder.with_name("target"))
    with pytest.raises(SimulatorUnavailable):
        lock.take()
    assert not folder.with_name("target").exists()


def test_a_lock_folder_that_is_a_link_is_refused_and_its_target_left_alone(
    folder: Path, lock: mount.FolderLock
) -> None:
    target = folder.with_name("target")
    target.mkdir(mode=0o755)
    lock.folder.symlink_to(target)
    with pytest.raises(SimulatorUnavailable):
        lock.take()
    assert target.stat().st_mode & 0o777 == 0o755
    assert list(target.iterdir()) == []


def test_a_folder_that_is_a_link_is_refused(folder: Path) -> None:
    folder.symlink_to(folder.parent)
    with pytest.raises(SimulatorUnavailable, match="symbolic link"):
        mount.mount(folder)


@pytest.mark.usefixtures("requires_fuse")
def test_a_mount_comes_and_goes(folder: Path) -> None:
    descriptor = mount.mount(folder)
    try:
        assert len(mounts_at(folder)) == 1
        assert mount.FUSE_TYPE in mounts_at(folder)[0]
        assert not os.get_blocking(descriptor)
        assert not os.get_inheritable(descriptor)
    finally:
        mount.unmount(folder)
        os.close(descriptor)
    assert mounts_at(folder) == []
    assert list(folder.iterdir()) == []
    mount.unmount(folder)


@pytest.mark.usefixtures("requires_fuse")
def test_a_stale_mount_is_cleaned_away(folder: Path) -> None:
    leave_a_dead_mount(folder)
    assert len(mounts_at(folder)) == 1
    with pytest.raises(OSError, match=r".") as state:
        os.listdir(folder)
    assert state.value.errno == errno.ENOTCONN
    descriptor = mount.mount(folder)
    assert len(mounts_at(folder)) == 1
    mount.unmount(folder)
    os.close(descriptor)
    assert mounts_at(folder) == []


def leave_a_dead_mount(folder: Path) -> None:
    """What a simulator leaves that was killed: a mount whose descriptor is closed."""
    subprocess.run([sys.executable, "-c", MOUNT_AND_DIE, str(folder)], timeout=60, check=True)


def test_a_folder_that_is_not_empty_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "file").touch()
    with pytest.raises(SimulatorUnavailable, match="is not empty"):
        mount.mount(folder)
    assert mounts_at(folder) == []


def test_a_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(SimulatorUnavailable, match="cannot be used"):
        mount.mount(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become nobody")
def test_without_rights_one_sentence_and_a_hint(folder: Path) -> None:
    folder.mkdir(mode=0o777)
    folder.parent.chmod(0o755)
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(folder)], capture_output=True, text=True, timeout=60, check=True
    )
    sentence, hint = result.stdout.strip().split("|")
    assert str(folder) in sentence
    assert "root" in hint
    assert "fusermount3" in hint


@pytest.mark.usefixtures("requires_fuse")
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="fusermount3 is not installed")
def test_fusermount_mounts_too(folder: Path) -> None:
    folder.mkdir()
    descriptor = mount._mount_by_fusermount(folder)
    assert mount.FUSE_TYPE in mounts_at(folder)[0]
    assert not os.get_blocking(descriptor)
    assert not os.get_inheritable(descriptor)
    mount.unmount(folder)
    os.close(descriptor)


def test_a_path_is_resolved_but_for_its_last_part(folder: Path) -> None:
    folder.mkdir()
    link = folder.with_name("link")
    link.symlink_to(folder.parent)
    assert mount.resolve(link / "dev") == folder
    assert mount.resolve(folder / ".." / "dev") == folder
    assert mount.control_folder(folder) == folder.with_name("dev.control")
