"""A path is followed through its links, and never into what may hang."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appvss.freezer.lookup import answers, resolve
from appvss.freezer.mountinfo import MountTable
from tests.freezer.tables import ROOT, escaped, mounted, table


def with_mount(path: Path, type_: str) -> MountTable:
    """A table in which something is mounted there."""
    return table(ROOT, mounted(3, "0:77", escaped(os.fsencode(path)).decode(), type_))


def test_links_are_followed_and_what_is_not_there_is_kept(tmp_path: Path) -> None:
    home = Path(os.path.realpath(tmp_path))
    (home / "a").mkdir()
    (home / "absolute").symlink_to(home / "a")
    (home / "relative").symlink_to("absolute/../a/./")
    (home / "chain").symlink_to("relative")
    plain = os.fsencode(home)
    for path in ("chain", "relative/", "absolute", "./a//", "missing/../a"):
        assert resolve(plain + b"/" + path.encode(), table(ROOT)) == plain + b"/a"
    assert resolve(plain + b"/chain/no/such", table(ROOT)) == plain + b"/a/no/such"
    assert resolve(plain + b"/chain\0x", table(ROOT)) == plain + b"/chain\0x"
    assert resolve(b"/../..", table(ROOT)) == b"/"


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert resolve(os.fsencode(tmp_path / "a" / "x"), table(ROOT)).endswith((b"/a/x", b"/b/x"))


@pytest.mark.parametrize("type_", ["nfs4", "fuse.sshfs", "fuseblk", "autofs", "9p"])
def test_nothing_is_looked_up_in_what_may_hang(tmp_path: Path, type_: str) -> None:
    home = Path(os.path.realpath(tmp_path))
    (home / "net").mkdir()
    (home / "net" / "link").symlink_to("/etc")
    (home / "way").symlink_to("net/link/../x")
    mounts = with_mount(home / "net", type_)
    assert resolve(os.fsencode(home / "net" / "link" / "x"), mounts) == os.fsencode(home / "net" / "link" / "x")
    assert resolve(os.fsencode(home / "way"), mounts) == os.fsencode(home / "net" / "x")
    assert not answers(os.fsencode(home / "net" / "x"), mounts)
    assert answers(os.fsencode(home), mounts)


@pytest.mark.parametrize("type_", ["tmpfs", "ext4", "overlay", "vfat"])
def test_what_answers_at_once_is_looked_up(tmp_path: Path, type_: str) -> None:
    home = Path(os.path.realpath(tmp_path))
    (home / "disk").mkdir()
    (home / "disk" / "link").symlink_to("/etc")
    assert resolve(os.fsencode(home / "disk" / "link" / "x"), with_mount(home / "disk", type_)) == b"/etc/x"


def test_without_a_root_nothing_is_looked_up(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    assert resolve(os.fsencode(tmp_path / "link"), MountTable()) == os.fsencode(tmp_path / "link")
    assert not answers(b"/", MountTable())
