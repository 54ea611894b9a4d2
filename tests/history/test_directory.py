"""The state directory: who may own it, the lock, and the certificate's file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.history.directory import CERTIFICATE, LOCK_FILE, RESTORED, StateDirectory, is_locked
from appvss.model.certificate import SIZE_LIMIT
from appvss.model.errors import ExitCode, LockHeld, StateDirectoryUnusable
from tests.history.conftest import Open
from tests.history.values import BOUND

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give things away")
SOON = timedelta(milliseconds=40)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_everything_is_for_the_owner_alone(directory: Path, start: Open) -> None:
    before = os.umask(0)
    try:
        start(directory)
        assert mode(directory) == 0o700
        assert {path.name: mode(path) for path in directory.iterdir()} == dict.fromkeys(
            (LOCK_FILE, "history.sqlite", "history.sqlite-wal"), 0o600
        )
    finally:
        os.umask(before)


def test_directory_of_ours_that_is_too_open_to_read_is_closed(directory: Path, start: Open) -> None:
    directory.mkdir(0o755)
    start(directory)
    assert mode(directory) == 0o700


def test_directory_that_holds_other_things_keeps_its_mode(directory: Path, start: Open) -> None:
    directory.mkdir(0o755)
    (directory / "something").touch()
    start(directory)
    assert mode(directory) == 0o755


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o757, 0o770])
def test_directory_that_others_may_write_in_is_refused(directory: Path, start: Open, bits: int) -> None:
    directory.mkdir()
    directory.chmod(bits)
    with pytest.raises(StateDirectoryUnusable, match=f"mode {bits:o}: others could change the journal") as caught:
        start(directory)
    assert caught.value.exit_code is ExitCode.FORBIDDEN
    assert "broker.state_directory" in caught.value.hint
    assert not list(directory.iterdir())


@needs_root
def test_directory_of_somebody_else_is_refused(directory: Path, start: Open) -> None:
    directory.mkdir(0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(StateDirectoryUnusable, match="belongs to user 65534"):
        start(directory)


@pytest.mark.parametrize("place", ["", "below"])
def test_file_in_the_place_of_the_directory_is_refused(directory: Path, start: Open, place: str) -> None:
    directory.touch()
    with pytest.raises(StateDirectoryUnusable, match="is no directory"):
        start(directory / place)


def test_second_broker_is_refused_and_told_who_is_there(directory: Path, start: Open) -> None:
    start(directory)
    before = {path: path.stat() for path in directory.iterdir()}
    with pytest.raises(LockHeld, match=rf"another broker \(process {os.getpid()}\) holds") as caught:
        start(directory)
    assert caught.value.exit_code is ExitCode.ALREADY_RUNNING
    assert {path: path.stat().st_size for path in before} == {path: found.st_size for path, found in before.items()}
    assert is_locked(directory)


def test_lock_goes_with_its_process(directory: Path) -> None:
    code = f"import pathlib; from tests.history.values import opened; opened(pathlib.Path({str(directory)!r})); input()"
    child = subprocess.Popen((sys.executable, "-c", code + "; print(1)"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        place = StateDirectory(directory)
        child.stdin.write(b"\n")  # type: ignore[union-attr] # a pipe was asked for
        child.communicate(timeout=BOUND)
        assert child.returncode == 0
        place.lock(SOON)
        place.close()
    finally:
        child.kill()
        child.wait(BOUND)


def test_lock_is_free_once_it_is_closed_and_may_be_closed_twice(directory: Path) -> None:
    place = StateDirectory(directory)
    place.make()
    assert not is_locked(directory)
    place.lock(SOON)
    assert (directory / LOCK_FILE).read_text() == f"{os.getpid()}\n"
    with pytest.raises(LockHeld):
        StateDirectory(directory).lock(SOON)
    place.close()
    place.close()
    assert not is_locked(directory)
    StateDirectory(directory).lock(SOON)


def test_link_in_the_place_of_the_lock_is_not_followed(directory: Path, start: Open) -> None:
    directory.mkdir()
    (directory.parent / "victim").write_text("precious")
    (directory / LOCK_FILE).symlink_to(directory.parent / "victim")
    assert start(directory).history.state.condition == "in_memory"
    assert (directory.parent / "victim").read_text() == "precious"


def test_certificate_comes_and_goes_as_a_whole(directory: Path) -> None:
    place = StateDirectory(directory)
    place.make()
    assert place.read_certificate() == ""
    place.write_certificate("one")
    place.write_certificate("two")
    assert (place.read_certificate(), mode(directory / CERTIFICATE)) == ("two", 0o600)
    assert sorted(os.listdir(directory)) == [CERTIFICATE]
    place.keep_certificate()
    place.keep_certificate()
    assert (place.read_certificate(), place.read_certificate(RESTORED)) == ("", "two")
    place.write_certificate("three")
    place.remove_certificate()
    place.remove_certificate()
    assert os.listdir(directory) == [RESTORED]


def test_certificate_that_cannot_be_written_leaves_the_one_of_before_and_nothing_else(directory: Path) -> None:
    place = StateDirectory(directory)
    place.make()
    place.write_certificate("one")
    os.mkfifo(directory / f"{CERTIFICATE}.new")
    reader = os.open(directory / f"{CERTIFICATE}.new", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="Invalid argument"):  # a pipe cannot be synced
            place.write_certificate("two")
    finally:
        os.close(reader)
    assert os.listdir(directory) == [CERTIFICATE]
    assert place.read_certificate() == "one"


@pytest.mark.parametrize("kind", ["pipe", "directory", "link", "too long"])
def test_what_is_no_certificate_is_not_read(directory: Path, kind: str) -> None:
    place = StateDirectory(directory)
    place.make()
    path = directory / CERTIFICATE
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/passwd")
        case _:
            path.write_bytes(b"a" * (SIZE_LIMIT + 1))
    assert place.read_certificate() == ""


def test_only_the_newest_damaged_histories_are_kept(directory: Path) -> None:
    place = StateDirectory(directory)
    place.make()
    for number in range(1, 6):
        (directory / "history.sqlite").write_text(str(number))
        (directory / "history.sqlite-wal").write_text(f"log {number}")
        assert place.set_aside().name == f"history.sqlite.corrupt-{number}"
    assert sorted(path.name for path in directory.iterdir()) == [
        f"history.sqlite.corrupt-{number}{suffix}" for number in (3, 4, 5) for suffix in ("", "-wal")
    ]
    assert (directory / "history.sqlite.corrupt-5-wal").read_text() == "log 5"
