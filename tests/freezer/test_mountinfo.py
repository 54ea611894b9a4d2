"""The mount table is read as the kernel means it, and an odd line is told and never fatal."""

from __future__ import annotations

from pathlib import PosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.freezer.mountinfo import Mount, MountTable, parse, read, shown, unescaped
from tests.freezer.tables import ROOT, escaped, mounted, table

MAN_PAGE = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"


def test_every_field_of_a_line() -> None:
    assert parse(MAN_PAGE + b"\n").mounts == (
        Mount(
            mount_id=36,
            parent_id=35,
            device="98:0",
            root=b"/mnt1",
            path=b"/mnt2",
            is_deleted=False,
            options=("rw", "noatime"),
            type="ext3",
            source=b"/dev/root",
            super_options=(b"rw", b"errors=continue"),
        ),
    )


@pytest.mark.parametrize(
    "optional", ["", "shared:1 ", "shared:1 master:2 ", "master:1 propagate_from:2 unbindable ", "some new:field "]
)
def test_there_may_be_any_number_of_optional_fields(optional: str) -> None:
    (mount,) = table(f"3 2 8:1 / /a rw {optional}- xfs /dev/sda1 rw").mounts
    assert (mount.path, mount.type, mount.source) == (b"/a", "xfs", b"/dev/sda1")


@pytest.mark.parametrize(
    ("options", "super_options", "is_read_only"),
    [
        ("ro", "rw", False),  # a read-only bind mount: others may write
        ("rw", "ro", True),
        ("rw", "rw,errors=remount-ro", False),  # the C daemon of musl took this for read-only (facts, section 4.2)
        ("rw", "ro,errors=continue", True),
    ],
)
def test_only_the_super_block_says_that_nobody_can_write(options: str, super_options: str, is_read_only: bool) -> None:
    (mount,) = table(f"3 2 8:1 / /a {options} - ext4 /dev/sda1 {super_options}").mounts
    assert mount.is_read_only is is_read_only


def test_an_option_of_the_super_block_has_a_value() -> None:
    (mount,) = table(r"3 2 0:50 / /a rw - overlay overlay rw,lowerdir=/l,upperdir=/u\040p\054x,workdir=/w").mounts
    assert mount.super_option("upperdir") == b"/u p,x"
    assert mount.super_option("index") is None


@pytest.mark.parametrize(
    ("line", "source"),
    [
        (b"3 2 0:50 / /a rw -  tmpfs  rw", None),
        (b"3 2 0:50 / /a rw - tmpfs  rw", b""),
        (b"3 2 0:50 / /a rw - tmpfs none rw", b"none"),
        (rb"3 2 0:50 / /a rw - cifs //server/my\040share rw", b"//server/my share"),
    ],
)
def test_a_source_may_be_empty(line: bytes, source: bytes | None) -> None:
    found = parse(line)
    assert [mount.source for mount in found.mounts] == ([] if source is None else [source])
    assert len(found.unreadable) == (source is None)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b" ",
        b"\xff\xfe",
        b"3 2 8:1 / /a rw",
        b"3 2 8:1 / /a - ext4 /dev/sda1 rw",
        b"3 2 8:1 / /a rw - ext4 /dev/sda1",
        b"x 2 8:1 / /a rw - ext4 /dev/sda1 rw",
        b"3 y 8:1 / /a rw - ext4 /dev/sda1 rw",
        b"3 2 8 / /a rw - ext4 /dev/sda1 rw",
        b"3 2 8:\xff / /a rw - ext4 /dev/sda1 rw",
        b"3 2 8:1 / a rw - ext4 /dev/sda1 rw",
        b"3 2 8:1  /a rw - ext4 /dev/sda1 rw",
        b"3 2 8:1 / /a rw -  /dev/sda1 rw",
        b"3 2 8:1 / /a rw - ext4 /dev/with a space rw",
    ],
)
def test_an_odd_line_is_told_and_the_others_are_read(line: bytes) -> None:
    found = parse(MAN_PAGE + b"\n" + line + b"\n" + MAN_PAGE)
    assert found.unreadable == (shown(line),)
    assert len(found.mounts) == 2


def test_escapes_are_decoded_once() -> None:
    assert unescaped(rb"\040\011\012\134\043\377") == b" \t\n\\#\xff"
    assert unescaped(rb"\134040") == rb"\040"
    assert unescaped(rb"\48\9\400") == rb"\48\9\400"


@given(st.binary(max_size=40).map(lambda name: b"/" + name.replace(b"\0", b"").replace(b"/", b"")))
def test_every_name_of_a_directory_comes_back(path: bytes) -> None:
    found = parse(b"3 2 8:1 " + escaped(path) + b" " + escaped(path) + b" rw - ext4 /dev/x rw\n")
    assert [(mount.path, mount.root) for mount in found.mounts] == [(path, path)]


@given(st.lists(st.binary(max_size=60)))
def test_nothing_at_all_is_fatal(lines: list[bytes]) -> None:
    found = parse(b"\n".join(lines))
    assert len(found.mounts) + len(found.unreadable) == sum(1 for line in b"\n".join(lines).split(b"\n") if line)


@given(st.binary(max_size=30))
def test_what_is_shown_can_be_printed(path: bytes) -> None:
    assert shown(path).isprintable()


def test_a_path_is_shown_as_it_is_where_it_can_be() -> None:
    assert shown("/srv/größe x".encode()) == "/srv/größe x"
    assert shown(b"/a\nb\x1b[2J\xff") == r"/a\nb\x1b[2J\xff"


def where(mounts: MountTable, path: str) -> list[int]:
    return [mount.mount_id for mount in mounts.way_to(path.encode())]


def test_a_path_passes_through_mounts_to_the_one_that_carries_it() -> None:
    mounts = table(ROOT, mounted(3, "8:1", "/var"), mounted(4, "8:2", "/var/lib", parent=3), mounted(5, "8:3", "/v"))
    assert where(mounts, "/") == [2]
    assert where(mounts, "/etc/x") == [2]
    assert where(mounts, "/var") == [2, 3]
    assert where(mounts, "/variable") == [2]
    assert where(mounts, "/var/lib/x/y") == [2, 3, 4]


def test_what_another_mount_lies_on_is_hidden() -> None:
    mounts = table(
        "1 1 0:1 / / rw - rootfs rootfs rw",  # as old kernels list it, under the real root
        ROOT,
        mounted(3, "8:1", "/a"),
        mounted(4, "8:2", "/a", parent=3),  # on the same place
        mounted(5, "8:3", "/b/c"),
        mounted(6, "8:4", "/b"),  # on a directory above
        mounted(7, "8:5", "/b/c", parent=6),  # and there the same name once more
    )
    assert where(mounts, "/a/x") == [1, 2, 3, 4]
    assert where(mounts, "/b/c") == [1, 2, 6, 7]
    assert [mount.mount_id for mount in mounts.mounts if mounts.is_hidden(mount)] == [1, 3, 5]


def test_no_path_leads_to_a_deleted_mount_point() -> None:
    mounts = table(ROOT, "3 2 8:1 / /a//deleted rw - ext4 /dev/x rw", "4 2 8:2 /gone//deleted /b rw - ext4 /dev/y rw")
    _, deleted, bound = mounts.mounts
    assert (deleted.path, deleted.is_deleted, mounts.is_hidden(deleted)) == (b"/a", True, True)
    assert (bound.path, bound.is_deleted, mounts.is_hidden(bound)) == (b"/b", False, False)
    assert where(mounts, "/a") == [2]


def test_without_a_root_mount_only_what_is_mounted_carries_anything() -> None:
    mounts = table(mounted(3, "8:1", "/proc", parent=900))  # in a chroot that is no mount point
    assert mounts.carrying(b"/etc") is None
    assert where(mounts, "/proc/self") == [3]
    assert MountTable().carrying(b"/") is None


def test_mounts_that_claim_to_lie_on_each_other_end() -> None:
    mounts = table(mounted(3, "8:1", "/", parent=4), mounted(4, "8:2", "/", parent=3))
    assert where(mounts, "/") == []
    assert all(mounts.is_hidden(mount) for mount in mounts.mounts)


def test_the_table_of_this_machine_is_read_whole() -> None:
    mounts = read()
    assert mounts.unreadable == ()
    assert mounts.carrying(b"/") is not None
    assert all(mount.super_options for mount in mounts.mounts)


class Looks(PosixPath):
    """A file with another content at each look."""

    contents: list[bytes]

    def read_bytes(self) -> bytes:
        return self.contents.pop(0)


def test_a_table_that_changes_is_read_until_it_is_the_same_twice() -> None:
    looks = Looks("/proc/self/mountinfo")
    looks.contents = [b"", MAN_PAGE, MAN_PAGE, b"never seen"]
    assert len(read(looks).mounts) == 1
    assert looks.contents == [b"never seen"]


def test_a_table_that_never_stays_the_same_is_taken_as_it_was_last() -> None:
    looks = Looks("/proc/self/mountinfo")
    looks.contents = [MAN_PAGE * 0, *(b"x" * count for count in range(1, 20))]
    assert len(read(looks).unreadable) == 1
    assert looks.contents
