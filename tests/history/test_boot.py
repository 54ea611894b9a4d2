"""The boot's identity: the same for all processes of a boot, of no other boot, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from appvss.history.boot import boot_identity, is_known


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.skipif(not Path("/proc/sys/kernel/random/boot_id").exists(), reason="only Linux has /proc")
def test_linux_says_its_own_and_the_same_each_time() -> None:
    assert boot_identity() == boot_identity() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert is_known(boot_identity())


def test_freebsd_has_sixteen_bytes(tmp_path: Path) -> None:
    sysctl = program(tmp_path / "sysctl", '[ "$*" = "-b kern.boot_id" ] && printf "0123456789abcdef"')
    found = boot_identity("freebsd14", sysctl=sysctl)
    assert found == b"0123456789abcdef".hex()
    assert is_known(found)


@pytest.mark.parametrize("script", ["exit 1", "printf short", "true", "printf 0123456789abcdef; exit 1"])
def test_freebsd_without_an_identity_is_another_boot_each_time(tmp_path: Path, script: str) -> None:
    sysctl = program(tmp_path / "sysctl", script)
    one, other = (boot_identity("freebsd12", sysctl=sysctl) for _ in range(2))
    assert one != other
    assert not is_known(one)
    assert one.startswith("unknown")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_linux_without_proc_is_another_boot_each_time(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "boot_id").write_bytes(content)
    one, other = (boot_identity("linux", tmp_path / "boot_id") for _ in range(2))
    assert one != other
    assert not is_known(one)


def test_no_program_and_no_system_that_is_known(tmp_path: Path) -> None:
    assert not is_known(boot_identity("freebsd14", sysctl=str(tmp_path / "none")))
    assert not is_known(boot_identity("sunos5"))
    assert not is_known("")
