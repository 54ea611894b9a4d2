"""Which file systems are frozen, in which order, what is left out and why, and what there is to know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appvss.freezer.cautions import CautionKind
from appvss.freezer.choosing import plain_path
from appvss.freezer.dependency import Dependencies, Elsewhere, Image, OwnFiles, SwapArea
from appvss.freezer.mountinfo import MountTable, parse
from appvss.freezer.plan import FilesystemSettings, Plan, PlanRefused, Target, plan
from appvss.model.filesystem import FilesystemChoice, FilesystemOutcome, Scope, Unfreezable
from tests.freezer.tables import ROOT, mounted, paths, table

ALL = FilesystemChoice(Scope.ALL)
NOTHING = Dependencies()
UNFREEZABLE, SKIPPED, EXCLUDED = FilesystemOutcome.UNFREEZABLE, FilesystemOutcome.SKIPPED, FilesystemOutcome.EXCLUDED


def planned(
    mounts: MountTable,
    dependencies: Dependencies = NOTHING,
    *,
    named: tuple[str, ...] = (),
    declared: tuple[str, ...] = (),
    unfreezable: Unfreezable = Unfreezable.LOWER,
    exclude: tuple[str, ...] = FilesystemSettings().exclude,
) -> Plan:
    """The plan for what is named, for what is declared, or for all."""
    choice = FilesystemChoice(Scope.NAMED, named) if named else FilesystemChoice(Scope.DECLARED) if declared else ALL
    return plan(choice, declared, mounts, dependencies, FilesystemSettings(exclude, unfreezable))


def order(found: Plan) -> list[list[bytes]]:
    return [paths(wave) for wave in found.waves]


def left(found: Plan) -> dict[bytes, FilesystemOutcome]:
    return {one.path: one.outcome for one in found.left}


def kinds(found: Plan) -> list[CautionKind]:
    return [caution.kind for caution in found.cautions]


# What hv_vss_daemon does with these lines: facts/linux-hv-vss.md section 7.3. Two of its lines cannot be in a kernel's
# table (one device with three types), so those have a device of their own here.
VECTORS = table(
    "1 1 0:1 / / rw - rootfs rootfs rw",
    "2 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    mounted(3, "254:16", "/m1", "xfs"),
    mounted(4, "254:16", r"/m2\040sp", "xfs"),
    mounted(5, "254:17", "/m3", "vfat"),
    "6 2 254:0 /sub /sub ro,relatime - ext4 /dev/vda rw",
    "7 5 254:18 / /m3 rw - ext4 /dev/missing rw",
    "8 2 254:19 / /x rw - ext4 uuid rw",
    mounted(9, "254:20", "/var/lib", "iso9660", "rw,errors=remount-ro"),
)


@pytest.mark.parametrize(
    ("path", "theirs", "ours"),
    [
        (b"/m1", "frozen", "frozen"),
        (b"/m2 sp", "frozen again: EBUSY, taken for success", "frozen once, through /m1"),
        (b"/m3", "frozen though its source is missing", "frozen: it is the one on top"),
        (b"/m3", "vfat: skipped in silence", "has no freeze, and lies hidden: unfreezable"),
        (b"/sub", "skipped as read-only", "frozen once, through /"),
        (b"/x", "skipped in silence: the source is no path", "frozen: a block device is behind it"),
        (b"/var/lib", "frozen", "skipped: it is never written to"),
        (b"/", "frozen last, and thawed last", "frozen last, and thawed first"),
    ],
)
def test_the_vectors_of_the_fact_sheet(path: bytes, theirs: str, ours: str) -> None:
    found = planned(VECTORS)
    assert order(found) == [[b"/m1", b"/m3", b"/x"], [b"/"]]
    assert [target.others for target in found.targets] == [(b"/m2 sp",), (), (), (b"/sub",)]
    mentioned = {*paths(found.targets), *(other for target in found.targets for other in target.others), *left(found)}
    assert path in mentioned
    assert left(found) == {b"/": SKIPPED, b"/m3": UNFREEZABLE, b"/var/lib": SKIPPED}


def test_a_target_has_all_that_the_descriptor_is_checked_against() -> None:
    (target,) = planned(table("27 1 254:0 / / rw - ext4 /dev/vd\\040a rw")).targets
    assert target == Target(path=b"/", mount_id=27, device="254:0", type="ext4", source="/dev/vd a")


def test_btrfs_is_frozen_once_for_all_its_subvolumes() -> None:
    mounts = table(
        "2 1 0:30 /@ / rw - btrfs /dev/vda rw,subvol=/@",
        "3 2 0:30 /@home /home rw - btrfs /dev/vda rw,subvol=/@home",
    )
    found = planned(mounts)
    assert order(found) == [[b"/"]]
    assert found.targets[0].others == (b"/home",)


@pytest.mark.parametrize(
    ("type_", "options", "outcome"),
    [
        ("tmpfs", "rw", SKIPPED),
        ("proc", "rw", SKIPPED),
        ("nfs4", "rw", SKIPPED),
        ("fuse.sshfs", "rw", SKIPPED),
        ("9p", "rw", SKIPPED),
        ("overlay", "rw,upperdir=/u", SKIPPED),
        ("something_new", "rw", SKIPPED),
        ("zfs", "rw", UNFREEZABLE),
        ("zfs", "ro", SKIPPED),
    ],
)
def test_what_has_no_block_device(type_: str, options: str, outcome: FilesystemOutcome) -> None:
    found = planned(table(ROOT, f"3 2 0:40 / /a rw - {type_} somewhere {options}"))
    assert left(found) == {b"/a": outcome}
    assert found.left[0].lowers is (outcome is UNFREEZABLE)
    assert found.left[0].reason.isprintable()


@pytest.mark.parametrize(("type_", "device"), [("new", "8:1"), ("new", "0:40"), ("btrfs", "0:40"), ("ext4", "8:1")])
def test_what_nobody_knows_and_has_a_block_device_is_for_the_kernel_to_say(type_: str, device: str) -> None:
    assert order(planned(table(ROOT, mounted(3, device, "/a", type_)))) == [[b"/a"], [b"/"]]


@pytest.mark.parametrize("type_", ["vfat", "exfat", "ntfs3", "udf", "fuseblk", "fuseblk.ntfs", "ufs"])
@pytest.mark.parametrize("word", Unfreezable)
def test_what_has_no_freeze_counts_as_the_administrator_says(type_: str, word: Unfreezable) -> None:
    found = planned(table(ROOT, mounted(3, "8:1", "/a", type_)), unfreezable=word)
    assert left(found) == {b"/a": UNFREEZABLE}
    assert found.left[0].lowers is (word is Unfreezable.LOWER)
    assert found.veto == ("/a cannot be frozen: it is of a kind that has no freeze" if word is Unfreezable.VETO else "")
    assert order(found) == [[b"/"]]


def test_what_is_read_only_is_left_out_by_the_word_of_its_super_block_alone() -> None:
    mounts = table(
        ROOT,
        mounted(3, "8:1", "/a", "ext4", "ro"),
        "4 2 8:2 / /b ro - xfs /dev/x rw",
        mounted(5, "8:3", "/c", "squashfs", "rw"),
        mounted(6, "8:4", "/d", "vfat", "ro"),
    )
    found = planned(mounts, unfreezable=Unfreezable.VETO)
    assert order(found) == [[b"/b"], [b"/"]]
    assert left(found) == {b"/a": SKIPPED, b"/c": SKIPPED, b"/d": SKIPPED}
    assert found.veto == ""


def test_the_configuration_excludes_by_the_mount_point() -> None:
    mounts = table(
        ROOT,
        mounted(3, "8:1", "/boot/efi", "vfat"),
        mounted(4, "8:2", "/srv/scratch/a"),
        "5 2 8:3 / /data rw - xfs /dev/x rw",
        "6 4 8:3 /part /srv/scratch/b rw - xfs /dev/x rw",
    )
    found = planned(mounts, exclude=("/boot/*", "/srv/scratch/*"), unfreezable=Unfreezable.VETO)
    assert order(found) == [[b"/data"], [b"/"]], "a bind mount in an excluded place excludes nothing"
    assert left(found) == {b"/boot/efi": EXCLUDED, b"/srv/scratch/a": EXCLUDED}
    assert not any(one.lowers for one in found.left)


def test_what_is_hidden_is_frozen_through_another_mount_of_it_or_not_at_all() -> None:
    mounts = table(
        ROOT,
        mounted(3, "8:1", "/a"),
        mounted(4, "8:2", "/a", parent=3),
        "5 2 8:1 /part /b rw - ext4 /dev/x rw",
        mounted(6, "8:3", "/c"),
        mounted(7, "0:9", "/c", "tmpfs", parent=6),
        "8 2 8:4 / /gone//deleted rw - ext4 /dev/y rw",
    )
    found = planned(mounts)
    assert order(found) == [[b"/b", b"/a"], [b"/"]]
    assert [target.mount_id for target in found.targets] == [5, 4, 2]
    assert [(one.device, one.path, one.outcome) for one in found.left] == [
        ("8:3", b"/c", UNFREEZABLE),
        ("0:9", b"/c", SKIPPED),
        ("8:4", b"/gone", UNFREEZABLE),
    ]
    assert found.left[0].reason == "it is hidden under another mount: no path leads to it"


def test_a_directory_of_the_whole_is_the_way_in_rather_than_a_part_or_a_file() -> None:
    mounts = table(
        ROOT,
        "3 2 8:1 /etc/hosts /run/hosts rw - ext4 /dev/x rw",
        "4 2 8:1 /part /part rw - ext4 /dev/x rw",
        "5 2 8:1 / /whole rw - ext4 /dev/x rw",
        "6 2 8:2 /etc/hosts /etc/hosts rw - ext4 /dev/y rw",
        "7 2 8:2 /part /other rw - ext4 /dev/y rw",
    )
    found = planned(mounts, Dependencies(plain_files=frozenset({3, 6})))
    assert order(found) == [[b"/whole", b"/other"], [b"/"]]
    assert found.targets[0].others == (b"/run/hosts", b"/part")


def test_the_way_in_avoids_what_may_hang() -> None:
    mounts = table(
        ROOT,
        mounted(3, "0:40", "/net", "nfs"),
        mounted(4, "8:1", "/net/disk", parent=3),
        "5 2 8:1 /part /disk rw - ext4 /dev/x rw",
        mounted(6, "8:2", "/net/other", parent=3),
    )
    found = planned(mounts)
    assert order(found) == [[b"/disk", b"/net/other"], [b"/"]]
    assert kinds(found) == [CautionKind.FAR, CautionKind.ROOT]


def images(*pairs: tuple[str, str]) -> Dependencies:
    return Dependencies(images=tuple(Image(b"/image", carried, carrier) for carried, carrier in pairs))


def test_what_lies_in_an_image_is_frozen_before_what_carries_it() -> None:
    mounts = table(ROOT, mounted(3, "8:1", "/l"), mounted(4, "7:0", "/m"), mounted(5, "7:1", "/u"))
    found = planned(mounts, images(("7:1", "7:0"), ("7:0", "8:1")))
    assert order(found) == [[b"/u"], [b"/m"], [b"/l"], [b"/"]]
    assert [target.lies_on for target in found.targets] == [("7:0", "8:1"), ("8:1",), (), ()]
    assert kinds(found) == [CautionKind.ROOT]


def test_the_root_in_an_image_is_frozen_before_what_carries_it() -> None:
    mounts = table("2 1 7:0 / / rw - ext4 /dev/loop0 rw", mounted(3, "8:1", "/host"), mounted(4, "8:2", "/data"))
    assert order(planned(mounts, images(("7:0", "8:1")))) == [[b"/data"], [b"/"], [b"/host"]]


def test_what_lies_in_an_image_may_be_frozen_alone_but_not_what_carries_it() -> None:
    mounts = table(ROOT, mounted(3, "8:1", "/l"), mounted(4, "7:0", "/m"), mounted(5, "7:1", "/u"))
    dependencies = images(("7:1", "7:0"), ("7:0", "8:1"))
    alone = planned(mounts, dependencies, named=("/u",))
    assert (order(alone), alone.cautions, alone.targets[0].lies_on) == ([[b"/u"]], (), ())
    carrier = planned(mounts, dependencies, named=("/l",))
    assert [(caution.kind, caution.path, caution.dead_locks) for caution in carrier.cautions] == [
        (CautionKind.IMAGE_LEFT, b"/m", True),
        (CautionKind.IMAGE_LEFT, b"/u", True),
    ]


@pytest.mark.parametrize(("type_", "options"), [("squashfs", "rw"), ("ext4", "ro")])
def test_an_image_that_nobody_writes_to_dead_locks_nothing(type_: str, options: str) -> None:
    mounts = table(ROOT, mounted(3, "7:0", "/snap", type_, options))
    assert kinds(planned(mounts, images(("7:0", "254:0")))) == [CautionKind.ROOT]


def test_an_image_of_what_cannot_be_frozen_is_told() -> None:
    mounts = table(ROOT, mounted(3, "7:0", "/usb", "vfat"))
    found = planned(mounts, images(("7:0", "254:0")))
    assert kinds(found) == [CautionKind.IMAGE_LEFT, CautionKind.ROOT]
    assert "/usb is not frozen and its image lies on /" in found.cautions[0].sentence


@pytest.mark.parametrize("pairs", [[("8:1", "8:1")], [("8:1", "8:2"), ("8:2", "8:1")]])
def test_a_circle_is_never_frozen(pairs: list[tuple[str, str]]) -> None:
    found = planned(table(ROOT, mounted(3, "8:1", "/a"), mounted(4, "8:2", "/b")), images(*pairs))
    assert found.veto == "/a lies on an image that lies on itself: its freeze would never end"
    assert CautionKind.CIRCLE in kinds(found)
    assert sorted(paths(found.targets)) == [b"/", b"/a", b"/b"]


def test_what_nobody_can_tell_is_frozen_first_and_told() -> None:
    mounts = table(ROOT, mounted(3, "8:1", "/a"), mounted(4, "43:0", "/n"))
    dependencies = Dependencies(untold={"43:0": "a program of this machine serves nbd0"})
    found = planned(mounts, dependencies)
    assert order(found) == [[b"/n"], [b"/a"], [b"/"]]
    assert [caution.path for caution in found.cautions if caution.kind is CautionKind.IMAGE_UNTOLD] == [b"/n"]
    assert planned(mounts, dependencies, named=("/n",)).cautions == ()


def test_swap_is_told_and_dead_locks_only_through_an_image() -> None:
    mounts = table(ROOT, mounted(3, "8:1", "/l"), mounted(4, "7:0", "/u"))
    dependencies = Dependencies(
        images=(Image(b"/l/image", "7:0", "8:1"),),
        swaps=(
            SwapArea(b"/l/swap", ("8:1",), is_file=True),
            SwapArea(b"/dev/loop7", ("8:1",), is_file=False),
            SwapArea(b"/u/swap", ("7:0",), is_file=True),
            SwapArea(b"/dev/sdb1", (), is_file=False),
        ),
    )
    found = planned(mounts, dependencies, named=("/l",))
    swaps = [caution for caution in found.cautions if caution.kind is CautionKind.SWAP]
    assert [caution.dead_locks for caution in swaps] == [False, True, True]
    assert [caution.sentence.split(" lies on ")[0] for caution in swaps] == [
        "the swap file /l/swap",
        "the swap device /dev/loop7",
        "the swap file /u/swap",
    ]


def test_overlays_and_what_the_broker_has_there_are_told() -> None:
    mounts = table(
        ROOT,
        mounted(3, "8:1", "/srv"),
        mounted(4, "0:50", "/o1", "overlay"),
        mounted(5, "0:51", "/o2", "overlay"),
        mounted(6, "7:0", "/state"),
    )
    dependencies = Dependencies(
        images=(Image(b"/srv/i", "7:0", "8:1"),),
        uppers={"0:50": "8:1", "0:51": "8:1", "0:99": "8:1"},
        own=(OwnFiles("state directory", b"/state/appvss", "7:0"), OwnFiles("log", b"/l", "9:9")),
    )
    found = planned(mounts, dependencies, named=("/srv",))
    assert kinds(found) == [CautionKind.IMAGE_LEFT, CautionKind.OVERLAY, CautionKind.OWN]
    assert "the overlay /o1 (and of 1 more) lies on /srv" in found.cautions[1].sentence
    assert "own state directory /state/appvss lies on /srv" in found.cautions[2].sentence
    assert "more" not in planned(mounts, Dependencies(uppers={"0:50": "8:1"})).cautions[0].sentence


def test_nothing_is_frozen_when_nothing_is_wanted() -> None:
    none = plan(FilesystemChoice(Scope.NONE), ("/a",), parse(ROOT.encode() + b"\nodd"), NOTHING, FilesystemSettings())
    assert none.places is not None
    assert replace(none, places=None) == Plan()
    assert not any(place.is_planned for place in none.places["/a"])


NAMED = table(
    ROOT,
    mounted(3, "8:1", "/data"),
    mounted(4, "0:41", "/tmp", "tmpfs"),
    mounted(5, "8:2", "/usb", "vfat"),
    mounted(6, "0:42", "/merged", "overlay", "rw,upperdir=/data/up"),
    mounted(7, "8:3", "/ro", "ext4", "ro"),
    mounted(8, "8:4", "/boot/efi", "vfat"),
    mounted(9, "8:5", "/snap", "squashfs"),
    "10 2 8:1 /part /bound rw - ext4 /dev/x rw",
)


@pytest.mark.parametrize(
    ("path", "sentence", "hint"),
    [
        ("data", "the mount point 'data' is not absolute", "Write it from the root on: /data."),
        ("", "the mount point '' is not absolute", "Write it from the root on: /data."),
        ("/data/db", "/data/db is no mount point", "It lies on /data: name that if you mean it."),
        ("/etc", "/etc is no mount point", "It lies on /: name that if you mean it."),
        ("/tmp", "/tmp cannot be frozen: it lies in memory", "`appvss filesystems` lists"),
        ("/usb", "/usb cannot be frozen: it is of a kind that has no freeze", "`appvss filesystems` lists"),
        ("/merged", "/merged cannot be frozen: it is an overlay", "Name /data: its upper directory lies there."),
        ("/boot/efi", "/boot/efi cannot be frozen: the configuration excludes /boot/efi", "`appvss filesystems`"),
    ],
)
def test_a_name_that_cannot_be_frozen_is_refused_with_a_hint(path: str, sentence: str, hint: str) -> None:
    with pytest.raises(PlanRefused) as refused:
        planned(NAMED, Dependencies(uppers={"0:42": "8:1"}), named=("/data", path), unfreezable=Unfreezable.REPORT)
    assert refused.value.sentence.startswith(sentence)
    assert refused.value.hint.startswith(hint)


def test_without_any_mount_the_refusal_still_has_a_hint() -> None:
    with pytest.raises(PlanRefused) as refused:
        planned(MountTable(), named=("/data",))
    assert refused.value.hint == "`appvss filesystems` lists what can be frozen."


@pytest.mark.parametrize(
    "named", [("/data",), ("/data/", "//data/."), ("/data", "/bound"), ("/link",), ("/x/../data",)]
)
def test_a_name_means_its_super_block_however_it_is_written(named: tuple[str, ...]) -> None:
    found = planned(NAMED, Dependencies(resolved={"/link": b"/data"}), named=named)
    assert order(found) == [[b"/data"]]


def test_a_name_that_nobody_can_write_to_has_what_it_wants() -> None:
    found = planned(NAMED, named=("/ro", "/snap"))
    assert (found.waves, left(found)) == ((), {b"/ro": SKIPPED, b"/snap": SKIPPED})
    assert not any(one.lowers for one in found.left)


def test_declared_paths_are_frozen_where_they_lie_whether_they_exist_or_not() -> None:
    found = planned(NAMED, declared=("/data/db/not/yet", "/bound/x", "/ro/x"))
    assert order(found) == [[b"/data"]]
    assert left(found) == {b"/ro": SKIPPED}
    assert order(planned(NAMED, Dependencies(resolved={"/var/db": b"/data/db"}), declared=("/var/db",))) == [[b"/data"]]


def test_a_declared_path_in_an_overlay_means_the_upper_directory() -> None:
    found = planned(NAMED, Dependencies(uppers={"0:42": "8:1"}), declared=("/merged/db",))
    assert (order(found), found.left) == ([[b"/data"]], ())
    unknown = planned(NAMED, declared=("/merged/db",))
    assert (unknown.waves, left(unknown), unknown.left[0].lowers) == ((), {b"/merged": UNFREEZABLE}, True)
    read_only = planned(table(ROOT, mounted(3, "0:50", "/m", "overlay", "ro")), declared=("/m/db",))
    assert left(read_only) == {b"/m": SKIPPED}


@pytest.mark.parametrize(
    ("type_", "outcome"),
    [("tmpfs", SKIPPED), ("nfs", SKIPPED), ("fuse.mergerfs", UNFREEZABLE), ("new", UNFREEZABLE), ("zfs", UNFREEZABLE)],
)
def test_a_declared_path_that_no_block_device_has_is_never_passed_over(type_: str, outcome: FilesystemOutcome) -> None:
    mounts = table(ROOT, f"3 2 0:50 / /m rw - {type_} somewhere rw")
    found = planned(mounts, declared=("/m/db",))
    assert (found.waves, left(found)) == ((), {b"/m": outcome})
    assert found.left[0].lowers is (outcome is UNFREEZABLE)
    assert kinds(found) == ([CautionKind.NOT_ON_DISK] if outcome is SKIPPED else [])


def test_a_declared_path_of_which_nobody_knows_where_it_lies_counts_as_unfreezable() -> None:
    found = planned(NAMED, declared=("db/x", "/data", "db/x"), unfreezable=Unfreezable.VETO)
    assert left(found) == {b"db/x": UNFREEZABLE}
    assert found.veto.startswith("db/x cannot be frozen: an app declares it")


def test_what_is_mounted_elsewhere_alone_is_not_passed_over_when_all_is_wanted() -> None:
    dependencies = Dependencies(
        elsewhere=(Elsewhere("8:9", "xfs", b"/v", 77), Elsewhere("8:10", "vfat", b"/efi", 77)),
        images=(Image(b"/i", "8:9", "254:0"),),
    )
    found = planned(table(ROOT), dependencies)
    assert left(found) == {b"/v": UNFREEZABLE, b"/efi": EXCLUDED}
    assert [one.lowers for one in found.left] == [True, False]
    assert "that of the process 77" in found.left[0].reason
    assert kinds(found) == [CautionKind.IMAGE_LEFT, CautionKind.ROOT]
    assert planned(table(ROOT), dependencies, named=("/",)).left == ()


def test_a_line_that_cannot_be_read_may_be_a_file_system() -> None:
    mounts = parse(f"{ROOT}\n{mounted(3, '8:1', '/a')}\nodd\x1b line\n".encode())
    found = planned(mounts)
    assert (left(found), found.left[0].lowers) == ({b"?": UNFREEZABLE}, True)
    assert found.left[0].reason == r"a line of the mount table cannot be read: odd\x1b line"
    named = planned(mounts, named=("/a",))
    assert (named.left, kinds(named)) == ((), [CautionKind.UNREADABLE])


@pytest.mark.parametrize(
    ("path", "plain"),
    [(b"/", b"/"), (b"//a/./b/", b"/a/b"), (b"/a/../../b", b"/b"), (b"/..", b"/"), (b"/a//", b"/a")],
)
def test_a_path_is_made_plain(path: bytes, plain: bytes) -> None:
    assert plain_path(path) == plain


NUMBERS = st.integers(0, 7)
MOUNTS = st.lists(
    st.tuples(
        NUMBERS,  # which device
        st.integers(2, 12),  # on which mount it lies; it need not be there
        st.sampled_from(["/", "/a", "/a/b", "/c", "/c//deleted"]),
        st.sampled_from(["/", "/part"]),
        st.sampled_from(["ext4", "xfs", "btrfs", "vfat", "squashfs", "tmpfs", "overlay", "nfs"]),
        st.sampled_from(["rw", "ro"]),
    ),
    max_size=10,
)


@given(MOUNTS, st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), st.sets(NUMBERS, max_size=2))
def test_whatever_is_mounted_each_super_block_is_frozen_once_or_left_once_and_in_order(
    lines: list[tuple[int, int, str, str, str, str]], edges: list[tuple[int, int]], untold: set[int]
) -> None:
    types: dict[int, tuple[str, str]] = {}  # what a device has is the same for all its mounts
    content = [ROOT]
    for number, (device, parent, path, root, type_, options) in enumerate(lines, start=3):
        type_, options = types.setdefault(device, (type_, options))
        content.append(mounted(number, f"8:{device}", path, type_, options, parent=parent, root=root))
    mounts = table(*content)
    dependencies = Dependencies(
        images=tuple(Image(b"/i", f"8:{carried}", f"8:{carrier}") for carried, carrier in edges),
        untold={f"8:{device}": "nobody knows" for device in untold},
    )
    found = planned(mounts, dependencies)
    devices = [target.device for target in found.targets] + [one.device for one in found.left]
    assert sorted(devices) == sorted({mount.device for mount in mounts.mounts})
    at = {target.device: number for number, wave in enumerate(found.waves) for target in wave}
    by_id = {mount.mount_id: mount for mount in mounts.mounts}
    for target in found.targets:
        assert mounts.carrying(target.path) is by_id[target.mount_id]
        assert by_id[target.mount_id].device == target.device
        assert not by_id[target.mount_id].is_read_only
        if not found.veto:
            assert all(at[target.device] < at[carrier] for carrier in target.lies_on)
    assert all(caution.sentence.isprintable() for caution in found.cautions)


# -- a requester that waits at a terminal


def spared(mounts: MountTable, dependencies: Dependencies = NOTHING, choice: FilesystemChoice | None = None) -> Plan:
    choice = choice or FilesystemChoice(Scope.ALL, spares_root=True)
    return plan(choice, ("/srv/a", "/etc/b"), mounts, dependencies, FilesystemSettings())


@pytest.mark.parametrize("scope", [Scope.ALL, Scope.DECLARED])
def test_the_root_is_spared_and_named(scope: Scope) -> None:
    found = spared(table(ROOT, mounted(3, "8:1", "/srv")), choice=FilesystemChoice(scope, spares_root=True))
    assert order(found) == [[b"/srv"]]
    assert left(found) == {b"/": EXCLUDED}
    assert not found.left[0].lowers


def test_a_root_that_is_named_is_not_spared() -> None:
    choice = FilesystemChoice(Scope.NAMED, ("/",), spares_root=True)
    assert order(spared(table(ROOT), choice=choice)) == [[b"/"]]


def test_what_carries_the_root_is_spared_with_it() -> None:
    mounts = table(
        "2 1 0:50 / / rw - overlay overlay rw,upperdir=/u",
        mounted(3, "7:0", "/run/live"),
        mounted(4, "8:1", "/run/medium"),
        mounted(5, "8:2", "/srv"),
    )
    image = Image(b"/run/medium/root.img", "7:0", "8:1")
    found = spared(mounts, Dependencies(images=(image,), uppers={"0:50": "7:0"}))
    assert order(found) == [[b"/srv"]]
    assert {path: left(found)[path] for path in (b"/run/live", b"/run/medium")} == {
        b"/run/live": EXCLUDED,
        b"/run/medium": EXCLUDED,
    }


def test_a_root_that_nobody_asked_for_or_that_is_not_there_needs_no_sparing() -> None:
    choice = FilesystemChoice(Scope.DECLARED, spares_root=True)
    assert plan(choice, ("/srv/a",), table(ROOT, mounted(3, "8:1", "/srv")), NOTHING, FilesystemSettings()).left == ()
    assert spared(table()).waves == ()
