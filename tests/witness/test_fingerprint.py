"""What a look tells, what it refuses to tell, and that it leaves no trace."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from appvss.witness.fingerprint import Bounds, Fingerprint, Uninspectable, changed_after, changes, look

BOUNDS = Bounds()


def looked(*paths: Path) -> Fingerprint:
    return look([str(path) for path in paths], BOUNDS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a file, and a file and a link in a folder below."""
    top = tmp_path / "data"
    (top / "journal").mkdir(parents=True)
    (top / "orders.db").write_bytes(b"x" * 100)
    (top / "journal" / "0001").write_bytes(b"y" * 10)
    (top / "journal" / "last").symlink_to("0001")
    return top


def test_everything_below_a_folder_is_seen(tree: Path) -> None:
    names = {os.path.relpath(path, tree) for path in looked(tree)}
    assert names == {".", "orders.db", "journal", "journal/0001", "journal/last"}


def test_nothing_has_changed(tree: Path) -> None:
    assert changes(looked(tree), looked(tree)) == ""


def _overwrite(tree: Path) -> None:
    with (tree / "orders.db").open("r+b") as file:
        file.write(b"z")


def _touch_back(tree: Path) -> None:
    before = (tree / "orders.db").stat()
    _overwrite(tree)
    os.utime(tree / "orders.db", ns=(before.st_atime_ns, before.st_mtime_ns))


def _rename_over(tree: Path) -> None:
    aside = tree.parent / "aside"
    aside.write_bytes(b"x" * 100)
    aside.rename(tree / "orders.db")


def _retarget(tree: Path) -> None:
    (tree.parent / "aside").symlink_to("0002")
    (tree.parent / "aside").rename(tree / "journal" / "last")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_overwrite, "orders.db (time)"),
        (_touch_back, "orders.db (owner or another attribute, or its time was set back)"),
        (lambda tree: os.chown(tree / "orders.db", os.geteuid(), -1), "orders.db (owner or another attribute"),
        (lambda tree: (tree / "orders.db").write_bytes(b""), "orders.db (size 100 -> 0)"),
        (lambda tree: (tree / "orders.db").chmod(0o600), "orders.db (mode 644 -> 600)"),
        (_rename_over, "orders.db (another file in its place)"),
        (lambda tree: (tree / "orders.db").unlink(), "orders.db (gone)"),
        (lambda tree: (tree / "journal" / "0002").touch(), "journal/0002 (new)"),
        (_retarget, "journal/last (another file in its place)"),
        (lambda tree: (tree / "new").mkdir(), "new (new)"),
        (lambda tree: (tree / "orders.db").rename(tree / "old"), "old (new)"),
    ],
)
def test_the_first_change_is_named(tree: Path, change: Callable[[Path], object], named: str) -> None:
    (tree / "orders.db").chmod(0o644)
    before = looked(tree)
    change(tree)
    assert changes(before, looked(tree)).startswith(f"{tree}/{named}")


def test_what_came_and_went_shows_in_its_folder(tree: Path) -> None:
    before = looked(tree)
    (tree / "journal" / "temporary").touch()
    (tree / "journal" / "temporary").unlink()
    assert changes(before, looked(tree)) == f"{tree}/journal (time of the folder)"


def test_only_the_first_three_are_named_and_files_before_folders(tree: Path) -> None:
    before = looked(tree)
    for number in range(1500):
        (tree / "journal" / f"a{number:04}").touch()
    said = changes(before, looked(tree))
    assert said == ", ".join(f"{tree}/journal/a000{n} (new)" for n in range(3)) + ", and 1,498 more"


def test_a_foreign_name_is_made_safe_and_short(tree: Path) -> None:
    before = looked(tree)
    (tree / "\x1b[2J\udcff").touch()
    (tree / ("z" * 200)).touch()
    said = changes(before, looked(tree))
    assert said.isprintable()
    assert "?[2J?" in said
    assert re.search(r"\.\.\.z{117} \(new\)", said)


def test_links_out_of_the_tree_are_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree / "link").symlink_to(outside)
    before = looked(tree)
    (outside / "file").touch()
    assert changes(before, looked(tree)) == ""


def test_a_declared_link_means_what_it_leads_to(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tree)
    before = looked(tmp_path / "current")
    (tree / "journal" / "0001").write_bytes(b"other")
    assert "current/journal/0001 (size 10 -> 5)" in changes(before, looked(tmp_path / "current"))


def test_use_of_pipes_and_sockets_is_no_change(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        reader = os.open(tree / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        before = looked(tree)
        writer = os.open(tree / "pipe", os.O_WRONLY)
        os.write(writer, b"x")
        assert changes(before, looked(tree)) == ""
        os.close(writer)
        os.close(reader)


def test_a_path_that_comes_or_goes_is_a_change(tree: Path) -> None:
    wal = tree / "orders.db-wal"
    before = looked(tree / "orders.db", wal)
    wal.touch()
    assert changes(before, looked(tree / "orders.db", wal)) == f"{wal} (new)"


def test_paths_that_overlap_are_looked_at_once(tree: Path) -> None:
    assert looked(tree, tree / "journal").keys() == looked(tree).keys()


@pytest.mark.parametrize(
    ("paths", "bounds", "why"),
    [
        (["data"], BOUNDS, "data is not an absolute path"),
        (["/\0"], BOUNDS, "null"),
        (["/nowhere/at/all", "/neither"], BOUNDS, "nothing lies at /nowhere/at/all, /neither, as the broker sees it"),
        (["TREE"], Bounds(entries=4), "too many files to watch: over 4"),
        (["TREE"], Bounds(depth=1), "nested deeper than 1"),
        (["TREE"], Bounds(is_over=lambda: True, time=timedelta(seconds=2)), "could not be looked at within 2 s"),
    ],
)
def test_what_cannot_be_told(tree: Path, paths: list[str], bounds: Bounds, why: str) -> None:
    with pytest.raises(Uninspectable, match=re.escape(why)):
        look([path.replace("TREE", str(tree)) for path in paths], bounds)


def test_as_many_as_the_limit_are_watched(tree: Path) -> None:
    assert len(look([str(tree)], Bounds(entries=5, depth=2))) == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes somebody who may not read")
def test_a_folder_that_may_not_be_read(tree: Path) -> None:
    (tree / "journal").chmod(0)
    tree.parent.chmod(0o755)
    # In a child: a thread cannot become somebody else alone.
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir("/")
            os.setuid(65534)
            look([str(tree / "journal")], BOUNDS)
        except (Uninspectable, PermissionError) as error:
            code = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "O_NOATIME"), reason="only Linux leaves the access time alone")
def test_a_look_leaves_no_trace(tree: Path) -> None:
    for path in (tree, tree / "journal"):
        os.utime(path, ns=(1, 1))  # so old that any look would set it anew
    looked(tree)
    assert [path.stat().st_atime_ns for path in (tree, tree / "journal")] == [1, 1]


def test_what_changed_after_an_instant_is_named(tree: Path) -> None:
    before = max(entry.changed for entry in looked(tree).values())
    (tree / "orders.db").write_bytes(b"later")
    found = looked(tree)
    after = found[str(tree / "orders.db")].changed
    assert after > before
    assert changed_after(found, before, after, lambda _: True) == f"{tree}/orders.db (time)"
    assert changed_after(found, after, after + 1, lambda _: True) == ""
    assert changed_after(found, before, after - 1, lambda _: True) == ""
    assert changed_after(found, before, after, lambda _: False) == ""
