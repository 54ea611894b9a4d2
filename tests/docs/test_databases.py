"""docs/databases.md is drawn from what is recorded, and what contradicts it is noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from docs import generate_databases as databases
from docs.generate_databases import Recorded, contradiction, merged, taken_up

LINE: dict[str, Any] = {
    "engine": "redis",
    "version": "7.0.15",
    "setting": "save",
    "way": "fs",
    "acknowledged": 500,
    "lost": 500,
    "recipe": "",
    "grade": None,
    "note": "",
    "date": "2026-03-04",
}


def recorded(**fields: Any) -> Recorded:
    return taken_up([{**LINE, **fields}])[0]


def test_the_page_is_drawn_from_what_is_recorded() -> None:
    text = databases.PAGE.read_text(encoding="utf-8")
    assert databases.page(text, databases.read()) == text, "python docs/generate_databases.py"


def test_what_is_recorded_says_that_a_hold_loses_nothing_and_is_verified() -> None:
    held = [one for one in databases.read() if one.way == "app" and one.key != databases.GAP]
    assert held
    assert [one.key for one in held if one.most_lost != 0] == []
    assert [one.key for one in held if one.grade not in ("", "app-verified")] == []


def test_runs_of_one_way_are_joined() -> None:
    (one,) = taken_up([LINE, {**LINE, "lost": 20, "acknowledged": 30}])
    assert (one.runs, one.least_lost, one.most_lost, one.acknowledged) == (2, 20, 500, 30)
    (one,) = taken_up([{**LINE, "grade": "app-verified", "way": "app"}, {**LINE, "grade": "fs", "way": "app"}])
    assert one.grade == "fs"
    (one,) = taken_up([LINE, {**LINE, "lost": None, "note": "marked crashed"}])
    assert (one.least_lost, one.most_lost, one.note) == (500, None, "marked crashed")


def test_fresh_results_take_the_place_of_their_former_ones_alone() -> None:
    former = [recorded(), recorded(setting="appendonly")]
    fresh = recorded(lost=1)
    assert merged(former, [fresh]) == [former[1], fresh]


@pytest.mark.parametrize(
    ("former", "fresh", "words"),
    [
        ({"lost": 0, "way": "app"}, {"lost": 1, "way": "app"}, "loses nothing; now it has lost 1 of 500"),
        ({"lost": 0, "way": "app"}, {"lost": None, "way": "app"}, "now it has lost unreadable"),
        (
            {"way": "app", "grade": "app-verified"},
            {"way": "app", "grade": "fs"},
            "earns app-verified; now it has earned fs",
        ),
    ],
)
def test_a_result_that_contradicts_the_page_is_noticed(
    former: dict[str, Any], fresh: dict[str, Any], words: str
) -> None:
    assert words in contradiction(recorded(**fresh), [recorded(**former)])


def test_other_results_contradict_nothing() -> None:
    page = [recorded(), recorded(way="app", lost=0)]
    for fresh in (recorded(lost=7), recorded(way="app", lost=0), recorded(setting="new", way="app", lost=3)):
        assert contradiction(fresh, page) == ""
    engine, setting, way = databases.GAP
    gap = recorded(engine=engine, setting=setting, way=way, lost=0)
    assert contradiction(replace(gap, most_lost=4), [gap]) == ""
    assert contradiction(recorded(lost=3), [replace(page[0], most_lost=0)]) == ""
