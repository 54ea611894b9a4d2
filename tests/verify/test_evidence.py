"""What an app had said is taken as it was said, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from appvss.contract import evidence_of
from appvss.model.certificate import Certificate
from appvss.model.errors import EvidenceMissing
from appvss.model.names import printable
from appvss.verify.base import Copy
from appvss.verify.evidence import of_app
from appvss.verify.mysql_server import NotStarted, find_files
from tests.cli.test_certificate import certificate

LONG = "/" + "/".join(["a" * 50] * 6)


def kept(entries: Mapping[str, str]) -> Certificate:
    """A certificate of an app that gave that as its evidence."""
    whole = certificate()
    return replace(whole, apps=(replace(whole.apps[0], evidence=evidence_of(entries)),))


@pytest.mark.parametrize(
    "entries",
    [
        {"data_directory": LONG},
        {"data_directory": "/srv/db", "start_options": f"innodb_data_file_path='{LONG};ibdata2:12M'"},
        {"data_directory": "/srv/db", "file_1": LONG},
    ],
    ids=["data directory", "options", "file"],
)
def test_no_path_is_used_that_a_certificate_had_to_cut(entries: dict[str, str]) -> None:
    entries = {"engine": "mysql", "marker": "m-1", **entries}
    name = str(certificate().apps[0].app)
    *_, cut = entries
    with pytest.raises(EvidenceMissing, match=f"its {cut} is cut at 256 characters") as refused:
        of_app(kept(entries), name, "the test").check_whole()
    assert "--data-directory" in refused.value.hint


def test_what_is_whole_or_for_people_is_taken() -> None:
    entries = {"engine": "mysql", "data_directory": LONG[:256], "settings": "a=1 " * 100, "position": "p" * 300}
    found = of_app(kept(entries), str(certificate().apps[0].app), "the test")
    found.check_whole()
    assert found.data_directory == LONG[:256]


def test_options_that_were_cut_in_a_quotation_are_a_finding_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    copy = Copy({Path("/srv/db"): tmp_path / "data"}, tmp_path / "work")
    options = printable(f"innodb_data_file_path='{LONG};ibdata2:12M'", 256)
    with pytest.raises(NotStarted, match="start_options of the evidence are cut"):
        find_files(copy, {"data_directory": "/srv/db", "start_options": options})
