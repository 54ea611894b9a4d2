"""What real file systems on real loop devices look like, and what is planned for them. None of them is frozen here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appvss.freezer.cautions import CautionKind
from appvss.freezer.plan import FilesystemSettings, Plan, plan
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, Scope
from tests.freezer.namespace import Seen, look_inside, why_not
from tests.freezer.tables import paths

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())
needs_xfs = pytest.mark.skipif(bool(why_not("mkfs.xfs")), reason=why_not("mkfs.xfs"))
needs_btrfs = pytest.mark.skipif(bool(why_not("mkfs.btrfs", "btrfs")), reason=why_not("mkfs.btrfs", "btrfs"))


def planned(seen: Seen, *names: str) -> Plan:
    """The plan for what is named below the home."""
    choice = FilesystemChoice(Scope.NAMED, tuple(os.fsdecode(seen.path(name)) for name in names))
    return plan(choice, (), seen.mounts, seen.dependencies, FilesystemSettings())


def order(seen: Seen, found: Plan) -> list[list[str]]:
    """Its waves, as names below the home."""
    return [[os.fsdecode(path.removeprefix(seen.home + b"/")) for path in paths(wave)] for wave in found.waves]


@needs_xfs
@needs_btrfs
def test_all_three_kinds_are_found_with_what_carries_them(tmp_path: Path) -> None:
    script = "ext4 e; xfs x; btrfs_ b; mount -o loop e E; mount -o loop x X; mount -o loop b B"
    seen = look_inside(tmp_path, script)
    found = planned(seen, "E", "X", "B")
    assert [(target.type, target.source.startswith("/dev/loop")) for target in found.targets] == [
        ("ext4", True),
        ("xfs", True),
        ("btrfs", True),
    ]
    home = seen.mounts.carrying(seen.home)
    assert home is not None
    for name in "EXB":
        assert seen.device(name) not in seen.dependencies.untold
        if not home.device.startswith("0:"):
            assert seen.carriers(name) == {home.device}
    assert len(found.waves) == 1


@needs_btrfs
def test_subvolumes_of_a_btrfs_are_one(tmp_path: Path) -> None:
    script = """btrfs_ b; mkdir S1 S2; mount -o loop b B
    btrfs -q subvolume create B/one; btrfs -q subvolume create B/two
    node=$(findmnt -no SOURCE B); mount -o subvol=one "$node" S1; mount -o subvol=two "$node" S2; umount B"""
    seen = look_inside(tmp_path, script)
    found = planned(seen, "S1", "S2")
    assert order(seen, found) == [["S1"]]
    assert found.targets[0].others == (seen.path("S2"),)
    assert found.targets[0].device.startswith("0:")


@needs_btrfs
def test_an_image_in_a_subvolume_lies_on_its_btrfs_whether_it_is_mounted_or_not(tmp_path: Path) -> None:
    script = """btrfs_ b; mkdir S I J K; mount -o loop b B; btrfs -q subvolume create B/sub
    mount -o subvol=sub "$(findmnt -no SOURCE B)" S
    for name in i j k; do truncate -s 16M B/sub/$name; mkfs.ext4 -q B/sub/$name; done
    mount -o loop B/sub/i I; mount -o loop S/j J; mount -o loop S/k K; rm S/k"""
    seen = look_inside(tmp_path, script)
    assert [seen.carriers(name) for name in "IJK"] == [{seen.device("B")}] * 3
    assert not {seen.device(name) for name in "BIJK"} & seen.dependencies.untold.keys()
    assert order(seen, planned(seen, "B", "I", "J", "K")) == [["I", "J", "K"], ["B"]]


@needs_btrfs
def test_a_deleted_image_in_a_subvolume_that_is_not_mounted_cannot_be_told(tmp_path: Path) -> None:
    script = """btrfs_ b; mkdir I; mount -o loop b B; btrfs -q subvolume create B/sub
    truncate -s 16M B/sub/i; mkfs.ext4 -q B/sub/i; mount -o loop B/sub/i I; rm B/sub/i"""
    seen = look_inside(tmp_path, script)
    assert "lies on what is not mounted here" in seen.dependencies.untold[seen.device("I")]
    assert order(seen, planned(seen, "B", "I")) == [["I"], ["B"]]


@needs_btrfs
def test_a_btrfs_of_several_devices_lies_on_all_that_carry_them(tmp_path: Path) -> None:
    script = """ext4 l; ext4 m; mkdir B; mount -o loop l L; mount -o loop m M; truncate -s 128M L/one M/two
    loop L/one; one=$node; loop M/two; mkfs.btrfs -q -d single "$one" "$node" >&2; mount -o device="$node" "$one" B"""
    seen = look_inside(
        tmp_path, script.replace("ext4 l; ext4 m", "image l 200M; image m 200M; mkfs.ext4 -q l; mkfs.ext4 -q m")
    )
    assert seen.carriers("B") == {seen.device("L"), seen.device("M")}
    assert order(seen, planned(seen, "L", "M", "B")) == [["B"], ["L", "M"]]


def test_a_bind_mount_is_no_other_file_system(tmp_path: Path) -> None:
    script = """ext4 e; mkdir BOUND READ; touch FILE; mount -o loop e E; mkdir E/part; touch E/file
    mount --bind E/part BOUND; mount --bind E READ; mount -o remount,bind,ro READ; mount --bind E/file FILE"""
    seen = look_inside(tmp_path, script)
    assert order(seen, planned(seen, "FILE", "READ", "BOUND")) == [["E"]]
    ours = {mount.mount_id for mount in seen.mounts.mounts if mount.path.startswith(seen.home)}
    assert seen.dependencies.plain_files & ours == {seen.mount("FILE").mount_id}
    assert seen.mount("READ").options[0] == "ro"
    assert not seen.mount("READ").is_read_only


def test_a_file_is_the_way_in_when_nothing_else_is(tmp_path: Path) -> None:
    seen = look_inside(
        tmp_path, "ext4 e; touch FILE; mount -o loop e E; touch E/file; mount --bind E/file FILE; umount E"
    )
    assert order(seen, planned(seen, "FILE")) == [["FILE"]]


def test_a_read_only_super_block_has_nothing_to_freeze(tmp_path: Path) -> None:
    script = (
        "ext4 e; ext4 f; mkdir R; mount -o loop,ro e E; mount -o loop f F; mount --bind F R; mount -o remount,bind,ro R"
    )
    seen = look_inside(tmp_path, script)
    found = planned(seen, "E", "R")
    assert order(seen, found) == [["F"]]
    assert [(left.path, left.outcome) for left in found.left] == [(seen.path("E"), FilesystemOutcome.SKIPPED)]


def test_a_stack_of_images_is_frozen_from_the_top(tmp_path: Path) -> None:
    script = """ext4 l; mkdir M U; mount -o loop l L
    truncate -s 40M L/m; mkfs.ext4 -q L/m; mount -o loop L/m M
    truncate -s 20M M/u; mkfs.ext4 -q M/u; mount -o loop M/u U"""
    seen = look_inside(tmp_path, script)
    found = planned(seen, "L", "M", "U")
    assert order(seen, found) == [["U"], ["M"], ["L"]]
    assert found.targets[0].lies_on == tuple(sorted((seen.device("M"), seen.device("L"))))
    alone = planned(seen, "L")
    assert [caution.path for caution in alone.cautions if caution.kind is CautionKind.IMAGE_LEFT] == [
        seen.path("M"),
        seen.path("U"),
    ]


@pytest.mark.parametrize("name", ["deleted", r"name\ with  space\ndé (deleted)"])
def test_an_image_is_found_by_what_the_loop_device_has_open(tmp_path: Path, name: str) -> None:
    script = (
        """ext4 l; mkdir U; mount -o loop l L; truncate -s 20M "$NAME"; mkfs.ext4 -q "$NAME"; mount -o loop "$NAME" U"""
    )
    script = f"NAME='L/{name}'; {script}" + ("; rm L/deleted" if name == "deleted" else "")
    seen = look_inside(tmp_path, script)
    assert seen.carriers("U") == {seen.device("L")}


def test_a_file_that_was_put_in_the_place_of_an_image_is_not_taken_for_it(tmp_path: Path) -> None:
    script = """ext4 l; ext4 o; mkdir U; mount -o loop l L; mkdir L/d; truncate -s 20M L/d/u; mkfs.ext4 -q L/d/u
    mount -o loop L/d/u U; mount -o loop o L/d; echo another > L/d/u"""
    seen = look_inside(tmp_path, script)
    assert seen.carriers("U") == {seen.device("L")}


def test_what_carries_an_image_counts_also_when_it_is_mounted_nowhere_any_more(tmp_path: Path) -> None:
    script = """ext4 l; mkdir HOST U; ext4 HOST/h; mount -o loop l HOST; touch HOST/x
    truncate -s 40M HOST/m; mkfs.ext4 -q HOST/m; mkdir M; mount -o loop HOST/m M
    truncate -s 20M M/u; mkfs.ext4 -q M/u; mount -o loop M/u U; umount -l M"""
    seen = look_inside(tmp_path, script)
    (between,) = seen.carriers("U")
    assert between not in {mount.device for mount in seen.mounts.mounts}
    found = planned(seen, "HOST", "U")
    assert order(seen, found) == [["U"], ["HOST"]]
    assert found.targets[0].lies_on == (seen.device("HOST"),)


def test_a_loop_device_on_a_loop_device_lies_on_the_file_below(tmp_path: Path) -> None:
    script = """ext4 l; mkdir U; mount -o loop l L; truncate -s 20M L/u; mkfs.ext4 -q L/u
    loop L/u; loop "$node"; mount "$node" U"""
    seen = look_inside(tmp_path, script)
    assert seen.carriers("U") == {seen.device("L")}


def test_an_image_in_memory_lies_on_no_disk(tmp_path: Path) -> None:
    script = "mkdir T U; mount -t tmpfs none T; truncate -s 20M T/u; mkfs.ext4 -q T/u; mount -o loop T/u U"
    seen = look_inside(tmp_path, script)
    assert seen.carriers("U") == set()
    assert seen.device("U") not in seen.dependencies.untold


def test_an_overlay_lies_on_its_upper_directory_through_links_too(tmp_path: Path) -> None:
    script = """ext4 l; mkdir O LOWER U; mount -o loop l L; mkdir -p 'L/up,per' L/work; ln -s L LINK; PLACE="$PWD/LINK"
    mount -t overlay -o "lowerdir=$PWD/LOWER,upperdir=$PLACE/up\\\\,per,workdir=$PLACE/work" overlay O
    truncate -s 20M O/u; mkfs.ext4 -q O/u; mount -o loop O/u U"""
    seen = look_inside(tmp_path, script, paths=["O/db", "LINK/x"])
    assert seen.dependencies.uppers[seen.device("O")] == seen.device("L")
    assert seen.carriers("U") == {seen.device("L")}
    declared = (f"{tmp_path}/O/db", f"{tmp_path}/LINK/x")
    found = plan(FilesystemChoice(Scope.DECLARED), declared, seen.mounts, seen.dependencies, FilesystemSettings())
    assert order(seen, found) == [["L"]]
    assert {caution.kind for caution in found.cautions} == {CautionKind.OVERLAY, CautionKind.IMAGE_LEFT}


def test_an_overlay_may_have_its_upper_directory_in_memory(tmp_path: Path) -> None:
    script = """mkdir T O U LOWER; mount -t tmpfs none T; mkdir T/up T/work
    mount -t overlay -o "lowerdir=$PWD/LOWER,upperdir=$PWD/T/up,workdir=$PWD/T/work" overlay O
    truncate -s 20M O/u; mkfs.ext4 -q O/u; mount -o loop O/u U"""
    seen = look_inside(tmp_path, script)
    assert seen.dependencies.uppers[seen.device("O")] == seen.device("T")
    assert seen.carriers("U") == set()
    assert seen.device("U") not in seen.dependencies.untold


def test_an_overlay_whose_upper_directory_is_not_seen_here_cannot_be_told(tmp_path: Path) -> None:
    script = """ext4 l; mkdir O U LOWER; mount -o loop l L; mkdir L/up L/work
    mount -t overlay -o "lowerdir=$PWD/LOWER,upperdir=$PWD/L/up,workdir=$PWD/L/work" overlay O; umount L
    truncate -s 20M O/u; mkfs.ext4 -q O/u; mount -o loop O/u U"""
    seen = look_inside(tmp_path, script)
    assert seen.device("O") not in seen.dependencies.uppers
    assert "upper directory of the overlay" in seen.dependencies.untold[seen.device("U")]


def test_what_is_mounted_over_is_frozen_only_if_another_way_leads_to_it(tmp_path: Path) -> None:
    script = """ext4 a; ext4 b; ext4 c; mkdir P Q WAY; mount -o loop a P; mount -o loop b Q; mount --bind Q WAY
    mount -o loop c P; mount -t tmpfs none Q"""
    seen = look_inside(tmp_path, script)
    everything = plan(FilesystemChoice(Scope.ALL), (), seen.mounts, seen.dependencies, FilesystemSettings())
    ours = {target.path for target in everything.targets if target.path.startswith(seen.home)}
    assert ours == {seen.path("P"), seen.path("WAY")}
    hidden = [
        left
        for left in everything.left
        if left.outcome is FilesystemOutcome.UNFREEZABLE and left.path == seen.path("P")
    ]
    assert [left.reason for left in hidden] == ["it is hidden under another mount: no path leads to it"]
    assert [target.mount_id for target in everything.targets if target.path == seen.path("P")] == [
        seen.mount("P").mount_id
    ]


def test_a_strange_name_of_a_mount_point_is_opened_as_it_is(tmp_path: Path) -> None:
    name = r"a b\\040#\n	é"
    seen = look_inside(tmp_path, f"ext4 e; mkdir '{name}'; mount -o loop e '{name}'")
    (mount,) = [mount for mount in seen.mounts.mounts if mount.path.startswith(seen.home)]
    assert mount.path == seen.path(name)


def test_what_the_broker_has_on_a_target_is_told(tmp_path: Path) -> None:
    seen = look_inside(tmp_path, "ext4 e; mount -o loop e E; ln -s E LINK", own=["LINK/state"])
    (own,) = planned(seen, "E").cautions
    assert (own.kind, own.path) == (CautionKind.OWN, seen.path("E"))


def test_what_is_mounted_in_another_namespace_alone_is_told(tmp_path: Path) -> None:
    script = """ext4 l; ext4 e; ext4 r; ext4 b; mount -o loop l L; mount -o loop b B
    truncate -s 20M L/u; mkfs.ext4 -q L/u; mkdir U
    apart 'mount -o loop e E; mount -o loop L/u U; mount -o loop,ro r R; umount B'"""
    seen = look_inside(tmp_path, script)
    ours = {other.path: other.device for other in seen.dependencies.elsewhere if other.path.startswith(seen.home)}
    assert sorted(ours) == [seen.path("E"), seen.path("U")]
    everything = plan(FilesystemChoice(Scope.ALL), (), seen.mounts, seen.dependencies, FilesystemSettings())
    left = [left for left in everything.left if left.device in ours.values()]
    assert [(one.outcome, one.lowers) for one in left] == [(FilesystemOutcome.UNFREEZABLE, True)] * 2
    (caution,) = planned(seen, "L").cautions
    assert (caution.kind, caution.path) == (CautionKind.IMAGE_LEFT, seen.path("U"))


@pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="there is no /dev/fuse")
def test_a_file_system_whose_program_never_answers_holds_up_nobody(tmp_path: Path) -> None:
    script = """mkdir DEAD; ln -s DEAD/x LINK; exec 3<>/dev/fuse
    mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 nobody DEAD
    ! timeout 0.2 stat DEAD"""
    seen = look_inside(tmp_path, script, paths=["DEAD/db", "LINK/../y"], own=["LINK/state"])
    assert seen.mount("DEAD").type == "fuse"
    assert list(seen.dependencies.resolved.values()) == [seen.path("DEAD/db"), seen.path("DEAD/y")]
    declared = tuple(seen.dependencies.resolved)
    found = plan(FilesystemChoice(Scope.DECLARED), declared, seen.mounts, seen.dependencies, FilesystemSettings())
    assert [(left.path, left.outcome) for left in found.left] == [
        (seen.path("DEAD"), FilesystemOutcome.UNFREEZABLE)
    ] * 2
