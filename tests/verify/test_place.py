"""Which part of a machine a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from appvss.verify.base import Copy
from appvss.verify.place import is_folder_itself, mount_point_of

WANTED = Path("/srv/db/data")


@pytest.mark.parametrize(
    ("folder", "place"),
    [("srv/db/data", "/"), ("db/data", "/srv"), ("data", "/srv/db"), ("other", None)],
)
def test_the_longest_end_of_the_path_that_is_there_says_it(tmp_path: Path, folder: str, place: str | None) -> None:
    (tmp_path / folder).mkdir(parents=True)
    found = mount_point_of(tmp_path, WANTED)
    assert (str(found) if found else None) == place


def test_a_whole_machine_counts_more_than_a_folder_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "srv/db/data").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    assert mount_point_of(tmp_path, WANTED) == Path("/")


def test_no_link_is_followed_out_of_the_copy(tmp_path: Path) -> None:
    live = tmp_path / "live"
    (live / "data").mkdir(parents=True)
    copy = tmp_path / "copy"
    (copy / "srv").mkdir(parents=True)
    (copy / "srv/db").symlink_to(live)
    assert mount_point_of(copy, WANTED) is None


def test_a_copied_data_directory_has_files(tmp_path: Path) -> None:
    assert not is_folder_itself(tmp_path)
    (tmp_path / "PG_VERSION").touch()
    assert is_folder_itself(tmp_path)
    assert not is_folder_itself(tmp_path / "nothing")


@pytest.mark.parametrize("path", ["/srv/db/data", "/srv/../live/data", "/srv/near/data", "/srv/db"])
def test_nothing_is_given_that_leads_out_of_the_copy(tmp_path: Path, path: str) -> None:
    """By a link of the machine, or by evidence that was changed: it would be the live server's."""
    (tmp_path / "live/data").mkdir(parents=True)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/db").symlink_to(tmp_path / "live")
    (tmp_path / "copy/near").symlink_to("../live")
    with pytest.raises(FileNotFoundError, match="leads out of the copy"):
        Copy({Path("/srv"): tmp_path / "copy"}, tmp_path).locate(path)


def test_a_link_from_one_part_of_the_copy_to_another_is_followed(tmp_path: Path) -> None:
    (tmp_path / "copy/data").mkdir(parents=True)
    (tmp_path / "copy/db").symlink_to("data")
    assert Copy({Path("/srv"): tmp_path / "copy"}, tmp_path).locate("/srv/db/x") == tmp_path / "copy/db/x"
