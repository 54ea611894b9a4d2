"""The brokers of tests can freeze nothing but what their own test has made."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.contained import apart, containing, outside
from tests.support.loop_disks import LoopDisks, loop_disks
from tests.support.running_broker import short_directory

__all__ = ["loop_disks"]

FOLDER = Path("/tmp/av-ab_1")
PATTERNS = outside(FOLDER)
MOUNTED = "import sys; sys.stdout.write(open('/proc/self/mountinfo').read())"


def is_excluded(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in PATTERNS)


@pytest.mark.parametrize(
    "path",
    ["/", "/tmp", "/tmp/av-ab_1", "/tmp/av-ab_2", "/tmp/av-ab_", "/tmp/av-ab_12", "/tmp/av-ab_12/disk", "/t", "/srv"],
)
def test_what_is_not_below_the_folder_is_excluded(path: str) -> None:
    assert is_excluded(path)


@given(st.one_of(st.text(max_size=30), st.text("/tmpav-b_12\n[]!*", max_size=30)))
def test_every_path_is_excluded_unless_it_is_below_the_folder(name: str) -> None:
    path = f"/{name.rstrip('/')}"
    assert is_excluded(path) is not path.startswith(f"{FOLDER}/")


@given(st.text(max_size=30))
def test_no_path_below_the_folder_is_excluded(name: str) -> None:
    assert not is_excluded(f"{FOLDER}/{name}")


def test_the_configuration_says_so() -> None:
    document = tomllib.loads(containing(FOLDER, f"{FOLDER}/ground"))
    assert document["filesystems"]["exclude"] == [*PATTERNS, f"{FOLDER}/ground"]


def test_in_a_namespace_apart_nothing_of_other_tests_is_mounted(loop_disks: LoopDisks) -> None:
    disk, folder = loop_disks.make("disk"), short_directory()
    try:
        tables = [
            subprocess.run(
                [*apart(where), sys.executable, "-c", MOUNTED], capture_output=True, text=True, timeout=30, check=True
            ).stdout
            for where in (folder, loop_disks.home)
        ]
    finally:
        folder.rmdir()
    assert [f" {disk.path} " in table for table in tables] == [False, True]
    assert f" {disk.path} " in Path("/proc/self/mountinfo").read_text(), "out here it still is"
