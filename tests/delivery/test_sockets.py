"""The runtime directory: who may enter, who may not replace it, and the lock."""

from __future__ import annotations

import grp
import os
import socket
import stat
from pathlib import Path

import pytest

from appvss import contract
from appvss.delivery.sockets import RuntimeDirectory, group_id
from appvss.model.errors import ExitCode, LockHeld, RuntimeDirectoryUnusable, SocketPathTooLong

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give things away")
OTHER = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def make_sockets(runtime: RuntimeDirectory) -> list[Path]:
    paths = [runtime.apps_socket, runtime.peer_socket, runtime.admin_socket]
    with runtime.private():
        for path in paths:
            bind(path)
    return [Path(path) for path in paths]


def test_directory_is_made_for_its_owner_and_group_alone(directory: Path) -> None:
    runtime = RuntimeDirectory(directory / "a" / "run", None)
    assert mode(runtime.path) == 0o750
    assert mode(runtime.path / contract.LOCK_FILE) == 0o600
    assert (runtime.path / contract.LOCK_FILE).read_text() == f"{os.getpid()}\n"
    runtime.close()


def test_sockets_are_closed_to_all_until_the_apps_are_let_in(directory: Path) -> None:
    before = os.umask(0o022)
    try:
        runtime = RuntimeDirectory(directory / "run", None)
        sockets = make_sockets(runtime)
        assert [mode(path) for path in sockets] == [0o600] * 3
        runtime.let_apps_in()
        assert [mode(path) for path in sockets] == [0o660, 0o660, 0o600]
        assert os.umask(0o022) == 0o022
        runtime.close()
    finally:
        os.umask(before)


@needs_root
def test_group_may_enter_and_use_the_apps_sockets(directory: Path) -> None:
    runtime = RuntimeDirectory(directory / "run", OTHER)
    sockets = make_sockets(runtime)
    runtime.let_apps_in()
    assert (runtime.path.stat().st_gid, mode(runtime.path)) == (OTHER, 0o750)
    assert [path.stat().st_gid for path in sockets] == [OTHER, OTHER, os.getegid()]
    assert mode(sockets[2]) == 0o600
    runtime.close()


@needs_root
def test_directory_that_holds_other_things_keeps_its_group_and_mode(directory: Path) -> None:
    directory.chmod(0o755)
    (directory / "something").touch()
    runtime = RuntimeDirectory(directory, OTHER)
    assert (directory.stat().st_gid, mode(directory)) == (os.getegid(), 0o755)
    runtime.close()


@needs_root
def test_directory_of_an_earlier_broker_gets_the_present_group(directory: Path) -> None:
    RuntimeDirectory(directory / "run", None).close()
    runtime = RuntimeDirectory(directory / "run", OTHER)
    assert runtime.path.stat().st_gid == OTHER
    runtime.close()


@pytest.mark.parametrize("bits", [0o777, 0o1777, 0o757, 0o770])
def test_directory_that_others_may_write_in_is_refused(directory: Path, bits: int) -> None:
    directory.chmod(bits)
    with pytest.raises(RuntimeDirectoryUnusable, match=f"mode {bits:o}: others could replace the sockets") as caught:
        RuntimeDirectory(directory, None)
    assert caught.value.exit_code is ExitCode.FORBIDDEN
    assert "broker.runtime_directory" in caught.value.hint
    assert not list(directory.iterdir())


@needs_root
def test_directory_of_somebody_else_is_refused(directory: Path) -> None:
    os.chown(directory, OTHER, OTHER)
    with pytest.raises(RuntimeDirectoryUnusable, match=f"belongs to user {OTHER}"):
        RuntimeDirectory(directory, None)


def test_file_in_the_place_of_the_directory(directory: Path) -> None:
    (directory / "run").touch()
    with pytest.raises(RuntimeDirectoryUnusable, match="cannot be used: File exists"):
        RuntimeDirectory(directory / "run", None)
    with pytest.raises(RuntimeDirectoryUnusable, match="cannot be used: Not a directory"):
        RuntimeDirectory(directory / "run" / "below", None)


def test_link_in_the_place_of_the_lock_is_not_followed(directory: Path) -> None:
    (directory / "run").mkdir(0o750)
    (directory / "victim").write_text("precious")
    (directory / "run" / contract.LOCK_FILE).symlink_to(directory / "victim")
    with pytest.raises(RuntimeDirectoryUnusable, match="lock file"):
        RuntimeDirectory(directory / "run", None)
    assert (directory / "victim").read_text() == "precious"


def test_path_too_long(directory: Path) -> None:
    long = directory / ("x" * 100)
    with pytest.raises(SocketPathTooLong, match="bytes, over") as caught:
        RuntimeDirectory(long, None)
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert not long.exists()


def test_longest_path_works(directory: Path) -> None:
    room = contract.SOCKET_PATH_LIMIT - len(str(directory)) - len(contract.PEER_SOCKET) - 2
    runtime = RuntimeDirectory(directory / ("x" * room), None)
    make_sockets(runtime)
    runtime.close()
    with pytest.raises(SocketPathTooLong):
        RuntimeDirectory(directory / ("x" * (room + 1)), None)


def test_whoever_comes_second_touches_nothing(directory: Path) -> None:
    runtime = RuntimeDirectory(directory / "run", None)
    sockets = make_sockets(runtime)
    runtime.let_apps_in()
    before = [path.stat() for path in (*sockets, runtime.path)]
    with pytest.raises(LockHeld, match=rf"another broker \(process {os.getpid()}\) holds") as caught:
        RuntimeDirectory(directory / "run", OTHER)
    assert caught.value.exit_code is ExitCode.ALREADY_RUNNING
    assert [path.stat() for path in (*sockets, runtime.path)] == before
    runtime.close()
    RuntimeDirectory(directory / "run", None).close()


def test_close_takes_the_sockets_away_once(directory: Path) -> None:
    runtime = RuntimeDirectory(directory / "run", None)
    sockets = make_sockets(runtime)
    runtime.close()
    assert not any(path.exists() for path in sockets)
    second = RuntimeDirectory(directory / "run", None)
    kept = make_sockets(second)
    runtime.close()
    assert all(path.exists() for path in kept)
    second.close()


def test_groups() -> None:
    group = grp.getgrall()[0]
    assert group_id(group.gr_name) == group.gr_gid
    assert group_id("") is None
    assert group_id("no-such-group-here") is None
