"""Where declared paths lie, and whether a freeze holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appvss.freezer.choosing import FilesystemSettings
from appvss.freezer.dependency import Dependencies, Image
from appvss.freezer.lookup import is_missing
from appvss.freezer.mountinfo import read
from appvss.freezer.plan import plan
from appvss.freezer.surroundings import look_around
from appvss.model.filesystem import DeclaredPath, FilesystemChoice, Scope, Unfreezable
from tests.freezer.tables import ROOT, mounted, table
from tests.freezer.test_lookup import with_mount

NAMED = FilesystemChoice(Scope.NAMED, ("/data",))
DECLARED = FilesystemChoice(Scope.DECLARED)
MOUNTS = table(
    ROOT,
    mounted(3, "8:1", "/data"),
    mounted(4, "0:41", "/run", "tmpfs"),
    mounted(5, "8:2", "/usb", "vfat"),
    mounted(6, "0:42", "/merged", "overlay", "rw,upperdir=/data/up"),
    mounted(7, "8:3", "/ro", "ext4", "ro"),
    mounted(8, "8:4", "/boot/efi", "vfat"),
    mounted(9, "0:43", "/net", "nfs4"),
    mounted(10, "8:5", "/image"),
    mounted(11, "0:44", "/proc", "proc"),
    mounted(12, "0:45", "/lost", "overlay", "rw,upperdir=/elsewhere"),
    mounted(13, "0:46", "/program", "fuse.sshfs"),
)
AROUND = Dependencies(
    uppers={"0:42": "8:1"},
    images=(Image(b"/data/image", "8:5", "8:1"),),
    resolved={"/var/db": b"/data/db"},
    missing=frozenset({"/data/not/yet"}),
)


def place(
    path: str,
    choice: FilesystemChoice = NAMED,
    unfreezable: Unfreezable = Unfreezable.LOWER,
    *others: str,
) -> DeclaredPath:
    settings = FilesystemSettings(unfreezable=unfreezable)
    found = plan(choice, (path, *others), MOUNTS, AROUND, settings).places
    assert found is not None
    (only,) = found[path]
    return only


@pytest.mark.parametrize("path", ["/data/db", "/var/db", "/merged/x", "/data", "/data/../data/./db"])
def test_in_the_freeze(path: str) -> None:
    assert place(path) == DeclaredPath(path, "8:1", is_planned=True, is_meant=True)


def test_one_that_does_not_exist_lies_where_it_would_be_made_and_is_told() -> None:
    found = place("/data/not/yet")
    assert (found.is_planned, found.lowers, found.is_there) == (True, False, False)
    assert found.reason == "nothing lies there, as the broker sees it"


@pytest.mark.parametrize(
    ("path", "device", "reason", "lowers"),
    [
        ("/srv/wal", "254:0", "/: the requester does not mean it", True),
        ("/run/x", "0:41", "/run: it lies in memory: no snapshot of a disk has it", False),
        ("/proc/x", "0:44", "/proc: it is the kernel's own and lies on no disk", False),
        ("/ro/x", "8:3", "/ro: it is read-only: there is nothing to freeze", False),
        ("/net/x", "0:43", "/net: it lies on another machine", True),
        ("/program/x", "0:46", "/program: it is served by a program: what that writes to cannot be told", True),
        (
            "/lost/x",
            "",
            "/lost: it is an overlay: what is written to it lies on the file system of its upper directory",
            True,
        ),
        ("relative", "", "nobody can tell where it lies", True),
    ],
)
def test_not_in_the_freeze(path: str, device: str, reason: str, lowers: bool) -> None:
    assert place(path) == DeclaredPath(path, device, reason=reason, lowers=lowers)


def test_an_image_on_a_named_file_system_is_meant_and_not_frozen() -> None:
    found = place("/image/db")
    assert (found.is_meant, found.is_planned, found.lowers) == (True, False, True)


@pytest.mark.parametrize(("unfreezable", "lowers"), [(Unfreezable.LOWER, True), (Unfreezable.REPORT, False)])
def test_what_has_no_freeze_is_as_the_administrator_says(unfreezable: Unfreezable, lowers: bool) -> None:
    found = place("/usb/db", DECLARED, unfreezable)
    assert (found.device, found.is_meant, found.is_planned, found.lowers) == ("8:2", True, False, lowers)
    assert found.reason == "/usb: it is of a kind that has no freeze"


def test_what_is_excluded_lowers() -> None:
    found = place("/boot/efi/x", DECLARED)
    assert (found.reason, found.lowers) == ("/boot/efi: the configuration excludes /boot/efi", True)


def test_what_the_requester_spares_is_told_apart() -> None:
    spared = place("/srv/wal", FilesystemChoice(Scope.DECLARED, spares_root=True), Unfreezable.LOWER, "/data/db")
    assert (spared.is_planned, spared.lowers, spared.is_spared) == (False, True, True)
    assert spared.reason == "/: `/` lies on it, and its requester leaves that out"
    assert not place("/srv/wal", DECLARED).is_spared


def test_nothing_lies_where_no_mount_is() -> None:
    found = plan(NAMED, ("/x",), table(mounted(3, "8:1", "/data", parent=1)), Dependencies(), FilesystemSettings())
    assert found.places == {"/x": (DeclaredPath("/x", "", reason="nobody can tell where it lies", lowers=True),)}


# -- what is mounted below


def below(path: str, choice: FilesystemChoice, unfreezable: Unfreezable = Unfreezable.LOWER) -> list[DeclaredPath]:
    found = plan(choice, (path,), MOUNTS, AROUND, FilesystemSettings(unfreezable=unfreezable)).places
    assert found is not None
    return list(found[path][1:])


def test_what_is_mounted_below_a_declared_folder_belongs_to_it() -> None:
    frozen = plan(DECLARED, ("/",), MOUNTS, AROUND, FilesystemSettings())
    assert {target.path for target in frozen.targets} == {b"/", b"/data", b"/image"}
    found = {place.path: (place.is_planned, place.lowers) for place in below("/", DECLARED)}
    # Not what lies in memory, is read-only, or is excluded.
    assert found == {
        "/data": (True, False),
        "/merged": (True, False),  # its upper directory lies on /data
        "/image": (True, False),
        "/usb": (False, True),
        "/net": (False, True),
        "/lost": (False, True),
        "/program": (False, True),
    }


def test_a_named_file_system_below_a_declared_folder_is_meant_by_the_app() -> None:
    (data, *others) = below("/", NAMED)
    assert (data.path, data.is_planned, data.is_meant) == ("/data", True, True)
    assert [place.path for place in others if not place.lowers] == ["/merged"]


@pytest.mark.parametrize("path", ["/dat", "/data", "/data/db", "/image/x"])
def test_what_only_begins_alike_or_lies_above_is_not_below(path: str) -> None:
    assert below(path, DECLARED) == []


def test_the_same_file_system_below_itself_is_told_once() -> None:
    mounts = table(ROOT, mounted(3, "8:1", "/data"), mounted(4, "8:1", "/data/again", parent=3))
    found = plan(DECLARED, ("/data",), mounts, Dependencies(), FilesystemSettings()).places
    assert found == {"/data": (DeclaredPath("/data", "8:1", is_planned=True, is_meant=True),)}


def test_what_is_hidden_below_a_folder_is_out_of_its_reach() -> None:
    mounts = table(
        ROOT, mounted(3, "8:1", "/data"), mounted(4, "8:2", "/data/wal", parent=3), mounted(5, "8:3", "/data")
    )
    found = plan(NAMED, ("/data",), mounts, Dependencies(), FilesystemSettings()).places
    assert found is not None
    assert [place.device for place in found["/data"]] == ["8:3"]


# -- what is there


def test_what_is_missing_is_seen_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    paths = {name: str(tmp_path / name) for name in ("there", "gone", "there/below", "dangling")}
    around = look_around(read(), paths.values(), {})
    assert around.missing == {paths["gone"], paths["there/below"], paths["dangling"]}


def test_nobody_looks_in_what_may_hang_or_is_no_path(tmp_path: Path) -> None:
    home = os.fsencode(os.path.realpath(tmp_path))
    assert is_missing(home + b"/gone", table(ROOT))
    assert not is_missing(home + b"/gone", with_mount(Path(os.fsdecode(home)), "nfs4"))
    assert not is_missing(home + b"/\0", table(ROOT))
